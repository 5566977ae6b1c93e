"""What cannot be set up names its variable, holds no password, and has sent nothing."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from revenuebase_compat import (
    AsyncClient,
    CancelEvent,
    CancelResult,
    CancelTimeoutError,
    Client,
    ConfigurationError,
    Settings,
    TransportError,
)
from tests.conftest import TEST_KEY
from tests.core.test_errors import everything_shown

PASSWORD = "pa/ss@x-proxy-secret"


def call_sync(given: Settings) -> CancelResult:
    with Client(given, random=lambda: 0.001) as client:
        return client.cancel_job(42)


def call_async(given: Settings) -> CancelResult:
    async def main() -> CancelResult:
        async with AsyncClient(given, random=lambda: 0.001) as client:
            return await client.cancel_job(42)

    return asyncio.run(main())


Call = Callable[[Settings], CancelResult]
DRIVERS = pytest.mark.parametrize(
    "call", [pytest.param(call_sync, id="sync"), pytest.param(call_async, id="async")]
)


def settings(**more: Any) -> Settings:
    options = {"base_url": "https://api.example.test", "api_version": "v2", "timeout": 5, **more}
    return Settings(TEST_KEY, **options)


@DRIVERS
@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SSL_CERT_FILE", "/nonexistent", "SSL_CERT_FILE '/nonexistent' cannot be used"),
        ("SSL_CERT_FILE", __file__, "SSL_CERT_FILE"),
        ("ALL_PROXY", "socks5://127.0.0.1:1", "ALL_PROXY cannot be used.*socksio"),
        ("HTTPS_PROXY", "gopher://127.0.0.1:1", "HTTPS_PROXY cannot be used: give http://"),
        ("https_proxy", "http://127.0.0.1:port", "https_proxy cannot be used"),
        ("HTTPS_PROXY", f"http://user:{PASSWORD}@127.0.0.1:1", "HTTPS_PROXY cannot be used"),
        ("NO_PROXY", "fe80::/10", "NO_PROXY cannot be used: give host names and addresses"),
    ],
)
def test_setup_error_names_its_variable(
    call: Call, variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable == "ALL_PROXY":
        monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    if variable == "NO_PROXY":
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    events: list[CancelEvent] = []
    with pytest.raises(ConfigurationError, match=words) as caught:
        call(settings(on_event=events.append))
    shown = everything_shown(caught.value)
    assert PASSWORD not in shown
    assert "proxy-secret" not in shown
    assert not isinstance(caught.value.__context__, LookupError), "a matter of our own"
    assert (caught.value.attempts, caught.value.outcome_unknown) == (0, False)
    (event,) = events
    assert (event.outcome, event.attempts, event.outcome_unknown) == (
        "ConfigurationError",
        0,
        False,
    )


@contextmanager
def proxy(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Reads a CONNECT, and does something else than to connect."""

    def serve(one: socket.socket) -> None:
        with one, suppress(OSError):
            one.settimeout(10)
            while b"\r\n\r\n" not in one.recv(2**16):
                pass
            answer(one)

    def accept() -> None:
        with suppress(OSError):
            while True:
                one, _ = listener.accept()
                threading.Thread(target=serve, args=(one,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://user:proxy-secret@127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def drops(one: socket.socket) -> None:
    pass


def hangs(one: socket.socket) -> None:
    one.recv(1)


def trickles(one: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 Connection established, " + b"a" * 1000:
        one.sendall(bytes([byte]))
        time.sleep(0.01)


def refuses(one: socket.socket) -> None:
    one.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")


def breaks_off_tls(one: socket.socket) -> None:
    one.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    one.recv(1)


@DRIVERS
@pytest.mark.parametrize("answer", [drops, hangs, trickles, refuses, breaks_off_tls])
def test_connect_to_a_proxy_is_connecting(
    call: Call, answer: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the request itself leaves, nothing was sent; and no name is resolved here."""
    looked: list[object] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *more: Any, **named: Any) -> Any:
        looked.append(host)
        return resolve(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    events: list[CancelEvent] = []
    with proxy(answer) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        began = time.monotonic()
        with pytest.raises(TransportError) as caught:
            call(settings(timeout=0.5, on_event=events.append))
        assert time.monotonic() - began < 3
    assert not caught.value.outcome_unknown
    assert "requests sent: 0" in str(caught.value)
    assert "proxy-secret" not in everything_shown(caught.value)
    assert isinstance(caught.value, CancelTimeoutError) is (answer in (hangs, trickles))
    (event,) = events
    assert event.unsent == event.attempts > 0
    assert {str(host) for host in looked} <= {"127.0.0.1", "b'127.0.0.1'"}
