"""How often a call is sent: as bare, or once where our method alone would have been repeated."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3
from urllib3.util.retry import Retry

from revenuebase_compat import Settings, adopt
from tests.support import thinned
from tests.support.raw_server import RawRequest, RawServer, reply

# Many short ones, whose siblings ``test_no_harm`` has among the quick tests.
pytestmark = pytest.mark.slow

GONE: dict[str, Any] = {"v1_sunset": "2000-01-01"}
ALIVE: dict[str, Any] = {"v1_sunset": "2999-01-01"}
HEADERS = {"x-key": "rb_test_repeats", "Content-Type": "application/json"}
BODY = b'{"process_id": 42}'

#: Each row by its methods, bare and moved.
ROWS = {
    "poll": ("POST", "/v1/batch-process-email-status", "GET"),
    "download": ("POST", "/v1/batch-download", "GET"),
    "cancel": ("POST", "/v1/cancel-process", "POST"),
    "verify": ("POST", "/v1/process-email", "POST"),
    "upload": ("POST", "/v1/batch-upload", "POST"),
    "credits": ("GET", "/v1/credits", "GET"),
    "rotate": ("GET", "/v1/new-api-key", "POST"),
}

Answer = Callable[[RawRequest, int], bytes | None]


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    logging.getLogger("urllib3").setLevel("ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    adopt.uninstall()


class LoggingRetry(Retry):
    """As public programs have it: an argument of its own, and a word on each repeat."""

    def __init__(self, *args: Any, said: list[str] | None = None, **kw: Any) -> None:
        self.said = [] if said is None else said
        super().__init__(*args, **kw)

    def new(self, **kw: Any) -> Any:
        return super().new(said=self.said, **kw)

    def increment(self, *args: Any, **kw: Any) -> Any:
        self.said.append("again")
        return super().increment(*args, **kw)


class Stubborn(Retry):
    """Repeats by rules of its own."""

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
        return method == "POST" and status_code == 503

    def get_backoff_time(self) -> float:
        return 0


class Anew(Retry):
    """Makes the next one without ``new``."""

    def increment(self, *args: Any, **kw: Any) -> Any:
        left = super().increment(*args, **kw)
        return type(self)(left.total, allowed_methods=None, status_forcelist=[503])


class Asking(Retry):
    """Asks the next one, which it is given by ``super``."""

    def increment(self, *args: Any, **kw: Any) -> Any:
        left = super().increment(*args, **kw)
        left.is_retry("POST", 503)
        return left


class Strict(Retry):
    """With a signature of its own."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: Any = None,
        error: Exception | None = None,
        _pool: Any = None,
        _stacktrace: Any = None,
    ) -> Any:
        return super().increment(method, url, response, error, _pool, _stacktrace)


FORCED: dict[str, Any] = {"status_forcelist": [429, 500, 503]}
POLICIES: dict[str, Callable[[], Any]] = {
    "default": lambda: None,
    "False": lambda: False,
    "3": lambda: 3,
    "0": lambda: Retry(0),
    "3 of all": lambda: Retry(3),
    "forced": lambda: Retry(3, **FORCED),
    "any method": lambda: Retry(3, allowed_methods=None, **FORCED),
    "GET alone": lambda: Retry(3, allowed_methods=["GET"], **FORCED),
    "POST alone": lambda: Retry(3, allowed_methods=["POST"], **FORCED),
    "GET and POST": lambda: Retry(3, allowed_methods={"GET", "POST"}, **FORCED),
    "no Retry-After": lambda: Retry(3, respect_retry_after_header=False, **FORCED),
    "two of each": lambda: Retry(None, connect=2, read=2, status=2, other=2, **FORCED),
    "no read": lambda: Retry(3, read=False, allowed_methods=None, **FORCED),
    "does not raise": lambda: Retry(2, raise_on_status=False, allowed_methods=None, **FORCED),
    "caller's class": lambda: LoggingRetry(3, said=[], **FORCED),
    "caller's class, any": lambda: LoggingRetry(3, allowed_methods=None, **FORCED),
    "caller's rules": lambda: Stubborn(3),
    "caller's making": lambda: Anew(3, allowed_methods=None, status_forcelist=[503]),
    "caller's asking": lambda: Asking(3, allowed_methods=None, status_forcelist=[503]),
    "caller's signature": lambda: Strict(3, allowed_methods=None, **FORCED),
}


def half_a_head(request: RawRequest, number: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-"


ANSWERS: dict[str, Answer] = {
    "200": lambda request, number: reply(200, {"credits": 1}),
    "429": lambda request, number: reply(429, {}, "Retry-After: 0"),
    "503": lambda request, number: reply(503, {}),
    "503 with Retry-After": lambda request, number: reply(503, {}, "Retry-After: 0"),
    "413 with Retry-After": lambda request, number: reply(413, {}, "Retry-After: 0"),
    "nothing": lambda request, number: None,
    "503 at first": lambda request, number: reply(503 if number == 1 else 200, {}),
}


def by_urllib3(url: str, method: str, policy: Any) -> Any:
    with urllib3.PoolManager() as pool:
        body = BODY if method == "POST" else None
        answer = pool.request(method, url, body=body, headers=HEADERS, retries=policy, timeout=5)
        return answer.status


def by_pool(url: str, method: str, policy: Any) -> Any:
    """A policy of the pool's, and the answer read late."""
    given = {} if policy is None else {"retries": policy}
    with urllib3.PoolManager(**given) as pool:
        body = BODY if method == "POST" else None
        answer = pool.request(
            method, url, body=body, headers=HEADERS, preload_content=False, timeout=5
        )
        answer.read()
        return answer.status


def by_requests(url: str, method: str, policy: Any) -> Any:
    with requests.Session() as session:
        if policy is not None and policy is not False:
            session.mount("http://", requests.adapters.HTTPAdapter(max_retries=policy))
        body = BODY if method == "POST" else None
        return session.request(method, url, data=body, headers=HEADERS, timeout=5).status_code


Send = Callable[[str, str, Any], Any]


def outcome(send: Send, server: RawServer, method: str, path: str, policy: str) -> tuple[Any, int]:
    """What the program saw, and how often it sent."""
    server.requests.clear()
    try:
        seen = send(server.url + path, method, POLICIES[policy]())
    except Exception as error:
        seen = type(error)
    return seen, len(server.requests)


SENDERS = [by_urllib3, by_pool, by_requests]

CASES = [
    pytest.param(*case, id="-".join([case[0].__name__, *case[1:]]))
    for case in thinned(SENDERS, ROWS, POLICIES, ANSWERS)
]


@pytest.mark.parametrize(("send", "row", "policy", "answer"), CASES)
def test_a_policy_repeats_what_it_would_have_repeated_by_both_methods(
    send: Send, row: str, policy: str, answer: str
) -> None:
    method, path, other = ROWS[row]
    with RawServer(ANSWERS[answer]) as server:
        bare = outcome(send, server, method, path, policy)
        twin = outcome(send, server, other, path, policy)
        adopt.install(Settings(base_url=server.url, **GONE))
        seen, sent = outcome(send, server, method, path, policy)
        assert not [line for line in server.lines if "/v1/" in line]
    assert sent == min(bare[1], twin[1])
    if sent == bare[1]:
        # A policy of no repeats wraps the error of a method that it would repeat, and of no other.
        assert seen in (bare[0], twin[0])


class Registered(Retry):
    """That keeps a register of its kinds, by a key that each is to have."""

    def __init_subclass__(cls, *, key: str) -> None:
        pass


class Frozen(Retry):
    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            raise AttributeError(name)
        super().__setattr__(name, value)


@pytest.mark.parametrize("kind", [Registered, Frozen])
@pytest.mark.parametrize("send", SENDERS)
def test_a_policy_of_which_no_other_can_be_made_is_no_reason_not_to_send(
    send: Send, kind: type[Retry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POLICIES, "its own", lambda: kind(2, redirect=1, raise_on_redirect=False))
    method, path, _ = ROWS["poll"]
    with RawServer(ANSWERS["200"]) as server:
        assert outcome(send, server, method, path, "its own") == (200, 1)
        adopt.install(Settings(base_url=server.url, **GONE))
        assert outcome(send, server, method, path, "its own") == (200, 1)
        assert server.lines == ["GET /v2/jobs/42"]


@pytest.mark.parametrize("answer", ["503 with Retry-After", "nothing", "503 at first", "200"])
def test_a_query_that_urllib3_encodes_is_known_again(answer: str) -> None:
    def send(url: str, method: str, policy: Any) -> Any:
        with urllib3.connectionpool.connection_from_url(url, timeout=5) as pool:
            path = url[url.index("/v1/") :] + "?for=night run#end"
            got: Any = pool.urlopen(method, path, BODY, HEADERS, retries=policy)
            return got.status, got.geturl(), [one.url for one in got.retries.history]

    method, path, _ = ROWS["poll"]
    with RawServer(ANSWERS[answer]) as server:
        bare = outcome(send, server, method, path, "caller's class")
        adopt.install(Settings(base_url=server.url, **GONE))
        assert outcome(send, server, method, path, "caller's class") == bare
        assert server.lines[0] == "GET /v2/jobs/42?for=night%20run"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("row", ["poll", "cancel", "download"])
@pytest.mark.parametrize("send", SENDERS)
def test_a_policy_that_repeats_410_does_not_hide_the_end_of_v1(
    send: Send, row: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORCED, "status_forcelist", [410, 429, 500, 503])
    method, path, _ = ROWS[row]

    def answer(request: RawRequest, number: int) -> bytes:
        return reply(410 if " /v1/" in request.line else 200, {})

    with RawServer(answer) as server:
        adopt.install(Settings(base_url=server.url, **ALIVE))
        seen, sent = outcome(send, server, method, path, policy)
        assert (seen, sent) == (200, 2), server.lines
        # It is remembered, so that the next one goes there at once.
        assert outcome(send, server, method, path, policy) == (200, 1)


@pytest.mark.parametrize("send", [by_urllib3, by_requests])
def test_a_policy_is_left_as_it_was(send: Send) -> None:
    """It may be shared by sessions, and by what has nothing to do with v1."""
    shared = LoggingRetry(
        2, said=[], allowed_methods=None, status_forcelist=[503], backoff_factor=0
    )
    before = (type(shared), dict(vars(shared)))
    with RawServer(ANSWERS["503"]) as server:
        adopt.install(Settings(base_url=server.url, **GONE))
        for path in ("/v1/batch-process-email-status", "/elsewhere"):
            server.requests.clear()
            with pytest.raises((urllib3.exceptions.MaxRetryError, requests.exceptions.RetryError)):
                send(server.url + path, "POST", shared)
            assert len(server.requests) == 3
    assert (type(shared), dict(vars(shared))) == before
    assert shared.said == ["again"] * 6


# --- a kept connection that the server closes ---------------------------------------------------


Calls = Generator[Any, None, None]


def kept_by_requests(url: str, method: str) -> Calls:
    with requests.Session() as session:
        while True:
            body = BODY if method == "POST" else None
            yield session.request(method, url, data=body, headers=HEADERS, timeout=5).status_code


def kept_by_urllib3(url: str, method: str) -> Calls:
    with urllib3.PoolManager() as pool:
        while True:
            body = BODY if method == "POST" else None
            yield pool.request(method, url, body=body, headers=HEADERS, timeout=5).status


def kept_by_httpx(url: str, method: str) -> Calls:
    with httpx.Client(headers=HEADERS, timeout=5) as client:
        while True:
            yield client.request(method, url, content=BODY if method == "POST" else None)


def kept_by_http_client(url: str, method: str) -> Calls:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=5)
    try:
        while True:
            body = BODY if method == "POST" else None
            connection.request(method, url[url.index("/v1") :], body, HEADERS)
            with connection.getresponse() as answer:
                answer.read()
            yield answer.status
    finally:
        connection.close()


def kept_by_httpx_async(url: str, method: str) -> Calls:
    with closing(asyncio.new_event_loop()) as loop:
        client = httpx.AsyncClient(headers=HEADERS, timeout=5)
        try:
            while True:
                content = BODY if method == "POST" else None
                yield loop.run_until_complete(client.request(method, url, content=content))
        finally:
            loop.run_until_complete(client.aclose())


def kept_by_aiohttp(url: str, method: str) -> Calls:
    async def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers=HEADERS)

    async def send() -> int:
        async with session.request(method, url, data=BODY if method == "POST" else None) as answer:
            await answer.read()
            return int(answer.status)

    with closing(asyncio.new_event_loop()) as loop:
        session = loop.run_until_complete(make())
        try:
            while True:
                yield loop.run_until_complete(send())
        finally:
            loop.run_until_complete(session.close())


KEPT = {
    "requests": kept_by_requests,
    "urllib3": kept_by_urllib3,
    "httpx": kept_by_httpx,
    "httpx async": kept_by_httpx_async,
    "http.client": kept_by_http_client,
    "aiohttp": kept_by_aiohttp,
}
ENDS: dict[str, Answer] = {
    "closes": lambda request, number: reply() if number == 1 else None,
    "cuts its head": lambda request, number: reply() if number == 1 else b"HTTP/1.1 200 OK\r\nX",
}


def over_a_kept_connection(library: str, server: RawServer, method: str, path: str) -> Any:
    """The second call's fate, and how often that one was sent."""
    server.requests.clear()
    calls = KEPT[library](server.url + path, method)
    try:
        next(calls)
        first = len(server.requests)
        try:
            next(calls)
            seen: Any = "an answer"
        except Exception as error:
            seen = type(error)
        return seen, len(server.requests) - first
    finally:
        calls.close()


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("library", KEPT)
def test_a_kept_connection_that_dies_repeats_no_more_than_bare(library: str, row: str) -> None:
    method, path, other = ROWS[row]
    with RawServer(ENDS["closes"]) as server:
        bare = over_a_kept_connection(library, server, method, path)
        twin = over_a_kept_connection(library, server, other, path)
        adopt.install(Settings(base_url=server.url, **GONE))
        moved = over_a_kept_connection(library, server, method, path)
    assert moved[1] == min(bare[1], twin[1])
    if bare[1] == twin[1]:
        assert moved == bare


def test_an_adapter_of_requests_that_repeats_by_hand_is_its_own_business() -> None:
    """A loop of the caller's is not a repeat of the library's: each call is decided on."""

    class Persistent(requests.adapters.HTTPAdapter):
        def send(self, *args: Any, **kw: Any) -> Any:
            for _ in range(3):
                answer = super().send(*args, **kw)
                if answer.status_code < 500:
                    break
            return answer

    with RawServer(ANSWERS["503"]) as server:
        adopt.install(Settings(base_url=server.url, **GONE))
        with requests.Session() as session:
            session.mount("http://", Persistent())
            url = server.url + "/v1/batch-process-email-status"
            answer = session.post(url, json=json.loads(BODY), timeout=5)
        assert answer.status_code == 503
        assert server.lines == ["GET /v2/jobs/42"] * 3
