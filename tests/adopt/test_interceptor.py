"""The patches in this process: real libraries, real sockets, and other tools in the same place."""

from __future__ import annotations

import asyncio
import functools
import gzip
import http.client
import io
import json
import logging
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import httpcore
import httpx
import pytest
import requests
import responses
import respx
import urllib3
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor

from revenuebase_compat import (
    ApiDeprecationWarning,
    ApiVersionRetiredError,
    CancelEvent,
    Client,
    ConfigurationError,
    RouteReason,
    Settings,
    adopt,
)
from revenuebase_compat.adopt import interceptor, patching
from revenuebase_compat.adopt.libraries import bodies
from revenuebase_compat.client.memory import memory
from revenuebase_compat.core.decoding import MAX_BODY
from revenuebase_compat.testing.sandbox import Sandbox
from tests.support import AFTER, SUNSET
from tests.support.fault_server import (
    End,
    FaultServer,
    drop,
    gone,
    job_body,
    raw,
    redirect,
    respond,
)

KEY = "rb_test_sandbox"
CANCEL = "/v1/cancel-process"
STATUS = "/v1/batch-process-email-status"
GONE: dict[str, Any] = {"v1_sunset": "2000-01-01"}
ALIVE: dict[str, Any] = {"v1_sunset": "2999-01-01"}

HTTPX = [httpx]
if sys.version_info >= (3, 11):
    import httpx2

    HTTPX.append(httpx2)


class AttemptOutcome(NamedTuple):
    """What an application sees."""

    status: int
    url: str
    body: bytes
    headers: dict[str, str]

    def json(self) -> Any:
        return json.loads(self.body)


Send = Callable[..., AttemptOutcome]


def by_requests(method: str, url: str, body: Any, headers: dict[str, str]) -> AttemptOutcome:
    with requests.Session() as session:
        found = session.request(method, url, data=body, headers=headers, allow_redirects=False)
        return AttemptOutcome(found.status_code, found.url, found.content, dict(found.headers))


def by_urllib3(method: str, url: str, body: Any, headers: dict[str, str]) -> AttemptOutcome:
    with urllib3.PoolManager() as pool:
        found = pool.request(method, url, body=body, headers=headers, redirect=False)
        assert found.url is not None
        return AttemptOutcome(found.status, found.url, found.data, dict(found.headers))


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def by_urllib(method: str, url: str, body: Any, headers: dict[str, str]) -> AttemptOutcome:
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        found = urllib.request.build_opener(NoRedirect).open(request)
    except urllib.error.HTTPError as error:
        found = error
    with found:
        return AttemptOutcome(found.status, found.url, found.read(), dict(found.headers))


def by_http_client(method: str, url: str, body: Any, headers: dict[str, str]) -> AttemptOutcome:
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.netloc)) as connection:
        target = parts.path + ("?" + parts.query if parts.query else "")
        connection.request(method, target, body, headers)
        found = connection.getresponse()
        return AttemptOutcome(found.status, url, found.read(), dict(found.headers))


def by_httpx(library: Any) -> Send:
    def send(method: str, url: str, body: Any, headers: dict[str, str]) -> AttemptOutcome:
        with library.Client() as client:
            found = client.request(method, url, content=body, headers=headers)
            return AttemptOutcome(
                found.status_code, str(found.url), found.content, dict(found.headers)
            )

    return send


def by_async_httpx(library: Any) -> Send:
    async def send(method: str, url: str, body: Any, headers: dict[str, str]) -> AttemptOutcome:
        async with library.AsyncClient() as client:
            content = body if isinstance(body, bytes | str) or body is None else flowing(body)
            found = await client.request(method, url, content=content, headers=headers)
            return AttemptOutcome(
                found.status_code, str(found.url), found.content, dict(found.headers)
            )

    return lambda *args: asyncio.run(send(*args))


def by_aiohttp(method: str, url: str, body: Any, headers: dict[str, str]) -> AttemptOutcome:
    async def send() -> AttemptOutcome:
        async with aiohttp.ClientSession() as session:
            plain = body is None or isinstance(body, bytes | str) or hasattr(body, "read")
            data = body if plain else flowing(body)
            options = {"data": data, "headers": headers, "allow_redirects": False}
            async with session.request(method, url, **options) as found:
                return AttemptOutcome(
                    found.status, str(found.url), await found.read(), dict(found.headers)
                )

    return asyncio.run(send())


async def flowing(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


LIBRARIES: dict[str, Send] = {
    "requests": by_requests,
    "urllib3": by_urllib3,
    "urllib.request": by_urllib,
    "http.client": by_http_client,
    "aiohttp": by_aiohttp,
    **{library.__name__: by_httpx(library) for library in HTTPX},
    **{f"{library.__name__} async": by_async_httpx(library) for library in HTTPX},
}

every_library = pytest.mark.parametrize("send", LIBRARIES.values(), ids=LIBRARIES)

BODIES: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "chunks": lambda body: iter([body[:4], body[4:9], body[9:]]),
    "file": io.BytesIO,
}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = {(owner, name): vars(owner)[name] for owner, name in POINTS}
    yield
    adopt.uninstall()
    for (owner, name), original in before.items():
        assert vars(owner)[name] is original


POINTS: list[tuple[Any, str]] = [
    (httpcore.ConnectionPool, "handle_request"),
    (httpcore.AsyncConnectionPool, "handle_async_request"),
    (urllib3.HTTPConnectionPool, "urlopen"),
    (http.client.HTTPConnection, "request"),
    (aiohttp.ClientSession, "_request"),
]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(api_key=KEY, jobs=[42, 43], now=AFTER, sunset=SUNSET) as running:
        yield running


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def cancel(send: Send, base_url: str, process_id: object = 42, **headers: str) -> AttemptOutcome:
    body = json.dumps({"process_id": process_id}).encode()
    return send("POST", base_url + CANCEL, body, {**JSON, **headers})


JSON = {"x-key": KEY, "Content-Type": "application/json"}


def served(sandbox: Sandbox) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in sandbox.requests]


def seen(server: FaultServer) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in server.seen]


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


# --- left alone -------------------------------------------------------------------------------


class Recorder:
    """A server that keeps the very bytes of each request; one a connection."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.requests: list[bytes] = []
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.requests.append(self._read(connection))
                status, body = self._answers.pop(0) if self._answers else (200, b"{}")
                head = f"HTTP/1.1 {status} OK\r\nConnection: close\r\nContent-Length: {len(body)}"
                connection.sendall(head.encode() + b"\r\n\r\n" + body)

    @staticmethod
    def _read(connection: socket.socket) -> bytes:
        text = b""
        while True:
            head, found, body = text.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            chunked = re.search(rb"(?i)transfer-encoding: chunked", head)
            whole = len(body) >= int(length[1] if length else 0)
            if found and whole and (not chunked or body.endswith(b"0\r\n\r\n")):
                return text
            more = connection.recv(65536)
            assert more, "the client hung up"
            text += more


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
        assert warning.filename == __file__


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


# --- when something of ours fails -------------------------------------------------------------

BROKEN = {
    "v1 alone, and refused": (
        {"api_version": "v1", "after_sunset": "raise", **GONE},
        ApiVersionRetiredError,
    ),
}


@every_library
@pytest.mark.parametrize(("settings", "error"), BROKEN.values(), ids=BROKEN)
def test_before_a_request_is_sent_we_fail_open(
    send: Send,
    settings: dict[str, Any],
    error: type[Exception],
    server: FaultServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours = Settings(base_url=server.base_url, **settings)
    adopt.install(ours)
    assert cancel(send, server.base_url, 42).status == 200
    assert cancel(send, server.base_url, 43).status == 200
    assert seen(server) == [("POST", CANCEL)] * 2
    assert len(caplog.records) == 1
    adopt.install(ours, strict=True)
    with pytest.raises(error):
        cancel(send, server.base_url, 44)
    assert len(server.seen) == 2


def test_a_clock_that_fails_is_no_reason_not_to_send(
    server: FaultServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise OSError("x-key: " + KEY)

    adopt.install(Settings(base_url=server.base_url, **GONE))
    active: Any = interceptor.active
    monkeypatch.setattr(active, "context", active.context._replace(clock=broken))
    assert cancel(by_requests, server.base_url).status == 200
    assert requests.get(server.base_url + "/v1/credits", timeout=5).status_code == 404
    assert seen(server) == [("POST", CANCEL), ("GET", "/v1/credits")]
    assert "OSError" in caplog.text
    assert KEY not in caplog.text


def test_a_body_that_fails_fails_as_it_would_have(server: FaultServer) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"process_id"'
        raise LookupError("the application's own")

    def failure(send: Send) -> type[BaseException]:
        with pytest.raises((LookupError, aiohttp.ClientConnectionError), match="own") as caught:
            send("POST", server.base_url + CANCEL, body(), JSON)
        return caught.type

    bare = [failure(send) for send in LIBRARIES.values()]
    adopt.install(Settings(base_url=server.base_url, **GONE))
    assert [failure(send) for send in LIBRARIES.values()] == bare
    assert {one.version for one in server.seen} <= {"v1"}


def test_a_flag_that_is_not_there_is_refused_by_install(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **GONE))
    with pytest.raises(ConfigurationError, match="no_such_module:flag"):
        adopt.install(Settings(base_url=server.base_url, v2_flag="no_such_module:flag", **ALIVE))
    assert cancel(by_requests, server.base_url).status == 200
    assert seen(server) == [("POST", "/v2/jobs/42/cancel")]


def test_a_hook_that_fails_costs_nothing(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(_: CancelEvent) -> None:
        raise RuntimeError("in the hook")

    adopt.install(Settings(base_url=server.base_url, on_event=hook, **GONE), strict=True)
    assert cancel(by_requests, server.base_url).status == 200
    assert "in the hook" in caplog.text


def test_warnings_that_are_errors_are_the_users_wish(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **ALIVE))
    with pytest.raises(ApiDeprecationWarning):  # filterwarnings = error
        cancel(by_requests, server.base_url)
    assert server.seen == []


def test_a_key_is_neither_needed_nor_shown(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "revenuebase_compat")
    server.always(gone(), version="v1")
    adopt.install(Settings(base_url=server.base_url, **ALIVE), strict=True)
    with pytest.warns(ApiDeprecationWarning) as caught:
        assert cancel(by_httpx(httpx), server.base_url).status == 200
    assert [request.key for request in server.seen] == [KEY, KEY]
    assert KEY not in caplog.text + "".join(str(warning.message) for warning in caught)


# --- what is particular to a library ----------------------------------------------------------


def test_requests_as_integrations_write_it(sandbox: Sandbox) -> None:
    url = sandbox.base_url + CANCEL
    hooked: list[str] = []
    adopt.install(Settings(base_url=sandbox.base_url, **GONE), strict=True)
    # No content type at all: requests gives a text none.
    answer = requests.post(
        url,
        data=json.dumps({"process_id": 42}),
        headers={"x-key": KEY},
        verify=False,  # noqa: S501 (as integrations do)
        timeout=5,
        hooks={"response": lambda response, **_: hooked.append(response.url)},
    )
    assert answer.json()["process_id"] == 42
    assert hooked == [answer.url] == [url]
    assert answer.request.url == url
    assert answer.request.body == '{"process_id": 42}'
    streamed = requests.post(url, json={"process_id": 43}, headers=JSON, stream=True, timeout=5)
    assert json.loads(b"".join(streamed.iter_content(7)))["process_id"] == 43


def test_hooks_and_auth_of_httpx_see_v1(sandbox: Sandbox) -> None:
    url = sandbox.base_url + CANCEL
    seen: list[str] = []

    class Key(httpx.Auth):
        requires_response_body = True

        def auth_flow(
            self, request: httpx.Request
        ) -> Generator[httpx.Request, httpx.Response, None]:
            request.headers["x-key"] = KEY
            response = yield request
            seen.append(str(response.request.url))

    adopt.install(Settings(base_url=sandbox.base_url, **GONE), strict=True)
    hooks = {
        "request": [lambda request: seen.append(str(request.url))],
        "response": [lambda response: seen.append(str(response.url))],
    }
    with httpx.Client(event_hooks=hooks, auth=Key()) as client:
        assert client.post(url, json={"process_id": 42}).status_code == 200
    assert seen == [url] * 3
    assert served(sandbox) == [("POST", "/v2/jobs/42/cancel")]


def test_a_setting_that_asks_for_v1_is_told_that_it_is_migrated(sandbox: Sandbox) -> None:
    settings = Settings(base_url=sandbox.base_url, api_version="v1", **GONE)
    adopt.install(settings, strict=True)
    with pytest.warns(ApiDeprecationWarning, match="instead") as caught:
        assert cancel(by_requests, sandbox.base_url).status == 200
    assert [warning.filename for warning in caught] == [__file__]
    assert served(sandbox) == [("POST", "/v2/jobs/42/cancel")]


def test_a_stream_that_cannot_be_rewound(sandbox: Sandbox) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    adopt.install(Settings(base_url=sandbox.base_url, **GONE), strict=True)
    body = Pipe(b'{"process_id": 42}')
    with urllib3.PoolManager() as pool:
        answer = pool.request("POST", sandbox.base_url + CANCEL, body=body, headers=JSON)
    assert answer.status == 200
    with Recorder() as recorder:
        adopt.install(Settings(base_url=recorder.base_url, **GONE))
        for text in (io.StringIO("{}"), Pipe(b"{}")):
            by_http_client("POST", recorder.base_url + CANCEL, text, JSON)
        assert all(request.endswith(b"\r\n2\r\n{}\r\n0\r\n\r\n") for request in recorder.requests)


def test_urllib3_arguments_by_position_and_headers_of_the_pool(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    parts = urlsplit(server.base_url)
    body = iter([b'{"process_id": 42}'])
    with urllib3.HTTPConnectionPool(parts.hostname or "", parts.port, headers=JSON) as pool:
        given = ("POST", CANCEL, body, None, False, True, True, 5.0, None, False, True, None)
        answer = pool.urlopen(*given, preload_content=False)
        assert json.loads(answer.read())["process_id"] == 42
        answer.release_conn()
        assert pool.headers == JSON
        packed = gzip.compress(b'{"detail": [{"loc": ["path", "process_id"]}]}')
        server.script(respond(422, packed, headers={"Content-Encoding": "gzip"}))
        refused = pool.urlopen(
            "POST", CANCEL, b'{"process_id": 42}', preload_content=False, decode_content=False
        )
        assert b'["body","process_id"]' in gzip.decompress(refused.read())
    assert server.seen[0].headers["x-key"] == KEY
    assert "content-type" not in server.seen[0].headers
    assert "transfer-encoding" not in server.seen[0].headers


def test_httpcore_requests_stay_as_the_caller_made_them(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    content = b'{"process_id": 42}'
    headers = [*JSON.items(), ("Host", urlsplit(server.base_url).netloc), ("Content-Length", "18")]
    request = httpcore.Request("POST", server.base_url + CANCEL, headers=headers, content=content)
    with httpcore.ConnectionPool() as pool:
        statuses = []
        for _ in range(2):
            with closing(pool.handle_request(request=request)) as answer:
                answer.read()
            statuses.append(answer.status)
    assert statuses == [200, 400]
    assert request.url.target == CANCEL.encode()
    assert dict(request.headers)[b"Content-Type"] == b"application/json"
    assert b"".join(request.stream) == content  # type: ignore[arg-type]


def test_a_target_extension_does_not_hide_the_request(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    with httpx.Client() as client:
        answer = client.post(
            server.base_url,
            content=b'{"process_id": 42}',
            headers=JSON,
            extensions={"target": CANCEL.encode()},
        )
    assert answer.status_code == 200
    assert seen(server) == [("POST", "/v2/jobs/42/cancel")]


def test_http_client_over_one_connection(server: FaultServer) -> None:
    server.always(gone(), version="v1")
    adopt.install(Settings(base_url=server.base_url, **ALIVE), strict=True)
    body = b'{"process_id": 42}'
    with closing(http.client.HTTPConnection(urlsplit(server.base_url).netloc)) as connection:
        with pytest.warns(ApiDeprecationWarning):
            connection.request("POST", CANCEL, body, JSON)
        assert connection.getresponse().read()
        connection.request("POST", CANCEL, body, JSON)
        connection.close()  # an answer that nobody fetched
        connection.request("GET", "/v2/jobs/42", headers=JSON)
        assert json.loads(connection.getresponse().read())["current_status"] == "CANCELLING"
        assert "getresponse" not in vars(connection)
    for _ in range(500):  # the one that nobody fetched may be read last
        if len(server.seen) == 4:
            break
        time.sleep(0.01)
    assert [request.version for request in server.seen] == ["v1", "v2", "v2", "v2"]


def test_an_answer_that_nobody_fetched_is_nobody_elses(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **ALIVE), strict=True)
    with closing(http.client.HTTPConnection(urlsplit(server.base_url).netloc)) as connection:
        with pytest.warns(ApiDeprecationWarning):
            connection.request("POST", CANCEL, b'{"process_id": 42}', JSON)
        connection.close()
        server.script(gone(), route=None, version="v2")
        connection.request("GET", "/v2/jobs/42", headers=JSON)
        answer = connection.getresponse()
        answer.read()
    assert answer.status == 410
    assert {request.method for request in server.seen if request.version == "v2"} == {"GET"}


def test_a_tunnel_through_a_proxy(server: FaultServer) -> None:
    # One server plays both: the proxy, and what is behind it.
    established = b"HTTP/1.1 200 Connection established\r\n\r\n"
    server.script(raw("a tunnel", established, end=End.KEEP))
    adopt.install(Settings(base_url="http://127.0.0.1:1", **GONE), strict=True)
    with closing(http.client.HTTPConnection(urlsplit(server.base_url).netloc)) as connection:
        connection.set_tunnel("127.0.0.1", 1)
        connection.request("POST", CANCEL, b'{"process_id": 42}', JSON)
        assert json.loads(connection.getresponse().read())["process_id"] == 42
    assert seen(server) == [("CONNECT", "127.0.0.1:1"), ("POST", "/v2/jobs/42/cancel")]


def test_a_body_is_not_read_ahead_for_ever() -> None:
    taken: list[int] = []

    def endless() -> Iterator[bytes]:
        for number in range(1000):
            taken.append(number)
            yield b"%8192d" % number

    async def endless_async() -> AsyncIterator[bytes]:
        for chunk in endless():
            yield chunk

    async def main() -> None:
        start, replay = await bodies.read_ahead(endless(), asynchronous=False)
        assert len(taken) * 8192 == len(start) <= MAX_BODY + 8192
        assert b"".join(replay) == b"".join(endless())
        taken.clear()
        start, replay = await bodies.read_ahead(endless_async(), asynchronous=True)
        assert len(taken) * 8192 == len(start) <= MAX_BODY + 8192
        assert b"".join([chunk async for chunk in replay]) == b"".join(endless())

    asyncio.run(main())


def test_a_connection_that_is_refused(sandbox: Sandbox) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        events: list[CancelEvent] = []
        adopt.install(Settings(base_url=base_url, on_event=events.append, **GONE), strict=True)
        raised: dict[str, str] = {}
        for name, send in LIBRARIES.items():
            with pytest.raises(Exception, match=r"(?i)refused|failed|connect") as caught:
                cancel(send, base_url)
            raised[name] = type(caught.value).__name__
        adopt.uninstall()
        for name, send in LIBRARIES.items():
            with pytest.raises(Exception, match=r"(?i)refused|failed|connect") as caught:
                cancel(send, base_url)
            assert type(caught.value).__name__ == raised[name]
    assert len(events) == len(LIBRARIES)


def test_a_forward_proxy_sees_the_moved_request(server: FaultServer) -> None:
    # The proxy is the server itself: what counts is the absolute target.
    adopt.install(Settings(base_url="http://127.0.0.1:1", **GONE), strict=True)
    url = "http://127.0.0.1:1" + CANCEL
    proxies = {"http": server.base_url}
    requests.post(url, json={"process_id": 42}, headers=JSON, proxies=proxies, timeout=5)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(urllib.request.Request(url, b'{"process_id": 43}', JSON))
    caught.value.close()
    with httpx.Client(proxy=server.base_url) as client:
        client.post(url, json={"process_id": 44}, headers=JSON)
    targets = [f"http://127.0.0.1:1/v2/jobs/{job}/cancel" for job in (42, 43, 44)]
    assert [request.path for request in server.seen] == targets


@pytest.mark.parametrize("checks", [False, True])
def test_aiohttp_sessions_with_habits_of_their_own(checks: bool, server: FaultServer) -> None:
    server.script(gone(), version="v1")
    server.script(respond(200, job_body(42), headers={"Set-Cookie": "a=b"}), version="v2")
    parts = urlsplit(server.base_url)

    async def main() -> None:
        headers = {**JSON, "X-Session": "yes"}
        async with aiohttp.ClientSession(
            server.base_url, headers=headers, raise_for_status=checks
        ) as session:
            with pytest.warns(ApiDeprecationWarning):
                answer = await session.post(CANCEL, json={"process_id": 42}, params={"a": "b"})
            assert (await answer.json())["process_id"] == 42
            assert str(answer.url) == f"{server.base_url}{CANCEL}?a=b"
            assert answer.real_url == answer.url == answer.request_info.url
            assert answer.method == answer.request_info.method == "POST"
            assert answer.headers["Content-Type"] == "application/json"
            again = session.post(CANCEL, data=aiohttp.BytesPayload(b'{"process_id": 42}'))
            assert (await again).status == 200
            again = session.post(CANCEL, data=aiohttp.BytesPayload(b'{"process_id": 42}'))
            if checks:
                with pytest.raises(aiohttp.ClientResponseError) as caught:
                    await again
                assert caught.value.status == 400
                assert str(caught.value.request_info.url) == server.base_url + CANCEL
            else:
                assert (await again).status == 400
            assert session.headers["Content-Type"] == "application/json"
        async with aiohttp.ClientSession() as session:
            url = f"http://user:secret@{parts.netloc}{CANCEL}"

            async def check(response: aiohttp.ClientResponse) -> None:
                assert response.status == 200
                assert str(response.url) == server.base_url + CANCEL

            options: dict[str, Any] = {"compress": "gzip", "chunked": True, "expect100": True}
            async with session.post(
                url, data=b'{"process_id": 43}', headers=JSON, raise_for_status=check, **options
            ) as answer:
                assert answer.status == 200

    adopt.install(Settings(base_url=server.base_url, **ALIVE), strict=True)
    asyncio.run(main())
    first, moved, _, refused, last = server.seen
    assert first.path == CANCEL + "?a=b"
    assert (moved.path, refused.path) == ("/v2/jobs/42/cancel?a=b", "/v2/jobs/42/cancel")
    assert moved.headers["x-session"] == "yes"
    assert last.headers["authorization"].startswith("Basic ")
    for request in (moved, refused, last):
        assert not {"content-type", "transfer-encoding", "expect"} & set(request.headers)
        assert request.headers["content-length"] == "0"


def test_aiohttp_refuses_what_it_refused(server: FaultServer) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.InvalidURL):
                await session.post("no url " + urlsplit(server.base_url).netloc)
            with pytest.raises(TypeError):
                await session.post(server.base_url + CANCEL, json={"process_id": {1, 2}})
            with pytest.raises(ValueError, match="same time"):
                await session.post(server.base_url + CANCEL, json={}, data="{}")

    adopt.install(Settings(base_url=server.base_url, **GONE))
    asyncio.run(main())
    assert server.seen == []


def test_many_at_once(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)

    async def main() -> list[int]:
        async with httpx.AsyncClient() as client, aiohttp.ClientSession() as session:

            async def one(job: int) -> int:
                url, body = server.base_url + CANCEL, {"process_id": job}
                if job % 2:
                    return int(
                        (await client.post(url, json=body, headers=JSON)).json()["process_id"]
                    )
                async with session.post(url, json=body, headers=JSON) as answer:
                    return int((await answer.json())["process_id"])

            return await asyncio.gather(*map(one, range(1, 31)))

    assert asyncio.run(main()) == list(range(1, 31))
    assert sorted(server.applied) == list(range(1, 31))


# --- installing -------------------------------------------------------------------------------


def patched() -> list[bool]:
    return [hasattr(getattr(owner, name), patching.PATCH_MARK) for owner, name in POINTS]


def test_install_and_uninstall_may_be_repeated(server: FaultServer) -> None:
    originals = [getattr(owner, name) for owner, name in POINTS]
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    first = [getattr(owner, name) for owner, name in POINTS]
    adopt.install(Settings(base_url=server.base_url, **ALIVE), strict=True)
    assert [getattr(owner, name) for owner, name in POINTS] == first
    with pytest.warns(ApiDeprecationWarning):  # the settings are the second ones
        cancel(by_requests, server.base_url)
    adopt.uninstall()
    adopt.uninstall()
    assert [getattr(owner, name) for owner, name in POINTS] == originals
    assert cancel(by_requests, server.base_url).status == 400
    assert {request.version for request in server.seen} == {"v1"}


def test_settings_of_the_environment(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVENUEBASE_BASE_URL", server.base_url)
    monkeypatch.setenv("REVENUEBASE_V1_SUNSET", "2000-01-01")
    adopt.install(strict=True)
    cancel(by_requests, server.base_url)
    assert seen(server) == [("POST", "/v2/jobs/42/cancel")]


def test_broken_settings_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVENUEBASE_API_VERSION", "v3")
    with pytest.raises(ConfigurationError, match="api_version"):
        adopt.install()
    assert not any(patched())


def test_installing_from_many_threads() -> None:
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(20):
            adopt.install(Settings(**GONE))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(patched())
    adopt.uninstall()
    assert not any(patched())


LAZY = """
import sys
from revenuebase_compat import Settings, adopt

names = {"httpx", "httpcore", "httpx2", "httpcore2", "requests", "urllib3", "aiohttp"}
names |= {"http.client", "urllib.request", "revenuebase_sdk", "asyncio", "ssl"}
adopt.install(Settings(v1_sunset="2000-01-01"))
assert not names & set(sys.modules), names & set(sys.modules)

import importlib.util
for name in ("httpcore", "urllib3.connectionpool", "http.client", "aiohttp.client"):
    # Who only looks, sees a loader that has what the real one has.
    assert importlib.util.find_spec(name).loader.get_filename(name)
    module = importlib.import_module(name)
    kind = type(module.__loader__).__name__
    assert kind == "SourceFileLoader", kind
    assert module.__spec__.loader is module.__loader__
import httpcore, http.client, urllib3, aiohttp

points = [(httpcore.ConnectionPool, "handle_request"), (urllib3.HTTPConnectionPool, "urlopen"),
          (http.client.HTTPConnection, "request"), (aiohttp.ClientSession, "_request"),
          (httpcore.AsyncConnectionPool, "handle_async_request")]
wrappers = [getattr(owner, name) for owner, name in points]
assert {wrapper.__module__ for wrapper in wrappers} == {
    "httpcore._sync.connection_pool", "urllib3.connectionpool", "http.client", "aiohttp.client",
    "httpcore._async.connection_pool"}
assert [wrapper.__name__ for wrapper in wrappers] == [name for _, name in points]
adopt.uninstall()
assert not any(getattr(owner, name) is wrapper
               for (owner, name), wrapper in zip(points, wrappers, strict=True))
importlib.reload(http.client)
adopt.install(Settings(v1_sunset="2000-01-01"))
importlib.reload(http.client)
assert hasattr(http.client.HTTPConnection.request, "_revenuebase_compat")
"""


def test_nothing_is_imported_that_the_application_does_not_import() -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")


def test_a_finder_of_another_tool_is_asked_as_well(tmp_path: Any) -> None:
    (tmp_path / "aiohttp").mkdir()
    (tmp_path / "aiohttp" / "__init__.py").touch()
    (tmp_path / "aiohttp" / "client.py").write_text(
        "class ClientSession:\n    async def _request(self, method, str_or_url): ...\n"
    )
    program = f"""
        import sys
        from importlib.machinery import PathFinder
        from revenuebase_compat import Settings, adopt

        class Own:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name.partition(".")[0] == "aiohttp":
                    return PathFinder.find_spec(name, path or [{str(tmp_path)!r}], target)

        sys.meta_path.insert(0, Own)
        adopt.install(Settings())
        import aiohttp.client
        assert aiohttp.client.__file__.startswith({str(tmp_path)!r})
        assert hasattr(aiohttp.client.ClientSession._request, "_revenuebase_compat")
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_module_that_is_not_what_it_was_is_left_as_it_is(tmp_path: Any) -> None:
    # Neither a pool in the one, nor a distribution to the other.
    (tmp_path / "httpcore.py").write_text("pool = None\n")
    (tmp_path / "revenuebase_sdk.py").write_text("class RevenuebaseClient: ...\n")
    program = """
        import sys
        from revenuebase_compat import Settings, adopt

        adopt.install(Settings(), strict=len(sys.argv) > 1)
        import httpcore
        import revenuebase_sdk
        print(httpcore.pool, vars(revenuebase_sdk.RevenuebaseClient).get("v1"))
        """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environ = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stdout) == (0, "None None\n"), done.stderr
    assert "httpcore is left as it is" in done.stderr
    assert "revenuebase_sdk is left as it is" in done.stderr
    strict = subprocess.run([*command, "strict"], capture_output=True, text=True, env=environ)
    assert strict.returncode == 1
    assert "AttributeError" in strict.stderr


# --- beside other tools -----------------------------------------------------------------------


@contextmanager
def instrumented() -> Iterator[None]:
    tools: list[Any] = [HTTPXClientInstrumentor(), RequestsInstrumentor(), URLLib3Instrumentor()]
    for tool in tools:
        tool.instrument()
    try:
        yield
    finally:
        for tool in tools:
            tool.uninstrument()


def moves(server: FaultServer) -> bool:
    server.seen.clear()
    for send in (by_requests, by_urllib3, by_httpx(httpx), by_async_httpx(httpx)):
        assert cancel(send, server.base_url).status in (200, 400)
    return {request.path for request in server.seen} == {"/v2/jobs/42/cancel"}


def test_opentelemetry_before_us(server: FaultServer) -> None:
    settings = Settings(base_url=server.base_url, **GONE)
    with instrumented():
        adopt.install(settings, strict=True)
        assert moves(server)
        adopt.uninstall()
        assert hasattr(urllib3.HTTPConnectionPool.urlopen, "__wrapped__")  # theirs
        assert not moves(server)


def test_opentelemetry_after_us(server: FaultServer) -> None:
    settings = Settings(base_url=server.base_url, **GONE)
    adopt.install(settings, strict=True)
    with instrumented():
        assert moves(server)
        adopt.uninstall()  # below theirs, ours can only fall silent
        assert not moves(server)
        adopt.install(settings, strict=True)
        assert moves(server)
    assert moves(server)


def test_opentelemetry_leaves_first_and_last(server: FaultServer) -> None:
    settings = Settings(base_url=server.base_url, **GONE)
    before = urllib3.HTTPConnectionPool.urlopen
    tool = URLLib3Instrumentor()
    tool.instrument()
    adopt.install(settings, strict=True)
    tool.uninstrument()  # finds us on top, and must not take us away
    assert moves(server)
    adopt.uninstall()
    tool.instrument()
    tool.uninstrument()
    while urllib3.HTTPConnectionPool.urlopen is not before:
        wrapped = urllib3.HTTPConnectionPool.urlopen
        urllib3.HTTPConnectionPool.urlopen = wrapped.__wrapped__  # type: ignore


def test_a_tool_that_undoes_whatever_is_on_top(server: FaultServer) -> None:
    before = urllib3.HTTPConnectionPool.urlopen

    @functools.wraps(before)
    def theirs(*args: Any, **kw: Any) -> Any:
        return before(*args, **kw)

    urllib3.HTTPConnectionPool.urlopen = theirs  # type: ignore[method-assign]
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    top: Any = urllib3.HTTPConnectionPool.urlopen
    if hasattr(top, "__wrapped__"):
        urllib3.HTTPConnectionPool.urlopen = top.__wrapped__  # type: ignore[method-assign]
    assert cancel(by_urllib3, server.base_url).status == 200
    assert seen(server) == [("POST", "/v2/jobs/42/cancel")]
    adopt.uninstall()
    assert urllib3.HTTPConnectionPool.urlopen is theirs
    urllib3.HTTPConnectionPool.urlopen = before  # type: ignore[method-assign]


def test_two_threads_that_patched_the_same_twice() -> None:
    before = urllib3.HTTPConnectionPool.urlopen
    adopt.install(Settings(**GONE))
    first = urllib3.HTTPConnectionPool.urlopen
    delattr(first, patching.PATCH_MARK)  # as if neither had seen the other
    adopt.install(Settings(**GONE))
    assert urllib3.HTTPConnectionPool.urlopen is not first
    adopt.uninstall()
    assert urllib3.HTTPConnectionPool.urlopen is before


def test_a_wrapper_that_knows_no_manners(server: FaultServer) -> None:
    # It carries nothing of ours over, so that we cannot see ourselves below it.
    settings = Settings(base_url=server.base_url, v2_flag=lambda c: asked.append(1), **ALIVE)
    asked: list[int] = []
    adopt.install(settings, strict=True)
    ours = urllib3.HTTPConnectionPool.urlopen

    def urlopen(self: Any, *args: Any, **kw: Any) -> Any:
        return ours(self, *args, **kw)

    urllib3.HTTPConnectionPool.urlopen = urlopen  # type: ignore[method-assign]
    adopt.uninstall()
    adopt.install(settings, strict=True)
    with pytest.warns(ApiDeprecationWarning):
        cancel(by_requests, server.base_url)
    assert asked == [1]
    adopt.uninstall()
    assert urllib3.HTTPConnectionPool.urlopen is urlopen
    urllib3.HTTPConnectionPool.urlopen = ours  # type: ignore[method-assign]


@respx.mock
def test_respx_is_undisturbed() -> None:
    adopt.uninstall()
    url = "https://api.revenuebase.ai" + CANCEL
    respx.stop(clear=False)
    adopt.install(Settings(**GONE), strict=True)
    respx.start()
    route = respx.post(url).respond(json={"mocked": True})
    assert httpx.post(url, json={"process_id": 42}).json() == {"mocked": True}
    assert json.loads(route.calls.last.request.content) == {"process_id": 42}
    respx.stop()


@responses.activate
def test_responses_is_undisturbed() -> None:
    url = "https://api.revenuebase.ai" + CANCEL
    responses.post(url, json={"mocked": True})
    adopt.install(Settings(**GONE), strict=True)
    assert requests.post(url, json={"process_id": 42}, timeout=5).json() == {"mocked": True}
    assert responses.calls[0].request.body == b'{"process_id": 42}'


def test_pytest_httpx_is_undisturbed(httpx_mock: Any) -> None:
    url = "https://api.revenuebase.ai" + CANCEL
    httpx_mock.add_response(method="POST", url=url, json={"mocked": True})
    adopt.install(Settings(**GONE), strict=True)
    assert httpx.post(url, json={"process_id": 42}).json() == {"mocked": True}
    assert json.loads(httpx_mock.get_request().content) == {"process_id": 42}


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
