"""Beside other tools that wrap the same functions."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    by_async_httpx,
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
