"""What goes to v2: before it is sent, and its answer, by each library."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3

from revenuebase_compat import (
    ApiDeprecationWarning,
    CancelEvent,
    Client,
    RouteReason,
    Settings,
    adopt,
)
from revenuebase_compat.client.memory import memory
from revenuebase_compat.testing.sandbox import Sandbox
from tests.adopt.interceptor import support
from tests.adopt.interceptor.support import (
    ALIVE,
    BODIES,
    CANCEL,
    GONE,
    JSON,
    KEY,
    LIBRARIES,
    STATUS,
    AttemptOutcome,
    Recorder,
    Send,
    by_aiohttp,
    by_async_httpx,
    by_requests,
    by_urllib3,
    cancel,
    every_library,
    seen,
    served,
)
from tests.support.fault_server import End, FaultServer, drop, gone, raw, redirect, respond

# --- moved ------------------------------------------------------------------------------------


@every_library
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_cancel_arrives_as_v2_and_looks_as_it_always_did(
    send: Send, body: Callable[[bytes], Any], sandbox: Sandbox
) -> None:
    url = sandbox.base_url + CANCEL
    adopt.install(Settings(base_url=sandbox.base_url, **GONE), strict=True)
    answer = send("POST", url, body(b'{"process_id": 42}'), JSON)
    assert answer.status == 200
    assert answer.json()["current_status"] == "CANCELLING"
    assert answer.url.endswith(CANCEL)
    assert served(sandbox) == [("POST", "/v2/jobs/42/cancel")]
    refused = send("POST", url, body(b'{"process_id": 42}'), JSON)
    assert (refused.status, refused.url) == (400, answer.url)


@every_library
def test_the_status_moves_along(send: Send, sandbox: Sandbox) -> None:
    adopt.install(Settings(base_url=sandbox.base_url, **GONE), strict=True)
    answer = send("POST", sandbox.base_url + STATUS + "?by=etl", b'{"process_id": "43"}', JSON)
    assert answer.json()["current_status"] == "QUEUED"
    assert answer.url.endswith(STATUS + "?by=etl")
    assert served(sandbox) == [("GET", "/v2/jobs/43")]


@every_library
def test_what_goes_up_has_no_body_and_the_same_headers(send: Send, server: FaultServer) -> None:
    packed = gzip.compress(b'{"process_id": 42}')
    given = {**JSON, "Content-Encoding": "gzip", "X-Trace": "abc", "Accept": "application/json"}
    url = server.base_url + CANCEL
    send("POST", url, packed, given)
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    assert send("POST", url, packed, given).status == 200
    assert send("POST", url, iter([packed]), given).status == 400
    plain, *moved = server.seen
    described = ("content-type", "content-encoding", "content-length", "transfer-encoding")
    kept = {name: text for name, text in plain.headers.items() if name not in described}
    for request in moved:
        assert (request.method, request.path) == ("POST", "/v2/jobs/42/cancel")
        assert request.body == b""
        assert dict(request.headers) == {**kept, "content-length": "0"}
        assert request.key == KEY


@every_library
def test_a_422_blames_the_body(send: Send, server: FaultServer) -> None:
    error = {"loc": ["path", "process_id"], "msg": "m", "type": "t"}
    blamed = {**error, "loc": ["body", "process_id"]}
    plain = json.dumps({"detail": [error]}).encode()
    head = b"HTTP/1.1 422 Unprocessable\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(plain), plain)
    server.script(
        respond(422, plain),
        respond(422, gzip.compress(plain), headers={"Content-Encoding": "gzip"}),
        raw("a chunked 422", chunked, end=End.KEEP),
        respond(422, b"words"),
    )
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    told = cancel(send, server.base_url)
    assert told.json() == {"detail": [blamed]}
    read_by_then = (by_aiohttp, by_urllib3)
    if send not in read_by_then:
        assert int(lowered(told)["content-length"]) == len(told.body)
    packed = cancel(send, server.base_url)
    body = packed.body
    if body[:1] == b"\x1f":  # http.client and urllib.request leave it to the application
        body = gzip.decompress(body)
    assert json.loads(body) == {"detail": [blamed]}
    told = cancel(send, server.base_url)
    assert told.json() == {"detail": [blamed]}
    if send not in read_by_then:
        assert "transfer-encoding" not in lowered(told)
    assert cancel(send, server.base_url).body == b"words"


def lowered(answer: AttemptOutcome) -> dict[str, str]:
    return {name.lower(): text for name, text in answer.headers.items()}


@every_library
def test_a_redirect_of_v2_leads_where_v2_meant(send: Send, server: FaultServer) -> None:
    server.script(redirect(307, "/elsewhere"), redirect(308, "https://example.org/"))
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    located = [lowered(cancel(send, server.base_url))["location"] for _ in range(2)]
    assert located == [
        server.base_url + "/elsewhere",
        "https://example.org/",
    ]


def test_clients_that_follow_redirects_of_v2(server: FaultServer) -> None:
    url = server.base_url + CANCEL
    body = b'{"process_id": 42}'
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)

    def by_pool() -> int:
        with urllib3.PoolManager() as pool:
            return pool.request("POST", url, body=body, headers=JSON).status

    async def by_session() -> int:
        async with aiohttp.ClientSession() as session:
            async with session.post(url, data=body, headers=JSON) as answer:
                assert str(answer.url) == server.base_url + "/v2/jobs/43"
                [first] = answer.history
                shown = first.method, str(first.url), str(first.request_info.url)
                assert shown == ("POST", url, url)
                assert (first.status, first.headers["Location"]) == (303, "/v2/jobs/43")
                return answer.status

    ways: list[Callable[[], int]] = [
        lambda: requests.post(url, data=body, headers=JSON, timeout=5).status_code,
        lambda: httpx.post(url, content=body, headers=JSON, follow_redirects=True).status_code,
        by_pool,
        lambda: asyncio.run(by_session()),
    ]
    for follow in ways:
        server.seen.clear()
        server.script(redirect(303, "/v2/jobs/43"))
        assert follow() == 200
        assert seen(server) == [("POST", "/v2/jobs/42/cancel"), ("GET", "/v2/jobs/43")]


@every_library
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 429, 500, 503])
def test_every_other_answer_passes_as_it_is(send: Send, status: int, server: FaultServer) -> None:
    server.always(respond(status, b"the server's own words", headers={"X-Own": "yes"}))
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    answer = cancel(send, server.base_url)
    assert (answer.status, answer.body) == (status, b"the server's own words")
    assert lowered(answer)["x-own"] == "yes"
    assert {request.version for request in server.seen} == {"v2"}  # no way back to v1


@every_library
def test_a_lost_answer_is_never_sent_to_v1(send: Send, server: FaultServer) -> None:
    server.always(drop(applied=True))
    events: list[CancelEvent] = []
    adopt.install(Settings(base_url=server.base_url, on_event=events.append, **GONE), strict=True)
    with pytest.raises(Exception, match=r"(?i)disconnect|closed|aborted|remote end"):
        cancel(send, server.base_url)
    assert {request.path for request in server.seen} == {"/v2/jobs/42/cancel"}
    [event] = events
    assert event.outcome_unknown
    assert event.outcome not in ("cancelled", "interrupted")


# --- before the sunset ------------------------------------------------------------------------


@every_library
def test_a_flag_is_asked_for_each_request(send: Send, server: FaultServer) -> None:
    opinions: dict[int | None, bool] = {42: True, 43: False}
    adopt.install(
        Settings(base_url=server.base_url, v2_flag=lambda c: opinions[c.process_id], **ALIVE),
        strict=True,
    )
    assert cancel(send, server.base_url, 42).json()["process_id"] == 42
    with pytest.warns(ApiDeprecationWarning):
        assert cancel(send, server.base_url, 43).json()["process_id"] == 43
    opinions[43] = True
    assert cancel(send, server.base_url, 43).status == 400
    assert seen(server) == [
        ("POST", "/v2/jobs/42/cancel"),
        ("POST", CANCEL),
        ("POST", "/v2/jobs/43/cancel"),
    ]


def test_an_asynchronous_flag_where_the_request_is(server: FaultServer) -> None:
    async def flag(_: object) -> bool:
        await asyncio.sleep(0)
        return True

    adopt.install(Settings(base_url=server.base_url, v2_flag=flag, **ALIVE), strict=True)
    assert cancel(by_aiohttp, server.base_url).status == 200
    assert cancel(by_async_httpx(httpx), server.base_url).status == 400
    assert {request.version for request in server.seen} == {"v2"}


def test_the_notice_points_at_the_line_that_sends(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **ALIVE), strict=True)
    for send in LIBRARIES.values():
        with pytest.warns(ApiDeprecationWarning, match="cancel-process") as caught:
            assert cancel(send, server.base_url).status in (200, 400)
        [warning] = caught
        assert warning.filename == support.__file__


@every_library
def test_a_410_before_the_date_is_followed_by_v2(send: Send, server: FaultServer) -> None:
    server.always(gone(), version="v1")
    events: list[CancelEvent] = []
    adopt.install(Settings(base_url=server.base_url, on_event=events.append, **ALIVE), strict=True)
    with pytest.warns(ApiDeprecationWarning):
        answer = cancel(send, server.base_url)
    assert (answer.status, answer.json()["process_id"]) == (200, 42)
    assert answer.url.endswith(CANCEL)
    assert seen(server) == [("POST", CANCEL), ("POST", "/v2/jobs/42/cancel")]
    [event] = events
    assert event.switched
    assert event.attempts == 2
    assert event.route is not None
    assert event.route.reason is RouteReason.V1_GONE
    # Remembered, and shared with the facade.
    assert server.base_url in memory.retired_at
    assert cancel(send, server.base_url).status == 400
    assert Client(Settings(KEY, base_url=server.base_url, **ALIVE)).route(1).version.major == 2
    assert [request.version for request in server.seen] == ["v1", "v2", "v2"]


@every_library
def test_a_410_is_followed_for_bodies_that_can_be_read_once(send: Send) -> None:
    with Recorder((410, b"gone"), (200, b"moved")) as recorder:
        adopt.install(Settings(base_url=recorder.base_url, **ALIVE), strict=True)
        with pytest.warns(ApiDeprecationWarning):
            body = iter([b'{"process_id"', b": 42}"])
            answer = send("POST", recorder.base_url + CANCEL, body, JSON)
        assert (answer.status, answer.body) == (200, b"moved")
        first, second = recorder.requests
        assert b'd\r\n{"process_id"\r\n5\r\n: 42}\r\n0\r\n\r\n' in first.lower()
        assert second.startswith(b"POST /v2/jobs/42/cancel HTTP/1.1\r\n")


def test_v1_alone_stays_with_its_410(server: FaultServer) -> None:
    server.always(gone(), version="v1")
    settings = Settings(base_url=server.base_url, api_version="v1", after_sunset="raise", **ALIVE)
    adopt.install(settings, strict=True)
    with pytest.warns(ApiDeprecationWarning):
        assert cancel(by_requests, server.base_url).status == 410
    assert seen(server) == [("POST", CANCEL)]


def test_a_410_gives_its_connection_back(server: FaultServer) -> None:
    server.always(gone(), version="v1")
    adopt.install(Settings(base_url=server.base_url, **ALIVE), strict=True)
    with pytest.warns(ApiDeprecationWarning):
        assert cancel(by_requests, server.base_url).status == 200
    assert [request.connection for request in server.seen] == [1, 1]


def test_one_decision_holds_for_all_retries_of_a_library(server: FaultServer) -> None:
    asked: list[int] = []

    def flag(context: Any) -> bool:
        asked.append(context.process_id)
        return len(asked) > 1  # another opinion, were it asked again

    server.script(drop(), drop(), version="v1")
    adopt.install(Settings(base_url=server.base_url, v2_flag=flag, **ALIVE), strict=True)
    retry = urllib3.Retry(3, allowed_methods=None, backoff_factor=0)
    with urllib3.PoolManager() as pool, pytest.warns(ApiDeprecationWarning):
        answer = pool.request(
            "POST",
            server.base_url + CANCEL,
            body=b'{"process_id": 42}',
            headers=JSON,
            retries=retry,
        )
    assert answer.status == 200
    assert seen(server) == [("POST", CANCEL)] * 3
    assert asked == [42]


def test_the_share_decides_as_for_the_facade(server: FaultServer) -> None:
    settings = Settings(KEY, base_url=server.base_url, v2_rollout=50, **ALIVE)
    adopt.install(settings, strict=True)
    with Client(settings) as own:
        expected = [f"v{own.route(process_id).version}" for process_id in range(1, 21)]
    with pytest.warns(ApiDeprecationWarning), requests.Session() as session:
        for process_id in range(1, 21):
            session.post(server.base_url + CANCEL, json={"process_id": process_id}, headers=JSON)
    assert [request.version for request in server.seen] == expected
    assert set(expected) == {"v1", "v2"}
