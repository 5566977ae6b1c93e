"""The command ``revenuebase-compat``: arguments in, lines and exit codes out.

Results go to stdout, notices and progress to stderr. Exit codes: 0 all cancelled, 1 some job
was not, 2 wrong usage or settings, 130 stopped. Optional parts are imported by the command that
needs them.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from revenuebase_compat._version import __version__
from revenuebase_compat.client.extras import MissingExtraError
from revenuebase_compat.core.errors import ConfigurationError, InvalidProcessIdError

from . import bridge, cancel, inspect, output, sandbox
from .arguments import WrappedLines
from .output import STOPPED, WRONG, OutputLost, complain, note


class Parser(ArgumentParser):
    """Takes no abbreviation, and says what is wrong in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=WrappedLines, **options)

    def error(self, message: str) -> NoReturn:
        complain(message, self.prog)
        raise SystemExit(WRONG)

    def _print_message(self, message: str, file: Any = None) -> None:
        with suppress(OSError):  # newer versions of argparse do so themselves
            super()._print_message(message, file)


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The arguments; without a ``command`` where the help was printed instead.

    Raises:
        SystemExit: the arguments are wrong, which was said.
    """
    parser = Parser(
        prog="revenuebase-compat",
        description="Cancels RevenueBase jobs on API v1 or v2, whichever is right today.",
        epilog="Settings come from REVENUEBASE_* variables; the README has the table.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in (cancel, inspect, bridge, sandbox):
        command.add_arguments(subparsers)

    arguments, rest = parser.parse_known_args(argv)
    if arguments.command is None:
        note(parser.format_help().rstrip())
    elif rest and hasattr(arguments, "process_ids") and not any(text[:1] == "-" for text in rest):
        # argparse leaves the ids behind an option, where others stood before it.
        arguments.process_ids += parser.parse_args([arguments.command, *rest]).process_ids
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def main(argv: Sequence[str] | None = None, **clocks: Any) -> int:
    """Run one command; returns the exit code. ``clocks`` are a ``Client``'s, for tests."""
    output.set_up()
    if "" not in sys.path and not getattr(sys.flags, "safe_path", False):
        # For settings that name a module of the user's; last, so that it hides no library.
        sys.path.append("")
    try:
        arguments = parse(argv)
        if arguments.command is None:
            return WRONG
        arguments.clocks = clocks
        code: int = arguments.run(arguments)
        return code
    except (ConfigurationError, InvalidProcessIdError, MissingExtraError) as error:
        complain(str(error))
        return WRONG
    except OutputLost as error:
        if str(error):
            complain(str(error))
        return 1
    except KeyboardInterrupt:
        return STOPPED
    finally:
        output.finish()
