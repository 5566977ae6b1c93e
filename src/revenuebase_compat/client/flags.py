"""What a setting names as ``module:attribute``; and asking the flag, which never stops a cancel."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable
from functools import cache
from typing import TYPE_CHECKING, Any

from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import VARIABLES

from .notices import log
from .process import from_handler, import_late, is_unfinished

if TYPE_CHECKING:
    from revenuebase_compat.core.events import RouteContext


class Unfinished(ConfigurationError):
    """What a setting names is being imported, and not all there."""


def resolve(setting: str, given: Any) -> Any:
    """What a setting gives, or the callable that it names as ``package.module:attribute``.

    Raises:
        ConfigurationError: there is no such module or attribute, or it cannot be called; an
            ``Unfinished`` may be there later.
    """
    return _imported(setting, given) if isinstance(given, str) else given


@cache
def _imported(setting: str, name: str) -> object:
    module, _, path = name.partition(":")
    try:
        found = import_late(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (Exception, SystemExit) as error:  # of a script that is no module
        if from_handler(error):
            raise
        kind = Unfinished if _is_unfinished(module) else ConfigurationError
        raise kind(
            f"{setting} ({VARIABLES[setting]}) {name!r} does not resolve "
            f"({type(error).__name__}: {error}): give package.module:attribute, on PYTHONPATH"
        ) from None
    if not callable(found):
        raise ConfigurationError(f"{setting} ({VARIABLES[setting]}) {name!r} is not callable")
    return found


def _is_unfinished(module: str) -> bool:
    parts = module.split(".")
    held = [sys.modules.get(".".join(parts[:end])) for end in range(1, len(parts) + 1)]
    return any(map(is_unfinished, held))


def ask(flag: Any, context: RouteContext) -> bool | None:
    """The flag's opinion; an exception, or anything but a bool, is logged and is no opinion."""
    flag = resolve("v2_flag", flag)
    try:
        opinion = flag(context)
        if inspect.isawaitable(opinion):
            if inspect.iscoroutine(opinion):
                opinion.close()
            raise TypeError("the flag is asynchronous: use AsyncClient")
        return _checked(opinion)
    except Exception as error:
        _no_opinion(flag, error)
    return None


async def ask_async(flag: Any, context: RouteContext) -> bool | None:
    """The same for a flag that may be asynchronous, or has an ``evaluate_async`` that is."""
    flag = resolve("v2_flag", flag)
    try:
        opinion = getattr(flag, "evaluate_async", flag)(context)
        if isinstance(opinion, Awaitable):
            opinion = await opinion
        return _checked(opinion)
    except Exception as error:
        _no_opinion(flag, error)
    return None


def _checked(opinion: object) -> bool | None:
    if opinion is None or isinstance(opinion, bool):
        return opinion
    raise TypeError(f"it answered {type(opinion).__name__}, not bool or None")


def _no_opinion(flag: Any, error: Exception) -> None:
    name = getattr(flag, "__qualname__", type(flag).__qualname__)
    log_failure(f"v2_flag {name} gave no opinion", error, "the rollout's share decides")


def log_failure(what: str, error: Exception, then: str) -> None:
    """Log what a callable of the settings raised; what a signal handler did is raised again."""
    if from_handler(error):
        raise error
    key = what.partition(" ")[0], type(error)
    words = f"{what} ({type(error).__name__}: {error}); {then}"
    log(key, "warning", words)
