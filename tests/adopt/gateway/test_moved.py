"""The gateway: v1 requests that are moved, and what is left to v1."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from revenuebase_compat import RouteContext, RouteReason, Settings
from revenuebase_compat.client.memory import memory
from revenuebase_compat.testing.sandbox import Sandbox
from tests.conftest import TEST_KEY
from tests.support import AFTER, BEFORE, FakeTime
from tests.support import fault_server as faults
from tests.support.fault_server import FaultServer

from .support import (
    CANCEL,
    MIB,
    OK,
    STATUS,
    Connection,
    Running,
    Upstream,
    wait_for,
)


def test_a_cancel_of_v1_arrives_as_one_of_v2(running: Running, sandbox: Sandbox) -> None:
    with running.front(sandbox.base_url) as client:
        answer = client.post(CANCEL, json={"process_id": 42})

    assert answer.status_code == 200
    assert answer.json() == {
        "process_id": 42,
        "filename": "job-42.csv",
        "current_status": "CANCELLING",
        "message": "Job is cancelling.",
    }
    assert [(one.method, one.path) for one in sandbox.requests] == [("POST", "/v2/jobs/42/cancel")]
    assert sandbox.jobs[42].status == "CANCELLING"


def test_a_status_request_moves_with_it(running: Running, sandbox: Sandbox) -> None:
    with running.front(sandbox.base_url) as client:
        answer = client.post(STATUS, json={"process_id": 42})

    assert answer.json()["current_status"] == "QUEUED"
    assert [(one.method, one.path) for one in sandbox.requests] == [("GET", "/v2/jobs/42")]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"process_id": "42"}', {}),
        (b'{"process_id": 42.0, "note": "x"}', {"Content-Type": "text/plain"}),
        ('{"process_id": 42}'.encode("utf-16"), {}),
        (gzip.compress(b'{"process_id": 42}'), {"Content-Encoding": "gzip"}),
        (iter([b'{"process', b'_id": 42}']), {}),
    ],
    ids=["digits", "float", "utf-16", "gzip", "chunked"],
)
def test_what_v1_would_have_understood_moves(
    running: Running, server: FaultServer, body: Any, headers: dict[str, str]
) -> None:
    with running.front(server.base_url) as client:
        answer = client.post(CANCEL, content=body, headers={"Accept": "a/b", **headers})

    assert answer.status_code == 200
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/v2/jobs/42/cancel", b"")
    assert seen.headers["content-length"] == "0"
    assert seen.headers["accept"] == "a/b"
    assert seen.key == TEST_KEY
    assert not {"content-type", "content-encoding", "transfer-encoding"} & set(seen.headers)


def test_a_script_without_our_library_and_a_raw_socket(running: Running, sandbox: Sandbox) -> None:
    body = b'{"process_id":7}'
    with running.front(sandbox.base_url):
        request = urllib.request.Request(
            running.base_url + CANCEL, b'{"process_id": 6}', {"X-Key": TEST_KEY}
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["current_status"] == "CANCELLING"
        raw = running.raw(
            b"POST /v1/cancel-process HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.5.0\r\n"
            b"Accept: */*\r\nx-key: %b\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (TEST_KEY.encode(), len(body), body)
        )

    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["process_id"] == 7
    assert sandbox.jobs[6].status == sandbox.jobs[7].status == "CANCELLING"


@pytest.mark.parametrize("share", [0, 50, 100])
def test_before_the_sunset_the_share_splits_as_the_facade_would(
    running: Running, sandbox: Sandbox, share: int
) -> None:
    sandbox.now = BEFORE
    settings = Settings(v2_rollout=share)
    expected = FakeTime(BEFORE).client(settings)
    with running.front(sandbox.base_url, settings, now=BEFORE) as client:
        for process_id in range(1, 21):
            assert client.post(CANCEL, json={"process_id": process_id}).status_code == 200
            assert client.post(STATUS, json={"process_id": process_id}).status_code == 200

    went = [one.version for one in sandbox.requests]
    assert went[::2] == [f"v{expected.route(job).version}" for job in range(1, 21)]
    assert went[1::2] == went[::2]
    assert len(set(went)) == (2 if share == 50 else 1)


def test_the_flag_decides_also_an_asynchronous_one(running: Running, sandbox: Sandbox) -> None:
    sandbox.now = BEFORE
    asked: list[RouteContext] = []

    async def flag(context: RouteContext) -> bool:
        await asyncio.sleep(0)
        asked.append(context)
        return context.process_id == 2

    with running.front(sandbox.base_url, Settings(v2_flag=flag), now=BEFORE) as client:
        for process_id in (1, 2):
            client.post(CANCEL, json={"process_id": process_id})

    assert [one.version for one in sandbox.requests] == ["v1", "v2"]
    assert [context.process_id for context in asked] == [1, 2]


def test_the_callers_query_and_a_prefix_of_the_upstream_are_kept(
    running: Running,
) -> None:
    with Upstream(OK) as upstream, running.front(upstream.base_url + "/eu/api") as client:
        client.post(CANCEL + "?trace=1", json={"process_id": 42})
        client.get("/v2/jobs?limit=5")
    assert [head.split(b"\r\n")[0] for head in upstream.heads] == [
        b"POST /eu/api/v2/jobs/42/cancel?trace=1 HTTP/1.1",
        b"GET /eu/api/v2/jobs?limit=5 HTTP/1.1",
    ]


def test_a_410_before_the_date_is_answered_by_one_request_to_v2_and_remembered(
    running: Running, server: FaultServer
) -> None:
    fake = FakeTime(BEFORE)
    server.always(faults.gone(), version="v1")
    with running.front(server.base_url, now=fake) as client:
        assert client.post(CANCEL, json={"process_id": 1}).status_code == 200
        assert [one.version for one in server.seen] == ["v1", "v2"]
        assert server.applied == [1]

        assert client.post(CANCEL, json={"process_id": 2}).status_code == 200
        assert client.post(STATUS, json={"process_id": 2}).json()["process_id"] == 2
        assert [one.version for one in server.seen] == ["v1", "v2", "v2", "v2"]
        wait_for(lambda: server.open_connections == 1)  # v1's answer was not read to its end
        facade = fake.client(Settings(base_url=server.base_url))
        assert facade.route(3).reason is RouteReason.V1_GONE

        fake.elapsed += 15 * 60
        server.heal()
        client.post(CANCEL, json={"process_id": 4})
    assert server.seen[-1].version == "v1"


def test_what_the_facade_remembers_holds_for_the_gateway(
    running: Running, server: FaultServer
) -> None:
    fake = FakeTime(BEFORE)
    memory.retired_at[server.base_url] = fake.monotonic() - 60
    with running.front(server.base_url, now=fake) as client:
        client.post(CANCEL, json={"process_id": 1})
    assert [one.version for one in server.seen] == ["v2"]


def test_a_status_request_told_410_is_moved_too(running: Running, server: FaultServer) -> None:
    server.always(faults.gone(), version="v1")
    with running.front(server.base_url, now=BEFORE) as client:
        assert client.post(STATUS, json={"process_id": 1}).json()["current_status"] == "QUEUED"
    assert [one.method for one in server.seen] == ["POST", "GET"]
    assert server.base_url in memory.retired_at


@pytest.mark.parametrize("first", [True, False], ids=["after a 410", "at once"])
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (faults.drop(applied=True), 502),
        (faults.reset(), 502),
        (faults.respond(404), 404),
        (faults.respond(501), 501),
    ],
)
def test_nothing_leads_back_from_v2(
    running: Running, server: FaultServer, fault: faults.Fault, status: int, first: bool
) -> None:
    server.always(faults.gone(), version="v1")
    server.always(fault, version="v2")
    with running.front(server.base_url, now=BEFORE if first else AFTER) as client:
        assert client.post(CANCEL, json={"process_id": 1}).status_code == status
    assert [one.version for one in server.seen] == (["v1", "v2"] if first else ["v2"])


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_only_a_410_moves_a_request_that_v1_has_answered(
    running: Running, server: FaultServer, status: int
) -> None:
    server.script(faults.respond(status, b"v1's own words", headers={"Retry-After": "7"}))
    with running.front(server.base_url, now=BEFORE) as client:
        answer = client.post(CANCEL, json={"process_id": 1})
    assert (answer.status_code, answer.content) == (status, b"v1's own words")
    assert answer.headers["retry-after"] == "7"
    assert [one.version for one in server.seen] == ["v1"]


@pytest.mark.parametrize("after_sunset", ["try", "raise"])
def test_v1_only_gets_the_servers_own_410(
    running: Running, server: FaultServer, after_sunset: Any
) -> None:
    server.always(faults.gone(), version="v1")
    settings = Settings(api_version="v1", after_sunset=after_sunset)
    with running.front(server.base_url, settings) as client:
        answer = client.post(CANCEL, json={"process_id": 1})
    assert (answer.status_code, answer.json()["detail"]) == (410, "API v1 was retired. Use /v2.")
    assert len(server.seen) == 1


REFUSED = {"detail": [{"loc": ["path", "process_id"], "msg": "too big", "type": "int"}]}


@pytest.mark.parametrize("packed", [False, True])
def test_a_422_of_v2_blames_the_body(running: Running, server: FaultServer, packed: bool) -> None:
    body = json.dumps(REFUSED).encode()
    headers = {"Content-Type": "application/json", "X-Request-Id": "abc"}
    if packed:
        body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
    server.script(faults.respond(422, body, headers=headers))
    with running.front(server.base_url) as client:
        answer = client.post(CANCEL, json={"process_id": 1})
    assert answer.status_code == 422
    assert answer.json()["detail"][0] == {**REFUSED["detail"][0], "loc": ["body", "process_id"]}
    assert answer.headers["x-request-id"] == "abc"
    assert answer.headers.get("content-encoding") == ("gzip" if packed else None)


def test_a_422_of_v1_is_its_own(running: Running, server: FaultServer) -> None:
    server.script(faults.respond(422, REFUSED))
    with running.front(server.base_url, now=BEFORE) as client:
        answer = client.post(CANCEL, json={"process_id": 1})
    assert answer.json() == REFUSED


@pytest.mark.parametrize("status", [400, 422])
def test_an_error_of_more_than_a_mebibyte_still_passes(
    running: Running, server: FaultServer, status: int
) -> None:
    words = b"x" * (2 * MIB)
    server.script(faults.respond(status, words))
    with running.front(server.base_url) as client:
        answer = client.post(CANCEL, json={"process_id": 1})
    assert (answer.status_code, answer.content) == (status, words)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[42]",
        b'{"process_id": true}',
        b'{"process_id": 4.5}',
        b'{"process_id": -1}',
        b'{"job": 42}',
        b'{"process_id": 99999999999999999999}',
        b"\xff\xfe\xfd",
    ],
)
def test_a_body_that_names_no_job_is_left_to_v1(
    running: Running, server: FaultServer, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    server.always(faults.respond(422, b"v1 says no"), version="v1")
    with running.front(server.base_url) as client:
        for path in (CANCEL, CANCEL, STATUS):
            answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.content) == (422, b"v1 says no")

    assert [(one.path, one.body) for one in server.seen] == [
        (CANCEL, body),
        (CANCEL, body),
        (STATUS, body),
    ]
    (said,) = [one for one in caplog.records if one.name == "revenuebase_compat"]
    assert said.levelname == "WARNING"
    assert "POST /v1/cancel-process names no job" in said.getMessage()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_more_than_a_mebibyte_is_left_to_v1_and_not_kept(
    running: Running, chunked: bool
) -> None:
    body = b'{"process_id": 42, "filler": "' + b"x" * (2 * MIB) + b'"}'
    arrived = threading.Event()

    def handle(connection: Connection) -> None:
        upstream.heads.append(connection.head())
        arrived.set()
        upstream.bodies.append(connection.body(upstream.heads[0]))
        connection.sock.sendall(OK)

    def content() -> Iterator[bytes]:
        yield body[:-100]
        assert arrived.wait(10)
        yield body[-100:]

    headers = {} if chunked else {"Content-Length": str(len(body))}
    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        answer = client.post(CANCEL, content=content(), headers=headers)
    assert answer.text == "ok"
    assert upstream.heads[0].startswith(b"POST /v1/cancel-process HTTP/1.1\r\n")
    assert upstream.bodies == [body]


def test_other_calls_of_v1_pass_with_one_notice_that_names_the_successor(
    running: Running, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.always(faults.respond(200, b"5 credits"))
    caplog.set_level(logging.INFO)
    with running.front(server.base_url, now=BEFORE) as client:
        for _ in range(3):
            assert client.get("/v1/credits").text == "5 credits"
        client.get("/v1/no-such-thing")
        client.get("/v2/account/balance")
    said = [one for one in caplog.records if one.name == "revenuebase_compat"]
    assert [one.levelname for one in said] == ["WARNING", "WARNING"]
    assert "GET /v1/credits" in said[0].getMessage()
    assert "ends on 2026-07-07" in said[0].getMessage()
    assert said[0].__dict__["successor"] == "GET /v2/account/balance"
    assert said[1].__dict__["successor"] is None
    assert len(server.seen) == 5


def test_a_cancel_that_goes_to_v1_is_told_of_as_the_facades(
    running: Running, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.script(
        faults.altered("announcing", dict, headers={"Sunset": "Mon, 01 Jun 2026 00:00:00 GMT"})
    )
    with running.front(server.base_url, now=BEFORE) as client:
        for process_id in (1, 2):
            client.post(CANCEL, json={"process_id": process_id})
    said = [one for one in caplog.records if one.name == "revenuebase_compat"]
    assert [one.__dict__["notice"] for one in said] == ["uses_v1", "announced"]
    assert said[0].__dict__["route_reason"] == "DEFAULT"


def test_a_status_request_that_goes_to_v1_is_told_of(
    running: Running, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    with running.front(server.base_url, now=BEFORE) as client:
        client.post(STATUS, json={"process_id": 1})
    (said,) = [one for one in caplog.records if one.name == "revenuebase_compat"]
    assert said.__dict__["successor"] == "GET /v2/jobs/{process_id}"


def test_a_v1_only_setting_that_is_overruled_is_told_of(
    running: Running, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    with running.front(server.base_url, Settings(api_version="v1")) as client:
        client.post(CANCEL, json={"process_id": 1})
    assert [one.version for one in server.seen] == ["v2"]
    said = [one for one in caplog.records if one.name == "revenuebase_compat"]
    assert [one.__dict__["notice"] for one in said] == ["migrated"]
