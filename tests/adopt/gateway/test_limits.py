"""The gateway's limits: sizes, times, descriptors, and what is no answer of HTTP."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from revenuebase_compat import Settings
from revenuebase_compat.adopt.gateway import Gateway
from revenuebase_compat.client.memory import memory
from tests.support.fault_server import FaultServer

from .support import (
    CANCEL,
    KEY,
    OK,
    Connection,
    Running,
    Upstream,
    fields,
    gateway_process,
    served,
    wait_for,
)

LOCATION = "HTTP/1.1 307 Temporary Redirect\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n"


# --- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [17_000, 66_000, 200_000])
def test_a_target_that_is_too_long_is_a_414(
    running: Running, server: FaultServer, size: int
) -> None:
    with running.front(server.base_url):
        raw = running.raw(
            b"GET /%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % (b"x" * size)
        )
    assert raw.startswith(b"HTTP/1.1 414 ")
    assert b"\r\n\r\n{" in raw
    assert server.seen == []


def test_a_target_that_is_too_long_is_a_414_also_in_pieces(running: Running) -> None:
    with running.connect() as sock:
        with suppress(OSError):
            for piece in (b"GET /", *[b"x" * 10_000] * 8):
                sock.sendall(piece)
                time.sleep(0.01)
        assert sock.recv(100).startswith(b"HTTP/1.1 414 ")


def test_headers_that_are_too_long_are_a_431(running: Running) -> None:
    with running.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000)
        assert sock.recv(100).startswith(b"HTTP/1.1 431 ")


def test_what_is_no_http_is_a_400(running: Running) -> None:
    assert running.raw(b"\x16\x03\x01\x02\x00\r\n\r\n").startswith(b"HTTP/1.1 400 ")


# --- answers ----------------------------------------------------------------------------------


FORMS = ["urn:a:b", "mailto:a@b", "http://[", "//[", "data:,x", "http://a:b/", "https://caf\xe9/"]


@pytest.mark.parametrize("path", [CANCEL, "/v2/jobs"])
@pytest.mark.parametrize("location", FORMS)
def test_a_redirect_of_any_form_passes(running: Running, path: str, location: str) -> None:
    body = b'{"process_id": 42}'
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
    with Upstream(LOCATION.format(location).encode("latin-1")) as upstream:
        with running.front(upstream.base_url):
            raw = running.raw(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    assert raw.startswith(b"HTTP/1.1 307 ")
    assert f"Location: {location}".encode("latin-1") in fields(raw)
    assert len(upstream.heads) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 40_000,
        b"220 smtp.example ESMTP\r\n",
    ],
)
def test_no_answer_is_a_500_of_ours(
    running: Running, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(connection: Connection) -> None:
        connection.body(connection.head())
        with suppress(OSError):
            connection.sock.sendall(answer)

    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        for path in (CANCEL, "/v2/jobs"):
            got = client.post(path, json={"process_id": 42})
            assert (got.status_code, got.json()["sent"]) == (502, True)
    assert not [one for one in caplog.records if one.exc_info]


@pytest.mark.parametrize("status", [100, 102, 103])
def test_interim_answers_are_skipped(running: Running, status: int) -> None:
    with Upstream(b"HTTP/1.1 %d Wait\r\n\r\n" % status + OK) as upstream:
        with running.front(upstream.base_url) as client:
            assert client.get("/").text == "ok"


# --- times ------------------------------------------------------------------------------------


def trickle(connection: Connection, head: bytes) -> None:
    """An answer whose body takes its time, until the gateway has enough of it."""
    connection.body(connection.head())
    with suppress(OSError):
        connection.sock.sendall(head)
        for _ in range(100):
            connection.sock.sendall(b" ")
            time.sleep(0.05)


def test_the_whole_exchange_of_a_moved_request_is_inside_timeout(running: Running) -> None:
    with Upstream(
        lambda one: trickle(one, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    ) as up:
        with running.front(up.base_url, Settings(timeout=0.4)) as client:
            started = time.monotonic()
            with pytest.raises(httpx.RemoteProtocolError):
                client.post(CANCEL, json={"process_id": 1})
            assert time.monotonic() - started < 4


def test_a_download_may_take_longer_than_timeout(running: Running) -> None:
    def handle(connection: Connection) -> None:
        upstream.heads.append(connection.head())
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            connection.sock.sendall(b"x")
            time.sleep(0.05)

    with (
        Upstream(handle) as upstream,
        running.front(upstream.base_url, Settings(timeout=0.3)) as one,
    ):
        answer = one.post("/v1/batch-download", json={"process_id": 1})
    assert answer.text == "x" * 10
    assert upstream.heads[0].startswith(b"GET /v2/jobs/1/download ")


@pytest.mark.parametrize("path", [CANCEL, "/v1/process-email", "/v1/batch-upload", "/v2/x"])
def test_a_body_that_does_not_arrive_is_a_408(running: Running, path: str) -> None:
    arrived: list[bytes] = []

    def handle(connection: Connection) -> None:
        arrived.append(connection.head())
        assert connection.reader.read(1) == b"{"
        connection.ended()

    with Upstream(handle) as upstream, running.front(upstream.base_url, Settings(timeout=0.2)):
        with running.connect() as sock:
            head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
            sock.sendall(head % path.encode())
            raw = b"".join(iter(lambda: sock.recv(9999), b""))
    assert raw.startswith(b"HTTP/1.1 408 ")
    assert (b'"sent": false' in raw) is (path == CANCEL) is (arrived == [])


def test_a_v1_body_that_trickles_has_to_arrive_by_timeout(running: Running) -> None:
    with Upstream(OK) as upstream, running.front(upstream.base_url, Settings(timeout=0.3)):
        with running.connect() as sock:
            sock.sendall(b"POST /v1/cancel-process HTTP/1.1\r\nHost: localhost\r\n")
            sock.sendall(b"Content-Length: 999\r\n\r\n")
            sock.settimeout(0.05)
            ends, raw = time.monotonic() + 5, b""
            while not raw and time.monotonic() < ends:
                with suppress(TimeoutError):
                    sock.sendall(b" ")
                    raw = sock.recv(9999)
    assert raw.startswith(b"HTTP/1.1 408 ")
    assert upstream.heads == []


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET / HT",
        b"GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /-/hea",
    ],
    ids=["nothing", "half a head", "half of the next head"],
)
def test_a_head_that_does_not_arrive_ends_the_connection(
    start: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(Settings(), "http://127.0.0.1:9")
    with served(gateway, head_timeout=0.3) as running, running.connect() as sock:
        sock.sendall(start)
        if b"\n" in start:
            assert sock.recv(9999)
        sock.settimeout(0.05)
        ends = time.monotonic() + 5
        with suppress(ConnectionError):
            while time.monotonic() < ends:  # a byte now and then does not help
                with suppress(TimeoutError):
                    if start:
                        sock.sendall(b"x")
                    if sock.recv(9999) == b"":
                        break
        assert time.monotonic() < ends
        with running.connect() as other:  # the next one is not told of in the log
            other.settimeout(5)
            with suppress(ConnectionResetError):
                assert other.recv(1) == b""
    said = [one.getMessage() for one in caplog.records]
    assert said == ["the gateway closes connections on which no request came in 0.3 s"]


def test_a_request_that_takes_long_is_no_late_head() -> None:
    go_on = threading.Event()

    def handle(connection: Connection) -> None:
        connection.body(connection.head())
        assert go_on.wait(10)
        connection.sock.sendall(OK)

    with Upstream(handle) as upstream:
        gateway = Gateway(Settings(), upstream.base_url)
        with served(gateway, head_timeout=0.1) as running, running.connect() as sock:
            sock.sendall(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\na")
            time.sleep(0.3)
            sock.sendall(b"b")
            time.sleep(0.3)
            go_on.set()
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
@pytest.mark.parametrize("reads", [False, True])
def test_a_client_that_never_reads_is_cut_off_and_a_slow_one_is_not(reads: bool) -> None:
    size = 12 * 1024 * 1024
    ended = threading.Event()

    def handle(connection: Connection) -> None:
        connection.head()
        with suppress(OSError):
            connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            connection.sock.sendall(bytes(size))
        connection.ended()
        ended.set()

    with Upstream(handle) as upstream:
        gateway = Gateway(Settings(timeout=0.5), upstream.base_url)
        with served(gateway) as running, socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            sock.settimeout(10)
            sock.connect(("127.0.0.1", running.port))
            sock.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if not reads:
                assert ended.wait(5)
                return
            got, slow_until = 0, time.monotonic() + 2
            while got < size:
                chunk = sock.recv(32 * 1024)
                assert chunk
                got += len(chunk)
                if time.monotonic() < slow_until:
                    time.sleep(0.1)


# --- connections and descriptors --------------------------------------------------------------


def test_connections_are_capped(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway(Settings(), "http://127.0.0.1:9")
    with served(gateway, max_connections=2) as running, ExitStack() as opened:
        kept = [opened.enter_context(running.connect()) for _ in range(2)]
        for sock in kept:
            sock.sendall(b"GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(9999).startswith(b"HTTP/1.1 200 ")
        for _ in range(3):
            with running.connect() as sock:
                raw = b"".join(iter(lambda: sock.recv(9999), b""))
            assert raw.startswith(b"HTTP/1.1 503 ")
            assert b"connection: close" in raw.lower()
        kept[0].close()
        wait_for(lambda: httpx.get(running.base_url + "/-/healthz").status_code == 200)
    assert [one.levelno for one in caplog.records] == [logging.WARNING]
    assert "has 2 connections, and refuses more" in caplog.text


def limited(hard: int) -> str:
    """Statements for a process that may open no more files than that."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (120, {hard}))"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_more_clients_than_descriptors_cost_one_line() -> None:
    clients = (300 - 128) // 2
    with (
        Upstream(OK) as upstream,
        gateway_process(upstream.base_url, first=limited(300)) as (process, url),
        ExitStack() as opened,
    ):
        port = int(url.rpartition(":")[2])
        kept: list[socket.socket] = []
        for _ in range(400):
            sock = socket.create_connection(("127.0.0.1", port), timeout=5)
            kept.append(opened.enter_context(sock))
        for sock in kept[:clients]:
            sock.sendall(b"POST /v2/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert {sock.recv(99)[:13] for sock in kept[:clients]} == {b"HTTP/1.1 200 "}
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 300
        opened.close()
        wait_for(lambda: httpx.get(url + "/x", headers=KEY).status_code == 200)
        process.terminate()
        _, err = process.communicate(timeout=10)
    assert err == f"revenuebase-compat: the gateway has {clients} connections, and refuses more\n"


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    pytest.importorskip("resource")
    program = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1128))
from revenuebase_compat.adopt.gateway.server import raise_descriptor_limit
print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.split() == ["500", "1128", "1128"]


def test_one_line_an_hour_tells_of_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway(Settings(), "http://127.0.0.1:9")
    with served(gateway, max_connections=0) as running:
        for turn in (1, 1, 2):
            if turn == 2:
                memory.shift(3601)
            with running.connect() as sock:
                assert sock.recv(9999)
    first, second = (one.getMessage() for one in caplog.records)
    assert "1 like this were left out" in second
    assert first in second
