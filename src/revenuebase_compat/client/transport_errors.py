"""What an exception tells of an attempt: the transport's own, or somebody else's.

Only what httpx, httpcore and the socket raise is an attempt that failed. An exception that comes
from elsewhere, such as the time limit of a signal handler, is not ours to swallow. By the names of
modules and classes, so that httpx2's count as well.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from types import TracebackType

from revenuebase_compat.core.decoding import NoResponse

from .process import causes, frames, raised_by_handler
from .watchdog import Attempt

_TRANSPORTS = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "h11", "anyio", "socksio"})

_NOT_SENT = {
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
    "LocalProtocolError",
    "InvalidURL",
}


def raise_foreign(error: BaseException, first: Callable[[], object] = lambda: None) -> None:
    """Call ``first``, and raise the exception that is not the transport's, if there is one."""
    other = _foreign(error)
    if other is not None:
        first()
        try:
            raise other
        finally:
            del other, error  # this frame is in the traceback: no circle for the collector


def _foreign(error: BaseException) -> BaseException | None:
    """The exception that is not the transport's: the one given, or one that it hides, or none.

    Its traceback is rid of the transport's frames, whose locals hold the key. A handler's own
    ``TimeoutError`` comes out of httpcore as a ``ReadTimeout``, so the origin is looked at.
    """
    if isinstance(error, OSError) or any(_is_transport(c.__module__) for c in type(error).__mro__):
        other = raised_by_handler(error)
        if other is None:
            return None
        error = other
    error.__traceback__ = _without_transport(error.__traceback__)
    return error


def no_response_from(error: BaseException, attempt: Attempt | None = None) -> NoResponse:
    """What the transport's exception tells of the attempt, as plain data."""
    names = {kind.__name__ for kind in type(error).__mro__}
    sent = not names & _NOT_SENT and (attempt is None or attempt.sent)
    if any(getattr(one, "errno", None) in (errno.EMFILE, errno.ENFILE) for one in causes(error)):
        reason = "no file descriptor is left (EMFILE): raise the limit (ulimit -n), or send fewer"
        return NoResponse(f"{reason} requests at once", sent)
    if (attempt is not None and attempt.overdue) or names & {"TimeoutException", "TimeoutError"}:
        return NoResponse(f"{'the answer' if sent else 'connecting'} took too long", sent, True)
    return NoResponse(f"{type(error).__name__}: {error}", sent)


def _is_transport(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _TRANSPORTS


def _without_transport(traceback: TracebackType | None) -> TracebackType | None:
    rest: TracebackType | None = None
    for one in reversed(list(frames(traceback))):
        if not _is_transport(one.tb_frame.f_globals.get("__name__")):
            rest = TracebackType(rest, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return rest
