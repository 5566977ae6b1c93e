"""``revenuebase-compat run`` and ``pth``: a process that does not know us starts with us.

``run`` puts the boot folder on PYTHONPATH and becomes the command. Where Python is told to ignore
PYTHONPATH (``-I``, ``-E``, a child that replaces it), the ``.pth`` file does the same, once it is
installed; both look at ``REVENUEBASE_COMPAT_RUN`` and do nothing without it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import Settings

from .pth import pth_file
from .start import FLAG, say

BOOT = str(Path(__file__).resolve().parent / "boot")

#: The sunset of a rehearsal: before whatever day a test suite freezes its clock at.
REHEARSED_SUNSET = "2000-01-01"


def run(argv: list[str], *, strict: bool = False, rehearse: bool = False) -> NoReturn:
    """Become the command ``argv``, in whose Python processes v1 requests are moved.

    Settings come from the environment. A broken one is one line on stderr, and the command runs
    without us; under ``strict`` it does not run: exit code 2. (A ``v2_flag`` is resolved in the
    command's processes, whose modules they are.) A command that is not there is exit code 127,
    one that cannot be executed 126. ``rehearse`` is strict, and takes v1 as gone.
    """
    strict = strict or rehearse
    environ = _environ(os.environ, strict, rehearse)
    try:
        Settings.from_env(environ)
    except ConfigurationError as error:
        say(f"{error}; {argv[0]} {'was not started' if strict else 'runs without us'}")
        if strict:
            sys.exit(2)
        environ = {name: value for name, value in os.environ.items() if name != FLAG}
    unheard = unsupported_option(argv)
    if unheard:
        say(f"{unheard}; {argv[0]} {'was not started' if strict else 'runs without us'}")
        if strict:
            sys.exit(2)
    for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ"):
        # Python ignores these, and what is ignored stays so beyond exec.
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, environ)  # noqa: S606 (what the user asked for)
    except OSError as error:
        say(f"{argv[0]}: {error.strerror or error}")
        sys.exit(127 if isinstance(error, FileNotFoundError | NotADirectoryError) else 126)


def _environ(environ: Mapping[str, str], strict: bool, rehearse: bool) -> dict[str, str]:
    old = environ.get("PYTHONPATH")
    paths = [path for path in old.split(os.pathsep) if path != BOOT] if old else []
    changed = {
        FLAG: "rehearse" if rehearse else "strict" if strict else "1",
        # What boot/sitecustomize.py compares itself with.
        "REVENUEBASE_COMPAT_PYTHON": "{}.{}:{}".format(
            *sys.version_info[:2], os.path.realpath(sys.prefix)
        ),
        # Where that Python is another, the command itself says so, and its children do not.
        "REVENUEBASE_COMPAT_PID": str(os.getpid()),
        "PYTHONPATH": os.pathsep.join([BOOT, *paths]),
    }
    if rehearse:
        changed["REVENUEBASE_V1_SUNSET"] = REHEARSED_SUNSET
        if environ.get("REVENUEBASE_AFTER_SUNSET", "").strip() == "try":
            # Who tries v1 after its end is refused there; the real one would still obey.
            changed["REVENUEBASE_AFTER_SUNSET"] = "raise"
    return {**environ, **changed}


def unsupported_option(argv: list[str]) -> str | None:
    """Why a Python that is started so would not hear of us."""
    if not Path(argv[0]).name.startswith("python"):
        return None
    for option in argv[1:]:
        if not option.startswith("-") or option[1:2] in ("c", "m", "X", "W", "-", ""):
            break
        if "S" in option:
            return f"{option} has Python start without site, and so without us"
        if ("I" in option or "E" in option) and not pth_file().exists():
            return f"{option} has Python ignore PYTHONPATH: `revenuebase-compat pth install` once"
    return None
