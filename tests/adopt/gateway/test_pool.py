"""The gateway's connections: when they are used again, what a request costs, and proxies."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from revenuebase_compat import ConfigurationError, Settings
from revenuebase_compat.adopt.gateway import Gateway
from revenuebase_compat.adopt.gateway import pool as pool_module
from revenuebase_compat.adopt.gateway.pool import Pool
from tests.support.fault_server import FaultServer

from .support import CANCEL, KEY, OK, Connection, Running, Upstream, wait_for

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


# --- what is left over ------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True], ids=["in one piece", "a little later"])
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", OK),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 41\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 41\r\n\r\n"),
        ("POST", OK),
    ],
)
def test_bytes_behind_an_answer_are_not_the_next_clients(
    running: Running, method: str, answer: bytes, apart: bool
) -> None:
    first = threading.Event()

    def handle(connection: Connection) -> None:
        while head := connection.head():
            connection.body(head)
            if first.is_set():
                connection.sock.sendall(OK)
                continue
            first.set()
            with suppress(OSError):
                connection.sock.sendall(answer if apart else answer + EVIL)
                if apart:
                    connection.sock.sendall(EVIL)
                assert connection.ended()
            return

    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        client.request(method, "/first", content=b"x" if method == "POST" else None)
        upstream.threads[1].join(5)  # its connection is closed, whether at once or when it comes
        assert client.get("/second").text == "ok"
        assert len(upstream.threads) == 3


def test_an_answer_that_came_before_its_request_ended_costs_the_connection(
    running: Running,
) -> None:
    ended: list[bool] = []

    def handle(connection: Connection) -> None:
        connection.head()
        connection.sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        ended.append(connection.ended())

    with Upstream(handle) as upstream, running.front(upstream.base_url):
        with running.connect() as sock:
            sock.sendall(b"PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhal")
            assert sock.recv(100).startswith(b"HTTP/1.1 413 ")
        upstream.threads[-1].join(5)
    assert len(ended) == 1


def test_a_connection_that_the_upstream_closes_while_idle_is_not_used(running: Running) -> None:
    closed = threading.Semaphore(0)

    def handle(connection: Connection) -> None:
        connection.head()
        connection.sock.sendall(OK)
        connection.sock.shutdown(socket.SHUT_WR)
        assert connection.ended()
        closed.release()

    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        for _ in range(3):
            assert client.get("/").text == "ok"
            assert closed.acquire(timeout=5)


def test_idle_connections_are_closed_after_a_while(
    running: Running, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "IDLE_FOR", 0.05)
    with running.front(server.base_url) as client:
        client.get("/v2/jobs")
        wait_for(lambda: server.open_connections == 0)


def test_what_a_request_costs_does_not_depend_on_the_number_of_connections() -> None:
    """Counted, not timed: the calls of taking and giving back one connection."""

    async def calls(base_url: str, number: int) -> int:
        pool = Pool(Settings(base_url=base_url))
        for connection in [await pool.connect() for _ in range(number)]:
            pool.release(connection)
        count = 0

        def profile(*_: Any) -> None:
            nonlocal count
            count += 1

        sys.setprofile(profile)
        pool.release(await pool.acquire(float("inf")))
        sys.setprofile(None)
        pool.close()
        await asyncio.sleep(0)
        return count

    with Upstream(lambda connection: connection.ended()) as upstream:
        costs = [asyncio.run(calls(upstream.base_url, number)) for number in (1, 50)]
    assert costs[0] == costs[1]


# --- proxies and private CAs ------------------------------------------------------------------


class Proxy(Upstream):
    """Speaks CONNECT, and leads every tunnel to one TLS server on loopback."""

    def __init__(self, port: int, *, reply: bytes | None = None) -> None:
        super().__init__(self._tunnel)
        self.port, self.reply = port, reply

    def _tunnel(self, connection: Connection) -> None:
        self.heads.append(connection.head())
        if self.reply is not None:
            if self.reply:
                connection.sock.sendall(self.reply)
            connection.ended()
            return
        connection.sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        relay(connection.sock, self.port)


def relay(left: socket.socket, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as right:
        while True:
            readable, _, _ = select.select([left, right], [], [], 10)
            for one, other in ((left, right), (right, left)):
                if one in readable:
                    data = one.recv(65536)
                    if not data:
                        return
                    other.sendall(data)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@contextmanager
def secure(
    authority: trustme.CA, name: str, handle: Callable[[Connection], object]
) -> Iterator[Upstream]:
    """A TLS server that calls ``handle`` for each connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)

    def wrapped(connection: Connection) -> None:
        connection.reader.close()
        with (
            suppress(OSError),
            context.wrap_socket(connection.sock.dup(), server_side=True) as sock,
        ):
            inner = Connection(sock)
            handle(inner)
            inner.reader.close()

    with Upstream(wrapped) as upstream:
        yield upstream


@pytest.fixture
def api(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Upstream]:
    """A server for https://api.invalid, a name that nobody resolves."""
    heads: list[bytes] = []

    def handle(connection: Connection) -> None:
        while head := connection.head():
            heads.append(head)
            connection.body(head)
            connection.sock.sendall(OK)

    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with secure(authority, "api.invalid", handle) as upstream:
        upstream.heads = heads
        yield upstream


def port_of(upstream: Upstream) -> int:
    return int(upstream.base_url.rpartition(":")[2])


def test_behind_a_proxy_it_connects_to_the_upstreams_host_and_port(
    running: Running, api: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(port_of(api)) as proxy:
        url = proxy.base_url.replace("http://", "http://user:p%40ss@")
        monkeypatch.setenv("HTTPS_PROXY", url)
        with running.front("https://api.invalid/eu") as client:
            for process_id in (144, 145):
                assert client.post(CANCEL, json={"process_id": process_id}).text == "ok"
    (head,) = proxy.heads  # one tunnel, used twice
    login = b64encode(b"user:p@ss")
    assert head == (
        b"CONNECT api.invalid:443 HTTP/1.1\r\nHost: api.invalid:443\r\n"
        b"Proxy-Authorization: Basic " + login + b"\r\n"
    )
    assert [one.split(b"\r\n")[0] for one in api.heads] == [
        b"POST /eu/v2/jobs/144/cancel HTTP/1.1",
        b"POST /eu/v2/jobs/145/cancel HTTP/1.1",
    ]
    assert login not in b"".join(api.heads)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has no TLS in TLS before 3.11")
def test_a_proxy_that_speaks_tls_itself(
    running: Running, api: Upstream, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Proxy(port_of(api))

    def handle(connection: Connection) -> None:
        relay(connection.sock, port_of(plain))

    with plain, secure(authority, "localhost", handle) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"https://localhost:{port_of(proxy)}")
        with running.front("https://api.invalid") as client:
            assert client.get("/v2/jobs").text == "ok"
    assert plain.heads[0].startswith(b"CONNECT api.invalid:443 ")


def test_no_proxy_is_obeyed(
    running: Running, api: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(port_of(api)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.base_url)
        monkeypatch.setenv("NO_PROXY", ".invalid")
        with running.front("https://api.invalid") as client:
            answer = client.get("/v2/jobs")
    assert (answer.status_code, answer.json()["sent"]) == (502, False)
    assert proxy.heads == []


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", 502),
        (b"nonsense\r\n\r\n", 502),
        (b"", 504),
    ],
)
def test_a_proxy_that_fails_means_that_nothing_was_sent(
    running: Running, monkeypatch: pytest.MonkeyPatch, reply: bytes, status: int
) -> None:
    def handle(connection: Connection) -> None:
        connection.reader.peek(1)
        if reply:
            connection.sock.sendall(reply)
        connection.ended() if reply else connection.sock.recv(9999) and connection.sock.recv(9999)

    with Upstream(handle) as proxy:
        url = proxy.base_url.replace("http://", "http://user:hidden@")
        monkeypatch.setenv("HTTPS_PROXY", url)
        with running.front("https://api.invalid", Settings(timeout=0.3)) as client:
            answer = client.post(CANCEL, json={"process_id": 1})
    assert (answer.status_code, answer.json()["sent"]) == (status, False)
    assert "hidden" not in answer.text


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("HTTPS_PROXY", "http://user:pa/ss@x@proxy", "HTTPS_PROXY: the gateway takes http"),
        ("HTTPS_PROXY", "http://proxy:99999", "HTTPS_PROXY: the gateway takes http"),
        ("ALL_PROXY", "socks5://user:pass@proxy", "ALL_PROXY: the gateway takes http"),
        pytest.param(
            *("HTTPS_PROXY", "https://proxy", "needs Python 3.11"),
            marks=pytest.mark.skipif(sys.version_info >= (3, 11), reason="it takes one"),
        ),
        ("SSL_CERT_FILE", "/nonexistent", "SSL_CERT_FILE .*: No such file"),
    ],
)
def test_an_environment_that_cannot_be_used_is_said_at_the_start(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=says) as caught:
        Gateway(Settings(), "https://api.invalid")
    assert "pa/ss" not in str(caught.value)
    assert "pass@" not in str(caught.value)


def test_a_kept_connection_serves_clients_in_turn(running: Running, server: FaultServer) -> None:
    with running.front(server.base_url):
        for process_id in range(1, 6):
            answer = httpx.post(
                running.base_url + CANCEL, json={"process_id": process_id}, headers=KEY
            )
            assert answer.json()["process_id"] == process_id
    assert server.connections == 1
