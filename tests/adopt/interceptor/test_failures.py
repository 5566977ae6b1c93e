"""Where something of ours fails, a request is sent as it was."""

from __future__ import annotations

import gc
import http.client
import logging
import socket
import threading
import warnings
from collections.abc import Iterator
from typing import Any
from weakref import ref

import aiohttp
import httpx
import pytest
import requests
import urllib3

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


def test_two_failures_at_once_keep_nothing_alive() -> None:
    """What an exception's frames hold, a look at it must not hold."""

    def fails(event: CancelEvent) -> None:
        raise LookupError

    def call() -> ref[Any]:
        connection = http.client.HTTPConnection("127.0.0.1:9")
        with pytest.raises(OSError, match="refused"):
            connection.request("POST", CANCEL, b'{"process_id": 42}', {"x-key": KEY})
        return ref(connection)

    adopt.install(Settings(base_url="http://127.0.0.1:9", on_event=fails, **GONE))
    call()
    gc.disable()
    try:
        assert call()() is None
    finally:
        gc.enable()


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


# --- what the event says of it ------------------------------------------------------------------


def hanging_up(times: int) -> tuple[str, threading.Thread]:
    """A server that reads so many requests, answers none, and then is no more."""
    listener = socket.create_server(("127.0.0.1", 0))
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def serve() -> None:
        with listener:
            for _ in range(times):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)

    thread = threading.Thread(target=serve)
    thread.start()
    return base_url, thread


@every_library
@pytest.mark.parametrize("alive", [GONE, ALIVE], ids=["moved", "left"])
def test_a_request_that_never_connected_is_no_unknown_outcome(
    send: Send, alive: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[CancelEvent] = []
    refused, thread = hanging_up(0)
    thread.join()
    nowhere = refused.replace("127.0.0.1", "localhost")  # which is looked up
    warnings.simplefilter("ignore", ApiDeprecationWarning)
    for base_url in (refused, nowhere):
        adopt.install(Settings(base_url=base_url, on_event=events.append, **alive))
        if base_url == nowhere:
            monkeypatch.setattr(socket, "getaddrinfo", no_name)
        with pytest.raises(Exception):  # noqa: B017, PT011 (each library has its own)
            cancel(send, base_url)
    assert [(one.attempts, one.unsent, one.outcome_unknown) for one in events] == [
        (1, 1, False)
    ] * 2


def no_name(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@every_library
def test_a_request_without_an_answer_is_one(send: Send) -> None:
    events: list[CancelEvent] = []
    base_url, thread = hanging_up(1)
    adopt.install(Settings(base_url=base_url, on_event=events.append, **GONE))
    try:
        raise ConnectionRefusedError("the caller's own, which is handled meanwhile")
    except ConnectionRefusedError:
        with pytest.raises(Exception):  # noqa: B017, PT011
            cancel(send, base_url)
    thread.join()
    assert [(one.attempts, one.unsent, one.outcome_unknown) for one in events] == [(1, 0, True)]


@pytest.mark.parametrize(("sent", "unknown"), [(0, False), (1, True)])
def test_of_what_urllib3_repeats_every_attempt_counts(sent: int, unknown: bool) -> None:
    """The one it fails with in the end was refused; one before that was sent."""
    events: list[CancelEvent] = []
    base_url, thread = hanging_up(sent)
    if not sent:
        thread.join()
    adopt.install(Settings(base_url=base_url, on_event=events.append, **GONE))
    policy = urllib3.Retry(2, allowed_methods=None, backoff_factor=0.1)
    with urllib3.PoolManager(retries=policy) as pool:
        with pytest.raises(urllib3.exceptions.MaxRetryError, match="refused"):
            pool.request("POST", base_url + CANCEL, body=b'{"process_id": 42}', headers=JSON)
    thread.join()
    [event] = events
    assert (event.unsent, event.outcome_unknown) == (int(not unknown), unknown)
