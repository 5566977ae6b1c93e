"""Connections to the upstream: a free list of single HTTP/1.1 connections (asyncio and h11).

What a request costs does not depend on their number. One is used again only where nothing is left
over: neither in h11, nor behind an answer that may not have a body, nor bytes that arrive while it
is idle. A request is sent once; nothing is repeated here.
"""

from __future__ import annotations

import asyncio
import math
import sys
from base64 import b64encode
from contextlib import aclosing, suppress
from functools import partial
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import h11

from revenuebase_compat.client.factory import needs_proxy, tls_context
from revenuebase_compat.client.transport import IDLE_FOR
from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import Settings

from .messages import Answer, Chunks, Headers, within

#: What an upstream, or the way to it, can fail with.
UPSTREAM_ERRORS = (OSError, h11.RemoteProtocolError)

#: Bytes that may wait to be read; beyond them the upstream is held back.
_HIGH_WATER = 256 * 1024
_PORTS = {"https": 443, "http": 80}


class Connection(asyncio.Protocol):
    """One connection, and at most one exchange on it at a time.

    Both sides are waited for ``timeout`` seconds at most, and until ``deadline`` (the loop's time).
    """

    def __init__(self, pool: Pool, timeout: float) -> None:
        #: Also holds what has arrived and was not asked for yet.
        self.http = h11.Connection(h11.CLIENT)
        self.deadline = math.inf
        self._pool, self._timeout = pool, timeout
        self._loop = asyncio.get_running_loop()
        self._held = 0
        self._has_news, self._may_write = asyncio.Event(), asyncio.Event()
        self._may_write.set()
        self._ended, self._may_reuse = False, True
        self._error: BaseException | None = None
        self._sending: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        if self in self._pool.free:
            self.close()  # nobody asked for it
            return
        self.http.receive_data(data)
        self._held += len(data)
        if self._held > _HIGH_WATER:
            self.transport.pause_reading()
        self._has_news.set()

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, error: BaseException | None) -> None:
        self._end(error)
        self.transport.close()  # Python 3.10 calls one of TLS unclosed otherwise

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def _end(self, error: BaseException | None) -> None:
        """Nothing more is to come; that error tells whoever waits for it why."""
        self._ended = True
        self._error = self._error or error
        self._pool.forget(self)
        self._has_news.set()
        self._may_write.set()

    async def _wait(self, event: asyncio.Event) -> None:
        if not event.is_set():
            at = min(self._loop.time() + self._timeout, self.deadline)
            timer = self._loop.call_at(at, self._end, TimeoutError())
            try:
                await event.wait()
            finally:
                timer.cancel()

    async def _event(self) -> Any:
        """What comes next, or ``UPSTREAM_ERRORS``."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            if not self._ended:
                if self._held > _HIGH_WATER:
                    self.transport.resume_reading()
                self._held = 0
                self._has_news.clear()
                await self._wait(self._has_news)
            elif self._error is not None:
                raise self._error
            elif self.http.their_state is not h11.SEND_BODY:
                raise h11.RemoteProtocolError("the server closed the connection without an answer")
            else:
                self.http.receive_data(b"")
        return event

    async def exchange(
        self, method: str, target: bytes, headers: Headers, body: Chunks | None = None
    ) -> Answer:
        """Send a request, and read its answer, or ``UPSTREAM_ERRORS``; the body streams."""
        self._send(h11.Request(method=method, target=target, headers=headers))
        if body is None:
            self._send(h11.EndOfMessage())
        else:
            # Beside the reading, as an answer may come before the body has ended.
            self._sending = asyncio.ensure_future(self._send_body(body))
        while not isinstance(event := await self._event(), h11.Response):
            pass  # an interim answer; h11 itself refuses a 101, as nobody asks for an upgrade
        if event.status_code > 599:
            raise h11.RemoteProtocolError(f"{event.status_code} is no HTTP status")
        # Where a body may not be, one may be all the same; it would be the next answer's start.
        self._may_reuse = method != "HEAD" and event.status_code not in (204, 304)
        return Answer(event.status_code, event.headers.raw_items(), self._body())

    def _send(self, event: h11.Event) -> None:
        data = self.http.send(event)
        if data and not self._ended:
            self.transport.write(data)

    async def _send_body(self, body: Chunks) -> None:
        try:
            async with aclosing(body):
                async for chunk in body:
                    self._send(h11.Data(data=chunk))
                    await self._wait(self._may_write)
            self._send(h11.EndOfMessage())
        except Exception as error:
            self._end(error)

    async def _body(self) -> Chunks:
        while isinstance(event := await self._event(), h11.Data):
            yield bytes(event.data)

    def finish(self) -> None:
        """Have the pool keep it, or close it where anything is left over of the exchange."""
        if self._sending is not None:
            self._sending.cancel()
        http = self.http
        done = http.our_state is http.their_state is h11.DONE
        if done and self._may_reuse and not (self._ended or http.trailing_data[0]):
            http.start_next_cycle()
            self._pool.release(self)
        else:
            self.close()

    def close(self) -> None:
        self._pool.forget(self)
        self.transport.abort()


class Pool:
    """Connections to one upstream, directly or through the proxy that the environment names.

    Of the settings, ``base_url`` is the upstream, and ``timeout`` (seconds) bounds each wait.
    ``ConfigurationError``: what the environment names as proxy or certificates is unusable.
    """

    def __init__(self, settings: Settings) -> None:
        self._upstream = parts = urlsplit(settings.base_url)
        self._host = parts.hostname or ""
        self._timeout = settings.timeout
        self._first = _proxy(settings, self._host) or parts  # what a connection is made to
        self._context = tls_context(settings)
        self._context.set_alpn_protocols(["http/1.1"])
        #: What is idle, the last used one last, and what will close it.
        self.free: dict[Connection, asyncio.TimerHandle] = {}
        self._closed = False

    async def acquire(self, deadline: float) -> Connection:
        """A connection for one exchange: an idle one, or a new one."""
        if self.free:
            connection, timer = self.free.popitem()
            timer.cancel()
        else:
            connection = await self.connect(deadline)
        connection.deadline = deadline
        return connection

    def release(self, connection: Connection) -> None:
        """Keep a connection whose exchange has ended."""
        if self._closed:
            connection.close()
        else:
            loop = asyncio.get_running_loop()
            self.free[connection] = loop.call_later(IDLE_FOR, connection.close)

    def forget(self, connection: Connection) -> None:
        """It is closed, or being closed."""
        if connection in self.free:
            self.free.pop(connection).cancel()

    def close(self) -> None:
        """Close what is idle; what is in use closes when its exchange ends."""
        self._closed = True
        for connection in list(self.free):
            connection.close()

    async def connect(self, deadline: float = math.inf) -> Connection:
        """A new one: TCP, the proxy's tunnel and TLS; ``UPSTREAM_ERRORS`` where there is none."""
        loop, first = asyncio.get_running_loop(), self._first
        make = partial(Connection, self, self._timeout)
        async with within(self._timeout, deadline):
            port = first.port or _PORTS[first.scheme]
            tls = self._context if first.scheme == "https" else None
            _, connection = await loop.create_connection(
                make, first.hostname or "", port, ssl=tls, happy_eyeballs_delay=0.25
            )
            if first is self._upstream:
                return connection
            try:
                await self._tunnel(connection, first)
                inner = make()
                transport = await loop.start_tls(
                    connection.transport, inner, self._context, server_hostname=self._host
                )
            except BaseException:
                connection.close()
                raise
            inner.connection_made(transport)
            return inner

    async def _tunnel(self, connection: Connection, proxy: SplitResult) -> None:
        name, word = (unquote(part or "").encode() for part in (proxy.username, proxy.password))
        upstream = self._upstream  # an https:// one, as others are on loopback
        authority = (upstream.netloc if upstream.port else f"{upstream.netloc}:443").encode()
        headers = [(b"Host", authority)]
        if name:
            headers.append((b"Proxy-Authorization", b"Basic " + b64encode(name + b":" + word)))
        answer = await connection.exchange("CONNECT", authority, headers)
        if answer.status >= 300:
            raise ConnectionError(f"the proxy answered {answer.status} to CONNECT")


def _proxy(settings: Settings, host: str) -> SplitResult | None:
    """The proxy that the environment names for that host, if any."""
    if not needs_proxy(settings) or proxy_bypass(host):
        return None
    found = getproxies()
    name = "HTTPS_PROXY" if found.get("https") else "ALL_PROXY"
    url = found.get("https") or found["all"]
    right = "http:// or https://host:port"
    with suppress(ValueError):
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme == "https" and sys.version_info < (3, 11):
            right = "http://host:port, as a proxy of https:// needs Python 3.11 or newer"
        elif parts.hostname and parts.scheme in _PORTS and parts.port != 0:
            return parts
    # The URL is not shown, as it may hold a password.
    raise ConfigurationError(f"{name}: the gateway takes {right}")
