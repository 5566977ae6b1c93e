"""The gateway and all nine endpoints: what moves, how, and what becomes of bodies and a 410."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from revenuebase_compat import RouteContext, Settings
from revenuebase_compat.client.memory import memory
from revenuebase_compat.core.endpoints import (
    BY_V1_CALL,
    CREDITS,
    DOWNLOAD,
    ENDPOINTS,
    LIST,
    ROTATE_KEY,
    START,
    STATUS,
    UPLOAD,
    VERIFY,
    Endpoint,
)
from tests.support import BEFORE

from .support import MIB, OK, Connection, Running, Upstream, fields

MOVED = [one for one in ENDPOINTS if one is not START]
FREE = [one for one in MOVED if not one.names_job]
GONE = b"HTTP/1.1 410 Gone\r\nContent-Length: 4\r\n\r\ngone"


def names(endpoints: list[Endpoint]) -> list[str]:
    return [one.name for one in endpoints]


def ask(client: httpx.Client, endpoint: Endpoint, **more: Any) -> httpx.Response:
    if endpoint.names_job:
        more["json"] = {"process_id": 42}
    return client.request(endpoint.method, endpoint.path + "?metadata=true", **more)


def first_lines(upstream: Upstream) -> list[str]:
    return [head.split(b" HTTP/")[0].decode() for head in upstream.heads]


def v2_line(endpoint: Endpoint) -> str:
    successor = str(endpoint.successor).replace("{process_id}", "42")
    return f"{successor}?metadata=true"


@pytest.mark.parametrize("endpoint", MOVED, ids=names(MOVED))
def test_every_endpoint_with_a_successor_moves(running: Running, endpoint: Endpoint) -> None:
    with Upstream(OK) as upstream, running.front(upstream.base_url + "/eu") as client:
        assert ask(client, endpoint).text == "ok"
    method, path = v2_line(endpoint).split()
    assert first_lines(upstream) == [f"{method} /eu{path}"]
    lengths = [line for line in fields(upstream.heads[0]) if line.lower().startswith(b"content-l")]
    assert [line[-1:] for line in lengths] == ([b"0"] if method == "POST" else [])
    assert upstream.bodies == [b""]


def test_the_one_without_a_successor_stays(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with Upstream(GONE) as upstream, running.front(upstream.base_url, now=BEFORE) as client:
        answer = client.post(START.path, content=b'{"filename":"a.csv"}')
    assert (answer.status_code, answer.text) == (410, "gone")
    assert first_lines(upstream) == [START.call]
    assert upstream.bodies == [b'{"filename":"a.csv"}']
    assert upstream.base_url not in memory.retired_at  # its end is its own
    assert "send the file itself" in caplog.text


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("endpoint", [UPLOAD, VERIFY], ids=["upload", "verify"])
def test_a_body_that_names_no_job_is_streamed_and_never_read(
    running: Running, endpoint: Endpoint, chunked: bool
) -> None:
    arrived = threading.Event()
    pieces = [b'--x\r\n{"process_id": 42}', b"\x00" * MIB, b"--x--"]

    def content() -> Iterator[bytes]:
        yield pieces[0]
        assert arrived.wait(10)
        yield from pieces[1:]

    def handle(connection: Connection) -> None:
        upstream.heads.append(head := connection.head())
        start = connection.chunk() if chunked else connection.reader.read(len(pieces[0]))
        arrived.set()
        rest = connection.body(head) if chunked else connection.reader.read(MIB + 5)
        upstream.bodies.append(start + rest)
        connection.sock.sendall(OK)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    if not chunked:
        headers["Content-Length"] = str(sum(map(len, pieces)))
    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        assert ask(client, endpoint, content=content(), headers=headers).text == "ok"
    assert first_lines(upstream) == [v2_line(endpoint)]
    assert upstream.bodies == [b"".join(pieces)]
    assert b"content-type: multipart/form-data; boundary=x" in fields(upstream.heads[0])


def test_a_download_streams_with_its_headers(running: Running) -> None:
    go_on = threading.Event()
    head = (
        b'HTTP/1.1 200 OK\r\nContent-Disposition: attachment; filename="a.csv"\r\n'
        b"Content-Type: text/csv\r\nContent-Length: 4\r\n\r\n"
    )

    def handle(connection: Connection) -> None:
        connection.head()
        connection.sock.sendall(head + b"a,")
        assert go_on.wait(10)
        connection.sock.sendall(b"b\n")

    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        with client.stream("POST", DOWNLOAD.path, json={"process_id": 42}) as answer:
            chunks = answer.iter_raw()
            assert next(chunks) == b"a,"
            go_on.set()
            assert next(chunks) == b"b\n"
    assert answer.headers["content-disposition"] == 'attachment; filename="a.csv"'
    assert answer.headers["content-length"] == "4"


@pytest.mark.parametrize("status", [307, 308, 302])
@pytest.mark.parametrize("endpoint", MOVED, ids=names(MOVED))
def test_a_redirect_of_a_post_that_was_sent_as_get_is_a_303(
    running: Running, endpoint: Endpoint, status: int
) -> None:
    answer = b"HTTP/1.1 %d X\r\nLocation: https://storage.example/f\r\nContent-Length: 0\r\n\r\n"
    with Upstream(answer % status) as upstream, running.front(upstream.base_url) as client:
        got = ask(client, endpoint)
    turned = endpoint in (STATUS, DOWNLOAD) and status != 302
    assert got.status_code == (303 if turned else status)
    assert got.headers["location"] == "https://storage.example/f"
    assert len(upstream.heads) == 1


# --- a 410 of v1 ------------------------------------------------------------------------------


def retired(connection: Connection, upstream: Upstream) -> None:
    while head := connection.head():
        upstream.heads.append(head)
        upstream.bodies.append(connection.body(head))
        connection.sock.sendall(GONE if b" /v1/" in head else OK)


@pytest.mark.parametrize("endpoint", MOVED, ids=names(MOVED))
def test_a_410_is_followed_once_where_no_body_would_be_sent_twice(
    running: Running, endpoint: Endpoint
) -> None:
    with Upstream(b"") as upstream, running.front(upstream.base_url, now=BEFORE) as client:
        upstream.handle = lambda connection: retired(connection, upstream)
        for _ in range(2):
            assert ask(client, endpoint).text == "ok"
    v1 = f"{endpoint.call}?metadata=true"
    assert first_lines(upstream) == [v1, v2_line(endpoint), v2_line(endpoint)]


@pytest.mark.parametrize("endpoint", [UPLOAD, VERIFY], ids=["upload", "verify"])
def test_a_410_to_a_body_is_the_answer_and_its_memory_moves_the_next(
    running: Running, endpoint: Endpoint
) -> None:
    with Upstream(b"") as upstream, running.front(upstream.base_url, now=BEFORE) as client:
        upstream.handle = lambda connection: retired(connection, upstream)
        first = ask(client, endpoint, content=b"{}")
        second = ask(client, endpoint, content=b"{}")
    assert (first.status_code, first.text, second.text) == (410, "gone", "ok")
    assert first_lines(upstream) == [f"{endpoint.call}?metadata=true", v2_line(endpoint)]
    assert upstream.bodies == [b"{}", b"{}"]


@pytest.mark.parametrize("endpoint", [ROTATE_KEY, VERIFY, UPLOAD], ids=["rotate", "verify", "up"])
def test_what_cannot_be_repeated_is_sent_once(running: Running, endpoint: Endpoint) -> None:
    def handle(connection: Connection) -> None:
        upstream.heads.append(head := connection.head())
        connection.body(head)

    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        answer = ask(client, endpoint)
    assert (answer.status_code, answer.json()["sent"]) == (502, True)
    assert len(upstream.heads) == 1


# --- which version ----------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 99, 100])
@pytest.mark.parametrize("endpoint", FREE, ids=names(FREE))
def test_without_a_job_only_a_share_of_100_moves(
    running: Running, endpoint: Endpoint, share: int
) -> None:
    settings = Settings(v2_rollout=share)
    with Upstream(OK) as upstream, running.front(upstream.base_url, settings, now=BEFORE) as one:
        ask(one, endpoint)
    v1 = f"{endpoint.call}?metadata=true"
    assert first_lines(upstream) == [v2_line(endpoint) if share == 100 else v1]


def test_without_a_job_the_flag_is_asked_with_none(running: Running) -> None:
    asked: list[RouteContext] = []

    def flag(context: RouteContext) -> bool:
        asked.append(context)
        return len(asked) == 2

    with Upstream(OK) as upstream:
        with running.front(upstream.base_url, Settings(v2_flag=flag), now=BEFORE) as client:
            ask(client, LIST)
            ask(client, CREDITS)
    assert first_lines(upstream) == [f"{LIST.call}?metadata=true", v2_line(CREDITS)]
    assert [one.process_id for one in asked] == [None, None]


@pytest.mark.parametrize("call", [("POST", "/v1/credits"), ("GET", "/v1/cancel-process")])
def test_another_method_is_another_call(running: Running, call: tuple[str, str]) -> None:
    assert call not in BY_V1_CALL
    with Upstream(OK) as upstream, running.front(upstream.base_url) as client:
        client.request(*call)
    assert first_lines(upstream) == [" ".join(call)]
