"""The arguments of all commands; each command's module adds its own."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from revenuebase_compat._version import __version__

from . import cancel, doctor, gateway, pth, report, route, run, sandbox, timeline
from .arguments import WrappedLines
from .output import WRONG, complain, note


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
    for command in (cancel, route, timeline, doctor, run, report, pth, gateway, sandbox):
        command.add_arguments(subparsers)
    demo = subparsers.add_parser("demo", help="the whole story in ten seconds, in the sandbox")
    demo.set_defaults(run=_demo)

    arguments, rest = parser.parse_known_args(argv)
    if arguments.command is None:
        note(parser.format_help().rstrip())
    elif rest and hasattr(arguments, "process_ids") and not any(map(_is_option, rest)):
        # argparse leaves the ids behind an option, where others stood before it.
        arguments.process_ids += parser.parse_args([arguments.command, *rest]).process_ids
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _is_option(text: str) -> bool:
    return text.startswith("-")


def _demo(arguments: Namespace) -> int:
    from .demo import main

    return main()
