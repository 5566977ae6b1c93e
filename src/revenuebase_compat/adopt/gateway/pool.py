"""Connections to the upstream: a free list of single HTTP/1.1 connections (asyncio and h11).

What a request costs does not depend on how many connections there are. A connection is used
again only where nothing is left over: neither in h11, nor behind an answer that may not have a
body, nor bytes that arrive while it is idle. A request is sent once; nothing is repeated here.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, cast
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import h11

from revenuebase_compat.client.transport import IDLE_FOR, needs_proxy, tls_context
from revenuebase_compat.client.transport_async import asyncio_timeout
from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import Settings

Headers = Sequence[tuple[bytes, bytes]]
Chunks = AsyncGenerator[bytes, None]

#: What an upstream, or the way to it, can fail with.
UPSTREAM_ERRORS = (OSError, h11.RemoteProtocolError)

#: Bytes that may wait to be read; beyond them the upstream is held back.
_HIGH_WATER = 256 * 1024
_PORTS = {"https": 443, "http": 80, "socks5": 1080, "socks5h": 1080}


class Connection(asyncio.Protocol):
    """One connection, and at most one exchange on it at a time.

    Reading and writing wait at most ``timeout`` seconds for the other side, and not beyond
    ``deadline`` (the event loop's time): ``TimeoutError``.
    """

    def __init__(self, pool: Pool, timeout: float) -> None:
        self.http = h11.Connection(h11.CLIENT)
        self.idle_since = 0.0
        self.deadline = math.inf
        self._pool = pool
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._ended = False
        self._error: BaseException | None = None
        self._may_write = True
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._pool.is_idle(self):
            self.close()  # nobody asked for it
            return
        self._received += data
        if len(self._received) > _HIGH_WATER:
            self.transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, error: BaseException | None) -> None:
        self._end(error)

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        _wake(self._writer)

    def _end(self, error: BaseException | None) -> None:
        self._ended = True
        self._error = self._error or error
        self._pool.forget(self)
        _wake(self._reader)
        _wake(self._writer)

    # What an exchange calls.

    async def read(self) -> bytes:
        """What has arrived; empty at the end."""
        if not self._received and not self._ended:
            self._reader = self._loop.create_future()
            await self._wait(self._reader)
        if not self._received and self._error is not None:
            raise self._error
        if len(self._received) > _HIGH_WATER and not self._ended:
            self.transport.resume_reading()
        data, self._received = bytes(self._received), bytearray()
        return data

    async def write(self, data: bytes) -> None:
        if not self._ended:
            self.transport.write(data)
        if not (self._may_write or self._ended):
            self._writer = self._loop.create_future()
            await self._wait(self._writer)

    async def _wait(self, future: asyncio.Future[None]) -> None:
        at = min(self._loop.time() + self._timeout, self.deadline)
        timer = self._loop.call_at(at, _expire, future)
        try:
            await future
        finally:
            timer.cancel()

    def fail(self, error: BaseException) -> None:
        """Have whoever waits for an answer be told of that error."""
        self._end(error)
        self.close()

    async def event(self) -> Any:
        """The next event of the answer."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            data = await self.read()
            if not data and self.http.their_state is h11.SEND_RESPONSE:
                raise h11.RemoteProtocolError("the server closed the connection without an answer")
            self.http.receive_data(data)
        return event

    async def answer_head(self) -> h11.Response:
        """The head of the answer proper."""
        while not isinstance(event := await self.event(), h11.Response):
            if event.status_code == 101:
                raise h11.RemoteProtocolError("101 Switching Protocols, which nobody asked for")
        if event.status_code > 599:
            raise h11.RemoteProtocolError(f"{event.status_code} is no HTTP status")
        return event

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from here on, through what is connected already."""
        transport = await self._loop.start_tls(self.transport, self, context, server_hostname=host)
        assert transport is not None  # noqa: S101
        self.transport = transport
        self.http = h11.Connection(h11.CLIENT)

    def is_reusable(self) -> bool:
        """Whether the exchange has ended, and nothing is left of it."""
        done = self.http.our_state is self.http.their_state is h11.DONE
        return done and not (self._ended or self._received or self.http.trailing_data[0])

    def close(self) -> None:
        self._pool.forget(self)
        self.transport.abort()


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


class Exchange:
    """A request on its way and the answer to it, or one after the other.

    Attributes:
        deadline: until when it all has to be over (the event loop's time).
        sent: whether a request's head has left.
        status, headers: the answer's, once ``send`` has returned.
    """

    def __init__(self, pool: Pool) -> None:
        self.deadline = math.inf
        self.sent = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._pool = pool
        self._connection: Connection | None = None
        self._sending: asyncio.Task[None] | None = None
        self._bodiless = False

    async def send(self, method: str, target: bytes, headers: Headers, body: Chunks | None) -> None:
        """Send the request, and read the answer's head.

        Raises:
            OSError, h11.RemoteProtocolError: no answer came, for want of an upstream or of one
                that speaks HTTP/1.1; ``sent`` says how far the request got.
        """
        self._connection = connection = await self._pool.acquire(self.deadline)
        head = h11.Request(method=method, target=target, headers=list(headers))
        data = connection.http.send(head)
        if body is None:
            data += connection.http.send(h11.EndOfMessage())
        self.sent = True
        await connection.write(data)
        if body is not None:
            # Beside the reading, as an answer may come before the body has ended.
            self._sending = asyncio.ensure_future(self._send_body(connection, body))
        answer = await connection.answer_head()
        self.status, self.headers = answer.status_code, answer.headers.raw_items()
        # Where a body may not be, one may be all the same; it would be the next answer's start.
        self._bodiless = method == "HEAD" or answer.status_code in (204, 304)

    async def _send_body(self, connection: Connection, body: Chunks) -> None:
        try:
            async with aclosing(body):
                async for chunk in body:
                    await connection.write(connection.http.send(h11.Data(data=chunk)))
            await connection.write(connection.http.send(h11.EndOfMessage()))
        except Exception as error:
            connection.fail(error)

    async def body(self) -> Chunks:
        """The answer's body, as it arrives."""
        assert self._connection is not None  # noqa: S101
        while isinstance(event := await self._connection.event(), h11.Data):
            yield bytes(event.data)

    def close(self) -> None:
        """Give the connection back, or close it where the exchange is not over."""
        connection, self._connection = self._connection, None
        if self._sending is not None:
            self._sending.cancel()
        if connection is not None:
            if self._bodiless or not connection.is_reusable():
                connection.close()
            else:
                connection.http.start_next_cycle()
                self._pool.release(connection)


class Pool:
    """Connections to one upstream, directly or through the proxy that the environment names.

    Args:
        settings: ``base_url`` is the upstream, and ``timeout`` bounds each wait.

    Raises:
        ConfigurationError: the proxy or the certificates that the environment names are unusable.
    """

    def __init__(self, settings: Settings) -> None:
        parts = urlsplit(settings.base_url)
        self._host, self._tls = parts.hostname or "", parts.scheme == "https"
        self._port = parts.port or _PORTS[parts.scheme]
        self._timeout = settings.timeout
        self._proxy = _proxy(settings, self._host)
        try:
            self._context = tls_context(settings)
        except OSError as error:
            raise ConfigurationError(
                f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR names: {error.strerror}"
            ) from None
        self._context.set_alpn_protocols(["http/1.1"])
        # In order of their last use: the last one is taken first, the first ones expire.
        self._free: dict[Connection, None] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def acquire(self, deadline: float) -> Connection:
        """A connection for one exchange: an idle one, or a new one."""
        connection = self._free.popitem()[0] if self._free else await self.connect(deadline)
        connection.deadline = deadline
        return connection

    def release(self, connection: Connection) -> None:
        """Keep a connection whose exchange has ended."""
        if self._closed:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._free[connection] = None
        if self._sweeper is None:
            self._sweeper = loop.call_later(IDLE_FOR, self._sweep)

    def is_idle(self, connection: Connection) -> bool:
        return connection in self._free

    def forget(self, connection: Connection) -> None:
        """It is closed, or being closed."""
        self._free.pop(connection, None)

    def _sweep(self) -> None:
        loop, self._sweeper = asyncio.get_running_loop(), None
        for connection in list(self._free):
            if loop.time() - connection.idle_since < IDLE_FOR:
                self._sweeper = loop.call_later(IDLE_FOR, self._sweep)
                break
            connection.close()

    def close(self) -> None:
        """Close what is idle; what is in use closes when its exchange ends."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._free):
            connection.close()

    async def connect(self, deadline: float = math.inf) -> Connection:
        """A new connection: TCP, the proxy's tunnel and TLS; nothing of a request is sent.

        Raises:
            OSError: it cannot be had, within ``timeout`` and before ``deadline``, or at all.
        """
        loop, proxy, context = asyncio.get_running_loop(), self._proxy, self._context
        host, port, tls = self._host, self._port, self._tls
        if proxy is not None:
            host, port = proxy.hostname or "", proxy.port or _PORTS[proxy.scheme]
            tls = proxy.scheme == "https"
        async with asyncio_timeout(min(self._timeout, deadline - loop.time())):
            _, connection = await loop.create_connection(
                partial(Connection, self, self._timeout),
                host,
                port,
                ssl=context if tls else None,
                happy_eyeballs_delay=0.25,
            )
            if proxy is not None:
                try:
                    await (self._socks if proxy.scheme[:5] == "socks" else self._tunnel)(connection)
                    await connection.start_tls(context, self._host)
                except BaseException:
                    connection.close()
                    raise
        return connection

    async def _tunnel(self, connection: Connection) -> None:
        host = f"[{self._host}]" if ":" in self._host else self._host
        authority = f"{host}:{self._port}".encode()
        headers = [(b"Host", authority)]
        if self._proxy is not None and self._proxy.username:
            name, word = unquote(self._proxy.username), unquote(self._proxy.password or "")
            secret = b64encode(f"{name}:{word}".encode())
            headers.append((b"Proxy-Authorization", b"Basic " + secret))
        request = h11.Request(method="CONNECT", target=authority, headers=headers)
        await connection.write(
            connection.http.send(request) + connection.http.send(h11.EndOfMessage())
        )
        answer = await connection.answer_head()
        if not 200 <= answer.status_code < 300:
            raise ConnectionError(f"the proxy answered {answer.status_code} to CONNECT")

    async def _socks(self, connection: Connection) -> None:
        from socksio import socks5

        assert self._proxy is not None  # noqa: S101
        name, word = self._proxy.username, self._proxy.password
        kind = socks5.SOCKS5AuthMethod
        method = kind.USERNAME_PASSWORD if name else kind.NO_AUTH_REQUIRED
        talk = socks5.SOCKS5Connection()

        async def ask(request: Any) -> Any:
            talk.send(request)
            await connection.write(talk.data_to_send())
            return talk.receive_data(await connection.read())

        try:
            granted = (await ask(socks5.SOCKS5AuthMethodsRequest([method]))).method == method
            if granted and name:
                login = unquote(name).encode(), unquote(word or "").encode()
                granted = (await ask(socks5.SOCKS5UsernamePasswordRequest(*login))).success
            if granted:
                target = self._host, self._port
                request = socks5.SOCKS5CommandRequest.from_address(
                    socks5.SOCKS5Command.CONNECT, target
                )
                granted = (await ask(request)).reply_code == socks5.SOCKS5ReplyCode.SUCCEEDED
        except Exception as error:
            raise ConnectionError(f"the SOCKS proxy: {type(error).__name__}") from None
        if not granted:
            raise ConnectionError("the SOCKS proxy refuses")


def _proxy(settings: Settings, host: str) -> Any:
    """The parts of the URL of the proxy that the environment names for that host, if any."""
    if not needs_proxy(settings) or proxy_bypass(host):
        return None
    found = getproxies()
    name = "HTTPS_PROXY" if found.get("https") else "ALL_PROXY"
    url = found.get("https") or found["all"]
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        usable = bool(parts.hostname) and parts.scheme in _PORTS and parts.port != 0
    except ValueError:
        usable = False
    if not usable:  # the URL is not shown, as it may hold a password
        raise ConfigurationError(f"{name}: give http://, https:// or socks5://host:port")
    if parts.scheme[:5] == "socks":
        try:
            import socksio  # noqa: F401
        except ImportError:
            raise ConfigurationError(f"{name}: a SOCKS proxy needs: pip install socksio") from None
    return parts
