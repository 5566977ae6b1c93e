"""What the boot folder and the ``.pth`` file call: waits for a library we patch, then patches it.

This runs in every Python under ``revenuebase-compat run``, and most of them never speak HTTP:
so it imports nothing. Settings and patches are loaded when the first of ``LIBRARIES`` is.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock  # threading's own would cost 3 ms of every start-up

TYPE_CHECKING = False  # as would typing's
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

#: Switches us on in a process: ``1``, ``strict`` or ``rehearse``; empty, ``0`` and unset are off.
FLAG = "REVENUEBASE_COMPAT_RUN"

#: The first module of each library that ``patches`` reaches.
LIBRARIES = frozenset(
    {"http.client", "urllib3", "httpcore", "httpcore2", "aiohttp", "revenuebase_sdk"}
)

#: Its values that mean no.
OFF = ("", "0")

#: Those under which a process must not go on without us.
STRICT = ("strict", "rehearse")

_waiting: DeferredInstaller | None = None


def is_active() -> bool:
    """Whether ``start`` was called in this process, and had something to do."""
    return _waiting is not None


def start() -> None:
    """Have the patches installed before the first of ``LIBRARIES`` is; does so once a process.

    A failure is one line on stderr, and the process runs unpatched. Under ``strict`` the import
    of that library raises, or the process ends with exit code 2 where it was imported before.
    """
    global _waiting
    flag = os.environ.get(FLAG, "")
    if flag in OFF or _waiting is not None:
        return
    _waiting = DeferredInstaller(strict=flag in STRICT, rehearse=flag == "rehearse")
    if LIBRARIES.isdisjoint(sys.modules):
        sys.meta_path.insert(0, _waiting)
        return
    try:
        _waiting.install()
    except Exception:
        os._exit(2)  # site would carry on after anything that is raised


class DeferredInstaller:
    """A finder on ``sys.meta_path`` that finds nothing, but sees what is about to be imported.

    It is never removed, only inert: a removal would make a thread that walks the list skip one.
    """

    def __init__(self, *, strict: bool, rehearse: bool) -> None:
        self.strict = strict
        self.rehearse = rehearse
        self._lock = RLock()
        self._begun = self._done = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self._done or name not in LIBRARIES:
            return None
        with self._lock:  # another thread's import waits here until all is patched
            if not self._begun:
                self.install()
        # The patches' own finder came in before us, where this import has looked already.
        for finder in [*sys.meta_path]:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None

    def install(self) -> None:
        self._begun = True
        try:
            from . import interceptor

            interceptor.install(strict=self.strict, rehearse=self.rehearse)
        except Exception as error:
            say(f"{type(error).__name__}: {error}; nothing is moved here")
            if self.strict:
                self._begun = False
                raise
        self._done = True


def say(text: str) -> None:
    """One line on stderr; a process without one goes on all the same."""
    try:  # noqa: SIM105 (contextlib is not loaded yet)
        sys.stderr.write(f"revenuebase-compat: {' '.join(text.split())}\n")
    except Exception:  # noqa: S110 (there is nobody to tell)
        pass
