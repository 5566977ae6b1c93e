"""What is particular to one library."""

from __future__ import annotations

import asyncio
import gc
import gzip
import http.client
import io
import json
import socket
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpcore
import httpx
import pytest
import requests
import urllib3

from revenuebase_compat import ApiDeprecationWarning, CancelEvent, Settings, adopt
from revenuebase_compat.adopt.libraries import base
from revenuebase_compat.core.decoding import MAX_BODY
from revenuebase_compat.testing.sandbox import Sandbox
from tests.adopt.interceptor import support
from tests.adopt.interceptor.support import (
    ALIVE,
    CANCEL,
    GONE,
    JSON,
    KEY,
    LIBRARIES,
    Recorder,
    by_http_client,
    by_requests,
    cancel,
    seen,
    served,
)
from tests.support.fault_server import End, FaultServer, gone, job_body, raw, respond

# --- what is particular to a library ----------------------------------------------------------


def test_requests_as_integrations_write_it(sandbox: Sandbox) -> None:
    url = sandbox.base_url + CANCEL
    hooked: list[str] = []
    adopt.install(Settings(base_url=sandbox.base_url, **GONE), strict=True)
    # No content type at all: requests gives a text none.
    answer = requests.post(
        url,
        data=json.dumps({"process_id": 42}),
        headers={"x-key": KEY},
        verify=False,  # noqa: S501 (as integrations do)
        timeout=5,
        hooks={"response": lambda response, **_: hooked.append(response.url)},
    )
    assert answer.json()["process_id"] == 42
    assert hooked == [answer.url] == [url]
    assert answer.request.url == url
    assert answer.request.body == '{"process_id": 42}'
    streamed = requests.post(url, json={"process_id": 43}, headers=JSON, stream=True, timeout=5)
    assert json.loads(b"".join(streamed.iter_content(7)))["process_id"] == 43


def test_hooks_and_auth_of_httpx_see_v1(sandbox: Sandbox) -> None:
    url = sandbox.base_url + CANCEL
    seen: list[str] = []

    class Key(httpx.Auth):
        requires_response_body = True

        def auth_flow(
            self, request: httpx.Request
        ) -> Generator[httpx.Request, httpx.Response, None]:
            request.headers["x-key"] = KEY
            response = yield request
            seen.append(str(response.request.url))

    adopt.install(Settings(base_url=sandbox.base_url, **GONE), strict=True)
    hooks = {
        "request": [lambda request: seen.append(str(request.url))],
        "response": [lambda response: seen.append(str(response.url))],
    }
    with httpx.Client(event_hooks=hooks, auth=Key()) as client:
        assert client.post(url, json={"process_id": 42}).status_code == 200
    assert seen == [url] * 3
    assert served(sandbox) == [("POST", "/v2/jobs/42/cancel")]


def test_a_setting_that_asks_for_v1_is_told_that_it_is_migrated(sandbox: Sandbox) -> None:
    settings = Settings(base_url=sandbox.base_url, api_version="v1", **GONE)
    adopt.install(settings, strict=True)
    with pytest.warns(ApiDeprecationWarning, match="instead") as caught:
        assert cancel(by_requests, sandbox.base_url).status == 200
    assert [warning.filename for warning in caught] == [support.__file__]
    assert served(sandbox) == [("POST", "/v2/jobs/42/cancel")]


def test_a_stream_that_cannot_be_rewound(sandbox: Sandbox) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    adopt.install(Settings(base_url=sandbox.base_url, **GONE), strict=True)
    body = Pipe(b'{"process_id": 42}')
    with urllib3.PoolManager() as pool:
        answer = pool.request("POST", sandbox.base_url + CANCEL, body=body, headers=JSON)
    assert answer.status == 200
    with Recorder() as recorder:
        adopt.install(Settings(base_url=recorder.base_url, **GONE))
        for text in (io.StringIO("{}"), Pipe(b"{}")):
            by_http_client("POST", recorder.base_url + CANCEL, text, JSON)
        assert all(request.endswith(b"\r\n2\r\n{}\r\n0\r\n\r\n") for request in recorder.requests)


def test_urllib3_arguments_by_position_and_headers_of_the_pool(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    parts = urlsplit(server.base_url)
    body = iter([b'{"process_id": 42}'])
    with urllib3.HTTPConnectionPool(parts.hostname or "", parts.port, headers=JSON) as pool:
        given = ("POST", CANCEL, body, None, False, True, True, 5.0, None, False, True, None)
        answer = pool.urlopen(*given, preload_content=False)
        assert json.loads(answer.read())["process_id"] == 42
        answer.release_conn()
        assert pool.headers == JSON
        packed = gzip.compress(b'{"detail": [{"loc": ["path", "process_id"]}]}')
        server.script(respond(422, packed, headers={"Content-Encoding": "gzip"}))
        refused = pool.urlopen(
            "POST", CANCEL, b'{"process_id": 42}', preload_content=False, decode_content=False
        )
        assert b'["body","process_id"]' in gzip.decompress(refused.read())
    assert server.seen[0].headers["x-key"] == KEY
    assert "content-type" not in server.seen[0].headers
    assert "transfer-encoding" not in server.seen[0].headers


def test_httpcore_requests_stay_as_the_caller_made_them(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    content = b'{"process_id": 42}'
    headers = [*JSON.items(), ("Host", urlsplit(server.base_url).netloc), ("Content-Length", "18")]
    request = httpcore.Request("POST", server.base_url + CANCEL, headers=headers, content=content)
    with httpcore.ConnectionPool() as pool:
        statuses = []
        for _ in range(2):
            with closing(pool.handle_request(request=request)) as answer:
                answer.read()
            statuses.append(answer.status)
    assert statuses == [200, 400]
    assert request.url.target == CANCEL.encode()
    assert dict(request.headers)[b"Content-Type"] == b"application/json"
    assert b"".join(request.stream) == content  # type: ignore[arg-type]


def test_a_target_extension_does_not_hide_the_request(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    with httpx.Client() as client:
        answer = client.post(
            server.base_url,
            content=b'{"process_id": 42}',
            headers=JSON,
            extensions={"target": CANCEL.encode()},
        )
    assert answer.status_code == 200
    assert seen(server) == [("POST", "/v2/jobs/42/cancel")]


def test_http_client_over_one_connection(server: FaultServer) -> None:
    server.always(gone(), version="v1")
    adopt.install(Settings(base_url=server.base_url, **ALIVE), strict=True)
    body = b'{"process_id": 42}'
    with closing(http.client.HTTPConnection(urlsplit(server.base_url).netloc)) as connection:
        with pytest.warns(ApiDeprecationWarning):
            connection.request("POST", CANCEL, body, JSON)
        assert connection.getresponse().read()
        connection.request("POST", CANCEL, body, JSON)
        connection.close()  # an answer that nobody fetched
        connection.request("GET", "/v2/jobs/42", headers=JSON)
        assert json.loads(connection.getresponse().read())["current_status"] == "CANCELLING"
        assert not [name for name in vars(connection) if "revenuebase" in name]
    for _ in range(500):  # the one that nobody fetched may be read last
        if len(server.seen) == 4:
            break
        time.sleep(0.01)
    assert [request.version for request in server.seen] == ["v1", "v2", "v2", "v2"]


def test_a_connection_whose_answer_nobody_fetched_is_closed_when_it_is_dropped(
    server: FaultServer,
) -> None:
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    connection = http.client.HTTPConnection(urlsplit(server.base_url).netloc)
    connection.request("POST", CANCEL, b'{"process_id": 42}', JSON)
    held = weakref.ref(connection)
    gc.disable()
    try:
        with closing(connection.sock):
            del connection
            assert held() is None
    finally:
        gc.enable()


def test_an_answer_that_nobody_fetched_is_nobody_elses(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **ALIVE), strict=True)
    with closing(http.client.HTTPConnection(urlsplit(server.base_url).netloc)) as connection:
        with pytest.warns(ApiDeprecationWarning):
            connection.request("POST", CANCEL, b'{"process_id": 42}', JSON)
        connection.close()
        server.script(gone(), route=None, version="v2")
        connection.request("GET", "/v2/jobs/42", headers=JSON)
        answer = connection.getresponse()
        answer.read()
    assert answer.status == 410
    assert {request.method for request in server.seen if request.version == "v2"} == {"GET"}


def test_a_tunnel_through_a_proxy(server: FaultServer) -> None:
    # One server plays both: the proxy, and what is behind it.
    established = b"HTTP/1.1 200 Connection established\r\n\r\n"
    server.script(raw("a tunnel", established, end=End.KEEP))
    adopt.install(Settings(base_url="http://127.0.0.1:1", **GONE), strict=True)
    with closing(http.client.HTTPConnection(urlsplit(server.base_url).netloc)) as connection:
        connection.set_tunnel("127.0.0.1", 1)
        connection.request("POST", CANCEL, b'{"process_id": 42}', JSON)
        assert json.loads(connection.getresponse().read())["process_id"] == 42
    assert seen(server) == [("CONNECT", "127.0.0.1:1"), ("POST", "/v2/jobs/42/cancel")]


def test_a_body_is_not_read_ahead_for_ever() -> None:
    taken: list[int] = []

    def endless() -> Iterator[bytes]:
        for number in range(1000):
            taken.append(number)
            yield b"%8192d" % number

    async def endless_async() -> AsyncIterator[bytes]:
        for chunk in endless():
            yield chunk

    async def main() -> None:
        start, replay = await base.read_ahead(endless(), asynchronous=False)
        assert len(taken) * 8192 == len(start) <= MAX_BODY + 8192
        assert b"".join(replay) == b"".join(endless())
        assert not hasattr(replay, "__aiter__"), "urllib3-future would take it for asynchronous"
        taken.clear()
        start, replay = await base.read_ahead(endless_async(), asynchronous=True)
        assert len(taken) * 8192 == len(start) <= MAX_BODY + 8192
        assert b"".join([chunk async for chunk in replay]) == b"".join(endless())

    asyncio.run(main())


def test_a_connection_that_is_refused(sandbox: Sandbox) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        events: list[CancelEvent] = []
        adopt.install(Settings(base_url=base_url, on_event=events.append, **GONE), strict=True)
        raised: dict[str, str] = {}
        for name, send in LIBRARIES.items():
            with pytest.raises(Exception, match=r"(?i)refused|failed|connect") as caught:
                cancel(send, base_url)
            raised[name] = type(caught.value).__name__
        adopt.uninstall()
        for name, send in LIBRARIES.items():
            with pytest.raises(Exception, match=r"(?i)refused|failed|connect") as caught:
                cancel(send, base_url)
            assert type(caught.value).__name__ == raised[name]
    assert len(events) == len(LIBRARIES)


def test_a_forward_proxy_sees_the_moved_request(server: FaultServer) -> None:
    # The proxy is the server itself: what counts is the absolute target.
    adopt.install(Settings(base_url="http://127.0.0.1:1", **GONE), strict=True)
    url = "http://127.0.0.1:1" + CANCEL
    proxies = {"http": server.base_url}
    requests.post(url, json={"process_id": 42}, headers=JSON, proxies=proxies, timeout=5)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(urllib.request.Request(url, b'{"process_id": 43}', JSON))
    caught.value.close()
    with httpx.Client(proxy=server.base_url) as client:
        client.post(url, json={"process_id": 44}, headers=JSON)
    targets = [f"http://127.0.0.1:1/v2/jobs/{job}/cancel" for job in (42, 43, 44)]
    assert [request.path for request in server.seen] == targets


@pytest.mark.parametrize("checks", [False, True])
def test_aiohttp_sessions_with_habits_of_their_own(checks: bool, server: FaultServer) -> None:
    server.script(gone(), version="v1")
    server.script(respond(200, job_body(42), headers={"Set-Cookie": "a=b"}), version="v2")
    parts = urlsplit(server.base_url)

    async def main() -> None:
        headers = {**JSON, "X-Session": "yes"}
        async with aiohttp.ClientSession(
            server.base_url, headers=headers, raise_for_status=checks
        ) as session:
            with pytest.warns(ApiDeprecationWarning):
                answer = await session.post(CANCEL, json={"process_id": 42}, params={"a": "b"})
            assert (await answer.json())["process_id"] == 42
            assert str(answer.url) == f"{server.base_url}{CANCEL}?a=b"
            assert answer.real_url == answer.url == answer.request_info.url
            assert answer.method == answer.request_info.method == "POST"
            assert answer.headers["Content-Type"] == "application/json"
            again = session.post(CANCEL, data=aiohttp.BytesPayload(b'{"process_id": 42}'))
            assert (await again).status == 200
            again = session.post(CANCEL, data=aiohttp.BytesPayload(b'{"process_id": 42}'))
            if checks:
                with pytest.raises(aiohttp.ClientResponseError) as caught:
                    await again
                assert caught.value.status == 400
                assert str(caught.value.request_info.url) == server.base_url + CANCEL
            else:
                assert (await again).status == 400
            assert session.headers["Content-Type"] == "application/json"
        async with aiohttp.ClientSession() as session:
            url = f"http://user:secret@{parts.netloc}{CANCEL}"

            async def check(response: aiohttp.ClientResponse) -> None:
                assert response.status == 200
                assert str(response.url) == server.base_url + CANCEL

            options: dict[str, Any] = {"compress": "gzip", "chunked": True, "expect100": True}
            async with session.post(
                url, data=b'{"process_id": 43}', headers=JSON, raise_for_status=check, **options
            ) as answer:
                assert answer.status == 200

    adopt.install(Settings(base_url=server.base_url, **ALIVE), strict=True)
    asyncio.run(main())
    first, moved, _, refused, last = server.seen
    assert first.path == CANCEL + "?a=b"
    assert (moved.path, refused.path) == ("/v2/jobs/42/cancel?a=b", "/v2/jobs/42/cancel")
    assert moved.headers["x-session"] == "yes"
    assert last.headers["authorization"].startswith("Basic ")
    for request in (moved, refused, last):
        assert not {"content-type", "transfer-encoding", "expect"} & set(request.headers)
        assert request.headers["content-length"] == "0"


def test_aiohttp_refuses_what_it_refused(server: FaultServer) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.InvalidURL):
                await session.post("no url " + urlsplit(server.base_url).netloc)
            with pytest.raises(TypeError):
                await session.post(server.base_url + CANCEL, json={"process_id": {1, 2}})
            with pytest.raises(ValueError, match="same time"):
                await session.post(server.base_url + CANCEL, json={}, data="{}")

    adopt.install(Settings(base_url=server.base_url, **GONE))
    asyncio.run(main())
    assert server.seen == []


def test_many_at_once(server: FaultServer) -> None:
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)

    async def main() -> list[int]:
        async with httpx.AsyncClient() as client, aiohttp.ClientSession() as session:

            async def one(job: int) -> int:
                url, body = server.base_url + CANCEL, {"process_id": job}
                if job % 2:
                    return int(
                        (await client.post(url, json=body, headers=JSON)).json()["process_id"]
                    )
                async with session.post(url, json=body, headers=JSON) as answer:
                    return int((await answer.json())["process_id"])

            return await asyncio.gather(*map(one, range(1, 31)))

    assert asyncio.run(main()) == list(range(1, 31))
    assert sorted(server.applied) == list(range(1, 31))
