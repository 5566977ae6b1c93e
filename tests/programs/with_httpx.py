"""An integration on httpx: cancels jobs, and looks at them once more."""

import asyncio
import gzip
import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

BASE_URL = "https://api.revenuebase.ai"
URL = f"{BASE_URL}/v1/cancel-process"
STATUS_URL = f"{BASE_URL}/v1/batch-process-email-status"
HEADERS = {"x-key": "rb_test_sandbox"}
JSON_HEADERS = {**HEADERS, "Content-Type": "application/json"}


def chunks(job: int) -> Iterator[bytes]:
    yield b'{"process_id":'
    yield b"%d}" % job


async def async_chunks(job: int) -> AsyncIterator[bytes]:
    for chunk in chunks(job):
        yield chunk


def options(way: str, job: int) -> dict[str, Any]:
    text = json.dumps({"process_id": job})
    if way == "text":
        return {"content": text, "headers": JSON_HEADERS}
    if way == "gzip":
        headers = {**JSON_HEADERS, "Content-Encoding": "gzip"}
        return {"content": gzip.compress(text.encode()), "headers": headers}
    return {"json": {"process_id": job}, "headers": HEADERS}


def show(answer: httpx.Response, looked: httpx.Response) -> None:
    print(json.dumps([answer.status_code, str(answer.url), answer.json(), looked.json()]))


def main(arguments: list[str]) -> None:
    for argument in arguments:
        way, _, number = argument.partition("=")
        job = int(number)
        with httpx.Client(base_url=BASE_URL, verify=way != "insecure") as client:
            if way == "chunks":
                answer = client.post(URL, content=chunks(job), headers=JSON_HEADERS)
            else:
                answer = client.post("/v1/cancel-process", **options(way, job))
        show(answer, httpx.post(STATUS_URL, json={"process_id": job}, headers=HEADERS))


async def main_async(arguments: list[str]) -> None:
    for argument in arguments:
        way, _, number = argument.partition("=")
        job = int(number)
        async with httpx.AsyncClient(verify=way != "insecure") as client:
            if way == "chunks":
                answer = await client.post(URL, content=async_chunks(job), headers=JSON_HEADERS)
            else:
                answer = await client.post(URL, **options(way, job))
            looked = await client.post(STATUS_URL, json={"process_id": job}, headers=HEADERS)
        show(answer, looked)


if sys.argv[1] == "--async":
    asyncio.run(main_async(sys.argv[2:]))
else:
    main(sys.argv[1:])
