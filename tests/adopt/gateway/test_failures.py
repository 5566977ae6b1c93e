"""The gateway: upstreams and clients that fail, events, logs and the key."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import httpx
import pytest

from revenuebase_compat import CancelEvent, Settings
from tests.conftest import TEST_KEY
from tests.support import AFTER, BEFORE
from tests.support import fault_server as faults
from tests.support.fault_server import FaultServer

from .support import (
    CANCEL,
    STATUS,
    Connection,
    Running,
    Upstream,
)


@pytest.mark.parametrize("path", [CANCEL, "/v2/jobs"])
def test_an_upstream_that_is_down_is_a_502(running: Running, path: str) -> None:
    with faults.refusing() as nowhere, running.front(nowhere) as client:
        answer = client.post(path, json={"process_id": 1})
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["detail"].startswith(f"no answer from {nowhere}: ConnectionRefusedError")
    assert answer.json()["sent"] is False


@pytest.mark.parametrize(
    "fault", [faults.drop(), faults.half_headers(), faults.http_09(), faults.two_content_lengths()]
)
def test_what_is_no_answer_is_a_502(
    running: Running, server: FaultServer, fault: faults.Fault
) -> None:
    server.always(fault)
    with running.front(server.base_url) as client:
        assert client.get("/v2/jobs/1").status_code == 502
        assert client.post(CANCEL, json={"process_id": 1}).status_code == 502
    assert len(server.seen) == 2


def test_a_status_that_is_none_is_a_502(running: Running) -> None:
    upstream = Upstream(b"HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n")
    with upstream, running.front(upstream.base_url) as client:
        assert client.get("/").status_code == 502


@pytest.mark.parametrize("fault", [faults.hang(applied=True), faults.trickle_headers()])
def test_an_upstream_that_takes_too_long_is_a_504(
    running: Running, server: FaultServer, fault: faults.Fault
) -> None:
    server.always(fault)
    settings = Settings(timeout=0.2)
    with running.front(server.base_url, settings) as client:
        started = time.monotonic()
        answer = client.post(CANCEL, json={"process_id": 1})
        assert time.monotonic() - started < 2
    assert answer.status_code == 504
    assert "no answer within 0.2 s" in answer.json()["detail"]
    assert len(server.seen) == 1


def test_a_passing_request_has_its_time_out_too(running: Running, server: FaultServer) -> None:
    server.always(faults.hang())
    started = time.monotonic()
    with running.front(server.base_url, Settings(timeout=0.1)) as client:
        assert client.get("/v2/jobs/1").status_code == 504
    with (
        faults.unreachable() as nowhere,
        running.front(nowhere, Settings(timeout=0.1)) as client,
    ):
        assert client.get("/v2/jobs/1").status_code == 504
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: 100\r\n\r\nhalf of it",
        b"Transfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n",
    ],
)
def test_an_answer_that_breaks_off_is_not_made_whole(
    running: Running, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    def handle(connection: Connection) -> None:
        connection.head()
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\n" + answer)

    with (
        Upstream(handle) as upstream,
        running.front(upstream.base_url) as client,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        client.get("/download")
    said = [one.getMessage() for one in caplog.records if one.name == "revenuebase_compat"]
    assert len(said) == 1
    assert "breaks off" in said[0]
    assert not [one for one in caplog.records if one.exc_info]


def quiet(caplog: pytest.LogCaptureFixture) -> bool:
    return not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("path", [CANCEL, "/v2/jobs"])
def test_a_client_that_leaves_ends_the_request_upstream(
    running: Running, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    arrived, ended, events = threading.Event(), list[bool](), list[CancelEvent]()

    def handle(connection: Connection) -> None:
        upstream.bodies.append(connection.body(connection.head()))
        arrived.set()
        ended.append(connection.ended())

    settings = Settings(on_event=events.append)
    with Upstream(handle) as upstream, running.front(upstream.base_url, settings):
        with running.connect() as sock:
            body = b'{"process_id": 42}'
            head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            sock.sendall(head % (path.encode(), len(body)) + body)
            assert arrived.wait(10)
        upstream.threads[-1].join(5)
        assert ended == [True]
    assert quiet(caplog)
    assert [(one.outcome, one.outcome_unknown) for one in events] == (
        [("interrupted", True)] if path == CANCEL else []
    )


def test_a_client_that_leaves_while_it_sends_or_reads(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    arrived, ended = threading.Event(), list[bool]()

    def handle(connection: Connection) -> None:
        head = connection.head()
        if head.startswith(b"GET"):
            connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf")
        else:
            assert connection.reader.read(4) == b"half"
        arrived.set()
        ended.append(connection.ended())

    with Upstream(handle) as upstream, running.front(upstream.base_url):
        with running.connect() as sock:
            sock.sendall(b"PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nhalf")
            assert arrived.wait(10)
        upstream.threads[-1].join(5)
        assert ended == [True]
        arrived.clear()
        with running.connect() as sock:
            sock.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert arrived.wait(10)
            assert sock.recv(9)
        upstream.threads[-1].join(5)
        assert ended == [True, True]
        assert httpx.get(running.base_url + "/-/healthz").status_code == 200
    assert quiet(caplog)


def test_a_client_that_leaves_within_a_v1_body_sends_nothing(
    running: Running, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    with running.front(server.base_url) as client:
        with running.connect() as sock:
            sock.sendall(
                b"POST /v1/cancel-process HTTP/1.1\r\nHost: localhost\r\n"
                b'Content-Length: 99\r\n\r\n{"proc'
            )
        assert client.get("/-/healthz").status_code == 200
    assert server.connections == 0
    assert quiet(caplog)


@pytest.mark.parametrize(
    ("fault", "now", "expected"),
    [
        (faults.HEALTHY, AFTER, ("2", "SUNSET", 1, False, "cancelled", False)),
        (faults.HEALTHY, BEFORE, ("1", "DEFAULT", 1, False, "cancelled", False)),
        (faults.gone(), BEFORE, ("2", "V1_GONE", 2, True, "cancelled", False)),
        (faults.respond(503), AFTER, ("2", "SUNSET", 1, False, "http_error", True)),
        (faults.respond(401), AFTER, ("2", "SUNSET", 1, False, "http_error", False)),
        (faults.drop(True), AFTER, ("2", "SUNSET", 1, False, "RemoteProtocolError", True)),
    ],
)
def test_one_event_per_cancel(
    running: Running, server: FaultServer, fault: faults.Fault, now: Any, expected: tuple[Any, ...]
) -> None:
    events: list[CancelEvent] = []
    server.script(fault)
    with running.front(server.base_url, Settings(on_event=events.append), now=now) as client:
        client.post(CANCEL, json={"process_id": 7})
        client.post(STATUS, json={"process_id": 7})
        client.post(CANCEL, json={"process_id": None})
        client.get("/v1/credits")
    (event,) = events
    assert event.process_id == 7
    assert event.route is not None
    route = str(event.route.version), event.route.reason.value
    what = event.attempts, event.switched, event.outcome, event.outcome_unknown
    assert (*route, *what) == expected


def test_the_key_is_passed_on_and_never_shown(
    running: Running, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = "rb_test_of_the_settings"
    server.script(faults.HEALTHY, faults.drop(), faults.gone(), faults.respond(500))
    with running.front(server.base_url, Settings(key), now=BEFORE) as client:
        answers = [client.post(CANCEL, json={"process_id": job}) for job in range(1, 5)]
        answers += [client.post(CANCEL, content=b"?"), client.get("/v1/credits")]
        shown = repr(vars(running.switch.current))
    assert [answer.status_code for answer in answers] == [200, 502, 500, 200, 422, 404]
    assert {one.key for one in server.seen} == {TEST_KEY}
    said = caplog.text + shown + "".join(answer.text for answer in answers)
    assert TEST_KEY not in said
    assert key not in said
