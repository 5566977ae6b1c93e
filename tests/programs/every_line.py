"""One v1 request after the other, each struck at the next line of ours that it runs.

usage: every_line.py LIBRARY raise|thread URL

``raise``: a signal handler raises there, as a time limit does, and it must come out of the request.
``thread``: a handler waits there for a thread that makes such a request itself, and it must end.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx
import requests

LIBRARY, WHAT, URL = sys.argv[1:]
BODY, HEADERS = b'{"process_id": 42}', {"Content-Type": "application/json", "x-key": "rb_test_key"}
OURS = os.sep + "revenuebase_compat" + os.sep


class Limit(Exception):
    """A time limit's."""


def by_requests() -> None:
    with requests.Session() as session:
        session.post(URL, data=BODY, headers=HEADERS, timeout=10)


def by_httpx() -> None:
    with httpx.Client(verify=False) as client:  # noqa: S501 (it is plain http)
        client.post(URL, content=BODY, headers=HEADERS)


def by_http_client() -> None:
    parts = urlsplit(URL)
    with closing(http.client.HTTPConnection(parts.netloc, timeout=10)) as connection:
        connection.request("POST", parts.path, BODY, HEADERS)
        connection.getresponse().read()


def by_aiohttp() -> None:
    async def send() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(URL, data=BODY, headers=HEADERS) as response,
        ):
            await response.read()

    asyncio.run(send())


def handle(*_: Any) -> None:
    raise Limit


def strike() -> None:
    if WHAT == "raise":
        signal.raise_signal(signal.SIGALRM)
        return
    thread = threading.Thread(target=by_http_client, daemon=True)
    thread.start()
    thread.join(10)
    if thread.is_alive():
        failures.append("the thread hangs")


def struck(send: Callable[[], None], number: int) -> str:
    """Make a request that is struck at its line of that number; where that was, if anywhere."""
    seen, where = 0, ""

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal seen, where
        if OURS not in frame.f_code.co_filename:
            return None
        if event == "line":
            seen += 1
            if seen == number:
                sys.settrace(None)
                where = f"{frame.f_code.co_filename.rpartition(OURS)[2]}:{frame.f_lineno}"
                strike()
        return trace

    forget()
    gc.collect()  # what an earlier strike left ends here, not amid the lines that are counted
    sys.settrace(trace)
    try:
        send()
    except Limit:
        return where
    except Exception as error:
        failures.append(f"{where}: {error!r}")
        return where
    finally:
        sys.settrace(None)
    if where and WHAT == "raise":
        failures.append(f"{where}: nothing was raised")
    return where


def forget() -> None:
    """Have the notices be said again."""
    from revenuebase_compat.client.memory import memory

    memory.reset()


failures: list[str] = []

if __name__ == "__main__":
    gc.disable()
    signal.signal(signal.SIGALRM, handle)
    chosen = globals()[f"by_{LIBRARY}"]
    for _ in range(2):
        chosen()  # what is imported and opened once
    gc.freeze()
    places = 0
    while struck(chosen, places + 1):
        places += 1
    print(json.dumps({"lines": places, "failures": failures}))
