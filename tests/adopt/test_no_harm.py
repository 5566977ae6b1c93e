"""What a program's own library would not have done, it does not do under us either."""

from __future__ import annotations

import asyncio
import functools
import gzip
import http.client
import io
import json
import signal
import threading
import time
import urllib.request
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3
from aiohttp import payload
from urllib3.util.retry import Retry

from revenuebase_compat import Settings, adopt
from tests.support.raw_server import RawRequest, RawServer, reply

GONE: dict[str, Any] = {"v1_sunset": "2000-01-01"}
ALIVE: dict[str, Any] = {"v1_sunset": "2999-01-01"}
CANCEL, STATUS = "/v1/cancel-process", "/v1/batch-process-email-status"
KEY = {"x-key": "rb_test_no_harm"}

Answer = Callable[[RawRequest, int], bytes | None]


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    yield
    adopt.uninstall()


def by_requests(url: str, job: int) -> int:
    return requests.post(url, json={"process_id": job}, headers=KEY, timeout=10).status_code


def by_httpx(url: str, job: int) -> int:
    return httpx.post(url, json={"process_id": job}, headers=KEY).status_code


def by_urllib3(url: str, job: int) -> int:
    with urllib3.PoolManager() as pool:
        return pool.request("POST", url, json={"process_id": job}, headers=KEY).status


def by_http_client(url: str, job: int) -> int:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=10)
    connection.request("POST", url[url.index("/v1") :], json.dumps({"process_id": job}), KEY)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def by_urllib(url: str, job: int) -> int:
    data = json.dumps({"process_id": job}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, KEY), timeout=10) as response:
        return int(response.status)


def by_aiohttp(url: str, job: int) -> int:
    async def send() -> int:
        async with aiohttp.ClientSession() as session:
            async with session.post(url, json={"process_id": job}, headers=KEY) as response:
                return response.status

    return asyncio.run(send())


SYNC = {
    "requests": by_requests,
    "httpx": by_httpx,
    "urllib3": by_urllib3,
    "http.client": by_http_client,
    "urllib.request": by_urllib,
}


# --- a request inside another -----------------------------------------------------------------


@pytest.mark.parametrize("outer", SYNC)
@pytest.mark.parametrize("inner", SYNC)
def test_a_request_of_a_signal_handler_moves(outer: str, inner: str) -> None:
    got: list[int] = []
    main = threading.get_ident()

    def answer(request: RawRequest, number: int) -> bytes:
        if request.line == "GET /v2/jobs/42":
            time.sleep(0.02)  # until that thread waits: what comes before does not wake it
            signal.pthread_kill(main, signal.SIGUSR1)
            arrived.wait(10)  # until the handler's request is through
        elif request.line == "POST /v2/jobs/7/cancel":
            arrived.set()
        return reply()

    arrived = threading.Event()
    with RawServer(answer) as server:
        adopt.install(Settings(base_url=server.url, **GONE))
        before = signal.signal(
            signal.SIGUSR1, lambda *_: got.append(SYNC[inner](server.url + CANCEL, 7))
        )
        try:
            assert SYNC[outer](server.url + STATUS, 42) == 200
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert got == [200]
    assert sorted(server.lines) == ["GET /v2/jobs/42", "POST /v2/jobs/7/cancel"]


def test_requests_of_hooks_middlewares_and_tasks_born_in_them_move() -> None:
    async def main(url: str) -> list[int]:
        tasks: list[asyncio.Task[int]] = []

        async def cancel(job: int) -> int:
            async with other.post(url + CANCEL, json={"process_id": job}) as response:
                return response.status

        async def on_start(session: Any, context: Any, parameters: Any) -> None:
            if not tasks:
                tasks.append(asyncio.create_task(cancel(1)))

        async def middleware(request: Any, handler: Any) -> Any:
            got.append(await cancel(2))
            return await handler(request)

        got: list[int] = []
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(on_start)
        options: dict[str, Any] = {"trace_configs": [trace]}
        if "middlewares" in aiohttp.ClientSession.__init__.__annotations__:  # from 3.12 on
            options["middlewares"] = (middleware,)
        async with aiohttp.ClientSession() as other, aiohttp.ClientSession(**options) as session:
            if "middlewares" not in options:
                got.append(await cancel(2))
            async with session.post(url + STATUS, json={"process_id": 42}) as response:
                got.append(response.status)
            return [*got, *[await task for task in tasks]]

    with RawServer(lambda request, number: reply()) as server:
        adopt.install(Settings(base_url=server.url, **GONE))
        assert set(asyncio.run(main(server.url))) == {200}
        moved = ["GET /v2/jobs/42", "POST /v2/jobs/1/cancel", "POST /v2/jobs/2/cancel"]
        assert sorted(server.lines) == moved
        server.requests.clear()

        def hook(request: httpx.Request) -> None:
            by_requests(server.url + CANCEL, 3)

        def on_response(*_: object, **__: object) -> None:
            by_httpx(server.url + CANCEL, 4)

        with httpx.Client(event_hooks={"request": [hook]}) as client:
            client.post(server.url + STATUS, json={"process_id": 42})
        requests.post(
            server.url + STATUS,
            json={"process_id": 43},
            hooks={"response": on_response},
            timeout=10,
        )
    assert sorted(server.lines) == [
        *("GET /v2/jobs/42", "GET /v2/jobs/43"),
        *("POST /v2/jobs/3/cancel", "POST /v2/jobs/4/cancel"),
    ]


# --- repeats ----------------------------------------------------------------------------------


def hangs_up(request: RawRequest, number: int) -> None:
    return None


POLICIES: dict[str, tuple[dict[str, Any], Answer]] = {
    "429 with Retry-After": (
        {"total": 3},
        lambda request, number: reply(429, {}, "Retry-After: 0"),
    ),
    "503, any method": (
        {"total": 3, "allowed_methods": None, "status_forcelist": [503]},
        lambda request, number: reply(503, {}),
    ),
    "503, GET alone": (
        {"total": 3, "allowed_methods": ["GET"], "status_forcelist": [503]},
        lambda request, number: reply(503, {}),
    ),
    "503, POST alone": (
        {"total": 3, "allowed_methods": ["POST"], "status_forcelist": [503]},
        lambda request, number: reply(503, {}),
    ),
    "no answer": ({"total": 3}, hangs_up),
    "no answer, any method": ({"total": 3, "allowed_methods": None}, hangs_up),
}


def attempts(path: str, options: dict[str, Any], answer: Answer, through: str) -> int:
    """How many requests one call comes to."""

    class OwnRetry(Retry):
        """As a caller may have made it."""

    with RawServer(answer) as server:
        if path:
            adopt.install(Settings(base_url=server.url, **GONE))
        url = server.url + (path or STATUS)
        try:
            if through == "urllib3":
                with urllib3.PoolManager(retries=OwnRetry(**options)) as pool:
                    pool.request("POST", url, json={"process_id": 42})
            else:
                with requests.Session() as session:
                    adapter = requests.adapters.HTTPAdapter(max_retries=OwnRetry(**options))
                    session.mount("http://", adapter)
                    session.post(url, json={"process_id": 42}, timeout=10)
        except (urllib3.exceptions.HTTPError, requests.RequestException):
            pass
        return len(server.requests)


@pytest.mark.parametrize("through", ["urllib3", "requests"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_moved_poll_is_repeated_only_where_both_methods_would_have_been(
    policy: str, through: str
) -> None:
    options, answer = POLICIES[policy]
    bare = attempts("", options, answer, through)
    moved = attempts(STATUS, options, answer, through)
    # As the bare POST; but where POST alone is repeated, the GET that is sent is not.
    assert moved == (1 if policy == "503, POST alone" else bare)


def test_a_history_of_repeats_shows_the_callers_own_request() -> None:
    answers = iter([reply(503, {}), reply()])
    with RawServer(lambda request, number: next(answers)) as server:
        adopt.install(Settings(base_url=server.url, **GONE))
        policy = Retry(3, allowed_methods=None, status_forcelist=[503])
        with urllib3.PoolManager(retries=policy) as pool:
            response = pool.request("POST", server.url + STATUS, json={"process_id": 42})
    assert response.retries is not None
    assert type(response.retries) is Retry
    assert [(one.method, one.url) for one in response.retries.history] == [("POST", STATUS)]


@pytest.mark.parametrize("through", ["urllib3", "requests"])
def test_a_policy_that_repeats_a_410_does_not_hide_the_end_of_v1(through: str) -> None:
    def answer(request: RawRequest, number: int) -> bytes:
        return reply(410, {}) if "/v1/" in request.line else reply()

    with RawServer(answer) as server:
        adopt.install(Settings(base_url=server.url, **ALIVE))
        policy = Retry(3, status_forcelist=[410], allowed_methods=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if through == "urllib3":
                with urllib3.PoolManager(retries=policy) as pool:
                    status = pool.request(
                        "POST", server.url + CANCEL, json={"process_id": 1}
                    ).status
            else:
                with requests.Session() as session:
                    session.mount("http://", requests.adapters.HTTPAdapter(max_retries=policy))
                    status = session.post(server.url + CANCEL, json={"process_id": 1}).status_code
    assert status == 200
    assert server.lines == [f"POST {CANCEL}", "POST /v2/jobs/1/cancel"]


@pytest.mark.parametrize(
    ("path", "pinned"),
    [("/v1/batch-process-email", {}), (CANCEL, {"api_version": "v1", "after_sunset": "try"})],
)
def test_where_v1_is_not_followed_the_policy_has_its_way(path: str, pinned: dict[str, Any]) -> None:
    with RawServer(lambda request, number: reply(410, {})) as server:
        adopt.install(Settings(base_url=server.url, **ALIVE, **pinned))
        policy = Retry(2, status_forcelist=[410], allowed_methods=None)
        with urllib3.PoolManager(retries=policy) as pool, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(urllib3.exceptions.MaxRetryError):
                pool.request("POST", server.url + path, json={"process_id": 1})
    assert server.lines == [f"POST {path}"] * 3


@pytest.mark.skipif(
    "_retry_connection" not in aiohttp.ClientSession.ATTRS, reason="from aiohttp 3.11 on"
)
def test_aiohttp_does_not_repeat_a_moved_poll_whose_kept_connection_died() -> None:
    async def main(url: str) -> type[BaseException] | None:
        async with aiohttp.ClientSession() as session:
            async with session.post(url + STATUS, json={"process_id": 1}) as response:
                await response.read()
            try:
                await session.post(url + STATUS, json={"process_id": 2})
            except aiohttp.ClientError as error:
                return type(error)
        return None

    with RawServer(lambda request, number: reply() if number == 1 else None) as server:
        bare = asyncio.run(main(server.url))
        sent = len(server.requests)
        adopt.install(Settings(base_url=server.url, **GONE))
        assert asyncio.run(main(server.url)) is bare is aiohttp.ServerDisconnectedError
    assert len(server.requests) == 2 * sent == 4


# --- what is left to v1 -----------------------------------------------------------------------


def chunks() -> Iterator[bytes]:
    yield b'{"process_id"'
    yield b": null}"


async def async_chunks() -> AsyncIterator[bytes]:
    for chunk in chunks():
        yield chunk


class Unseekable(io.RawIOBase):
    """A pipe's kind of file."""

    def __init__(self) -> None:
        self._rest = b'{"process_id": null}'

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        taken, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


ZIPPED = gzip.compress(b'{"process_id": null}', mtime=0)
NAMELESS = b'{"process_id": null}'

BODIES: dict[str, Callable[[], dict[str, Any]]] = {
    "json": lambda: {"json": {"process_id": None}},
    "bytes": lambda: {"data": NAMELESS},
    "text": lambda: {"data": NAMELESS.decode()},
    "form": lambda: {"data": {"process_id": "x"}},
    "chunks": lambda: {"data": chunks()},
    "file": lambda: {"data": io.BytesIO(NAMELESS)},
    "pipe": lambda: {"data": Unseekable()},
    "gzip": lambda: {"data": ZIPPED, "headers": {**KEY, "Content-Encoding": "gzip"}},
    "nothing": dict,
}
AIOHTTP_BODIES: dict[str, Callable[[], dict[str, Any]]] = {
    **{name: BODIES[name] for name in ("json", "bytes", "text", "form", "file", "gzip", "nothing")},
    "async chunks": lambda: {"data": async_chunks()},
    "JsonPayload": lambda: {"data": payload.JsonPayload({"process_id": "x"})},
    "BytesPayload": lambda: {"data": payload.BytesPayload(NAMELESS, content_type="text/x")},
    "StringPayload": lambda: {"data": payload.StringPayload("{}", headers={"x-own": "1"})},
    "BytesIOPayload": lambda: {"data": payload.BytesIOPayload(io.BytesIO(NAMELESS))},
    "AsyncIterablePayload": lambda: {"data": payload.AsyncIterablePayload(async_chunks())},
}


async def by_session(url: str, body: Callable[[], dict[str, Any]], **options: Any) -> None:
    async with aiohttp.ClientSession(**options) as session:
        async with session.post(url, **{"headers": KEY, **body()}) as response:
            await response.read()


def send_requests(url: str, body: Callable[[], dict[str, Any]]) -> None:
    requests.post(url, timeout=10, **{"headers": KEY, **body()})


def send_httpx(url: str, body: Callable[[], dict[str, Any]]) -> None:
    options = body()
    if not isinstance(options.get("data"), dict | None):
        options["content"] = options.pop("data")
    httpx.post(url, **{"headers": KEY, **options})


def send_urllib3(url: str, body: Callable[[], dict[str, Any]]) -> None:
    options = body()
    if isinstance(options.get("data"), dict):
        options["fields"] = options.pop("data")
        options["encode_multipart"] = False
    elif "data" in options:
        options["body"] = options.pop("data")
    with urllib3.PoolManager() as pool:
        pool.request("POST", url, **{"headers": KEY, **options})


def same_bytes(send: Callable[[str], object]) -> None:
    """A program sends the same bare and under us, before the sunset and after it."""
    with RawServer(lambda request, number: reply(422, {})) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        send(server.url + CANCEL)
        for settings in (GONE, ALIVE):
            adopt.install(Settings(base_url=server.url, **settings))
            send(server.url + CANCEL)
    bare, *ours = server.requests
    assert ours == [bare, bare]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("send", [send_requests, send_httpx, send_urllib3])
def test_what_is_left_to_v1_leaves_byte_for_byte(send: Any, body: str) -> None:
    same_bytes(functools.partial(send, body=BODIES[body]))


@pytest.mark.parametrize("body", AIOHTTP_BODIES)
def test_what_aiohttp_leaves_to_v1_leaves_byte_for_byte(body: str) -> None:
    same_bytes(lambda url: asyncio.run(by_session(url, AIOHTTP_BODIES[body])))


def test_aiohttp_with_a_serialiser_of_its_own_sends_what_that_one_makes() -> None:
    options: dict[str, Any] = {"json_serialize": lambda data: '{"process_id": null}'}
    if "_json_serialize_bytes" in aiohttp.ClientSession.ATTRS:  # from 3.14 on
        options = {"json_serialize_bytes": lambda data: b'{"process_id": null}'}
    same_bytes(lambda url: asyncio.run(by_session(url, lambda: {"json": {1, 2}}, **options)))


def test_aiohttp_refuses_two_bodies_as_bare() -> None:
    job = {"process_id": 42}
    with RawServer(lambda request, number: reply()) as server:
        adopt.install(Settings(base_url=server.url, **GONE))
        with pytest.raises(ValueError, match="data and json"):
            asyncio.run(by_session(server.url + CANCEL, lambda: {"json": job, "data": job}))
    assert server.requests == []


def test_answers_stay_readable_when_uninstalled_meanwhile() -> None:
    with RawServer(lambda request, number: reply(200, b"x" * 100_000)) as server:
        adopt.install(Settings(base_url=server.url, **GONE))
        url, job = server.url + "/v1/batch-download", {"process_id": 1}
        with httpx.stream("POST", url, json=job) as by_stream:
            raw = requests.post(url, json=job, stream=True, timeout=10)
            opened = urllib.request.Request(url, json.dumps(job).encode())
            with urllib.request.urlopen(opened, timeout=10) as plain:
                adopt.uninstall()
                assert len(by_stream.read()) == len(raw.content) == len(plain.read()) == 100_000
    assert set(server.lines) == {"GET /v2/jobs/1/download"}
