"""The contenders; each runs in a process of its own: ``python contenders.py NAME BASE_URL``.

For each number that comes in on stdin it makes that many calls, and prints one JSON line: seconds
of wall and of CPU time for one call. No job is named twice, so nothing gains by remembering one.
Imports stand where they are needed: no contender shall pay for another's.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

KEY = "rb_test_benchmark"
HEADERS = {"x-key": KEY}
JOBS = itertools.count(1_000_000)
BEFORE = datetime(2026, 6, 1, tzinfo=timezone.utc)

Calls = Callable[[int], object]


def _times(call: Callable[[], object]) -> Calls:
    def calls(number: int) -> None:
        for _ in range(number):
            call()

    return calls


def _together(call: Callable[[], Any], concurrent: int) -> Calls:
    import asyncio

    loop = asyncio.new_event_loop()

    async def main(number: int) -> None:
        left = iter(range(number))

        async def worker() -> None:
            for _ in left:
                await call()

        await asyncio.gather(*(worker() for _ in range(concurrent)))

    return lambda number: loop.run_until_complete(main(number))


def _settings(base_url: str, **more: Any) -> Any:
    from revenuebase_compat import Settings

    return Settings(KEY, base_url=base_url, **more)


def _v2(base_url: str) -> str:
    return f"{base_url}/v2/jobs/{next(JOBS)}/cancel"


# --- one call after the other -----------------------------------------------------------------


def httpx_post(base_url: str) -> Calls:
    import httpx

    client = httpx.Client()
    return _times(lambda: client.post(_v2(base_url), headers=HEADERS).json())


def ours(base_url: str) -> Calls:
    from revenuebase_compat import Client

    client = Client(_settings(base_url))
    return _times(lambda: client.cancel_job(next(JOBS)))


def ours_v1(base_url: str) -> Calls:
    from revenuebase_compat import Client

    client = Client(_settings(base_url), clock=lambda: BEFORE)
    return _times(lambda: client.cancel_job(next(JOBS)))


def sdk(base_url: str) -> Calls:
    from revenuebase_sdk import RevenuebaseClient  # type: ignore[import-not-found]

    client = RevenuebaseClient(api_key=KEY, base_url=base_url)
    return _times(lambda: client.jobs.cancel(process_id=next(JOBS)))


def requests_session(base_url: str) -> Calls:
    import requests

    session = requests.Session()
    return _times(lambda: session.post(_v2(base_url), headers=HEADERS).json())


def requests_post(base_url: str) -> Calls:
    import requests

    return _times(lambda: requests.post(_v2(base_url), headers=HEADERS, timeout=60).json())


def http_client(base_url: str) -> Calls:
    import http.client

    connection = http.client.HTTPConnection(urlsplit(base_url).netloc)

    def call() -> object:
        connection.request("POST", f"/v2/jobs/{next(JOBS)}/cancel", headers=HEADERS)
        return json.loads(connection.getresponse().read())

    return _times(call)


def bare_socket(base_url: str) -> Calls:
    import socket

    host, _, port = urlsplit(base_url).netloc.partition(":")
    sock = socket.create_connection((host, int(port)))

    def call() -> object:
        head = f"POST /v2/jobs/{next(JOBS)}/cancel HTTP/1.1\r\nHost: {host}\r\nx-key: {KEY}\r\n\r\n"
        sock.sendall(head.encode())
        return json.loads(sock.recv(65536).partition(b"\r\n\r\n")[2])

    return _times(call)


def _request(base_url: str, url: Any) -> Any:
    import httpx

    headers = {**HEADERS, "Host": urlsplit(base_url).netloc, "Content-Length": "0"}
    return httpx.Request("POST", url, headers=headers, stream=httpx.ByteStream(b""))


def transport(base_url: str) -> Calls:
    import httpx

    sends = httpx.HTTPTransport()

    def call() -> object:
        response = sends.handle_request(_request(base_url, _v2(base_url)))
        return json.loads(response.read())

    return _times(call)


def transport_prepared(base_url: str) -> Calls:
    """As if a request cost nothing to make."""
    import httpx

    sends, request = httpx.HTTPTransport(), _request(base_url, _v2(base_url))
    return _times(lambda: json.loads(sends.handle_request(request).read()))


def httpcore_pool(base_url: str) -> Calls:
    import httpcore

    pool = httpcore.ConnectionPool()
    headers: Any = {**HEADERS, "Host": urlsplit(base_url).netloc, "Content-Length": "0"}
    return _times(lambda: json.loads(pool.request("POST", _v2(base_url), headers=headers).content))


# --- many at once -----------------------------------------------------------------------------


def httpx_async(base_url: str, concurrent: int) -> Calls:
    import httpx

    client = httpx.AsyncClient()

    async def call() -> object:
        return (await client.post(_v2(base_url), headers=HEADERS)).json()

    return _together(call, concurrent)


def ours_async(base_url: str, concurrent: int) -> Calls:
    from revenuebase_compat import AsyncClient

    client = AsyncClient(_settings(base_url))
    return _together(lambda: client.cancel_job(next(JOBS)), concurrent)


def sdk_async(base_url: str, concurrent: int) -> Calls:
    from revenuebase_sdk import AsyncRevenuebaseClient

    client = AsyncRevenuebaseClient(api_key=KEY, base_url=base_url)
    return _together(lambda: client.jobs.cancel(process_id=next(JOBS)), concurrent)


# --- deciding, and sending nothing ------------------------------------------------------------


def routing(base_url: str, share: int) -> Calls:
    from revenuebase_compat import Client

    client = Client(_settings(base_url, v2_rollout=share), clock=lambda: BEFORE)
    return _times(lambda: client.route(next(JOBS)))


def counting(_: str) -> Calls:
    """What the loop itself costs, with an id for each call."""
    return _times(lambda: next(JOBS))


# --- other people's requests, moved -----------------------------------------------------------

OTHERS = "https://api.revenuebase.ai"  # nothing is sent there


def _v1_httpx(base_url: str) -> Calls:
    import httpx

    client, url = httpx.Client(), f"{base_url}/v1/cancel-process"
    return _times(lambda: client.post(url, json={"process_id": next(JOBS)}, headers=HEADERS).json())


def _v1_requests(base_url: str) -> Calls:
    import requests

    session, url = requests.Session(), f"{base_url}/v1/cancel-process"
    return _times(
        lambda: session.post(url, json={"process_id": next(JOBS)}, headers=HEADERS).json()
    )


def adopted(base_url: str, library: str, *, patched: bool) -> Calls:
    """A request that names a job: it is moved from the body into the path."""
    if patched:
        from revenuebase_compat import adopt

        adopt.install(_settings(base_url))
    return {"httpx": _v1_httpx, "requests": _v1_requests}[library](base_url)


def credits(base_url: str, library: str, *, patched: bool) -> Calls:
    """A request of which only the path changes."""
    if patched:
        from revenuebase_compat import adopt

        adopt.install(_settings(base_url))
    url = f"{base_url}/v1/credits"
    if library == "httpx":
        import httpx

        client = httpx.Client()
        return _times(lambda: client.get(url, headers=HEADERS).json())
    import requests

    session = requests.Session()
    return _times(lambda: session.get(url, headers=HEADERS).json())


def unrelated(_: str, library: str, *, patched: bool) -> Calls:
    """A request to another host, at the very function that is patched.

    What sends it is replaced by a function that answers nothing, at once: beside a real request,
    half a microsecond could not be seen.
    """
    if library == "httpx":
        import httpcore

        httpcore.ConnectionPool.handle_request = lambda self, request: None  # type: ignore
    else:
        import urllib3

        urllib3.HTTPConnectionPool.urlopen = (  # type: ignore[method-assign]
            lambda self, method, url, body=None, headers=None, *args, **kw: None  # type: ignore
        )
    if patched:
        from revenuebase_compat import adopt

        adopt.install(_settings(OTHERS))
    if library == "httpx":
        pool, request = httpcore.ConnectionPool(), httpcore.Request("POST", "http://127.0.0.1/v1/a")
        return _times(lambda: pool.handle_request(request))
    connections = urllib3.HTTPConnectionPool("127.0.0.1")
    return _times(lambda: connections.urlopen("POST", "/v1/a"))


CONTENDERS: dict[str, Callable[[str], Calls]] = {
    "httpx.Client.post": httpx_post,
    "Client.cancel_job": ours,
    "Client.cancel_job, v1": ours_v1,
    "revenuebase-sdk 0.3.0": sdk,
    "requests.Session.post": requests_session,
    "requests.post": requests_post,
    "http.client": http_client,
    "bare socket": bare_socket,
    "httpx.HTTPTransport": transport,
    "httpx.HTTPTransport, one request made before": transport_prepared,
    "httpcore.ConnectionPool": httpcore_pool,
    "counting": counting,
    "route, flag off": lambda base_url: routing(base_url, 0),
    "route, 50 % share": lambda base_url: routing(base_url, 50),
}
for _at_once in (10, 100):
    for _name, _make in (
        ("httpx.AsyncClient.post", httpx_async),
        ("AsyncClient.cancel_job", ours_async),
        ("revenuebase-sdk 0.3.0", sdk_async),
    ):
        CONTENDERS[f"{_name}, {_at_once} at once"] = (
            lambda base_url, make=_make, at_once=_at_once: make(base_url, at_once)  # type: ignore
        )
for _library in ("httpx", "requests"):
    for _what, _measure in (
        ("v1 cancel", adopted),
        ("v1 credits", credits),
        ("unrelated", unrelated),
    ):
        for _patched in (False, True):
            CONTENDERS[f"{_library}, {_what}, {'patched' if _patched else 'as it is'}"] = (
                lambda base_url, measure=_measure, library=_library, patched=_patched: (  # type: ignore
                    measure(base_url, library, patched=patched)
                )
            )


def main(name: str, base_url: str) -> None:
    calls = CONTENDERS[name](base_url)
    for line in sys.stdin:
        number = int(line)
        wall, cpu = time.perf_counter(), time.thread_time()
        calls(number)
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        sys.stdout.write(json.dumps({"wall": wall / number, "cpu": cpu / number}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
