"""What is made of httpx, by its public API but for ``_unlocked``; imported by the first to send."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpcore  # noqa: F401 (httpx imports it with its first transport, amid the first request)
import httpx

from revenuebase_compat._version import __version__
from revenuebase_compat.core.endpoints import OWN_REQUEST_EXTENSION, Request
from revenuebase_compat.core.errors import ConfigurationError, shown
from revenuebase_compat.core.settings import Settings, is_loopback


class Connection:
    """One connection at most, ``direct`` to the API or to a proxy, and what sends over it."""

    #: That of the connection, once there is one.
    socket: Any = None
    #: Monotonic time of the last release; 0 until the first.
    idle_since = 0.0

    def __init__(self, send: Callable[..., Any], close: Callable[[], Any], direct: bool) -> None:
        self.send, self.close, self.direct = send, close, direct


class Factory:
    """Makes requests and connections to the server that the settings name."""

    def __init__(self, settings: Settings, *, asynchronous: bool = False) -> None:
        self._settings = settings
        self._asynchronous = asynchronous
        self._context: ssl.SSLContext | None = None
        self._server = server = httpx.URL(settings.base_url)
        self._parts = {name: getattr(server, name) for name in ("raw_scheme", "raw_host", "port")}
        self._prefix = server.raw_path.rstrip(b"/")
        #: By method and length of the body, which is all they depend on; the key is in them.
        self._headers: dict[tuple[str, int], httpx.Headers] = {}

    def request(self, request: Request) -> httpx.Request:
        """For a transport of ours."""
        method, path, body = request
        made = httpx.Request(
            method,
            self._server,
            headers=self._headers_of(method, body),
            stream=httpx.ByteStream(body) if body else _NO_BODY,
            extensions={OWN_REQUEST_EXTENSION: True},
        )
        made.url = _LazyURL(
            self._settings.base_url + path, raw_path=self._prefix + path.encode(), **self._parts
        )
        return made

    def request_of(self, client: Any, request: Request, timeout: Any) -> Any:
        """For a client of the caller's."""
        method, path, body = request
        return client.build_request(
            method,
            self._settings.base_url + path,
            content=body,
            headers=self._headers_of(method, body).raw,
            extensions={OWN_REQUEST_EXTENSION: True, "timeout": timeout},
        )

    def _headers_of(self, method: str, body: bytes) -> httpx.Headers:
        found = self._headers.get((method, len(body)))
        if found is None:
            assert self._settings.api_key is not None  # noqa: S101 (the flow has asked)
            found = self._headers[method, len(body)] = httpx.Headers(
                {
                    "Host": self._settings.base_url.split("/")[2],
                    "x-key": self._settings.api_key.reveal(),
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": f"revenuebase-compat/{__version__}",
                    **({"Content-Type": "application/json"} if body else {}),
                    **({"Content-Length": str(len(body))} if method == "POST" else {}),
                }
            )
        return found

    def connection(self) -> Connection:
        """A new one; where the environment asks for proxies, a client that chooses among them."""
        if self._context is None:
            self._context = tls_context(self._settings)
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        client, transport, handle, close = (
            (httpx.AsyncClient, httpx.AsyncHTTPTransport, "handle_async_request", "aclose")
            if self._asynchronous
            else (httpx.Client, httpx.HTTPTransport, "handle_request", "close")
        )
        if not needs_proxy(self._settings):
            made = _unlocked(transport(verify=self._context, limits=limits))
            return Connection(getattr(made, handle), getattr(made, close), direct=True)
        made = None
        with suppress(Exception):
            made = _unlocked(client(verify=self._context, limits=limits))
        if made is None:
            raise _wrong_proxy()
        send = partial(made.send, stream=True, follow_redirects=False)
        return Connection(send, getattr(made, close), direct=False)


class _LazyURL(httpx.URL):
    """Parsed only where more is asked for than a transport reads: httpx takes its time for it."""

    raw_scheme = raw_host = raw_path = b""
    port = None

    def __init__(self, text: str, **parts: Any) -> None:
        vars(self).update(parts, _text=text)

    def __getattr__(self, name: str) -> Any:
        parsed = vars(httpx.URL(self._text)) if "_text" in vars(self) else {}
        if name not in parsed:
            raise AttributeError(name)
        vars(self).update(parsed)
        return parsed[name]


class _NoBody(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Nothing at all, where httpx's own would have an empty piece go through all layers."""

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


_NO_BODY = _NoBody()


def needs_proxy(settings: Settings) -> bool:
    if is_loopback(urlsplit(settings.base_url).hostname or ""):
        return False
    proxies = getproxies()  # as httpx reads them
    return any(proxies.get(scheme) for scheme in ("https", "all"))


def tls_context(settings: Settings) -> ssl.SSLContext:
    """With httpx's certificates, or those that the environment names.

    Raises:
        ConfigurationError: ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` cannot be used.
    """
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
    """Without the locks of its pools, which serve one thread at a time."""
    # An exception that a signal handler raises within httpcore may leave such a lock taken, and
    # httpcore, which takes it again in order to clear up, would then wait for itself.
    mounted = getattr(client, "_mounts", {}).values()
    for transport in (client, getattr(client, "_transport", None), *mounted):
        pool: Any = getattr(transport, "_pool", None)
        if hasattr(pool, "_optional_thread_lock"):
            pool._optional_thread_lock = nullcontext()
    return client
