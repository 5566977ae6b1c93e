"""A gateway on real sockets, and a raw upstream behind it."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import Any

import httpx

from revenuebase_compat import Settings
from revenuebase_compat.adopt.gateway import Gateway, Server, listen
from tests.conftest import TEST_KEY
from tests.support import AFTER, FakeTime

KEY = {"x-key": TEST_KEY}
CANCEL = "/v1/cancel-process"
STATUS = "/v1/batch-process-email-status"
MIB = 1024 * 1024


class Switch(Gateway):
    """One server for all tests, as starting and stopping uvicorn takes a third of a second."""

    current: Gateway
    loop: asyncio.AbstractEventLoop

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.current(scope, receive, send)

    @contextmanager
    def to(self, gateway: Gateway) -> Iterator[None]:
        self.current = gateway
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(gateway.aclose(), self.loop).result(10)


class Running:
    """A gateway's address, and clients for it."""

    def __init__(self, switch: Any, port: int) -> None:
        self.switch = switch
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"

    @contextmanager
    def front(
        self, upstream: str, settings: Settings | None = None, *, now: Any = AFTER
    ) -> Iterator[httpx.Client]:
        """A client of a gateway in front of that upstream."""
        fake = now if isinstance(now, FakeTime) else FakeTime(now)
        gateway = Gateway(
            settings or Settings(), upstream, clock=fake.clock, monotonic=fake.monotonic
        )
        with (
            self.switch.to(gateway),
            httpx.Client(
                base_url=self.base_url, headers=KEY, timeout=10, trust_env=False
            ) as client,
        ):
            yield client

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def raw(self, request: bytes) -> bytes:
        """What comes back, until the connection closes."""
        with self.connect() as sock:
            sock.sendall(request)
            return b"".join(iter(lambda: sock.recv(65536), b""))


class Connection:
    """An upstream's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader: BufferedReader = sock.makefile("rb")

    def head(self) -> bytes:
        """The next request's head; empty where the gateway hung up."""
        return b"".join(iter(self.reader.readline, b"\r\n")) if self.reader.peek(1) else b""

    def chunk(self) -> bytes:
        size = int(self.reader.readline(), 16)
        data = self.reader.read(size)
        self.reader.readline()
        return data

    def body(self, head: bytes) -> bytes:
        if b"transfer-encoding: chunked" in head.lower():
            return b"".join(iter(self.chunk, b""))
        length = re.search(rb"(?i)content-length: (\d+)", head)
        return self.reader.read(int(length[1])) if length else b""

    def ended(self) -> bool:
        """Whether the gateway closes the connection within a few seconds."""
        with suppress(ConnectionResetError):
            return self.reader.read(1) == b""
        return True


class Upstream:
    """Calls ``handle`` for each connection; what it records is in ``heads`` and ``bodies``."""

    def __init__(self, handle: Callable[[Connection], object] | bytes) -> None:
        self.handle = handle
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.failures: list[BaseException] = []

    def __enter__(self) -> Upstream:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        self.listener.close()
        assert self.failures == []

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(10)
        connection = Connection(sock)
        try:
            if isinstance(self.handle, bytes):
                while head := connection.head():
                    self.heads.append(head)
                    self.bodies.append(connection.body(head))
                    sock.sendall(self.handle)
            else:
                self.handle(connection)
        except BaseException as error:  # asserted on when the test ends
            self.failures.append(error)
        finally:
            connection.reader.close()
            sock.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def fields(head: bytes) -> list[bytes]:
    """The header lines of a head, in order."""
    return head.rstrip(b"\r\n").split(b"\r\n")[1:]


def wait_for(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.001)


@contextmanager
def gateway_process(
    upstream: str, timeout: float = 60, host: str = "127.0.0.1", *, first: str = "", more: str = ""
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``serve()`` in a process of its own, and its base URL.

    ``first`` are statements to begin with, ``more`` further arguments.
    """
    program = f"""
        {textwrap.dedent(first).strip()}
        import threading
        from revenuebase_compat import Settings
        from revenuebase_compat.adopt.gateway import serve
        serve(
            Settings(timeout={timeout}), upstream={upstream!r}, host={host!r}, port=0,
            on_ready=lambda url: print(url, flush=True), {more}
        )
        print(threading.active_count())
    """
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@contextmanager
def served(gateway: Gateway, **options: Any) -> Iterator[Running]:
    """A server of its own for one gateway."""
    sock = listen("https://api.example", "127.0.0.1", 0)
    ready = threading.Event()
    server = Server(gateway, ready.set, **options)
    thread = threading.Thread(target=asyncio.run, args=(server.run_on(sock),))
    thread.start()
    try:
        assert ready.wait(10)
        yield Running(gateway, sock.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
