"""Beside other tools that wrap the same functions."""

from __future__ import annotations

import functools
import http.client
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, get_type_hints
from unittest.mock import MagicMock, Mock, patch

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

from revenuebase_compat import ApiDeprecationWarning, Settings, adopt
from revenuebase_compat.adopt import patching
from tests.adopt.interceptor.support import (
    ALIVE,
    CANCEL,
    GONE,
    Send,
    by_aiohttp,
    by_async_httpx,
    by_http_client,
    by_httpx,
    by_requests,
    by_urllib3,
    cancel,
    seen,
)
from tests.support.fault_server import FaultServer

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
    assert urllib3.HTTPConnectionPool.urlopen not in (before, first)
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


POINTS: list[tuple[Any, str, Send]] = [
    (http.client.HTTPConnection, "request", by_http_client),
    (urllib3.HTTPConnectionPool, "urlopen", by_urllib3),
    (httpcore.ConnectionPool, "handle_request", by_httpx(httpx)),
    (httpcore.AsyncConnectionPool, "handle_async_request", by_async_httpx(httpx)),
    (aiohttp.ClientSession, "_request", by_aiohttp),
]


NOWHERE = "http://127.0.0.1:9"


class Taken(Exception):
    """By a test's double, which saw the request."""


class Double:
    """As it is called on the class: bare, and so without the object."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def __call__(self, *args: Any, **kw: Any) -> Any:
        self.given.append(repr((args, kw, [getattr(one, "url", None) for one in args])))
        raise Taken

    def function(self) -> Any:
        return lambda *args, **kw: self(*args, **kw)


@pytest.mark.parametrize(("owner", "name", "send"), POINTS)
@pytest.mark.parametrize("settings", [GONE, ALIVE])
def test_what_is_laid_over_ours_sees_v1_whatever_is_imported_later(
    owner: Any, name: str, send: Send, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    double = Double()
    adopt.install(Settings(base_url=NOWHERE, **settings), strict=True)
    monkeypatch.setattr(owner, name, double.function())
    adopt.install(Settings(base_url=NOWHERE, **settings), strict=True)
    sys.modules.pop("this_is_looked_for", None)
    with pytest.raises(ImportError):
        import_module("this_is_looked_for")
    with pytest.raises(Taken):
        cancel(send, NOWHERE)
    [given] = double.given
    assert "/v1/cancel-process" in given


@pytest.mark.parametrize(("owner", "name", "send"), POINTS[:4])
def test_a_double_that_is_no_function_is_called_as_bare(
    owner: Any, name: str, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    for double in (Double(), functools.partial(Double())):
        monkeypatch.setattr(owner, name, double)
        adopt.install(Settings(**GONE), strict=True)
        assert vars(owner)[name] is double
    monkeypatch.undo()
    adopt.install(Settings(**GONE), strict=True)
    assert hasattr(vars(owner)[name], patching.PATCH_MARK)


@pytest.mark.parametrize(("owner", "name", "send"), POINTS)
def test_a_double_that_was_there_first_sees_what_is_sent(owner: Any, name: str, send: Send) -> None:
    """In one test after the other, each of which installs us, and takes us back."""
    for _ in range(2):
        with pytest.MonkeyPatch.context() as monkeypatch:
            double = Double()
            monkeypatch.setattr(owner, name, double.function())
            adopt.install(Settings(base_url=NOWHERE, **GONE), strict=True)
            with pytest.raises(Taken):
                cancel(send, NOWHERE)
            assert "/v2/jobs/42/cancel" in double.given[0]
        adopt.uninstall()


class Fake:
    @staticmethod
    def static(*args: Any, **kw: Any) -> Any:
        raise Taken

    def method(self, *args: Any, **kw: Any) -> Any:
        raise Taken


@pytest.mark.parametrize(("owner", "name", "send"), POINTS)
@pytest.mark.parametrize("double", [staticmethod(Fake.static), Fake().method])
def test_a_double_that_is_not_given_the_object(
    owner: Any, name: str, send: Send, double: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, double)
    adopt.install(Settings(base_url=NOWHERE, **GONE), strict=True)
    with pytest.raises(Taken):
        cancel(send, NOWHERE)
    assert vars(owner)[name] is double


class Counting:
    """A decorator that is a class, as of a program's metrics."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *args: Any, **kw: Any) -> Any:
        self.calls += 1
        return self.function(*args, **kw)

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else functools.partial(self, instance)


def test_a_decorator_that_is_a_class_is_no_double(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(urllib3.HTTPConnectionPool.urlopen)
    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", counting)
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    assert cancel(by_urllib3, server.base_url).status == 200
    assert (seen(server), counting.calls) == ([("POST", "/v2/jobs/42/cancel")], 1)
    adopt.uninstall()


@pytest.mark.parametrize(
    "how", [{"new_callable": Mock}, {"new_callable": MagicMock}, {"autospec": True}]
)
def test_install_within_a_mock(how: dict[str, Any]) -> None:
    adopt.uninstall()
    with patch.object(urllib3.HTTPConnectionPool, "urlopen", **how):
        adopt.install(Settings(**GONE))
        with pytest.raises(ImportError):
            import_module("this_is_looked_for")
    with pytest.raises(ImportError):
        import_module("this_is_looked_for")
    assert getattr(urllib3.HTTPConnectionPool.urlopen, patching.PATCH_MARK) is True


def test_install_within_a_mock_of_respx() -> None:
    """As an application's factory does it, in one test after the other."""
    adopt.uninstall()
    for _ in range(3):
        with respx.mock:
            adopt.install(Settings(**GONE))
            route = respx.post("https://api.revenuebase.ai" + CANCEL).respond(json={})
            assert httpx.post("https://api.revenuebase.ai" + CANCEL, json={}).status_code == 200
            assert route.called
        with pytest.raises(ImportError):
            import_module("this_is_looked_for")
        assert hasattr(httpcore.ConnectionPool.handle_request, patching.PATCH_MARK)
    adopt.uninstall()


@pytest.mark.parametrize("kind", [Mock, MagicMock])
def test_an_answer_of_a_mock_of_urllib3s_inside_is_handed_on(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = kind(status=200, headers={})
    double.get_redirect_location.return_value = False
    monkeypatch.setattr(urllib3.HTTPConnectionPool, "_make_request", lambda *_, **__: double)
    adopt.install(Settings(**GONE), strict=True)
    pool = urllib3.HTTPSConnectionPool("api.revenuebase.ai")
    body = '{"process_id": 42}'
    answer = pool.urlopen("POST", CANCEL, body, preload_content=False, release_conn=False)
    assert answer is double


@pytest.mark.parametrize(("owner", "name"), [point[:2] for point in POINTS[:4]])
def test_annotations_are_found_as_bare(owner: Any, name: str) -> None:
    adopt.uninstall()
    bare = get_type_hints(getattr(owner, name))
    adopt.install(Settings(**GONE), strict=True)
    assert get_type_hints(getattr(owner, name)) == bare


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
