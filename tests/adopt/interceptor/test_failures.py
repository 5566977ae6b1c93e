"""Where something of ours fails, a request is sent as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import requests

from revenuebase_compat import (
    ApiDeprecationWarning,
    ApiVersionRetiredError,
    CancelEvent,
    ConfigurationError,
    Settings,
    adopt,
)
from revenuebase_compat.adopt import interceptor
from tests.adopt.interceptor.support import (
    ALIVE,
    CANCEL,
    GONE,
    JSON,
    KEY,
    LIBRARIES,
    Send,
    by_httpx,
    by_requests,
    cancel,
    every_library,
    seen,
)
from tests.support.fault_server import FaultServer, gone

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
        with pytest.raises((LookupError, aiohttp.ClientConnectionError)) as caught:
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
