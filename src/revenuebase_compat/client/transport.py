"""The senders: one request out, one answer in; nothing is decided here, no redirect is followed.

Own pools are free lists of single-connection transports of httpx's, which are faster than
``httpx.Client``, and of which one that went wrong can be thrown away whole. What the transport
raises comes back as ``NoResponse``: the frames of a traceback would hold the key. All else, such as
the time limit of a signal handler, is not ours to swallow.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from contextlib import closing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from revenuebase_compat.core.decoding import MAX_BODY, AttemptOutcome, NoResponse, unpack
from revenuebase_compat.core.endpoints import Request
from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import Settings

from .process import causes, frames, import_late, raised_by_handler
from .watchdog import Attempt, place, watchdog

if TYPE_CHECKING:
    import httpx

    from .factory import Connection, Factory

#: Idle connections kept per pool, and seconds after which one that was not needed is closed.
MAX_IDLE = 100
IDLE_FOR = 60.0


class Sender:
    """What the two senders share: how connections are made, and how many are kept."""

    asynchronous = False

    def __init__(self, settings: Settings, http_client: Any) -> None:
        self._settings, self._theirs = settings, http_client
        self.closed = False
        #: What goes on until it ends, or the client is closed; each has a ``close()``.
        self.under_way: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._made: Factory | None = None

    def shut(self) -> None:
        """Begin nothing more, and end what is under way."""
        self.closed = True
        for reference in self.under_way.valuerefs():  # a copy, as others may add to it meanwhile
            if (one := reference()) is not None:
                one.close()

    def check_open(self) -> None:
        """Refuse before anything is sent."""
        if self.closed:
            raise ConfigurationError("this client is closed: make a new one")
        if getattr(self._theirs, "is_closed", False):
            raise ConfigurationError("http_client is closed: give one that is open")

    @property
    def _factory(self) -> Factory:
        if self._made is None:
            try:  # by the first call, as httpx is the larger part of what we load
                made = import_late(f"{__package__}.factory", "httpx and httpcore").Factory
            except ImportError as error:
                raise ConfigurationError(f"httpx cannot be imported: {error}") from None
            self._made = made(self._settings, asynchronous=self.asynchronous)
        return self._made

    def _keep(self, connection: Connection, free: deque[Connection]) -> list[Connection]:
        """Keep it for the next request; returns what is to be closed."""
        if self.closed:
            return [connection]
        connection.idle_since = time.monotonic()
        free.append(connection)
        with suppress(IndexError):  # another thread took the last
            if len(free) > MAX_IDLE or time.monotonic() - free[0].idle_since > IDLE_FOR:
                return [free.popleft()]
        return []


class SyncSender(Sender):
    """Sends for ``Client``; thread-safe, and a forked child opens connections of its own."""

    _addresses, _counted_until = 1, 0.0

    def __init__(self, settings: Settings, http_client: Any) -> None:
        super().__init__(settings, http_client)
        self._free: deque[Connection] = deque()
        self._place = place()

    def __call__(self, request: Request, timeout: float, left: float) -> AttemptOutcome:
        if self._theirs is not None:
            return self._send_theirs(request, timeout)
        prepared = self._factory.request(request)
        connection = self._acquire()
        attempt, guard = Attempt(timeout, prepared.extensions), watchdog()
        attempt.socket = connection.socket
        if connection.direct:
            attempt.addresses = self._count_addresses
        try:
            guard.start(attempt)
            prepared.extensions["timeout"] = attempt
            response = connection.send(prepared)
            connection.socket = response.extensions["network_stream"].get_extra_info("socket")
            answer = _read(response, attempt)
            response.stream.close()
            guard.finish(attempt)
            if attempt.overdue:  # it ended because we ended it: there may be more of it
                raise TimeoutError
        except BaseException as error:
            # First, and not connection.close(): frames that were interrupted may hold a lock.
            answer = no_response_from(error, attempt)
            connection.close()
            if connection.idle_since:  # what was idle beside it may be as dead
                _close_all(self._free)
            return answer
        finally:
            guard.finish(attempt)
            prepared.extensions.clear()  # ends the circle, which would wait for the collector
        for surplus in self._keep(connection, self._free):
            surplus.close()
        return answer

    def _send_theirs(self, request: Request, timeout: float) -> AttemptOutcome:
        attempt = Attempt(timeout)
        try:
            prepared = self._factory.request_of(self._theirs, request, attempt)
            sent = self._theirs.send(prepared, stream=True, follow_redirects=False)
            with closing(sent) as response:
                return _read(response, attempt)
        except BaseException as error:
            return no_response_from(error)

    def _acquire(self) -> Connection:
        if self._place != place():
            # A parent goes on using these connections: here only our copies are closed.
            inherited, self._free, self._place = self._free, deque(), place()
            self._made = None
            _close_all(inherited)
        with suppress(IndexError):
            return self._free.pop()
        return self._factory.connection()

    def _count_addresses(self) -> int:
        """How many addresses the host has, as all of them must fit into the time to connect."""
        if time.monotonic() >= self._counted_until:
            parts = urlsplit(self._settings.base_url)
            with suppress(OSError):  # connecting will say what is wrong
                found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
                self._addresses = len(found)
            self._counted_until = time.monotonic() + IDLE_FOR
        return self._addresses

    def close(self) -> None:
        """Close what is idle; what is in use closes when its call ends."""
        self.shut()
        _close_all(self._free)


def _close_all(free: deque[Connection]) -> None:
    with suppress(IndexError):  # several threads may do it at once
        while True:
            free.pop().close()


def _read(response: httpx.Response, attempt: Attempt) -> AttemptOutcome:
    if response.is_stream_consumed:  # by an event hook of the caller's client
        return decoded(response)
    body = bytearray()
    # Not iter_raw(): all that it adds is the counting of bytes for a progress bar.
    for chunk in cast("httpx.SyncByteStream", response.stream):
        body += chunk
        if len(body) > MAX_BODY:
            break
        if time.monotonic() > attempt.deadline:
            raise TimeoutError
    return unpack(response.status_code, response.headers.raw, bytes(body))


def decoded(response: httpx.Response) -> AttemptOutcome:
    headers = [pair for pair in response.headers.raw if pair[0].lower() != b"content-encoding"]
    return unpack(response.status_code, headers, response.content)


# Only what the transport raises is an attempt that failed. By the names of modules and classes, so
# that httpx2's count as well.
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


def no_response_from(error: BaseException, attempt: Attempt | None = None) -> NoResponse:
    """What the transport's exception tells of the attempt, as plain data.

    One that is not the transport's, or one of those that it hides, is raised, and the attempt is
    abandoned. A handler's own ``TimeoutError`` comes out of httpcore as a ``ReadTimeout``, so the
    origin is looked at.
    """
    kinds = type(error).__mro__
    failed = OSError in kinds or any(_is_transport(kind.__module__) for kind in kinds)
    other = raised_by_handler(error) if failed else error
    if other is not None:
        if attempt is not None:
            attempt.abandon()
        # Not with the transport's frames, whose locals hold the key.
        other.__traceback__ = _without_transport(other.__traceback__)
        before = other.__context__
        try:
            raise other
        finally:
            other.__context__ = before  # not what the transport made of it
            del other, error, before  # this frame is in the traceback: no circle for the collector
    names = {kind.__name__ for kind in kinds}
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
