"""Where the gateway listens, its limits, and how it stops."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import stat
import sys
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from functools import partial
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from revenuebase_compat.adopt import rewrite
from revenuebase_compat.client import notices, serving
from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import DEFAULT_BASE_URL, Settings, is_local, is_loopback

from .app import Gateway
from .messages import own_headers

#: Seconds in which clients learn that a stop has begun, before idle connections are closed.
_LINGER = 1.0
#: Connections that are accepted in one go: asyncio may have four times as many in its hands before
#: it asks us. And descriptors for them and everything else.
_BATCH, _RESERVED = 16, 128


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; how many clients that is good for.

    Each client may need one connection to the upstream besides its own.
    """
    try:
        import resource
    except ImportError:  # pragma: no cover (Windows has no such limit)
        return 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has a lower one of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return 100_000 if soft == resource.RLIM_INFINITY else max(1, (soft - _RESERVED) // 2)


def _limit_hit(what: str) -> None:
    notices.log(("gateway", what), "warning", f"the gateway {what}")


def _unread(transport: asyncio.Transport) -> int:
    """Bytes that the client's side has not taken: ours, and where it can be asked the kernel's.

    The kernel's buffer holds megabytes, and takes more only once a good part of it is free.
    """
    size = transport.get_write_buffer_size()
    with suppress(ImportError, OSError):  # Windows has no such call
        import fcntl
        import termios

        fd = transport.get_extra_info("socket").fileno()
        held = fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4))
        size += int.from_bytes(held, sys.byteorder)
    return size


class _Protocol(H11Protocol):
    """uvicorn's, with limits: of connections, and of waiting for a head or a reader."""

    def __init__(
        self, max_connections: int, head_timeout: float, drain_timeout: float, **options: Any
    ) -> None:
        super().__init__(**options)
        self._most, self._head_timeout = max_connections, head_timeout
        self._drain_timeout = drain_timeout
        self._drain_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_head()
        if len(self.connections) > self._most:
            _limit_hit(f"has {self._most} connections, and refuses more")
            self._refuse(503, b"too many connections")
            transport.close()  # there is no room for it

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self.conn.their_state is h11.ERROR:
            return  # it was refused
        super().data_received(data)
        if not (self.cycle is None or self.cycle.response_complete):
            self._head_timer.cancel()
        elif self._head_timer.cancelled():
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self._head_timeout, self._head_is_late)

    def _head_is_late(self) -> None:
        _limit_hit(f"closes connections on which no request came in {self._head_timeout:g} s")
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_at_drain(math.inf)

    def resume_writing(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        super().resume_writing()

    def _look_at_drain(self, before: float) -> None:
        size = _unread(self.transport)
        if size < before:  # slow, but it reads
            self._drain_timer = self.loop.call_later(self._drain_timeout, self._look_at_drain, size)
        else:
            _limit_hit(f"closes connections that read nothing in {self._drain_timeout:g} s")
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer.cancel()
        self.resume_writing()  # ends the wait for a reader
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        why = sys.exc_info()[1]  # what h11 raised: 431 where the head is too long
        status = getattr(why, "error_status_hint", 400)
        if status == 431 and b"\n" not in self.conn.trailing_data[0]:
            status = 414
        self._refuse(status, b"the request's head is too long" if status != 400 else b"no HTTP")
        # Closed at once, what was not read yet would have the client lose the answer.
        self.transport.write_eof()
        self.loop.call_later(_LINGER, self.transport.close)

    def _refuse(self, status: int, why: bytes) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = b'{"detail": "%b"}' % why
            headers = [*own_headers(body), (b"Connection", b"close")]
            head = h11.Response(status_code=status, headers=headers)
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")


class Server(uvicorn.Server):
    """uvicorn around a gateway; says when it takes requests."""

    def __init__(
        self,
        gateway: Gateway,
        on_ready: Callable[[], object],
        *,
        max_connections: int = 10_000,
        head_timeout: float = 20.0,  # seconds that a request's head may take to arrive
    ) -> None:
        self._gateway, self._on_ready = gateway, on_ready
        config = serving.make_config(
            gateway,
            http=partial(_Protocol, max_connections, head_timeout, gateway.settings.timeout),
            backlog=_BATCH,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=math.ceil(gateway.settings.timeout),
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().set_exception_handler(_without_traceback)
        for sock in sockets or ():
            sock.listen(2048)  # more may wait than are accepted in one go
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not uvicorn's, which raises the signal again once it has stopped.
        if self.should_exit:  # a second signal
            self.force_exit = True
            for connection in list(self.server_state.connections):
                connection.loop.call_soon_threadsafe(connection.transport.abort)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.stopping = True
        ends = time.monotonic() + _LINGER
        while self.server_state.connections and time.monotonic() < ends:
            if self.force_exit:
                break
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    async def run_on(self, sock: socket.socket) -> None:
        """Serve until told to stop, and until what is under way then has ended."""
        async with aclosing(self._gateway):
            await self.serve([sock])


def _without_traceback(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, OSError) and "socket.accept" in context["message"]:
        _limit_hit(f"cannot accept connections: {error.strerror}")
    else:
        loop.default_exception_handler(context)


def listen(upstream: str, host: str, port: int) -> socket.socket:
    """A socket on loopback that is not its own upstream; else a ``ConfigurationError``."""
    if not is_loopback(host):
        raise ConfigurationError(
            f"host (--host) {host!r}: keys would travel in the clear; give 127.0.0.1 or ::1"
        )
    try:
        sock = serving.listen(host, port)
    except OSError as error:
        raise ConfigurationError(f"port (--port) {port}: {error.strerror}; give another") from None
    _, name, to, _ = rewrite.origin(upstream)
    if is_local(name) and to == sock.getsockname()[1]:
        sock.close()
        raise ConfigurationError(
            f"upstream (--upstream) {upstream!r}: that is the gateway itself; give the API's URL"
        )
    return sock


def listen_unix(path: str) -> socket.socket:
    """A Unix socket that its owner and group can use; one that nobody listens on is replaced.

    ``ConfigurationError``: something else is there, or it cannot be made.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        if os.path.lexists(path):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise OSError("it is no socket")
            if sock.connect_ex(path) == 0:
                raise OSError("it is in use")
            os.unlink(path)
        before = os.umask(0o117)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        sock.listen()
    except OSError as error:
        sock.close()
        why = error.strerror or error
        raise ConfigurationError(f"uds (--uds) {path!r}: {why}; give another path") from None
    return sock


def serve(
    settings: Settings,
    *,
    upstream: str = DEFAULT_BASE_URL,
    host: str = "127.0.0.1",
    port: int = 8089,
    uds: str | None = None,
    on_ready: Callable[[str], object] = lambda address: None,
    **options: Any,
) -> None:
    """Run the gateway until SIGINT or SIGTERM, and until the requests under way have ended.

    They are given ``settings.timeout`` seconds; a second signal ends them. For the main thread,
    where signals arrive.

    Args:
        settings, upstream, options: those of ``Gateway``.
        host, port: loopback, by name or address; port 0 takes a free one.
        uds: a path at which to listen instead.
        on_ready: called once requests are taken, with the base URL, or ``unix:`` and the path.

    Raises:
        ConfigurationError: an argument is wrong, or the port is taken.
    """
    gateway = Gateway(settings, upstream, **options)
    if uds is not None:
        sock, address = listen_unix(uds), f"unix:{uds}"
    else:
        sock = listen(gateway.settings.base_url, host, port)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{sock.getsockname()[1]}"
    clients = raise_descriptor_limit()
    server = Server(gateway, partial(on_ready, address), max_connections=clients)
    try:
        asyncio.run(server.run_on(sock))
    finally:
        if uds is not None:
            os.unlink(uds)
