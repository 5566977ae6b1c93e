"""The gateway: what passes, as it came, streamed both ways."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trustme

from revenuebase_compat import Settings
from revenuebase_compat.adopt.gateway import Gateway, listen
from tests.conftest import TEST_KEY
from tests.support import fault_server as faults
from tests.support.fault_server import FaultServer

from .support import (
    CANCEL,
    KEY,
    MIB,
    OK,
    Connection,
    Running,
    Upstream,
    fields,
)


def test_a_request_passes_as_it_came(running: Running) -> None:
    target = b"/v2/a%2Fb/../c//d?x=%zz&y=a|b&x="
    with Upstream(OK) as upstream, running.front(upstream.base_url):
        running.raw(
            b"PATCH %b HTTP/1.1\r\nHost: localhost:99\r\nX-Key: %b\r\nX-Two: 1\r\n"
            b"X-Two: 2\r\nX-Latin: caf\xe9\r\nUser-Agent: odd/1\r\nCookie: a=b\r\n"
            b"Content-Length: 4\r\nConnection: close\r\n\r\n\x00\xff\r\n"
            % (target, TEST_KEY.encode())
        )
    (head,) = upstream.heads
    assert head.startswith(b"PATCH " + target + b" HTTP/1.1\r\n")
    assert [line.lower() for line in fields(head)] == [
        b"host: " + upstream.base_url.removeprefix("http://").encode(),
        b"x-key: " + TEST_KEY.encode(),
        b"x-two: 1",
        b"x-two: 2",
        b"x-latin: caf\xe9",
        b"user-agent: odd/1",
        b"cookie: a=b",
        b"content-length: 4",
        b"via: 1.1 " + running.switch.current.pseudonym,
    ]
    assert upstream.bodies == [b"\x00\xff\r\n"]


def test_an_answer_passes_as_it_came(running: Running) -> None:
    zipped = gzip.compress(b"words" * 100)
    answer = (
        b"HTTP/1.1 207 Whatever\r\nDate: Mon, 01 Jun 2026 00:00:00 GMT\r\nServer: theirs\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Encoding: gzip\r\nX-Latin: caf\xe9\r\n"
        b"Content-Length: %d\r\n\r\n" % len(zipped)
    )
    with Upstream(answer + zipped) as upstream, running.front(upstream.base_url):
        raw = running.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 207 ")
    assert fields(head)[:-1] == fields(answer)
    assert fields(head)[-1].lower() == b"connection: close"
    assert body == zipped


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "DELETE", "PURGE", "post"])
def test_any_method_passes(running: Running, method: str) -> None:
    upstream = Upstream(b"HTTP/1.1 204 No Content\r\nX-Two: 2\r\n\r\n")
    with upstream, running.front(upstream.base_url):
        raw = running.raw(
            b"%b / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % method.encode()
        )
    assert raw.startswith(b"HTTP/1.1 204 ")
    assert upstream.heads[0].startswith(method.encode() + b" / ")


def test_the_length_of_an_answer_to_head_is_kept(running: Running) -> None:
    def handle(connection: Connection) -> None:
        connection.head()
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")

    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        answer = client.head("/file")
    assert answer.headers["content-length"] == "5000"


HOPS = (
    b"Connection: keep-alive, X-Hop , close\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
    b"Proxy-Authorization: Basic eA==\r\nProxy-Authenticate: Basic\r\nProxy-Connection: close\r\n"
    b"TE: trailers\r\nTrailer: X-Sum\r\nUpgrade: websocket\r\nX-End: 2\r\n"
)


def test_hop_by_hop_headers_go_no_further_either_way(running: Running) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + HOPS + b"Content-Length: 2\r\n\r\nok"

    def handle(connection: Connection) -> None:
        upstream.heads.append(connection.head())
        connection.sock.sendall(answer)

    with Upstream(handle) as upstream, running.front(upstream.base_url):
        raw = running.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + HOPS + b"\r\n")
    assert [line.split(b":")[0].lower() for line in fields(upstream.heads[0])] == [
        b"host",
        b"x-end",
        b"via",
    ]
    head, _, body = raw.partition(b"\r\n\r\n")
    assert fields(head) == [b"X-End: 2", b"Content-Length: 2", b"Connection: close"]
    assert body == b"ok"


def test_a_length_beside_chunks_does_not_pass(running: Running) -> None:
    """Two hops that disagree on where a message ends is how requests are smuggled."""
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\n\r\n"
    )
    with Upstream(answer) as upstream, running.front(upstream.base_url) as client:
        running.raw(
            b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        )
        seen = client.get("/")
    assert b"content-length" not in upstream.heads[0].lower()
    assert upstream.bodies[0] == b"hello"
    assert seen.text == "ok"
    assert "content-length" not in seen.headers


def test_no_cookie_is_kept_and_no_redirect_followed(running: Running) -> None:
    answer = (
        b"HTTP/1.1 302 Found\r\nSet-Cookie: session=1; Path=/\r\nLocation: /elsewhere\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    with Upstream(answer) as upstream, running.front(upstream.base_url):
        for _ in range(2):
            assert httpx.get(running.base_url + "/").status_code == 302
    assert len(upstream.heads) == 2
    assert b"cookie" not in upstream.heads[1].lower()


@pytest.mark.parametrize(
    ("prefix", "location", "expected"),
    [
        ("", "{upstream}/v2/jobs?a=1#top", "{gateway}/v2/jobs?a=1#top"),
        ("", "{upstream}", "{gateway}"),
        ("", "/v2/jobs", "{gateway}/v2/jobs"),
        ("", "elsewhere", "{gateway}/v2/elsewhere"),
        ("", "https://other.example/v2", "https://other.example/v2"),
        ("", "//other.example/v2", "http://other.example/v2"),
        ("", "{upstream}0/v2", "{upstream}0/v2"),
        ("", "https{upstream_rest}/v2", "https{upstream_rest}/v2"),
        ("", "http://[", "http://["),
        ("", "", "{gateway}/v2/here"),
        ("/api", "{upstream}/api/v2", "{gateway}/v2"),
        ("/api", "/api/v2", "{gateway}/v2"),
        ("/api", "/apis/v2", "{upstream}/apis/v2"),
    ],
)
def test_a_redirect_to_the_upstream_leads_to_the_gateway(
    running: Running, prefix: str, location: str, expected: str
) -> None:
    with Upstream(b"") as upstream:
        names = {
            "upstream": upstream.base_url,
            "upstream_rest": upstream.base_url.removeprefix("http"),
            "gateway": running.base_url,
        }
        upstream.handle = (
            b"HTTP/1.1 307 Temporary Redirect\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n"
            % location.format(**names).encode()
        )
        with running.front(upstream.base_url + prefix) as client:
            answer = client.get("/v2/here")
    assert answer.headers["location"] == expected.format(**names)


def test_a_relative_redirect_of_a_moved_request_is_resolved_against_v2(
    running: Running, server: FaultServer
) -> None:
    server.script(faults.redirect(307, "../43/cancel"))
    with running.front(server.base_url) as client:
        answer = client.post(CANCEL, json={"process_id": 42})
    assert answer.status_code == 307
    assert answer.headers["location"] == running.base_url + "/v2/jobs/43/cancel"
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://other.example/v2/jobs HTTP/1.1",
        b"POST http://127.0.0.1/v1/cancel-process HTTP/1.1",
        b"CONNECT other.example:443 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET other.example HTTP/1.1",
        b"GET /a#b HTTP/1.1",
    ],
)
def test_it_is_no_open_proxy(running: Running, server: FaultServer, line: bytes) -> None:
    with running.front(server.base_url):
        raw = running.raw(line + b"\r\nHost: other.example\r\nConnection: close\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 400 ")
    assert b"application/json" in raw
    assert server.seen == []


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"/v2/jobs", b"127.0.0.1:1"),
        (b"//other.example/v2/jobs", b"localhost"),
        (b"/@other.example/", b"LOCALHOST.:99"),
        (b"/http://other.example/", b"[::1]"),
        (b"/\\other.example/", b""),
    ],
)
def test_every_path_leads_to_the_upstream(running: Running, target: bytes, host: bytes) -> None:
    with Upstream(OK) as upstream, running.front(upstream.base_url):
        raw = running.raw(
            b"GET %b HTTP/1.1\r\nHost: %b\r\nX-Forwarded-Host: other.example\r\n"
            b"Connection: close\r\n\r\n" % (target, host)
        )
    assert raw.endswith(b"ok")
    assert upstream.heads[0].startswith(b"GET " + target + b" HTTP/1.1\r\n")
    assert fields(upstream.heads[0])[0].endswith(upstream.base_url.removeprefix("http://").encode())


def test_the_health_endpoint_needs_no_upstream(running: Running) -> None:
    with faults.refusing() as nowhere, running.front(nowhere) as client:
        answer = client.get("/-/healthz?verbose=1")
        assert client.head("/-/healthz").status_code == 200
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"status": "ok", "upstream": nowhere}


def test_an_expectation_is_met_here(running: Running) -> None:
    with Upstream(OK) as upstream, running.front(upstream.base_url), running.connect() as sock:
        sock.sendall(
            b"POST /x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"
            b"Connection: close\r\n\r\n"
        )
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hello")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
    assert b"expect" not in upstream.heads[0].lower()
    assert upstream.bodies == [b"hello"]


def test_connections_are_kept_on_both_sides(running: Running, server: FaultServer) -> None:
    with running.front(server.base_url):
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        for process_id in (1, 2, 3):
            body = json.dumps({"process_id": process_id})
            connection.request("POST", CANCEL, body, KEY)
            local = connection.sock.getsockname()
            assert json.load(connection.getresponse())["process_id"] == process_id
        assert connection.sock.getsockname() == local
        connection.close()
    assert server.connections == 1


def test_no_answer_waits_for_an_acknowledgement() -> None:
    """Nagle's algorithm and delayed acknowledgements, together, would cost 40 ms each."""
    with listen("https://api.example", "127.0.0.1", 0) as sock:
        client = socket.create_connection(sock.getsockname())
        accepted, _ = sock.accept()
        with client, accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_pipelined_requests_are_answered_in_order(running: Running, server: FaultServer) -> None:
    def request(process_id: int, last: bytes = b"") -> bytes:
        body = b'{"process_id": %d}' % process_id
        head = b"POST /v1/cancel-process HTTP/1.1\r\nHost: localhost\r\nx-key: k\r\n" + last
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)

    with running.front(server.base_url):
        raw = running.raw(request(1) + request(2) + request(3, b"Connection: close\r\n"))
    assert [int(found) for found in re.findall(rb'"process_id": ?(\d)', raw)] == [1, 2, 3]
    assert server.applied == [1, 2, 3]


def test_a_client_of_http_1_0(running: Running) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    with Upstream(answer) as upstream, running.front(upstream.base_url):
        raw = running.raw(b"GET / HTTP/1.0\r\n\r\n")
    assert raw.endswith(b"\r\n\r\nok")
    assert b"chunked" not in raw


def test_a_redirect_for_a_client_that_names_no_host(running: Running) -> None:
    with Upstream(b"") as upstream, running.front(upstream.base_url + "/api"):
        answer = "HTTP/1.1 302 Found\r\nLocation: {}/api/v2?x\r\nContent-Length: 0\r\n\r\n"
        upstream.handle = answer.format(upstream.base_url).encode()
        assert b"Location: /v2?x" in fields(running.raw(b"GET / HTTP/1.0\r\n\r\n"))


def test_an_https_upstream_is_verified(
    running: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    def handle(connection: Connection) -> None:
        connection.reader.close()
        with suppress(ssl.SSLError):  # the certificate is refused
            with context.wrap_socket(connection.sock.dup(), server_side=True) as secure:
                inner = Connection(secure)
                upstream.heads.append(inner.head())
                secure.sendall(OK)
                inner.reader.close()

    with Upstream(handle) as upstream:
        url = upstream.base_url.replace("http://127.0.0.1", "https://localhost")
        with running.front(url) as client:
            answer = client.get("/v2/jobs")
            assert answer.status_code == 502
            assert "CERTIFICATE_VERIFY_FAILED" in answer.json()["detail"]
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with running.front(url) as client:
            assert client.get("/v2/jobs").text == "ok"
    assert upstream.heads[0].startswith(b"GET /v2/jobs HTTP/1.1\r\n")


def test_a_loopback_upstream_is_reached_without_a_proxy(
    running: Running, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faults.refusing() as nowhere:
        monkeypatch.setenv("HTTP_PROXY", nowhere)
        monkeypatch.setenv("ALL_PROXY", nowhere)
        gateway_settings = Settings()
        gateway = Gateway(gateway_settings, server.base_url)
        monkeypatch.undo()
        with running.switch.to(gateway):
            answer = httpx.post(running.base_url + CANCEL, json={"process_id": 1}, headers=KEY)
    assert answer.status_code == 200


def test_an_answer_streams(running: Running) -> None:
    go_on = threading.Event()

    def handle(connection: Connection) -> None:
        connection.head()
        connection.sock.sendall(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
        )
        assert go_on.wait(10)
        connection.sock.sendall(b"6\r\nsecond\r\n0\r\n\r\n")

    with (
        Upstream(handle) as upstream,
        running.front(upstream.base_url) as client,
        client.stream("GET", "/download") as answer,
    ):
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        go_on.set()
        assert b"".join(chunks) == b"second"


def test_a_request_streams(running: Running) -> None:
    arrived = threading.Event()

    def handle(connection: Connection) -> None:
        head = connection.head()
        assert b"transfer-encoding: chunked" in head.lower()
        assert connection.chunk() == b"first"
        arrived.set()
        upstream.bodies.append(connection.body(head))
        connection.sock.sendall(OK)

    def body() -> Iterator[bytes]:
        yield b"first"
        assert arrived.wait(10)
        yield b"second"

    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        assert client.post("/upload", content=body()).text == "ok"
    assert upstream.bodies == [b"second"]


def test_an_answer_that_comes_before_the_whole_request(running: Running) -> None:
    def handle(connection: Connection) -> None:
        connection.head()
        connection.sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        connection.sock.shutdown(socket.SHUT_WR)
        while connection.sock.recv(65536):
            pass

    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        answer = client.post("/upload", content=b"x" * 5 * MIB)
    assert (answer.status_code, answer.text) == (413, "big")
