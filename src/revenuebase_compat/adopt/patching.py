"""``install`` and ``uninstall``: the wrappers of ``libraries`` over a process's HTTP libraries.

A library is patched when the application imports it; no lock is taken, and nothing of a library is
imported here.
"""

from __future__ import annotations

import functools
import os
import sys
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from types import MethodType, ModuleType
from typing import Any, ForwardRef

from revenuebase_compat.client import flags
from revenuebase_compat.client.process import from_handler, write_stderr
from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import Settings

from . import interceptor, sdk_names
from .environment import IGNORED, REHEARSED_SUNSET, WITHOUT, lenient_settings
from .import_hook import FINDER, finished

# All of them now: what patches a library runs inside its import, and must not import then.
from .libraries import LIBRARIES, aiohttp, http_client, httpcore, urllib3

#: Carried by our wrappers, and seen through those of other tools.
PATCH_MARK = "_revenuebase_compat"

_WRAPPERS: dict[str, ModuleType] = {
    "aiohttp": aiohttp,
    "http_client": http_client,
    "httpcore": httpcore,
    "urllib3": urllib3,
}

_applied: list[tuple[Any, str, Any, Any]] = []


def install(
    settings: Settings | None = None, *, strict: bool = False, rehearse: bool = False
) -> None:
    """Move this process's v1 requests from now on; called again, it only changes the settings.

    The flag of the settings is asked for each request. A key is not needed: requests have theirs.
    Under ``run``, its ``--strict`` and ``--rehearse`` stay in force.
    A library that another thread is importing is waited for; one that this very thread is in the
    middle of importing is patched when a module is looked for next.

    Args:
        settings: those of the environment, where none are given.
        strict: raise what would otherwise be logged, and the request sent as it was.
        rehearse: raise for every request that would be left to v1.

    Raises:
        ConfigurationError: a setting is wrong, or names what is not there; nothing was changed.
    """
    chosen = settings or Settings.from_env()
    for name in ("v2_flag", "on_event"):
        flags.resolve(name, getattr(chosen, name))  # wrong now rather than amid a request
    _put_in_force(chosen, strict, rehearse)
    for name in LIBRARIES:
        if sys.modules.get(name) is not None:
            try:
                import_module(name)  # waits for another thread's
            except Exception as error:  # which fails, as the program sees by itself
                if from_handler(error):
                    raise
    patch()


def install_from_environment() -> None:
    """``install`` inside an import: patches nothing yet, and does without a setting that is broken.

    Raises:
        ConfigurationError: a setting is wrong, under ``run --strict``.
    """
    if interceptor.active is not None:
        return
    settings, complaints = lenient_settings(os.environ)
    if complaints and FINDER.promised:
        raise ConfigurationError("; ".join(complaints.values()))
    ignored = os.environ.get(IGNORED, "").split(",")
    for name, complaint in complaints.items():
        if name not in ignored:
            write_stderr(f"{complaint}{WITHOUT}")
    _put_in_force(settings)


def uninstall() -> None:
    """Undo ``install``; a patch that another tool has wrapped since stays, and does nothing."""
    if FINDER.promised:  # by `run`, and so not ours to end
        _put_in_force(lenient_settings(os.environ)[0])
        return
    interceptor.active = None
    FINDER.on_loaded = FINDER.on_look = None
    # No lock, which a fork could leave held: two threads may have patched the same twice.
    for applied in reversed([*_applied]):
        owner, name, wrapper, original = applied
        now = vars(owner).get(name)
        if now is wrapper:
            setattr(owner, name, original)
        if now is wrapper or _is_bare(owner, now):
            with suppress(ValueError):  # so has another thread
                _applied.remove(applied)
    sdk_names.remove()


def patch(module: ModuleType | None = None) -> None:
    """Patch a library's module that is loaded, and every other one that is finished and still bare.

    Another tool may have hidden the import of those.
    """
    active = interceptor.active
    for one in (module, *map(finished, LIBRARIES)):
        if active is None or one is None or one.__name__ not in LIBRARIES:
            continue
        try:
            if one.__name__ == "revenuebase_sdk":
                sdk_names.restore(one)
            _wrap_points(one)
        except Exception as error:
            active.fail_open(error, f"{one.__name__} is left as it is")


def _put_in_force(settings: Settings, strict: bool = False, rehearse: bool = False) -> None:
    if FINDER.promised == "rehearse":  # which also holds for settings of the program's own
        settings, rehearse = replace(settings, v1_sunset=REHEARSED_SUNSET), True
    strict = strict or bool(FINDER.promised)
    interceptor.active = interceptor.Interceptor(settings, strict=strict, rehearse=rehearse)
    FINDER.on_loaded, FINDER.on_look = patch, _look_again
    FINDER.enable()


#: Modules whose points are all patched. A new module object of that name is not in here.
_patched: dict[str, ModuleType] = {}
_WRAPPED = tuple(name for name, row in LIBRARIES.items() if row[3])


def _look_again() -> None:
    """``patch`` under the global import lock, where nothing may be imported or logged."""
    for name in _WRAPPED:
        if sys.modules.get(name) is not _patched.get(name):
            module = finished(name)
            if module is not None:
                _patched[name] = module
                try:
                    _wrap_points(module)
                except Exception as error:  # the next import of a library will say so
                    if from_handler(error):
                        raise


#: Tools that put functions in place of a library's, for as long as a test takes.
_TEST_TOOLS = ("aioresponses", "pook", "respx")


def _is_double(owner: Any, name: str, original: Any) -> bool:
    """Whether it is a test's, which is to see what the program sends; patched once it is gone."""
    bound = isinstance(original, MethodType | functools.partial)
    static = isinstance(vars(owner).get(name), staticmethod)
    if bound or static or not hasattr(type(original), "__get__"):
        return True  # it is not given the object that it is called on
    tool = (getattr(original, "__module__", None) or "").partition(".")[0]
    return tool in _TEST_TOOLS or hasattr(original, "assert_called")  # of unittest.mock


def _is_bare(owner: Any, function: Any) -> bool:
    """Whether it is the library's own function; not a wrapper over it, nor a test's double."""
    names = [getattr(one, "__module__", None) or "" for one in (owner, function)]
    same = names[0].partition(".")[0] == names[1].partition(".")[0]
    return same and getattr(function, PATCH_MARK, None) is not True


def _wrap_points(module: ModuleType) -> None:
    *_, ours, points = LIBRARIES[module.__name__]
    for kind, name in points:
        owner = getattr(module, kind)
        # By getattr: another tool's wrapper must be bound to the class before it is called.
        original = getattr(owner, name)
        if getattr(original, PATCH_MARK, None) is True:  # a mock has any
            continue
        if _is_double(owner, name, original):
            _patched.pop(module.__name__, None)
            continue
        if not _is_bare(owner, original) and any(one[:2] == (owner, name) for one in _applied):
            continue  # it lies over ours, and is to see what the program sends
        wrapper = functools.update_wrapper(getattr(_WRAPPERS[ours], name)(original), original)
        del wrapper.__wrapped__  # by which other tools undo what they take for their own
        setattr(wrapper, PATCH_MARK, True)
        with suppress(NameError, SyntaxError):  # the library's names are not to be looked for here
            wrapper.__annotations__ = {
                argument: ForwardRef(of, module=wrapper.__module__) if isinstance(of, str) else of
                for argument, of in wrapper.__annotations__.items()
            }
        setattr(owner, name, wrapper)
        _applied.append((owner, name, wrapper, original))
