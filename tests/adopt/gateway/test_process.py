"""The gateway: how it starts and ends."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from revenuebase_compat import ConfigurationError, Settings
from revenuebase_compat.adopt.gateway import Gateway
from revenuebase_compat.adopt.gateway import server as gateway_module
from revenuebase_compat.adopt.gateway.server import listen_unix

from .support import (
    CANCEL,
    MIB,
    OK,
    Connection,
    Upstream,
    gateway_process,
    wait_for,
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


@contextmanager
def answering(seconds: float = 0.0) -> Iterator[Upstream]:
    """An upstream that answers after a while."""
    with Upstream(b"") as upstream:

        def handle(connection: Connection) -> None:
            while head := connection.head():
                upstream.bodies.append(connection.body(head))
                time.sleep(seconds)
                connection.sock.sendall(OK)

        upstream.handle = handle
        yield upstream


def test_a_stop_under_load_loses_nothing() -> None:
    """Every client that keeps its connection is told to close it, and none is cut off."""
    started = threading.Barrier(11)
    outcomes: list[str] = []

    def ask_until_told(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.connect()
        connection.auto_open = 0
        started.wait(10)
        sent = 0
        try:
            while True:
                connection.request("POST", CANCEL, b'{"process_id": 1}')
                sent += 1
                answer = connection.getresponse()
                assert answer.read() == b"ok"
                if answer.getheader("connection") == "close":
                    outcomes.append("told")
                    break
        except Exception as error:
            outcomes.append(repr(error))
        finally:
            connection.close()
            requests.append(sent)

    requests: list[int] = []
    with answering(0.01) as upstream, gateway_process(upstream.base_url) as (process, url):
        port = int(url.rpartition(":")[2])
        threads = [threading.Thread(target=ask_until_told, args=(port,)) for _ in range(10)]
        for thread in threads:
            thread.start()
        started.wait(10)
        wait_for(lambda: len(upstream.bodies) > 50)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(10)
        out, err = process.communicate(timeout=10)
    assert outcomes == ["told"] * 10
    assert sum(requests) == len(upstream.bodies)
    assert (process.returncode, out, err) == (0, "1\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_hastens_it(second: signal.Signals) -> None:
    arrived = threading.Event()

    def handle(connection: Connection) -> None:
        connection.head()
        arrived.set()
        connection.ended()

    with Upstream(handle) as upstream, gateway_process(upstream.base_url) as (process, url):
        failures: list[Exception] = []

        def ask() -> None:
            try:
                httpx.get(url + "/slow", timeout=30)
            except httpx.TransportError as error:
                failures.append(error)

        client = threading.Thread(target=ask)
        client.start()
        assert arrived.wait(10)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(second)
        out, err = process.communicate(timeout=5)
        client.join(10)
    assert len(failures) == 1
    assert (process.returncode, out) == (0, "1\n")
    assert "Traceback" not in err


@pytest.mark.slow
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
@pytest.mark.parametrize("pieces", [50, pytest.param(1024, marks=pytest.mark.slow)])
def test_megabytes_each_way_take_no_memory(pieces: int) -> None:
    piece = os.urandom(MIB)

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
        with httpx.Client(base_url=url, timeout=60) as client:
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
        assert peak(process) < 50 * MIB


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
        ImportError, match=r"^the gateway needs what is not installed: pip install .*'uvicorn>=.*'$"
    ):
        __import__("revenuebase_compat.adopt.gateway")


# --- a Unix socket ----------------------------------------------------------------------------


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:  # a short name, as the system demands
        yield f"{folder}/gateway.sock"


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_a_unix_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)  # left behind by one that was killed
    with (
        answering() as upstream,
        gateway_process(upstream.base_url, more=f"uds={path!r}") as (process, address),
    ):
        assert address == f"unix:{path}"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client:
            answer = client.post(f"http://localhost{CANCEL}", json={"process_id": 1})
            assert answer.text == "ok"
        with pytest.raises(ConfigurationError, match=r"uds \(--uds\) .* in use"):
            listen_unix(path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not os.path.exists(path)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_a_unix_socket_replaces_nothing_else(path: str) -> None:
    Path(path).write_text("a file")
    with pytest.raises(ConfigurationError, match="is no socket"):
        listen_unix(path)
    with pytest.raises(ConfigurationError, match=r"uds \(--uds\) '/no/where/x': No such file"):
        listen_unix("/no/where/x")
    assert Path(path).read_text() == "a file"


# --- the command ------------------------------------------------------------------------------


@contextmanager
def command(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "revenuebase_compat", "gateway", "--port", "0", *arguments],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_command_says_where_it_listens_first(tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    options = ["--access-log", "--allow-host", "gw", "--report", str(report)]
    with answering() as upstream, command("--upstream", upstream.base_url, *options) as process:
        assert process.stdout is not None
        said = re.fullmatch(
            r"export REVENUEBASE_BASE_URL=(http://127\.0\.0\.1:\d+)\n", process.stdout.readline()
        )
        assert said is not None
        answer = httpx.post(said[1] + CANCEL, json={"process_id": 7}, headers={"Host": "gw"})
        assert answer.text == "ok"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (0, "")
    assert f"INFO POST {CANCEL} is sent as POST /v2/jobs/{{process_id}}/cancel\n" in err
    assert f"INFO POST {CANCEL} moved 200 " in err
    assert report.read_text().startswith('{"endpoint": "POST /v1/cancel-process", "fate": "moved"')


def test_the_log_level_is_the_operators(tmp_path: Path) -> None:
    options = ["--log-level", "error", "--access-log"]
    with answering() as upstream, command("--upstream", upstream.base_url, *options) as process:
        assert process.stdout is not None
        url = process.stdout.readline().partition("=")[2].strip()
        httpx.post(url + CANCEL, json={"process_id": 7})
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=10)
    assert err == f"forwarding to {upstream.base_url} until Ctrl-C\n"


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        ([], {"SSL_CERT_FILE": "/nonexistent"}, "SSL_CERT_FILE"),
        ([], {"HTTPS_PROXY": "gopher://user:hidden@proxy"}, "HTTPS_PROXY: the gateway takes"),
        ([], {"REVENUEBASE_V2_FLAG": "no_such_module:flag"}, "does not resolve"),
        ([], {"REVENUEBASE_V2_ROLLOUT": "fifty"}, "v2_rollout"),
        (["--upstream", "nonsense"], {}, "upstream (--upstream)"),
        (["--host", "0.0.0.0"], {}, "host (--host)"),
        (["--uds", "/no/where/x"], {}, "uds (--uds)"),
        (["--report", "/no/where/x"], {}, "report '/no/where/x'"),
        (["--log-level", "loud"], {}, "--log-level"),
    ],
)
def test_a_configuration_error_is_one_sentence(
    arguments: list[str], environ: dict[str, str], says: str
) -> None:
    with command(*arguments, env={**os.environ, **environ}) as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert "hidden" not in err


@pytest.mark.parametrize("redirection", [">&-", "> /dev/full", "| true"])
def test_a_stdout_that_takes_nothing_is_said(redirection: str) -> None:
    if redirection == "> /dev/full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    # The pipe's reader is gone before the gateway writes.
    line = f"(sleep 0.1; exec {shlex.quote(sys.executable)} -m revenuebase_compat gateway --port 0)"
    script = f"set -o pipefail; {line} {redirection}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "the gateway's address cannot be told" in done.stderr
    assert "Traceback" not in done.stderr
