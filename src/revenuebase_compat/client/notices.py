"""What people are told of v1: one log, and one warning class (the only words on deprecation).

The log (logger ``revenuebase_compat``) is throttled: once per route, reason and hour, with the
number left out. ``ApiDeprecationWarning`` points at the user's own line, and Python's warning
filters decide how often it shows. No ``NullHandler``: a process that configured no logging
still sees what is WARNING or worse on stderr.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from types import FrameType
from typing import Any, Literal

from revenuebase_compat.core.endpoints import CANCEL
from revenuebase_compat.core.notices import Notice, NoticeKind
from revenuebase_compat.core.versions import Phase, phase

from .memory import memory

Level = Literal["info", "warning", "error"]

_PACKAGE = __name__.partition(".")[0]


class ApiDeprecationWarning(DeprecationWarning):
    """API v1 of RevenueBase plays a part in this call."""


class CallSite:
    """The line a warning points at; no ``repr`` of it shows the caller's globals."""

    __slots__ = ("filename", "lineno", "namespace")

    def __init__(self, frame: FrameType) -> None:
        self.filename = frame.f_code.co_filename
        self.lineno = frame.f_lineno
        self.namespace = frame.f_globals


def call_site(skipped: frozenset[str] = frozenset({_PACKAGE})) -> CallSite:
    """The innermost line on the stack that is in none of these top-level packages."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if (frame.f_globals.get("__name__") or "").partition(".")[0] not in skipped:
            break
        frame = frame.f_back
    return CallSite(frame)


def warn_at(site: CallSite, message: str) -> None:
    """Warn as ``ApiDeprecationWarning`` at that line, if Python's filters let it."""
    warnings.warn_explicit(
        message,
        ApiDeprecationWarning,
        site.filename,
        site.lineno,
        module=site.namespace.get("__name__"),
        registry=site.namespace.setdefault("__warningregistry__", {}),
    )


def log(
    key: object, level: Level, message: str | Callable[[], str], at: float, **extra: Any
) -> None:
    """Log, unless the same key was logged within the last hour; ``at`` is monotonic.

    The words may be given as a function, which is called only if they are said.
    """
    left_out = memory.throttle.suppressed(key, at)
    if left_out is None:
        return
    if not isinstance(message, str):
        message = message()
    if left_out:
        message += f" ({left_out} like this were left out since it was last said)"
    import logging  # with no notice, a tenth of what importing cancel_job costs

    logger = logging.getLogger(_PACKAGE)
    if not logger.hasHandlers():
        # Python's last resort prints the bare message: say who speaks.
        message = f"revenuebase-compat: {message}"
    getattr(logger, level)("%s", message, extra={**extra, "left_out": left_out})


def log_left(call: str, successor: str | None, stage: Phase, words: str) -> None:
    """Log that somebody's request is left to v1."""
    level: Level = "info" if stage is Phase.DEPRECATED else "warning"
    log(("left", call), level, words, time.monotonic(), successor=successor)


def tell(notice: Notice, site: CallSite | None = None) -> None:
    """Log a notice, and warn if it precedes a request.

    ``site`` is where the user called, should that line no longer be on the stack.
    """
    kind, route = notice.kind, notice.route
    announced, url = memory.throttle.announced, notice.settings.base_url
    if notice.sunset is not None:
        announced[url] = min(notice.sunset, announced.get(url, notice.sunset))
    sunset = min(notice.settings.v1_sunset, announced.get(url, notice.settings.v1_sunset))
    stage = phase(notice.now, sunset)
    message = _words(notice, sunset, stage)
    version = f"v{route.version}" if route else "v1"
    reason = route.reason.value if route else "PINNED"
    log(
        (kind, version, reason),
        _level(kind, stage),
        message,
        notice.at,
        notice=kind.value,
        api_version=version,
        route_reason=reason,
        sunset=sunset.isoformat(),
        successor=notice.successor or CANCEL.successor,
    )
    # Only before a request: an error made of a warning must never eat the result of a cancel.
    if kind in (NoticeKind.USES_V1, NoticeKind.MIGRATED):
        warn_at(site or call_site(), message)


def _level(kind: NoticeKind, stage: Phase) -> Level:
    if kind is NoticeKind.FAILED:
        return "error"
    if kind in (NoticeKind.MIGRATED, NoticeKind.V1_GONE):
        return "warning"
    if kind is NoticeKind.ANNOUNCED:
        return "info" if stage is Phase.DEPRECATED else "warning"
    if stage is Phase.RETIRED:
        return "error"
    return "info" if stage is Phase.DEPRECATED else "warning"


def _words(notice: Notice, sunset: datetime, stage: Phase) -> str:
    """What is called, until when, and what to set instead."""
    kind, route, settings = notice.kind, notice.route, notice.settings
    day = sunset.strftime("%Y-%m-%d")
    old, new = CANCEL.call, CANCEL.successor
    ends = f"ended on {day}" if stage is Phase.RETIRED else f"ends on {day}"
    wanted = "v2" if settings.admits_v2 else "auto"
    instead = f'set api_version="{wanted}" (REVENUEBASE_API_VERSION={wanted}) to call {new}'
    reason = f" (reason {route.reason.value})" if route else ""
    if kind is NoticeKind.USES_V1:
        return (
            f"RevenueBase API v1 {ends}, and jobs are still cancelled with {old}{reason}: {instead}"
        )
    if kind is NoticeKind.MIGRATED:
        return (
            f"RevenueBase API v1 {'is gone' if stage is not Phase.RETIRED else ends}, and "
            f"api_version={settings.api_version!r} asks for it; the job is cancelled with {new} "
            f'instead{reason}: set api_version="auto" (REVENUEBASE_API_VERSION=auto)'
        )
    if kind is NoticeKind.V1_GONE:
        return (
            f"RevenueBase API v1 answered {notice.status} to {old}; the job is cancelled with "
            f"{new} instead: {instead}"
        )
    if kind is NoticeKind.V2_MISSING:
        return (
            f"RevenueBase API v2 answered {notice.status} to {new}; the job is cancelled with "
            f"{old} instead, which {ends}"
        )
    if kind is NoticeKind.FAILED:
        said = f" answered {notice.status} to {old}" if notice.status else f" {ends}"
        return f"RevenueBase API v1{said}, and the call failed: {instead}"
    successor = f"; successor: {notice.successor}" if notice.successor else ""
    return f"RevenueBase announces in its answers that API v1 {ends}{successor}: {instead}"
