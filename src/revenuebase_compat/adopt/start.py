"""What the boot folder and the ``.pth`` file call: has each library patched when it is imported.

This runs in every Python under ``revenuebase-compat run``, and most of them never speak HTTP.
"""

from __future__ import annotations

import os
import sys

from revenuebase_compat.client.process import from_handler, write_stderr

from .import_hook import FINDER
from .libraries import LIBRARIES

TYPE_CHECKING = False  # typing's own would cost every start under `run` 8 ms
if TYPE_CHECKING:
    from types import ModuleType

#: Switches us on in a process: ``1``, ``strict`` or ``rehearse``; empty, ``0`` and unset are off.
FLAG = "REVENUEBASE_COMPAT_RUN"

#: Its values that mean no.
OFF = ("", "0")

#: Those under which a process must not go on without us.
STRICT = ("strict", "rehearse")

#: Set in a process where we are in force, for its children to inherit.
ACTIVE = "REVENUEBASE_COMPAT_ACTIVE"

_started = False


def is_active() -> bool:
    """Whether ``start`` was called in this process, and had something to do."""
    return _started


def start() -> None:
    """Have each library patched when it is imported; does so once a process.

    A failure is one line on stderr, and the process runs unpatched. Under ``strict`` the import
    of that library raises, or the process ends with exit code 2 where it was imported before.
    """
    global _started
    flag = os.environ.get(FLAG, "")
    if flag in OFF or _started:
        return
    _started = True
    FINDER.promised = flag if flag in STRICT else None
    os.environ[ACTIVE] = "1"
    FINDER.on_loaded = _install
    FINDER.enable()
    loaded = next((name for name in LIBRARIES if name in sys.modules), None)
    if loaded is not None:
        try:
            _install(sys.modules[loaded])
        except Exception:
            os._exit(2)  # site would carry on after anything that is raised


def _install(module: ModuleType) -> None:
    """The first library is loaded: install, which replaces this function as the callback.

    No lock: where two threads are here at once, both install the same.
    """
    try:
        from . import patching

        patching.install_from_environment()
        patching.patch(module)
    except Exception as error:
        if from_handler(error):
            raise  # and patched with the next library
        write_stderr(f"{type(error).__name__}: {error}; nothing is moved here")
        if FINDER.promised:
            raise
        FINDER.on_loaded = None
