"""The gateway over real sockets: what it moves, what it lets pass, and how it ends."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from revenuebase_compat import CancelEvent, ConfigurationError, RouteContext, RouteReason, Settings
from revenuebase_compat.adopt.gateway import Gateway
from revenuebase_compat.adopt.gateway import server as gateway_module
from revenuebase_compat.adopt.gateway import Server, listen
from revenuebase_compat.client.memory import memory
from revenuebase_compat.testing.sandbox import Sandbox
from tests.conftest import TEST_KEY
from tests.support import AFTER, BEFORE, FakeTime
from tests.support import fault_server as faults
from tests.support.fault_server import FaultServer

KEY = {"x-key": TEST_KEY}
CANCEL = "/v1/cancel-process"
STATUS = "/v1/batch-process-email-status"
MIB = 1024 * 1024


# --- the gateway under test -------------------------------------------------------------------


class Switch(Gateway):
    """One server for all tests, as starting and stopping uvicorn takes a third of a second."""

    current: Gateway
    loop: asyncio.AbstractEventLoop

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.current(scope, receive, send)

    @contextmanager
    def to(self, gateway: Gateway) -> Iterator[None]:
        self.current = gateway
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(gateway.aclose(), self.loop).result(10)


class Running:
    """A gateway's address, and clients for it."""

    def __init__(self, switch: Switch, port: int) -> None:
        self.switch = switch
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"

    @contextmanager
    def front(
        self, upstream: str, settings: Settings | None = None, *, now: Any = AFTER
    ) -> Iterator[httpx.Client]:
        """A client of a gateway in front of that upstream."""
        fake = now if isinstance(now, FakeTime) else FakeTime(now)
        gateway = Gateway(
            settings or Settings(), upstream, clock=fake.clock, monotonic=fake.monotonic
        )
        with (
            self.switch.to(gateway),
            httpx.Client(base_url=self.base_url, headers=KEY, timeout=10) as client,
        ):
            yield client

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def raw(self, request: bytes) -> bytes:
        """What comes back, until the connection closes."""
        with self.connect() as sock:
            sock.sendall(request)
            return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    switch = Switch(Settings())
    sock = listen("https://api.example", "127.0.0.1", 0)
    port = sock.getsockname()[1]
    ready = threading.Event()

    def take_requests() -> None:
        switch.loop = asyncio.get_running_loop()
        ready.set()

    server = Server(switch, take_requests)
    thread = threading.Thread(target=asyncio.run, args=(server.run_on(sock),))
    thread.start()
    assert ready.wait(10)
    yield Running(switch, port)
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def sandbox_service() -> Iterator[Sandbox]:
    with Sandbox() as service:
        yield service


@pytest.fixture
def sandbox(sandbox_service: Sandbox) -> Sandbox:
    sandbox_service.now = AFTER
    sandbox_service.jobs.clear()
    sandbox_service.requests.clear()
    for process_id in range(1, 101):
        sandbox_service.add_job(process_id)
    return sandbox_service


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


# --- a small raw upstream ---------------------------------------------------------------------


class Connection:
    """An upstream's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader: BufferedReader = sock.makefile("rb")

    def head(self) -> bytes:
        """The next request's head; empty where the gateway hung up."""
        return b"".join(iter(self.reader.readline, b"\r\n")) if self.reader.peek(1) else b""

    def chunk(self) -> bytes:
        size = int(self.reader.readline(), 16)
        data = self.reader.read(size)
        self.reader.readline()
        return data

    def body(self, head: bytes) -> bytes:
        if b"transfer-encoding: chunked" in head.lower():
            return b"".join(iter(self.chunk, b""))
        length = re.search(rb"(?i)content-length: (\d+)", head)
        return self.reader.read(int(length[1])) if length else b""

    def ended(self) -> bool:
        """Whether the gateway closes the connection within a few seconds."""
        with suppress(ConnectionResetError):
            return self.reader.read(1) == b""
        return True


class Upstream:
    """Calls ``handle`` for each connection; what it records is in ``heads`` and ``bodies``."""

    def __init__(self, handle: Callable[[Connection], object] | bytes) -> None:
        self.handle = handle
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.failures: list[BaseException] = []

    def __enter__(self) -> Upstream:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        self.listener.close()
        assert self.failures == []

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(10)
        connection = Connection(sock)
        try:
            if isinstance(self.handle, bytes):
                while head := connection.head():
                    self.heads.append(head)
                    self.bodies.append(connection.body(head))
                    sock.sendall(self.handle)
            else:
                self.handle(connection)
        except BaseException as error:  # asserted on when the test ends
            self.failures.append(error)
        finally:
            connection.reader.close()
            sock.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def fields(head: bytes) -> list[bytes]:
    """The header lines of a head, in order."""
    return head.rstrip(b"\r\n").split(b"\r\n")[1:]


def wait_for(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.001)


# --- v1 requests that move --------------------------------------------------------------------


def test_a_cancel_of_v1_arrives_as_one_of_v2(running: Running, sandbox: Sandbox) -> None:
    with running.front(sandbox.base_url) as client:
        answer = client.post(CANCEL, json={"process_id": 42})

    assert answer.status_code == 200
    assert answer.json() == {
        "process_id": 42,
        "filename": "job-42.csv",
        "current_status": "CANCELLING",
        "message": "Job is being cancelled.",
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


# --- a rehearsal, and what is never sent twice ------------------------------------------------


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


# --- translated back down ---------------------------------------------------------------------

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


# --- what goes to v1 untouched ----------------------------------------------------------------


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


# --- everything else passes -------------------------------------------------------------------


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
            b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
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


def test_no_answer_waits_for_an_acknowledgement(running: Running, server: FaultServer) -> None:
    """Nagle's algorithm and delayed acknowledgements, together, would cost 40 ms each."""
    took: list[float] = []
    with running.front(server.base_url) as client:
        for _ in range(15):
            started = time.perf_counter()
            client.post(STATUS, json={"process_id": 1})
            took.append(time.perf_counter() - started)
    assert sorted(took)[7] < 0.035


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


# --- streaming --------------------------------------------------------------------------------


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


# --- when something goes wrong ----------------------------------------------------------------


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
                b'POST /v1/cancel-process HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"proc'
            )
        assert client.get("/-/healthz").status_code == 200
    assert server.connections == 0
    assert quiet(caplog)


# --- events, logs, and the key ----------------------------------------------------------------


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


# --- how it starts and ends -------------------------------------------------------------------


@contextmanager
def gateway_process(
    upstream: str, timeout: float = 60, host: str = "127.0.0.1"
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``serve()`` in a process of its own, and its base URL."""
    program = f"""
        import threading
        from revenuebase_compat import Settings
        from revenuebase_compat.adopt.gateway import serve
        serve(
            Settings(timeout={timeout}), upstream={upstream!r}, host={host!r}, port=0,
            on_ready=lambda url: print(url, flush=True),
        )
        print(threading.active_count())
    """
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


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
