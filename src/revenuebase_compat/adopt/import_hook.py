"""Waits on ``sys.meta_path`` for the libraries of ``LIBRARIES``, and has them patched once loaded.

``find_spec`` runs while Python holds its global import lock, so it imports nothing and waits for
nothing: it only wraps the loader that another finder names. What patching needs is imported in
``exec_module``, under the lock of the loaded module alone.
"""

from __future__ import annotations

import sys

from .libraries import LIBRARIES

TYPE_CHECKING = False  # typing's own would cost every start under `run` 8 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class PatchingFinder:
    """Never removed, only inert: a removal would make a thread that walks the list skip one."""

    #: Called with each library's module once it is loaded; ``None``: do nothing.
    on_loaded: Callable[[ModuleType], object] | None = None
    #: Called when a module is looked for; imports nothing, and never raises.
    on_look: Callable[[], object] | None = None
    #: What ``run`` was asked for, ``strict`` or ``rehearse``; the program may not end it.
    promised: str | None = None

    def __init__(self) -> None:
        self._looking_for: set[str] = set()

    def enable(self) -> None:
        """Take part in imports from now on."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec that the finders behind this one give, with its loader wrapped."""
        if self.on_look is not None:
            self.on_look()
        # Another tool's finder may ask all finders in turn, as this one does.
        if self.on_loaded is None or name not in LIBRARIES or name in self._looking_for:
            return None
        self._looking_for.add(name)
        try:
            for finder in [one for one in sys.meta_path if one is not self]:
                find = getattr(finder, "find_spec", None)
                spec: ModuleSpec | None = find(name, path, target) if find else None
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = _PatchingLoader(spec.loader)  # type: ignore[assignment]
                    return spec
        finally:
            self._looking_for.discard(name)
        return None


class _PatchingLoader:
    """Another's loader, and the patching after it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if FINDER.on_loaded is not None:
            FINDER.on_loaded(module)


FINDER = PatchingFinder()


def finished(name: str) -> ModuleType | None:
    """A library's module that is loaded to its end; not a stand-in, nor one that loads lazily."""
    module, kind = sys.modules.get(name), type(sys)
    if not issubclass(type(module), kind):
        return None
    # By no attribute of its own, which would load a lazy one.
    held = kind.__getattribute__(module, "__dict__")
    loading = getattr(held.get("__spec__"), "_initializing", False)
    return None if loading or any(one not in held for one, _ in LIBRARIES[name][3]) else module
