"""One v1 request by each library, as scripts write it: its answer's HTTP status."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

import aiohttp
import httpx
import requests
import urllib3

CANCEL, STATUS = "/v1/cancel-process", "/v1/batch-process-email-status"
HEADERS = {"x-key": "rb_test_no_harm", "Content-Type": "application/json"}
#: Made once: OpenSSL holds locks while a context is made, and a fork at that moment leaves them
#: held in the child, in a bare program as well (seen once in some 4,000 forks).
VERIFY = ssl.create_default_context()


def by_requests(url: str, job: int) -> int:
    answer = requests.post(url, json={"process_id": job}, headers=HEADERS, timeout=20)
    return answer.status_code


def by_httpx(url: str, job: int) -> int:
    body = {"process_id": job}
    answer = httpx.post(url, json=body, headers=HEADERS, timeout=20, verify=VERIFY)
    return answer.status_code


def by_httpx_async(url: str, job: int) -> int:
    async def send() -> int:
        async with httpx.AsyncClient(headers=HEADERS, timeout=20, verify=VERIFY) as client:
            return (await client.post(url, json={"process_id": job})).status_code

    return asyncio.run(send())


def by_aiohttp(url: str, job: int) -> int:
    async def send() -> int:
        async with aiohttp.ClientSession(headers=HEADERS) as session:
            async with session.post(url, json={"process_id": job}) as answer:
                await answer.read()
                return answer.status

    return asyncio.run(send())


def by_urllib3(url: str, job: int) -> int:
    body = json.dumps({"process_id": job})
    with urllib3.PoolManager() as pool:
        return pool.request("POST", url, body=body, headers=HEADERS, timeout=20).status


def by_urllib(url: str, job: int) -> int:
    body = json.dumps({"process_id": job}).encode()
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, body, HEADERS), timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        answer.read()
        return int(answer.status)


def by_http_client(url: str, job: int) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    try:
        connection.request("POST", parts.path, json.dumps({"process_id": job}), HEADERS)
        with connection.getresponse() as answer:
            answer.read()
            return answer.status
    finally:
        connection.close()


SENDERS: dict[str, Callable[[str, int], int]] = {
    "requests": by_requests,
    "urllib3": by_urllib3,
    "urllib.request": by_urllib,
    "http.client": by_http_client,
    "httpx": by_httpx,
    "httpx async": by_httpx_async,
    "aiohttp": by_aiohttp,
}
ASYNCHRONOUS = ("httpx async", "aiohttp")
