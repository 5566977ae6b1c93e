"""The only senders: one request out, one answer in; nothing is decided here.

httpx does the work, through its public API: own pools are free lists of single-connection
transports over one TLS context, which is faster than ``httpx.Client`` and lets a connection
that went wrong be thrown away whole. Where the environment asks for proxies, each slot is an
``httpx.Client``, which knows how to choose among them. A caller's own client is used as it is.

No redirect is followed, and whatever goes wrong comes back as ``NoResponse``: plain data, without
the exception, as the frames of its traceback would hold the key.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from urllib.parse import urlsplit

from revenuebase_compat._version import __version__
from revenuebase_compat.core.decoding import MAX_BODY, AttemptOutcome, NoResponse, unpack
from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.protocol import OWN_REQUEST_EXTENSION, Request
from revenuebase_compat.core.settings import Settings, is_loopback

from .watchdog import Attempt, watchdog

if TYPE_CHECKING:
    import ssl

    import httpx

#: Idle connections kept per pool, and seconds after which one that was not needed is closed.
MAX_IDLE = 100
IDLE_FOR = 60.0

_NOT_SENT = {
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
    "LocalProtocolError",
    "InvalidURL",
}

S = TypeVar("S")


class Connection(Generic[S]):
    """One connection at most, and what sends over it."""

    __slots__ = ("close", "idle_since", "send", "socket")

    def __init__(self, send: Callable[[httpx.Request], S], close: Callable[[], Any]) -> None:
        self.send = send
        self.close = close
        self.socket: Any = None
        self.idle_since = 0.0


class RemainingTimeouts(dict[str, float]):
    """httpx's ``timeout`` extension, as what is left when a phase of the attempt begins.

    ``extensions`` are the request's, which has a connection traced while it is being made: on
    one that was kept, the ten calls of a trace would cost more than all of the flow.
    """

    def __init__(
        self,
        attempt: Attempt,
        extensions: dict[str, Any] | None = None,
        addresses: int = 1,
        trace: Callable[[str, dict[str, Any]], object] | None = None,
    ) -> None:
        super().__init__()
        self._trace = trace or attempt.trace
        self._attempt = attempt
        self._extensions = extensions
        self._addresses = addresses

    def get(self, phase: str, default: Any = None) -> float:
        left = max(self._attempt.deadline - time.monotonic(), 0.001)
        if phase == "write":
            self._attempt.sent = True
        if phase != "connect":
            return left
        if self._extensions is not None:
            self._extensions["trace"] = self._trace
        # Read once, it counts for each address of the host in turn, and again for TLS.
        return left / (self._addresses + 1)


class _Requests:
    """Builds httpx requests; the headers, and the key in them, are made once."""

    def __init__(self, settings: Settings) -> None:
        assert settings.api_key is not None  # noqa: S101 (the flow has asked)
        self._base = settings.base_url
        host = settings.base_url.split("/")[2]
        self._common = [
            (b"Host", host.encode()),
            (b"x-key", settings.api_key.reveal().encode()),
            (b"Accept", b"application/json"),
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", f"revenuebase-compat/{__version__}".encode()),
        ]
        # By method and length of the body, which is all they depend on.
        self._headers: dict[tuple[str, int], httpx.Headers] = {}

    def arguments(self, request: Request) -> tuple[str, str, list[tuple[bytes, bytes]]]:
        headers = [*self._common]
        if request.body:
            headers.append((b"Content-Type", b"application/json"))
        if request.method == "POST":
            headers.append((b"Content-Length", b"%d" % len(request.body)))
        return request.method, self._base + request.path, headers

    def build(self, request: Request, extensions: dict[str, Any]) -> httpx.Request:
        import httpx

        shape = request.method, len(request.body)
        if shape not in self._headers:
            self._headers[shape] = httpx.Headers(self.arguments(request)[2])
        return httpx.Request(
            request.method,
            self._base + request.path,
            headers=self._headers[shape],
            stream=httpx.ByteStream(request.body),
            extensions=extensions,
        )


def no_response_from(
    error: Exception, timeout: float, attempt: Attempt | None = None
) -> NoResponse:
    """What an exception tells of the attempt; by name, so that httpx2's count as well."""
    names = {kind.__name__ for kind in type(error).__mro__}
    sent = not names & _NOT_SENT and (attempt is None or attempt.sent)
    if (attempt is not None and attempt.overdue) or names & {"TimeoutException", "TimeoutError"}:
        waited = "" if sent else " to connect"
        return NoResponse(f"no answer within {timeout:.3g} s{waited}", sent, timeout=True)
    return NoResponse(f"{type(error).__name__}: {error}", sent)


def needs_proxy(settings: Settings) -> bool:
    if is_loopback(urlsplit(settings.base_url).hostname or ""):
        return False
    from urllib.request import getproxies  # httpx has loaded it, and reads the same

    proxies = getproxies()
    return any(proxies.get(scheme) for scheme in ("https", "all"))


def tls_context(settings: Settings) -> ssl.SSLContext:
    import ssl

    import httpx

    if settings.base_url.startswith("http:"):
        # Never used; loading the system's certificates would cost more than the first call.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.create_ssl_context()


class _Sender:
    """What the two senders share: how slots are made, and how many are kept."""

    def __init__(self, settings: Settings, http_client: Any) -> None:
        self._settings = settings
        self._theirs = http_client
        self._closed = False
        self._requests: _Requests | None = None
        self._context: ssl.SSLContext | None = None
        self._pid = os.getpid()

    def check_open(self) -> None:
        """Refuse before anything is sent."""
        if self._closed:
            raise ConfigurationError("this client is closed: make a new one")
        if self._theirs is not None and getattr(self._theirs, "is_closed", False):
            raise ConfigurationError("http_client is closed: give one that is open")

    def _prepared(self) -> _Requests:
        if self._requests is None:
            self._requests = _Requests(self._settings)
        return self._requests

    def _options(self) -> dict[str, Any]:
        import httpx

        if self._context is None:
            self._context = tls_context(self._settings)
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        return {"verify": self._context, "limits": limits}

    @staticmethod
    def _evict(free: deque[Connection[S]]) -> Connection[S] | None:
        """The slot that was idle longest, if it is one too many."""
        try:
            if len(free) > MAX_IDLE or time.monotonic() - free[0].idle_since > IDLE_FOR:
                return free.popleft()
        except IndexError:  # another thread took the last
            pass
        return None


class SyncSender(_Sender):
    """Sends for ``Client``; thread-safe, and a forked child opens connections of its own."""

    def __init__(self, settings: Settings, http_client: httpx.Client | None = None) -> None:
        super().__init__(settings, http_client)
        self._free: deque[Connection[httpx.Response]] = deque()
        self._addresses = 1
        self._counted_until = 0.0

    def __call__(self, request: Request, timeout: float) -> AttemptOutcome:
        if self._theirs is not None:
            return self._send_theirs(request, timeout)
        prepared = self._prepared().build(request, {OWN_REQUEST_EXTENSION: True})
        slot = self._acquire()
        attempt = Attempt(timeout, slot.socket)
        try:
            watchdog.start(attempt)
            left = RemainingTimeouts(attempt, prepared.extensions, self._addresses)
            prepared.extensions["timeout"] = left
            response = slot.send(prepared)
            slot.socket = response.extensions["network_stream"].get_extra_info("socket")
            answer = _read(response, attempt)
        except Exception as error:
            slot.close()
            return no_response_from(error, timeout, attempt)
        except BaseException:
            # Not slot.close(): the frames that were interrupted may hold httpcore's lock.
            attempt.abandon()
            raise
        finally:
            watchdog.finish(attempt)
            prepared.extensions.clear()  # ends the circle, which would wait for the collector
        if attempt.overdue:
            slot.close()
            # It ended because we ended it: what there is of it may not be all.
            return no_response_from(TimeoutError(), timeout, attempt)
        if self._closed:
            slot.close()
        else:
            self._release(slot)
        return answer

    def _send_theirs(self, request: Request, timeout: float) -> AttemptOutcome:
        client = self._theirs
        attempt = Attempt(timeout, None)
        method, url, headers = self._prepared().arguments(request)
        try:
            prepared = client.build_request(
                method,
                url,
                headers=headers,
                content=request.body,
                extensions={OWN_REQUEST_EXTENSION: True},
            )
            prepared.extensions["timeout"] = RemainingTimeouts(attempt)
            return _read(client.send(prepared, stream=True, follow_redirects=False), attempt)
        except Exception as error:
            return no_response_from(error, timeout)

    def _acquire(self) -> Connection[httpx.Response]:
        if self._pid != os.getpid():
            # The parent goes on using these connections: here only our copies are closed.
            inherited, self._free, self._pid = self._free, deque(), os.getpid()
            for slot in inherited:
                slot.close()
        try:
            return self._free.pop()
        except IndexError:
            return self._open()

    def _open(self) -> Connection[httpx.Response]:
        import httpx

        self._count_addresses()
        if needs_proxy(self._settings):
            client = httpx.Client(**self._options())
            return Connection(
                lambda request: client.send(request, stream=True, follow_redirects=False),
                client.close,
            )
        transport = httpx.HTTPTransport(**self._options())
        return Connection(transport.handle_request, transport.close)

    def _count_addresses(self) -> None:
        """How many addresses the host has, as all of them must fit into the time to connect."""
        if time.monotonic() < self._counted_until:
            return
        parts = urlsplit(self._settings.base_url)
        try:
            found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
            self._addresses = max(len(found), 1)
        except OSError:  # connecting will say what is wrong
            self._addresses = 1
        self._counted_until = time.monotonic() + IDLE_FOR

    def _release(self, slot: Connection[httpx.Response]) -> None:
        slot.idle_since = time.monotonic()
        self._free.append(slot)
        surplus = self._evict(self._free)
        if surplus is not None:
            surplus.close()

    def close(self) -> None:
        """Close what is idle; what is in use closes when its call ends."""
        self._closed = True
        while self._free:
            self._free.pop().close()


def _read(response: httpx.Response, attempt: Attempt) -> AttemptOutcome:
    try:
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
    finally:
        response.close()
    return unpack(response.status_code, response.headers.raw, bytes(body))


def decoded(response: httpx.Response) -> AttemptOutcome:
    headers = [pair for pair in response.headers.raw if pair[0].lower() != b"content-encoding"]
    return unpack(response.status_code, headers, response.content)
