"""A request that is made inside another, wherever a library or we call the program back: it moves.

Each test sends a poll, whose callback cancels job 7; both must reach v2, once.
"""

from __future__ import annotations

import asyncio
import contextvars
import http.client
import json
import logging
import signal
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3

from revenuebase_compat import CancelEvent, RouteContext, Settings, adopt
from tests.programs.senders import ASYNCHRONOUS, CANCEL, HEADERS, SENDERS, STATUS
from tests.support.raw_server import RawRequest, RawServer, reply

GONE: dict[str, Any] = {"v1_sunset": "2000-01-01"}
ALIVE: dict[str, Any] = {"v1_sunset": "2999-01-01"}
POLL = b'{"process_id": 42}'
BOTH = ["GET /v2/jobs/42", "POST /v2/jobs/7/cancel"]
SYNC = [name for name in SENDERS if name not in ASYNCHRONOUS]

inner_library = pytest.mark.parametrize("inner", SYNC)
outer_library = pytest.mark.parametrize("outer", SENDERS)


class Program:
    """The server, and what a callback does: it cancels job 7, the first time it is called."""

    def __init__(self, server: RawServer) -> None:
        self.server = server
        self.url = server.url
        self.cancelled: list[int] = []
        self._begun = False

    def cancel(self, library: str = "requests") -> None:
        if not self._begun:
            self._begun = True
            self.cancelled.append(SENDERS[library](self.url + CANCEL, 7))

    async def cancel_async(self) -> None:
        if not self._begun:
            self._begun = True
            async with aiohttp.ClientSession(headers=HEADERS) as session:
                url = self.url + CANCEL
                async with session.post(url, json={"process_id": 7}) as answer:
                    self.cancelled.append(answer.status)

    @property
    def lines(self) -> list[str]:
        assert self.cancelled == [200]
        return sorted(self.server.lines)


@pytest.fixture
def program() -> Iterator[Program]:
    with RawServer(lambda request, number: reply()) as server:
        adopt.install(Settings(base_url=server.url, **GONE))
        try:
            yield Program(server)
        finally:
            adopt.uninstall()


# --- signal handlers ----------------------------------------------------------------------------


@pytest.fixture
def handling() -> Iterator[Callable[[Callable[[], object]], None]]:
    before = signal.getsignal(signal.SIGTERM)

    def handle(work: Callable[[], object]) -> None:
        signal.signal(signal.SIGTERM, lambda *_: work())

    yield handle
    signal.signal(signal.SIGTERM, before)


def striking(line: str) -> tuple[RawServer, threading.Event]:
    """A server that answers that request once another has come, for which it sends SIGTERM."""
    arrived, main = threading.Event(), threading.get_ident()

    def answer(request: RawRequest, number: int) -> bytes:
        if request.line == line:
            time.sleep(0.02)  # until that thread waits: what comes before does not wake it
            signal.pthread_kill(main, signal.SIGTERM)
            arrived.wait(10)
        else:
            arrived.set()
        return reply()

    return RawServer(answer), arrived


@outer_library
@inner_library
def test_a_signal_handler_cancels_while_a_poll_is_in_flight(
    outer: str, inner: str, handling: Any
) -> None:
    server, arrived = striking(BOTH[0])
    with server:
        adopt.install(Settings(base_url=server.url, **GONE))
        program = Program(server)
        handling(lambda: program.cancel(inner))
        try:
            assert SENDERS[outer](server.url + STATUS, 42) == 200
        finally:
            adopt.uninstall()
    assert arrived.is_set()
    assert program.lines == BOTH


@outer_library
def test_a_signal_handler_cancels_while_a_poll_is_left_to_v1(outer: str, handling: Any) -> None:
    server, arrived = striking(f"POST {STATUS}")
    with server:
        adopt.install(
            Settings(base_url=server.url, v2_flag=lambda seen: seen.process_id == 7, **ALIVE)
        )
        program = Program(server)
        handling(program.cancel)
        try:
            assert SENDERS[outer](server.url + STATUS, 42) == 200
        finally:
            adopt.uninstall()
    assert arrived.is_set()
    assert program.lines == [f"POST {STATUS}", BOTH[1]]


@pytest.mark.parametrize("way", ["signal.signal", "add_signal_handler"])
def test_a_task_of_a_signal_handler_cancels_while_a_poll_is_in_flight(
    way: str, handling: Any
) -> None:
    server, arrived = striking(BOTH[0])

    async def main(program: Program) -> None:
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []

        def begin() -> None:
            tasks.append(loop.create_task(program.cancel_async()))

        if way == "add_signal_handler":
            loop.add_signal_handler(signal.SIGTERM, begin)
        else:
            handling(lambda: loop.call_soon_threadsafe(begin))
        async with aiohttp.ClientSession(headers=HEADERS) as session:
            async with session.post(program.url + STATUS, data=POLL) as answer:
                assert answer.status == 200
        for task in tasks:
            await task

    with server:
        adopt.install(Settings(base_url=server.url, **GONE))
        program = Program(server)
        try:
            asyncio.run(main(program))
        finally:
            adopt.uninstall()
    assert arrived.is_set()
    assert program.lines == BOTH


def test_a_handler_that_raises_leaves_nothing_marked(program: Program, handling: Any) -> None:
    """Neither a time limit that ends a poll, nor what is sent after it, stays with v1."""

    class TimeLimitError(Exception):
        pass

    def limit() -> None:
        raise TimeLimitError

    def answer(request: RawRequest, number: int) -> bytes:
        if request.line == BOTH[0]:
            time.sleep(0.02)  # until that thread waits: what comes before does not wake it
            signal.pthread_kill(main, signal.SIGTERM)
            raised.wait(10)
        return reply()

    raised, main = threading.Event(), threading.get_ident()
    handling(limit)
    with RawServer(answer) as server:
        adopt.install(Settings(base_url=server.url, **GONE))
        for outer in SYNC:
            raised.clear()
            try:
                with pytest.raises(TimeLimitError):
                    SENDERS[outer](server.url + STATUS, 42)
            finally:
                raised.set()
            assert SENDERS[outer](server.url + CANCEL, 7) == 200
        assert set(server.lines) == set(BOTH)


# --- callbacks of the libraries -----------------------------------------------------------------

TRACES = ["on_request_start", "on_request_end", "on_response_chunk_received"]
TRACES += ["on_connection_create_start", "on_connection_create_end", "on_request_headers_sent"]


@pytest.mark.parametrize("born", ["awaited", "task", "thread"])
@pytest.mark.parametrize("hook", TRACES)
def test_a_trace_hook_of_aiohttp(program: Program, hook: str, born: str) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def traced(*_: object) -> None:
        if born == "awaited":
            await program.cancel_async()
        elif born == "task":
            tasks.append(asyncio.create_task(program.cancel_async()))
        else:
            await asyncio.to_thread(program.cancel)

    async def main() -> None:
        trace = aiohttp.TraceConfig()
        getattr(trace, hook).append(traced)
        async with aiohttp.ClientSession(trace_configs=[trace], headers=HEADERS) as session:
            async with session.post(program.url + STATUS, data=POLL) as answer:
                await answer.read()
        for task in tasks:
            await task

    asyncio.run(main())
    assert program.lines == BOTH


def test_a_task_born_in_a_hook_moves_what_it_sends_much_later(program: Program) -> None:
    async def main() -> None:
        released = asyncio.Event()
        tasks: list[asyncio.Task[None]] = []

        async def later() -> None:
            await released.wait()
            await program.cancel_async()

        async def traced(*_: object) -> None:
            tasks.append(asyncio.create_task(later()))

        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(traced)
        async with aiohttp.ClientSession(trace_configs=[trace], headers=HEADERS) as session:
            async with session.post(program.url + STATUS, data=POLL) as answer:
                await answer.read()
        assert program.server.lines == BOTH[:1]
        released.set()
        await tasks[0]

    asyncio.run(main())
    assert program.lines == BOTH


@pytest.mark.skipif("_middlewares" not in aiohttp.ClientSession.ATTRS, reason="from 3.12 on")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_middleware_of_aiohttp(program: Program, when: str) -> None:
    async def middleware(request: Any, handler: Any) -> Any:
        if when == "before":
            await program.cancel_async()
        answer = await handler(request)
        if when == "after":
            await program.cancel_async()
        return answer

    async def main() -> None:
        async with aiohttp.ClientSession(middlewares=(middleware,), headers=HEADERS) as session:
            async with session.post(program.url + STATUS, data=POLL) as answer:
                await answer.read()

    asyncio.run(main())
    assert program.lines == BOTH


@pytest.mark.parametrize("event", ["request", "response"])
@inner_library
def test_an_event_hook_of_httpx(program: Program, event: str, inner: str) -> None:
    hooks: Any = {event: [lambda _: program.cancel(inner)]}
    with httpx.Client(event_hooks=hooks, headers=HEADERS) as client:
        assert client.post(program.url + STATUS, content=POLL).status_code == 200
    assert program.lines == BOTH


class Auth(httpx.Auth):
    """Asks for something before the request, as for a token; by the client itself, too."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def sync_auth_flow(self, request: httpx.Request) -> Any:
        yield self.first()
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> Any:
        yield self.first()
        yield request

    def first(self) -> httpx.Request:
        url = self._program.url + CANCEL
        return httpx.Request("POST", url, json={"process_id": 7}, headers=HEADERS)


def test_an_auth_flow_of_httpx_that_sends_by_the_client(program: Program) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(auth=Auth(program)) as client:
            assert (await client.post(program.url + STATUS, content=POLL)).status_code == 200

    with httpx.Client(auth=Auth(program)) as client:
        assert client.post(program.url + STATUS, content=POLL).status_code == 200
    asyncio.run(main())
    assert program.server.lines == [BOTH[1], BOTH[0]] * 2


@pytest.mark.parametrize("part", ["connection", "http11.send", "http11.receive", "response_closed"])
@inner_library
def test_a_trace_extension_of_httpcore(program: Program, part: str, inner: str) -> None:
    def trace(name: str, _: object) -> None:
        if part in name:
            program.cancel(inner)

    with httpx.Client(headers=HEADERS) as client:
        url = program.url + STATUS
        assert client.post(url, content=POLL, extensions={"trace": trace}).status_code == 200
    assert program.lines == BOTH


def test_a_trace_extension_of_httpcore_async(program: Program) -> None:
    async def trace(name: str, _: object) -> None:
        await program.cancel_async()

    async def main() -> None:
        async with httpx.AsyncClient(headers=HEADERS) as client:
            url = program.url + STATUS
            answer = await client.post(url, content=POLL, extensions={"trace": trace})
            assert answer.status_code == 200

    asyncio.run(main())
    assert program.lines == BOTH


@inner_library
def test_a_response_hook_of_requests(program: Program, inner: str) -> None:
    hooks: Any = {"response": lambda *_, **__: program.cancel(inner)}
    url = program.url + STATUS
    assert requests.post(url, data=POLL, headers=HEADERS, hooks=hooks, timeout=9).status_code == 200
    assert program.lines == BOTH


@inner_library
def test_an_adapter_and_an_auth_of_requests(program: Program, inner: str) -> None:
    class Adapter(requests.adapters.HTTPAdapter):
        def get_connection_with_tls_context(self, *args: Any, **kw: Any) -> Any:
            program.cancel(inner)
            return super().get_connection_with_tls_context(*args, **kw)

    with requests.Session() as session:
        session.mount("http://", Adapter())
        url = program.url + STATUS
        assert session.post(url, data=POLL, headers=HEADERS, timeout=9).status_code == 200
    assert program.lines == BOTH


def test_a_pool_of_urllib3_that_sends_while_it_connects(program: Program) -> None:
    class Pool(urllib3.HTTPConnectionPool):
        def _new_conn(self) -> Any:
            program.cancel("urllib3")
            return super()._new_conn()

    with Pool("127.0.0.1", program.server.port) as pool:
        assert pool.request("POST", STATUS, body=POLL, headers=HEADERS).status == 200
    assert program.lines == BOTH


def test_a_processor_of_urllib(program: Program) -> None:
    class Processor(urllib.request.BaseHandler):
        def http_response(self, _: Any, response: Any) -> Any:
            program.cancel("urllib.request")
            return response

    request = urllib.request.Request(program.url + STATUS, POLL, HEADERS)
    with urllib.request.build_opener(Processor).open(request, timeout=9) as answer:
        assert answer.status == 200
    assert program.lines == BOTH


def test_a_second_connection_between_request_and_answer(program: Program) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", program.server.port, timeout=9)
    connection.request("POST", STATUS, POLL, HEADERS)
    program.cancel("http.client")
    assert connection.getresponse().status == 200
    connection.close()
    assert program.lines == BOTH


# --- bodies that send while they are read -------------------------------------------------------


@inner_library
@pytest.mark.parametrize("outer", ["requests", "urllib3", "urllib.request", "httpx", "http.client"])
def test_a_body_that_sends_while_it_is_read(program: Program, outer: str, inner: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield POLL[:5]
        program.cancel(inner)
        yield POLL[5:]

    url = program.url + STATUS
    if outer == "requests":
        assert requests.post(url, data=chunks(), headers=HEADERS, timeout=9).status_code == 200
    elif outer == "httpx":
        assert httpx.post(url, content=chunks(), headers=HEADERS).status_code == 200
    elif outer == "urllib3":
        with urllib3.PoolManager() as pool:
            assert pool.request("POST", url, body=chunks(), headers=HEADERS).status == 200
    elif outer == "urllib.request":
        request = urllib.request.Request(url, chunks(), HEADERS, method="POST")
        with urllib.request.urlopen(request, timeout=9) as answer:
            assert answer.status == 200
    else:
        connection = http.client.HTTPConnection("127.0.0.1", program.server.port, timeout=9)
        connection.request("POST", STATUS, chunks(), HEADERS)
        assert connection.getresponse().status == 200
        connection.close()
    assert program.lines == BOTH


def test_an_async_body_that_sends_while_it_is_read(program: Program) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield POLL[:5]
        await program.cancel_async()
        yield POLL[5:]

    async def main() -> None:
        async with aiohttp.ClientSession(headers=HEADERS) as session:
            async with session.post(program.url + STATUS, data=chunks()) as answer:
                assert answer.status == 200

    asyncio.run(main())
    assert program.lines == BOTH


# --- callbacks of ours --------------------------------------------------------------------------


@outer_library
def test_a_flag_that_asks_by_http(outer: str) -> None:
    """A flag's own service is none of v1, and is asked by the library that waits for the answer."""

    def flag(seen: RouteContext) -> bool:
        asked.append(requests.get(server.url + "/flags", timeout=9).status_code)
        return True

    asked: list[int] = []
    with RawServer(lambda request, number: reply()) as server:
        adopt.install(Settings(base_url=server.url, v2_flag=flag, **ALIVE))
        try:
            assert SENDERS[outer](server.url + CANCEL, 7) == 200
        finally:
            adopt.uninstall()
    assert asked == [200]
    assert server.lines == ["GET /flags", BOTH[1]]


@outer_library
def test_an_event_listener_that_sends(outer: str) -> None:
    def heard(event: CancelEvent) -> None:
        events.append(event.process_id)
        if event.process_id == 1:
            SENDERS["httpx"](server.url + CANCEL, 7)

    events: list[int] = []
    with RawServer(lambda request, number: reply()) as server:
        adopt.install(Settings(base_url=server.url, on_event=heard, **GONE))
        try:
            assert SENDERS[outer](server.url + CANCEL, 1) == 200
        finally:
            adopt.uninstall()
    assert events == [1, 7]
    assert server.lines == ["POST /v2/jobs/1/cancel", BOTH[1]]


@outer_library
def test_a_log_handler_that_sends_v1_requests(outer: str) -> None:
    """As collectors of logs do by HTTP; our own words reach it, too, and are not said for ever."""

    class Sending(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            handled.append(record.getMessage())
            SENDERS["urllib.request"](server.url + CANCEL, 7)

    handled: list[str] = []
    handler, logger = Sending("INFO"), logging.getLogger("revenuebase_compat")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel("INFO")
    with RawServer(lambda request, number: reply()) as server:
        adopt.install(Settings(base_url=server.url, **GONE))
        try:
            assert SENDERS[outer](server.url + STATUS, 42) == 200
        finally:
            adopt.uninstall()
            logger.removeHandler(handler)
            logger.setLevel(level)
    assert 1 <= len(handled) <= 5, handled
    assert sorted(server.lines) == [BOTH[0], *[BOTH[1]] * len(handled)]


@inner_library
def test_a_context_that_was_copied_inside_a_call(program: Program, inner: str) -> None:
    contexts: list[contextvars.Context] = []
    hooks: Any = {"request": [lambda _: contexts.append(contextvars.copy_context())]}
    with httpx.Client(event_hooks=hooks, headers=HEADERS) as client:
        assert client.post(program.url + STATUS, json=json.loads(POLL)).status_code == 200
    [context] = contexts
    context.run(program.cancel, inner)
    assert program.lines == BOTH
