"""What people are told of v1: one log, and one warning class.

The log (logger ``revenuebase_compat``) is throttled: once per route, reason and hour, with the
number left out. ``ApiDeprecationWarning`` points at the user's own line, and Python's warning
filters decide how often it shows. No ``NullHandler``: a process that configured no logging
still sees what is WARNING or worse on stderr.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from types import FrameType
from typing import Any, Literal

from revenuebase_compat.core.calls import Notice, NoticeKind
from revenuebase_compat.core.endpoints import CANCEL, Endpoint
from revenuebase_compat.core.routes import Phase, phase

from .memory import memory
from .process import from_handler, write_stderr

Level = Literal["info", "warning", "error"]

_PACKAGE = __name__.partition(".")[0]

#: Seconds that a fork waits for what is being said, and what is to be said for a fork.
PATIENCE = 1.0

# By thread, since when. No lock: a handler may be slow, or wait for a thread that speaks as well.
_speaking: dict[int, float] = {}
_forking: dict[int, float] = {}


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
    if threading.get_ident() in _speaking:
        return  # whoever listens to notices calls v1 itself: it would never end
    _unforked(
        Warning,  # -W error, which is the user's own wish
        warnings.warn_explicit,
        message,
        ApiDeprecationWarning,
        site.filename,
        site.lineno,
        module=site.namespace.get("__name__"),
        registry=site.namespace.setdefault("__warningregistry__", {}),
    )


def log(key: object, level: Level, message: str, **extra: object) -> None:
    """Log, unless the same key was logged within the last hour."""
    left_out = memory.suppressed(key, time.monotonic())
    if left_out is not None:
        _say(level, message, left_out, **extra)


def _say(level: Level, message: str, left_out: int, **extra: object) -> None:
    if left_out:
        message += f" ({left_out} like this were left out since it was last said)"
    try:
        import logging  # with no notice, a tenth of what importing cancel_job costs
    except ImportError:
        return  # the interpreter ends

    logger = logging.getLogger(_PACKAGE)
    number, last = getattr(logging, level.upper()), logging.lastResort
    if last and getattr(last, "stream", None) is sys.stderr and not logger.hasHandlers():
        # Python's last resort prints the bare message, without who speaks, and by a buffer.
        if number >= last.level and logger.isEnabledFor(number):
            write_stderr(message)
        return
    _unforked((), logger.log, number, "%s", message, extra={**extra, "left_out": left_out})


def _unforked(passes: Any, say: Callable[..., object], *words: Any, **others: Any) -> None:
    """Do it while no other thread forks, and let none fork meanwhile, for at most ``PATIENCE``.

    Who writes to stderr holds the lock of its buffer, and a child that is forked in that moment
    finds it held for ever. Only what ``passes`` comes out of it.
    """
    me = threading.get_ident()
    nested = me in _speaking
    try:
        while not nested:
            _speaking[me] = time.monotonic()
            if not _others(_forking):
                break
            del _speaking[me]
            time.sleep(0.001)
        say(*words, **others)
    except Exception as error:
        if isinstance(error, passes) or from_handler(error):
            raise
    finally:
        if not nested:
            _speaking.pop(me, None)


def _others(threads: dict[int, float]) -> bool:
    if not threads:
        return False
    me, now = threading.get_ident(), time.monotonic()
    return any(one != me and now - since < PATIENCE for one, since in list(threads.items()))


def _before_fork() -> None:
    began = _forking[threading.get_ident()] = time.monotonic()
    while _others(_speaking) and time.monotonic() - began < PATIENCE:
        time.sleep(0.001)


def _after_fork() -> None:
    _forking.pop(threading.get_ident(), None)


def _after_fork_in_child() -> None:
    _forking.clear()
    _speaking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
    )


def log_left(call: str, successor: str | None, stage: Phase, words: str) -> None:
    """Log that somebody's request is left to v1."""
    level: Level = "info" if stage is Phase.DEPRECATED else "warning"
    log(("left", call), level, words, successor=successor)


def tell(notice: Notice, site: CallSite | None = None) -> None:
    """Log a notice, and warn if it precedes a request.

    ``site`` is where the user called, should that line no longer be on the stack.
    """
    kind, route, settings, endpoint = notice.kind, notice.route, notice.settings, notice.endpoint
    announced, url, sunset = memory.announced, settings.base_url, settings.v1_sunset
    if notice.sunset is not None:
        announced[url] = min(notice.sunset, announced.get(url, notice.sunset))
    reason = route.reason.value if route else None
    left_out = memory.suppressed((kind, endpoint.name, reason), notice.at)
    # Only before a request: an error made of a warning must never eat the result of a cancel.
    warns = kind is NoticeKind.USES_V1 or kind is NoticeKind.MIGRATED
    if left_out is None and not warns:
        return
    if url in announced:
        sunset = min(sunset, announced[url])
    stage, server = phase(notice.now, sunset), (notice.status, notice.successor)
    about = kind, endpoint, reason, sunset, stage, *server, settings.api_version, settings.admits_v2
    words = _words(*about)
    if left_out is not None:
        _say(
            _level(kind, stage),
            words,
            left_out,
            notice=kind.value,
            api_version=f"v{route.version}" if route else "v1",
            route_reason=reason or "PINNED",
            sunset=sunset.isoformat(),
            successor=notice.successor or endpoint.successor,
        )
    if warns:
        warn_at(site or call_site(), words)


def _level(kind: NoticeKind, stage: Phase) -> Level:
    if kind in (NoticeKind.MIGRATED, NoticeKind.V1_GONE):
        return "warning"
    ended = stage is Phase.RETIRED and kind is not NoticeKind.ANNOUNCED
    if kind is NoticeKind.FAILED or ended:
        return "error"
    return "info" if stage is Phase.DEPRECATED else "warning"


@lru_cache(64)  # Python's filters ask for them at each call
def _words(
    kind: NoticeKind,
    endpoint: Endpoint,
    reason: str | None,
    sunset: datetime,
    stage: Phase,
    status: int | None,
    successor: str | None,
    api_version: str,
    admits_v2: bool,
) -> str:
    """What is called, until when, and what to set instead."""
    day = sunset.strftime("%Y-%m-%d")
    old, new = endpoint.call, endpoint.successor
    still = "jobs are still cancelled" if endpoint is CANCEL else "the status of jobs is still read"
    done = "the job is cancelled" if endpoint is CANCEL else "the job's status is read"
    ends = f"ended on {day}" if stage is Phase.RETIRED else f"ends on {day}"
    wanted = "v2" if admits_v2 else "auto"
    instead = f'set api_version="{wanted}" (REVENUEBASE_API_VERSION={wanted}) to call {new}'
    because = f" (reason {reason})" if reason else ""
    said = f" answered {status} to {old}" if status else f" {ends}"
    announces = f"; successor: {successor}" if successor else ""
    gone = "is gone" if stage is not Phase.RETIRED else ends
    return {
        NoticeKind.USES_V1: (
            f"RevenueBase API v1 {ends}, and {still} with {old}{because}: {instead}"
        ),
        NoticeKind.MIGRATED: (
            f"RevenueBase API v1 {gone}, and api_version={api_version!r} asks for it; {done} with "
            f'{new} instead{because}: set api_version="auto" (REVENUEBASE_API_VERSION=auto)'
        ),
        NoticeKind.V1_GONE: (
            f"RevenueBase API v1 answered {status} to {old}; {done} with {new} instead: {instead}"
        ),
        NoticeKind.V2_MISSING: (
            f"RevenueBase API v2 answered {status} to {new}; {done} with {old} instead, which "
            f"{ends}"
        ),
        NoticeKind.FAILED: f"RevenueBase API v1{said}, and the call failed: {instead}",
        NoticeKind.ANNOUNCED: (
            f"RevenueBase announces in its answers that API v1 {ends}{announces}: {instead}"
        ),
    }[kind]
