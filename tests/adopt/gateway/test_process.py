"""The gateway: how it starts and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from revenuebase_compat import ConfigurationError, Settings
from revenuebase_compat.adopt.gateway import Gateway
from revenuebase_compat.adopt.gateway import server as gateway_module

from .support import (
    CANCEL,
    MIB,
    OK,
    Connection,
    Upstream,
    gateway_process,
)


def test_requests_under_way_end_before_sigterm_does() -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def handle(connection: Connection) -> None:
        connection.body(connection.head())
        arrived.set()
        assert go_on.wait(10)
        connection.sock.sendall(OK)

    with Upstream(handle) as upstream, gateway_process(upstream.base_url) as (process, url):
        answers: list[httpx.Response] = []
        client = threading.Thread(
            target=lambda: answers.append(httpx.post(url + CANCEL, json={"process_id": 1}))
        )
        client.start()
        assert arrived.wait(10)
        process.send_signal(signal.SIGTERM)
        ends = time.monotonic() + 10
        with suppress(httpx.TransportError):
            while time.monotonic() < ends:  # nothing new is taken
                httpx.get(url + "/-/healthz")
        assert time.monotonic() < ends
        assert process.poll() is None
        go_on.set()
        client.join(10)
        assert answers[0].text == "ok"
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "1\n", "")


def test_a_stop_does_not_wait_for_ever() -> None:
    stopped = threading.Event()

    def handle(connection: Connection) -> None:
        connection.head()
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(OSError):
            while not stopped.wait(0.05):
                connection.sock.sendall(b"1\r\n.\r\n")

    with (
        Upstream(handle) as upstream,
        gateway_process(upstream.base_url, timeout=1) as (process, url),
        httpx.stream("GET", url + "/for-ever") as answer,
    ):
        chunks = answer.iter_raw()
        assert next(chunks) == b"."
        process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            list(chunks)
        _, err = process.communicate(timeout=10)
        stopped.set()
    assert process.returncode == 0
    assert "Traceback" not in err


def test_ctrl_c_and_an_address_of_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with (
        Upstream(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n") as upstream,
        gateway_process(upstream.base_url, host="::1") as (process, url),
    ):
        assert re.fullmatch(r"http://\[::1\]:\d+", url)
        assert httpx.get(url + "/").headers["location"] == url + "/x"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "1\n", "")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_fifty_megabytes_each_way_take_no_memory() -> None:
    piece, pieces = os.urandom(MIB), 50

    def handle(connection: Connection) -> None:
        head = connection.head()
        time.sleep(0.2)  # the sender is faster, and must be held back
        if head.startswith(b"PUT"):
            for _ in range(pieces):
                assert connection.reader.read(MIB) == piece
            connection.sock.sendall(OK)
        else:
            connection.sock.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MIB * pieces)
            )
            for _ in range(pieces):
                connection.sock.sendall(piece)

    def peak(process: subprocess.Popen[str]) -> int:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024

    with Upstream(handle) as upstream, gateway_process(upstream.base_url) as (process, url):
        with httpx.Client(base_url=url) as client:
            client.get("/-/healthz")
            before = peak(process)
            sent = client.put(
                "/file",
                content=(piece for _ in range(pieces)),
                headers={"Content-Length": str(MIB * pieces)},
            )
            assert sent.text == "ok"
            with client.stream("GET", "/file") as answer:
                time.sleep(0.2)
                got = 0
                for chunk in answer.iter_raw(MIB):
                    assert chunk == piece
                    got += 1
            assert got == pieces
        assert peak(process) - before < 16 * MIB


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    "upstream",
    [
        "http://127.0.0.1:{port}",
        "http://localhost:{port}/",
        "http://LOCALHOST:{port}/v1",
        "http://[::1]:{port}",
        "http://127.0.0.2:{port}",
        "https://localhost:{port}",
        "https://0.0.0.0:{port}",
        "https://[::]:{port}",
        "http://0.0.0.0:{port}",
        "http://[::]:{port}",
    ],
)
def test_it_refuses_itself_as_upstream(free_port: int, upstream: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^upstream \(--upstream\)") as caught:
        gateway_module.serve(Settings(), upstream=upstream.format(port=free_port), port=free_port)
    assert "itself" in str(caught.value) or "in the clear" in str(caught.value)
    socket.create_server(("127.0.0.1", free_port)).close()  # it is not left open


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_it_does_not_listen_beyond_loopback(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^host \(--host\) .* in the clear"):
        gateway_module.serve(Settings(), upstream="https://api.example", host=host, port=0)


def test_a_port_that_is_taken(free_port: int) -> None:
    with (
        socket.create_server(("127.0.0.1", free_port)),
        pytest.raises(ConfigurationError, match=rf"^port \(--port\) {free_port}: .* in use"),
    ):
        gateway_module.serve(Settings(), upstream="https://api.example", port=free_port)


@pytest.mark.parametrize(
    "upstream", ["http://api.example", "ftp://api.example", "https://u:p@api.example", "nonsense"]
)
def test_the_upstream_is_checked_as_a_base_url_is(upstream: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^upstream \(--upstream\)"):
        Gateway(Settings(), upstream)


def test_a_flag_that_does_not_resolve_is_said_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="does not resolve"):
        Gateway(Settings(v2_flag="no.such.module:flag"))


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [one for one in sys.modules if one.startswith("revenuebase_compat.adopt.gateway")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        ImportError, match=r"^the gateway needs an extra: pip install '.*gateway\]'$"
    ):
        __import__("revenuebase_compat.adopt.gateway")
