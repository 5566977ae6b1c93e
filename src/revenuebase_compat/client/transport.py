"""The only senders: one request out, one answer in; nothing is decided here.

httpx does the work, through its public API (but for ``_unlocked``): own pools are free lists of
single-connection transports over one TLS context, which is faster than ``httpx.Client`` and lets a
connection that went wrong be thrown away whole. Where the environment asks for proxies, each
connection is an ``httpx.Client``, which knows how to choose among them. A caller's own client is
used as it is.

No redirect is followed, and what goes wrong on the way comes back as ``NoResponse``: plain data,
without the exception, as the frames of its traceback would hold the key. What cannot be set up is a
``ConfigurationError``; an exception that is not the transport's passes through.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from urllib.parse import urlsplit
from weakref import WeakSet

from revenuebase_compat._version import __version__
from revenuebase_compat.core.decoding import MAX_BODY, AttemptOutcome, unpack
from revenuebase_compat.core.endpoints import OWN_REQUEST_EXTENSION, Request
from revenuebase_compat.core.errors import ConfigurationError, shown
from revenuebase_compat.core.settings import Settings, is_loopback

from .transport_errors import no_response_from, raise_foreign
from .watchdog import Attempt, RemainingTimeouts, place, watchdog

if TYPE_CHECKING:
    import ssl

    import httpx

#: Idle connections kept per pool, and seconds after which one that was not needed is closed.
MAX_IDLE = 100
IDLE_FOR = 60.0

S = TypeVar("S")


@dataclass(slots=True, eq=False)
class Connection(Generic[S]):
    """One connection at most, and what sends over it.

    Attributes:
        socket: that of the connection, once there is one.
        idle_since: monotonic time of the last release; 0 until the first.
        direct: whether it goes to the API itself, and not to a proxy.
    """

    send: Callable[[httpx.Request], S]
    close: Callable[[], Any]
    direct: bool
    socket: Any = None
    idle_since: float = 0.0


def needs_proxy(settings: Settings) -> bool:
    if is_loopback(urlsplit(settings.base_url).hostname or ""):
        return False
    from urllib.request import getproxies  # httpx has loaded it, and reads the same

    proxies = getproxies()
    return any(proxies.get(scheme) for scheme in ("https", "all"))


def tls_context(settings: Settings) -> ssl.SSLContext:
    """The context for TLS, with httpx's certificates, or those that the environment names.

    Raises:
        ConfigurationError: ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` cannot be used.
    """
    import ssl

    import httpx

    if settings.base_url.startswith("http:"):
        # Never used; loading the system's certificates would cost more than the first call.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # httpx 0.27 passes over a file that is not there.
        if os.environ.get("SSL_CERT_FILE"):
            os.stat(os.environ["SSL_CERT_FILE"])
        return httpx.create_ssl_context()
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        given = f"{names[0]} {shown(os.environ[names[0]])}" if names else "certifi's certificates"
        raise ConfigurationError(
            f"{given} cannot be used ({type(error).__name__}: {error.strerror or error}): name a "
            "file of certificates in PEM form, or unset the variable"
        ) from None


def _wrong_proxy() -> ConfigurationError:
    """Which variable of a proxy cannot be used, and why; its text may hold a password."""
    from urllib.request import getproxies

    import httpx

    wrong, why = "no", "give host names and addresses, without a network's /bits"
    for scheme in ("http", "https", "all"):
        url = getproxies().get(scheme, "")
        try:
            if url:
                httpx.HTTPTransport(proxy=url if "://" in url else f"http://{url}").close()
        except ImportError:
            wrong, why = scheme, "a SOCKS proxy needs the package socksio (pip install socksio)"
        except Exception:
            wrong, why = scheme, "give http://, https:// or socks5://[user:password@]host:port"
    # The frames of httpx's own exceptions hold the text: none is a cause, and this frame ends.
    del url
    names = [name for name in os.environ if name.lower() == f"{wrong}_proxy"]
    return ConfigurationError(f"{' and '.join(names) or 'the proxy'} cannot be used: {why}")


def _unlocked(client: Any) -> Any:
    """The transport or client, without the locks of its connection pools.

    A transport of ours serves one thread at a time and needs none. An exception that a signal
    handler raises within httpcore may leave such a lock taken, and httpcore, which takes it again
    in order to clear up, would then wait for itself.
    """
    mounted = getattr(client, "_mounts", {}).values()
    for transport in (client, getattr(client, "_transport", None), *mounted):
        pool: Any = getattr(transport, "_pool", None)
        if hasattr(pool, "_optional_thread_lock"):
            pool._optional_thread_lock = nullcontext()
    return client


class Sender(Generic[S]):
    """What the two senders share: how connections are made, and how many are kept."""

    #: httpx's classes for a client and for a transport, and what sends and closes.
    _made_by = ("Client", "HTTPTransport", "handle_request", "close")

    def __init__(self, settings: Settings, http_client: Any) -> None:
        self._settings = settings
        self._theirs = http_client
        #: Whether ``close()`` was called.
        self.closed = False
        #: What goes on until it ends, or the client is closed; each has a ``close()``.
        self.under_way: WeakSet[Any] = WeakSet()
        #: By method and length of the body, which is all they depend on; the key is in them.
        self._headers: dict[tuple[str, int], httpx.Headers] = {}
        self._context: ssl.SSLContext | None = None
        self._place = place()

    def check_open(self) -> None:
        """Refuse before anything is sent."""
        if self.closed:
            raise ConfigurationError("this client is closed: make a new one")
        if self._theirs is not None and getattr(self._theirs, "is_closed", False):
            raise ConfigurationError("http_client is closed: give one that is open")

    def _request(self, request: Request, timeout: Any = None) -> Any:
        """The same for httpx; with a ``timeout`` extension for the caller's own client."""
        import httpx

        method, url, body = request.method, self._settings.base_url + request.path, request.body
        headers = self._headers.get((method, len(body)))
        if headers is None:
            assert self._settings.api_key is not None  # noqa: S101 (the flow has asked)
            fields = {
                "Host": self._settings.base_url.split("/")[2],
                "x-key": self._settings.api_key.reveal(),
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"revenuebase-compat/{__version__}",
                **({"Content-Type": "application/json"} if body else {}),
                **({"Content-Length": str(len(body))} if method == "POST" else {}),
            }
            headers = self._headers[method, len(body)] = httpx.Headers(fields)
            del fields
        ours: dict[str, Any] = {OWN_REQUEST_EXTENSION: True}
        if self._theirs is None:
            stream = httpx.ByteStream(body)
            return httpx.Request(method, url, headers=headers, stream=stream, extensions=ours)
        given = {"headers": headers.raw, "extensions": {**ours, "timeout": timeout}}
        return self._theirs.build_request(method, url, content=body, **given)

    def _make(self) -> Connection[S]:
        import httpx

        if self._context is None:
            self._context = tls_context(self._settings)
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        client, transport, handle, close = self._made_by
        if not needs_proxy(self._settings):
            made = _unlocked(getattr(httpx, transport)(verify=self._context, limits=limits))
            return Connection(getattr(made, handle), getattr(made, close), True)
        try:
            made = _unlocked(getattr(httpx, client)(verify=self._context, limits=limits))
        except Exception:
            made = None
        if made is None:
            raise _wrong_proxy()
        return Connection(
            lambda request: made.send(request, stream=True, follow_redirects=False),
            getattr(made, close),
            False,
        )

    def _keep(self, connection: Connection[S], free: deque[Connection[S]]) -> Connection[S] | None:
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


class SyncSender(Sender["httpx.Response"]):
    """Sends for ``Client``; thread-safe, and a forked child opens connections of its own."""

    def __init__(self, settings: Settings, http_client: httpx.Client | None = None) -> None:
        super().__init__(settings, http_client)
        self._free: deque[Connection[httpx.Response]] = deque()
        self._addresses = 1
        self._counted_until = 0.0

    def __call__(self, request: Request, timeout: float, left: float) -> AttemptOutcome:
        if self._theirs is not None:
            return self._send_theirs(request, timeout)
        prepared = self._request(request)
        connection = self._acquire()
        attempt, guard = Attempt(timeout, connection.socket), watchdog()
        try:
            guard.start(attempt)
            addresses = self._count_addresses if connection.direct else None
            timeouts = RemainingTimeouts(attempt, prepared.extensions, attempt.trace, addresses)
            prepared.extensions["timeout"] = timeouts
            response = connection.send(prepared)
            connection.socket = response.extensions["network_stream"].get_extra_info("socket")
            answer = _read(response, attempt)
            response.close()
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
        attempt = Attempt(timeout, None)
        try:
            prepared = self._request(request, RemainingTimeouts(attempt))
            response = self._theirs.send(prepared, stream=True, follow_redirects=False)
            try:
                return _read(response, attempt)
            finally:
                response.close()
        except BaseException as error:
            raise_foreign(error)
            return no_response_from(error)

    def _acquire(self) -> Connection[httpx.Response]:
        if self._place != place():
            # A parent goes on using these connections: here only our copies are closed.
            inherited, self._free, self._place = self._free, deque(), place()
            self._context = None
            _close_all(inherited)
        try:
            return self._free.pop()
        except IndexError:
            return self._make()

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

    def _drop(self, connection: Connection[httpx.Response]) -> None:
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


def _close_all(free: deque[Connection[httpx.Response]]) -> None:
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
