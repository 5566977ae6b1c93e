"""Connections to the upstream: a free list of single HTTP/1.1 connections (asyncio and h11).

What a request costs does not depend on how many connections there are. A connection is used
again only where nothing is left over: neither in h11, nor behind an answer that may not have a
body, nor bytes that arrive while it is idle. A request is sent once; nothing is repeated here.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import sys
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

    Attributes:
        status, headers: the answer's, once ``exchange`` has returned.
    """

    status = 0
    headers: Headers = ()

    def __init__(self, pool: Pool, timeout: float) -> None:
        self.http = h11.Connection(h11.CLIENT)
        self.deadline = math.inf
        self.idle_since = 0.0
        self._pool, self._timeout = pool, timeout
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._ended, self._may_write, self._may_reuse = False, True, True
        self._error: BaseException | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._sending: asyncio.Task[None] | None = None

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
        self._wake()

    def eof_received(self) -> None:
        self.fail(None)

    def connection_lost(self, error: BaseException | None) -> None:
        self.fail(error)
        self.transport.close()  # Python 3.10 calls one of TLS unclosed otherwise

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._wake()

    def fail(self, error: BaseException | None) -> None:
        """Nothing more is to come; that error tells whoever waits for it why."""
        self._ended = True
        self._error = self._error or error
        self._pool.forget(self)
        self._wake()

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _wait(self) -> None:
        future = self._loop.create_future()
        self._waiting.add(future)
        at = min(self._loop.time() + self._timeout, self.deadline)
        timer = self._loop.call_at(at, _expire, future)
        try:
            await future
        finally:
            timer.cancel()
            self._waiting.discard(future)

    # What an exchange is made of.

    async def read(self) -> bytes:
        """What has arrived; empty at the end."""
        while not self._received and not self._ended:
            await self._wait()
        if not self._received and self._error is not None:
            raise self._error
        if len(self._received) > _HIGH_WATER and not self._ended:
            self.transport.resume_reading()
        data, self._received = bytes(self._received), bytearray()
        return data

    async def write(self, data: bytes) -> None:
        """Send, and wait where the other side is too slow."""
        if not self._ended:
            self.transport.write(data)
        while not (self._may_write or self._ended):
            await self._wait()

    async def exchange(
        self, method: str, target: bytes, headers: Headers, body: Chunks | None = None
    ) -> None:
        """Send a request, and read its answer's head.

        Raises:
            OSError, h11.RemoteProtocolError: there was no answer, or none of HTTP/1.1.
        """
        data = self.http.send(h11.Request(method=method, target=target, headers=list(headers)))
        assert data is not None  # noqa: S101
        if body is None:
            data += self.http.send(h11.EndOfMessage()) or b""
        await self.write(data)
        if body is not None:
            # Beside the reading, as an answer may come before the body has ended.
            self._sending = asyncio.ensure_future(self._send_body(body))
        while not isinstance(event := await self._event(), h11.Response):
            if event.status_code == 101:
                raise h11.RemoteProtocolError("101 Switching Protocols, which nobody asked for")
        if event.status_code > 599:
            raise h11.RemoteProtocolError(f"{event.status_code} is no HTTP status")
        self.status, self.headers = event.status_code, event.headers.raw_items()
        # Where a body may not be, one may be all the same; it would be the next answer's start.
        self._may_reuse = method != "HEAD" and self.status not in (204, 304)

    async def _send_body(self, body: Chunks) -> None:
        try:
            async with aclosing(body):
                async for chunk in body:
                    await self.write(self.http.send(h11.Data(data=chunk)) or b"")
            await self.write(self.http.send(h11.EndOfMessage()) or b"")
        except Exception as error:
            self.fail(error)

    async def _event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            data = await self.read()
            if not data and self.http.their_state is h11.SEND_RESPONSE:
                raise h11.RemoteProtocolError("the server closed the connection without an answer")
            self.http.receive_data(data)
        return event

    async def body(self) -> Chunks:
        """The answer's body, as it arrives."""
        while isinstance(event := await self._event(), h11.Data):
            yield bytes(event.data)

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from here on, and HTTP anew."""
        transport = await self._loop.start_tls(self.transport, self, context, server_hostname=host)
        self.transport = cast("asyncio.Transport", transport)
        self.http = h11.Connection(h11.CLIENT)

    def finish(self) -> None:
        """Have the pool keep it, or close it where anything is left over of the exchange."""
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        http = self.http
        left_over = self._received or http.trailing_data[0] or self._ended
        done = http.our_state is http.their_state is h11.DONE
        if done and self._may_reuse and not left_over:
            http.start_next_cycle()
            self._pool.release(self)
        else:
            self.close()

    def close(self) -> None:
        self._pool.forget(self)
        self.transport.abort()


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


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
                    login = (unquote(proxy.username or ""), unquote(proxy.password or ""))
                    open_way = self._socks if proxy.scheme[:5] == "socks" else self._tunnel
                    await open_way(connection, *(part.encode() for part in login))
                    await connection.start_tls(context, self._host)
                except BaseException:
                    connection.close()
                    raise
        return connection

    async def _tunnel(self, connection: Connection, name: bytes, word: bytes) -> None:
        host = f"[{self._host}]" if ":" in self._host else self._host
        authority = f"{host}:{self._port}".encode()
        headers = [(b"Host", authority)]
        if name:
            headers.append((b"Proxy-Authorization", b"Basic " + b64encode(name + b":" + word)))
        await connection.exchange("CONNECT", authority, headers)
        if connection.status >= 300:
            raise ConnectionError(f"the proxy answered {connection.status} to CONNECT")

    async def _socks(self, connection: Connection, name: bytes, word: bytes) -> None:
        """SOCKS 5, where the proxy resolves the name (RFC 1928; RFC 1929 for the password)."""
        host = self._host.encode()
        steps = [
            (
                b"\x05\x01" + (b"\x02" if name else b"\x00"),
                b"\x05" + (b"\x02" if name else b"\x00"),
            ),
            (b"\x05\x01\x00\x03" + _counted(host) + self._port.to_bytes(2, "big"), b"\x05\x00"),
        ]
        if name:
            steps.insert(1, (b"\x01" + _counted(name) + _counted(word), b"\x01\x00"))
        for ask, granted in steps:
            await connection.write(ask)
            if not (await connection.read()).startswith(granted):
                raise ConnectionError("the SOCKS proxy refuses")


def _counted(data: bytes) -> bytes:
    return bytes([len(data)]) + data


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
    if usable and parts.scheme == "https" and sys.version_info < (3, 11):
        raise ConfigurationError(f"{name}: a proxy of https:// needs Python 3.11 or newer")
    if not usable:  # the URL is not shown, as it may hold a password
        raise ConfigurationError(f"{name}: give http://, https:// or socks5://host:port")
    return parts
