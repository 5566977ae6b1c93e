"""One request by each library, and what an application sees of its answer."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import re
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import httpcore
import httpx
import pytest
import requests
import urllib3

from revenuebase_compat.testing.sandbox import Sandbox
from tests.support.fault_server import FaultServer

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


POINTS: list[tuple[Any, str]] = [
    (httpcore.ConnectionPool, "handle_request"),
    (httpcore.AsyncConnectionPool, "handle_async_request"),
    (urllib3.HTTPConnectionPool, "urlopen"),
    (http.client.HTTPConnection, "request"),
    (http.client.HTTPConnection, "getresponse"),
    (aiohttp.ClientSession, "_request"),
]


def cancel(send: Send, base_url: str, process_id: object = 42, **headers: str) -> AttemptOutcome:
    body = json.dumps({"process_id": process_id}).encode()
    return send("POST", base_url + CANCEL, body, {**JSON, **headers})


JSON = {"x-key": KEY, "Content-Type": "application/json"}


def served(sandbox: Sandbox) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in sandbox.requests]


def seen(server: FaultServer) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in server.seen]


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
