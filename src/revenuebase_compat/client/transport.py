"""The senders: one request out, one answer in; nothing is decided here, no redirect is followed.

Own pools are free lists of single-connection transports of httpx's, which are faster than
``httpx.Client``, and of which one that went wrong can be thrown away whole.

What the transport raises comes back as ``NoResponse``: plain data, as the frames of a traceback
would hold the key. What cannot be set up is a ``ConfigurationError``; all else passes through.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from weakref import WeakSet

from revenuebase_compat.core.decoding import MAX_BODY, AttemptOutcome, unpack
from revenuebase_compat.core.endpoints import Request
from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import Settings

from .transport_errors import no_response_from, raise_foreign
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
        self._settings = settings
        self._theirs = http_client
        #: Whether ``close()`` was called.
        self.closed = False
        #: What goes on until it ends, or the client is closed; each has a ``close()``.
        self.under_way: WeakSet[Any] = WeakSet()
        self._made: Factory | None = None
        self._place = place()

    def check_open(self) -> None:
        """Refuse before anything is sent."""
        if self.closed:
            raise ConfigurationError("this client is closed: make a new one")
        if self._theirs is not None and getattr(self._theirs, "is_closed", False):
            raise ConfigurationError("http_client is closed: give one that is open")

    @property
    def _factory(self) -> Factory:
        made = self._made
        if made is None:
            from .factory import Factory

            made = self._made = Factory(self._settings, asynchronous=self.asynchronous)
        return made

    def _keep(self, connection: Connection, free: deque[Connection]) -> Connection | None:
        """Keep it for the next request; returns what is to be closed, if there is one too many."""
        if self.closed:
            return connection
        connection.idle_since = time.monotonic()
        free.append(connection)
        try:
            if len(free) > MAX_IDLE or time.monotonic() - free[0].idle_since > IDLE_FOR:
                return free.popleft()
        except IndexError:  # another thread took the last
            pass
        return None


class SyncSender(Sender):
    """Sends for ``Client``; thread-safe, and a forked child opens connections of its own."""

    def __init__(self, settings: Settings, http_client: httpx.Client | None = None) -> None:
        super().__init__(settings, http_client)
        self._free: deque[Connection] = deque()
        self._addresses = 1
        self._counted_until = 0.0

    def __call__(self, request: Request, timeout: float, left: float) -> AttemptOutcome:
        if self._theirs is not None:
            return self._send_theirs(request, timeout)
        prepared = self._factory.request(request)
        connection = self._acquire()
        addresses = self._count_addresses if connection.direct else None
        attempt, guard = Attempt(timeout, prepared.extensions, addresses), watchdog()
        attempt.socket = connection.socket
        try:
            guard.start(attempt)
            prepared.extensions["timeout"] = attempt
            response = connection.send(prepared)
            connection.socket = response.extensions["network_stream"].get_extra_info("socket")
            answer = _read(response, attempt)
            response.stream.close()
        except BaseException as error:
            # Not connection.close(): the frames that were interrupted may hold a lock.
            raise_foreign(error, attempt.abandon)
            self._drop(connection)
            return no_response_from(error, attempt)
        finally:
            guard.finish(attempt)
            prepared.extensions.clear()  # ends the circle, which would wait for the collector
        if attempt.overdue:
            self._drop(connection)
            # It ended because we ended it: what there is of it may not be all.
            return no_response_from(TimeoutError(), attempt)
        surplus = self._keep(connection, self._free)
        if surplus is not None:
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
            raise_foreign(error)
            return no_response_from(error)

    def _acquire(self) -> Connection:
        if self._place != place():
            # A parent goes on using these connections: here only our copies are closed.
            inherited, self._free, self._place = self._free, deque(), place()
            self._made = None
            _close_all(inherited)
        try:
            return self._free.pop()
        except IndexError:
            return self._factory.connection()

    def _count_addresses(self) -> int:
        """How many addresses the host has, as all of them must fit into the time to connect."""
        if time.monotonic() >= self._counted_until:
            parts = urlsplit(self._settings.base_url)
            try:
                found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
                self._addresses = max(len(found), 1)
            except OSError:  # connecting will say what is wrong
                self._addresses = 1
            self._counted_until = time.monotonic() + IDLE_FOR
        return self._addresses

    def _drop(self, connection: Connection) -> None:
        """Close what failed, and if it was kept also what was idle beside it: it may be as dead."""
        connection.close()
        if connection.idle_since:
            _close_all(self._free)

    def close(self) -> None:
        """Close what is idle; what is in use closes when its call ends."""
        self.closed = True
        for one in list(self.under_way):
            one.close()
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
