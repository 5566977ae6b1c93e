"""The command ``revenuebase-compat``: arguments in, lines and exit codes out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from revenuebase_compat.client.extras import MissingExtraError
from revenuebase_compat.core.errors import ConfigurationError, InvalidProcessIdError

from . import output
from .arguments import parse
from .output import STOPPED, WRONG, OutputLost, complain


def main(argv: Sequence[str] | None = None, **clocks: Any) -> int:
    """Run one command; returns the exit code. ``clocks`` are a ``Client``'s, for tests."""
    output.set_up()
    code: int = 1
    if "" not in sys.path and not getattr(sys.flags, "safe_path", False):
        # For settings that name a module of the user's; last, so that it hides no library.
        sys.path.append("")
    try:
        arguments = parse(argv)
        if arguments.command is None:
            return WRONG
        arguments.clocks = clocks
        module = import_module(f".{arguments.module}", __package__)
        code = getattr(module, arguments.command)(arguments)
        with output.writing(sys.stdout):  # what a hook of the user's has printed
            return code
    except (ConfigurationError, InvalidProcessIdError, MissingExtraError) as error:
        complain(str(error))
        return WRONG
    except OutputLost as error:
        if str(error):
            complain(str(error))
        return code if str(error) else STOPPED
    except KeyboardInterrupt:
        return STOPPED
    finally:
        output.finish()
