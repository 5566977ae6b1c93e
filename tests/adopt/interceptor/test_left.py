"""What is left alone, and what an operator hears."""

from __future__ import annotations

import asyncio
import gc
import http.client
import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx
import pytest
import requests

from revenuebase_compat import (
    ApiDeprecationWarning,
    ApiVersionRetiredError,
    CancelEvent,
    Client,
    RouteReason,
    Settings,
    adopt,
)
from revenuebase_compat.adopt import interceptor
from revenuebase_compat.adopt.report import VARIABLE, prepare, read
from revenuebase_compat.testing.sandbox import Sandbox
from tests.adopt.interceptor.support import (
    ALIVE,
    BODIES,
    CANCEL,
    GONE,
    JSON,
    KEY,
    STATUS,
    Recorder,
    Send,
    by_httpx,
    by_requests,
    cancel,
    every_library,
    seen,
    served,
)
from tests.support import SUNSET
from tests.support.fault_server import FaultServer

# --- left alone -------------------------------------------------------------------------------


NOT_OURS: dict[str, tuple[str, str, bytes]] = {
    "a body that v1 refuses": ("POST", CANCEL, b'{"process_id": 42.5}'),
    "a body that is no JSON": ("POST", CANCEL, b"process_id=42"),
    "no body": ("POST", CANCEL, b""),
    "a status of nothing": ("POST", STATUS, b"{}"),
    "another method": ("PUT", CANCEL, b'{"process_id": 42}'),
    "an unknown call of v1": ("POST", "/v1/whatever?metadata=true", b"{}"),
    "a path beside it": ("POST", CANCEL + "/", b'{"process_id": 42}'),
    "v2": ("POST", "/v2/jobs/42/cancel", b""),
    "a body out of all proportion": (
        "POST",
        CANCEL,
        b'{"process_id": 42, "a": "%b"}' % (b"x" * 2**20),
    ),
}


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@every_library
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("case", NOT_OURS.values(), ids=NOT_OURS)
def test_what_is_not_moved_leaves_byte_for_byte(
    send: Send,
    body: Callable[[bytes], Any],
    case: tuple[str, str, bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    method, target, content = case
    with Recorder() as recorder:
        url = recorder.base_url + target
        send(method, url, body(content), JSON)
        adopt.install(Settings(base_url=recorder.base_url, **GONE))
        answer = send(method, url, body(content), JSON)
        assert (answer.status, answer.body) == (200, b"{}")
        before, after = recorder.requests
        assert before == after


@every_library
def test_another_host_is_left_alone(send: Send) -> None:
    with Recorder() as recorder:
        url = recorder.base_url + CANCEL
        send("POST", url, b'{"process_id": 42}', JSON)
        adopt.install(Settings(**GONE), strict=True)
        send("POST", url, b'{"process_id": 42}', JSON)
        before, after = recorder.requests
        assert before == after


def test_the_rest_of_v1_gets_one_notice(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    adopt.install(Settings(base_url=server.base_url, **GONE))
    for _ in range(3):
        with pytest.warns(ApiDeprecationWarning, match="takes no file by its name"):
            httpx.post(server.base_url + "/v1/batch-process-email?key=rb_test_in_query")
        httpx.get(server.base_url + "/v1/unheard-of/rb_test_in_path")
    assert len(caplog.records) == 2
    known, unknown = (record.getMessage() for record in caplog.records)
    assert "POST /v1/batch-process-email" in known
    assert "POST /v2/email/verify/batch" in known
    assert "2000-01-01" in known
    assert "GET /v1/… is left to it" in unknown
    assert "rb_test" not in caplog.text
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_a_status_that_v1_still_answers_gets_the_same_notice(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "revenuebase_compat")
    adopt.install(Settings(base_url=server.base_url, **ALIVE), strict=True)
    for _ in range(3):
        by_requests("POST", server.base_url + STATUS, b'{"process_id": 42}', JSON)
    [record] = caplog.records
    assert record.levelname == "INFO"  # far from the sunset
    assert "GET /v2/jobs/{process_id}" in record.getMessage()
    assert seen(server) == [("POST", STATUS)] * 3


def test_a_body_without_a_job_gets_one_warning(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    adopt.install(Settings(base_url=server.base_url, **GONE))
    for _ in range(3):
        assert cancel(by_httpx(httpx), server.base_url, 42.5).status == 422
    [record] = caplog.records
    assert "names no job" in record.getMessage()


def test_our_own_clients_are_not_decided_on_twice(sandbox: Sandbox) -> None:
    sandbox.now = SUNSET.replace(year=2025)
    asked: list[int | None] = []
    events: list[CancelEvent] = []
    settings = Settings(
        KEY,
        base_url=sandbox.base_url,
        v2_flag=lambda context: asked.append(context.process_id),
        on_event=events.append,
        **ALIVE,
    )
    adopt.install(settings, strict=True)
    with pytest.warns(ApiDeprecationWarning):
        with Client(settings) as own:
            assert own.cancel_job(42).route.reason is RouteReason.DEFAULT
        with httpx.Client() as theirs:
            assert Client(settings, http_client=theirs).cancel_job(43).attempts == 1
    assert asked == [42, 43]
    assert len(events) == 2
    assert served(sandbox) == [("POST", CANCEL)] * 2


# What an operator hears.


@pytest.mark.parametrize("library", ["httpx", "requests", "http.client"])
def test_a_moved_request_is_told_once(
    library: str, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    adopt.install(Settings(base_url=server.base_url))
    caplog.set_level(logging.INFO, "revenuebase_compat")
    for _ in range(3):
        post_by(library, server.base_url + CANCEL)
    assert [request.path for request in server.seen] == ["/v2/jobs/42/cancel"] * 3
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "INFO",
            "this program's POST /v1/cancel-process is sent as POST /v2/jobs/{process_id}/cancel",
        )
    ]


@pytest.mark.parametrize("library", ["httpx", "requests", "http.client", "aiohttp"])
def test_a_cancel_that_goes_elsewhere_is_told_once(
    library: str, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    adopt.install(Settings(), strict=True)
    for path in (CANCEL, "/v1/credits", CANCEL):
        post_by(library, server.base_url + path)
    assert [request.path for request in server.seen] == [CANCEL, "/v1/credits", CANCEL]
    [record] = [record for record in caplog.records if record.name == "revenuebase_compat"]
    assert (record.levelname, record.message) == (
        "WARNING",
        f"POST /v1/cancel-process to {server.base_url} passes as it is, as base_url is "
        "https://api.revenuebase.ai: to move it, set REVENUEBASE_BASE_URL to the one that the "
        "program uses",
    )


@every_library
def test_a_call_with_the_key_that_goes_elsewhere_is_told_once_and_reported(
    send: Send,
    server: FaultServer,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To v1, of a client with a base URL of its own; what only looks like one is not told."""
    report = prepare(str(tmp_path / "report"))
    monkeypatch.setenv(VARIABLE, report)
    adopt.install(Settings(), strict=True)
    no_key = {"x-api-key": KEY, "Content-Type": "application/json"}
    others = (
        ("POST", CANCEL, no_key),  # told, as nobody else has that path, and not counted
        ("GET", "/v1/queued-process", no_key),
        ("GET", CANCEL, JSON),
        ("GET", "/v1/credits", JSON),  # another vendor's: the same path, and the same header
        ("POST", "/v1/process-email/", JSON),
    )
    send("POST", server.base_url + STATUS + "?all=1", b'{"process_id": 42}', {"X-Key": KEY})
    for method, path, headers in others:
        send(method, server.base_url + path, b"{}" if method == "POST" else None, headers)
    send("GET", server.base_url + "/v1/queued-process", None, JSON)
    assert [one.path for one in server.seen][1:-1] == [path for _, path, _ in others]
    [message] = [one.message for one in caplog.records if one.name == "revenuebase_compat"]
    assert message.startswith(f"POST {STATUS} to {server.base_url} passes as it is")
    assert "set REVENUEBASE_BASE_URL" in message
    counted, _ = read(report)
    assert {(call, fate) for call, fate, _ in counted} == {
        (f"POST {STATUS}", "left"),
        ("GET /v1/queued-process", "left"),
    }
    assert counted.total() == 2
    [where] = {site.rpartition(":")[0] for *_, site in counted}
    assert where.endswith("support.py")  # which stands for the caller here


def test_a_credits_call_counts_where_the_host_is_the_vendors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = prepare(str(tmp_path / "report"))
    monkeypatch.setenv(VARIABLE, report)
    adopt.install(Settings(), strict=True)
    active: Any = interceptor.active
    for host in ("api.other.example", "eu.RevenueBase.ai"):
        for headers in ((b"x-key", KEY.encode()),), {"X-KEY": KEY}, {}:
            assert active.endpoint("GET", "https", host, None, "/v1/credits", headers) is None
    assert sum(read(report)[0].values()) == 2
    # Of what is no call of v1, not even the headers are looked at.
    unseen: Any = None
    assert active.endpoint("GET", "https", "eu.revenuebase.ai", None, "/v1/jobs", unseen) is None


def post_by(library: str, url: str) -> None:
    body = b'{"process_id": 42}'
    if library == "httpx":
        httpx.post(url, content=body, headers=JSON)
    elif library == "requests":
        requests.post(url, data=body, headers=JSON, timeout=10)
    elif library == "http.client":
        parts = urlsplit(url)
        with closing(http.client.HTTPConnection(parts.netloc)) as connection:
            connection.request("POST", parts.path, body, JSON)
            connection.getresponse().read()
    else:
        asyncio.run(post_by_aiohttp(url, body))


async def post_by_aiohttp(url: str, body: bytes) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(url, data=body, headers=JSON) as answer:
            await answer.read()


def test_our_own_client_is_nobody_elses(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    adopt.install(Settings(), strict=True)
    with Client(Settings(KEY, base_url=server.base_url, api_version="v1", **ALIVE)) as client:
        with pytest.warns(ApiDeprecationWarning):
            client.cancel_job(42)
    assert not [record for record in caplog.records if "passes as it is" in record.message]


@every_library
def test_what_a_rehearsal_refuses_is_no_event(send: Send, server: FaultServer) -> None:
    """Nothing was sent, so no outcome is unknown: not even once the flow is collected."""
    events: list[CancelEvent] = []
    adopt.install(
        Settings(base_url=server.base_url, on_event=events.append, **ALIVE), rehearse=True
    )
    with pytest.warns(ApiDeprecationWarning), pytest.raises(ApiVersionRetiredError):
        cancel(send, server.base_url)
    gc.collect()
    assert (seen(server), events) == ([], [])
