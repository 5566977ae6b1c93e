"""The command ``revenuebase-compat``: arguments in, lines and exit codes out.

Results go to stdout, notices and progress to stderr. Exit codes: 0 all cancelled, 1 some job
was not, 2 wrong usage or settings, 130 stopped. Optional parts are imported by the command that
needs them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from revenuebase_compat.client.extras import MissingExtraError
from revenuebase_compat.core.errors import ConfigurationError, InvalidProcessIdError

from . import output
from .output import WRONG, OutputLost, complain
from .parser import parse

INTERRUPTED = 130


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
        return INTERRUPTED
    finally:
        output.finish()
