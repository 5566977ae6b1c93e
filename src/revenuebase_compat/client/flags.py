"""What a setting names as ``module:attribute``; and asking the flag, which never stops a cancel."""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import VARIABLES, Flag

from .notices import log
from .process import from_handler

if TYPE_CHECKING:
    from revenuebase_compat.core.events import RouteContext


@cache
def resolve(setting: str, name: str) -> Callable[..., Any]:
    """The callable that a setting names as ``package.module:attribute``; imported once.

    Raises:
        ConfigurationError: there is no such module or attribute, or it cannot be called.
    """
    module, _, path = name.partition(":")
    try:
        found = importlib.import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except Exception as error:
        raise ConfigurationError(
            f"{setting} ({VARIABLES[setting]}) {name!r} does not resolve "
            f"({type(error).__name__}: {error}): give package.module:attribute"
        ) from None
    if not callable(found):
        raise ConfigurationError(f"{setting} ({VARIABLES[setting]}) {name!r} is not callable")
    return cast("Callable[..., Any]", found)


def ask(flag: Flag | str | None, context: RouteContext) -> bool | None:
    """The flag's opinion; an exception, or anything but a bool, is logged and is no opinion."""
    flag = _callable(flag)
    try:
        opinion = flag(context)
        if inspect.isawaitable(opinion):
            if inspect.iscoroutine(opinion):
                opinion.close()
            raise TypeError("the flag is asynchronous: use AsyncClient")
        return _checked(opinion)
    except Exception as error:
        return _no_opinion(flag, error)


async def ask_async(flag: Flag | str | None, context: RouteContext) -> bool | None:
    """The same for a flag that may be asynchronous, or has an ``evaluate_async`` that is."""
    flag = _callable(flag)
    try:
        opinion = getattr(flag, "evaluate_async", flag)(context)
        if isinstance(opinion, Awaitable):
            opinion = await opinion
        return _checked(opinion)
    except Exception as error:
        return _no_opinion(flag, error)


def _callable(flag: Flag | str | None) -> Flag:
    assert flag is not None  # noqa: S101 (the table asks only where there is one)
    return resolve("v2_flag", flag) if isinstance(flag, str) else flag


def _checked(opinion: object) -> bool | None:
    if opinion is None or isinstance(opinion, bool):
        return opinion
    raise TypeError(f"it answered {type(opinion).__name__}, not bool or None")


def _no_opinion(flag: Flag, error: Exception) -> bool | None:
    if from_handler(error):
        raise error
    log(
        ("flag", type(error)),
        "warning",
        f"v2_flag {getattr(flag, '__qualname__', type(flag).__qualname__)} gave no opinion "
        f"({type(error).__name__}: {error}); the rollout's share decides",
        time.monotonic(),
    )
    return None
