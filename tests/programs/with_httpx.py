"""An integration on httpx or httpx2: cancels jobs, and looks at them once more.

with_httpx.py httpx|httpx2 [--async] WAY=JOB…
"""

import asyncio
import gzip
import json
import sys
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from typing import Any

library = import_module(sys.argv[1])

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


def show(answer: Any, looked: Any) -> None:
    print(json.dumps([answer.status_code, str(answer.url), answer.json(), looked.json()]))


def main(arguments: list[str]) -> None:
    for argument in arguments:
        way, _, number = argument.partition("=")
        job = int(number)
        with library.Client(base_url=BASE_URL, verify=way != "insecure") as client:
            if way == "chunks":
                answer = client.post(URL, content=chunks(job), headers=JSON_HEADERS)
            else:
                answer = client.post("/v1/cancel-process", **options(way, job))
        show(answer, library.post(STATUS_URL, json={"process_id": job}, headers=HEADERS))


async def main_async(arguments: list[str]) -> None:
    for argument in arguments:
        way, _, number = argument.partition("=")
        job = int(number)
        async with library.AsyncClient(verify=way != "insecure") as client:
            if way == "chunks":
                answer = await client.post(URL, content=async_chunks(job), headers=JSON_HEADERS)
            else:
                answer = await client.post(URL, **options(way, job))
            looked = await client.post(STATUS_URL, json={"process_id": job}, headers=HEADERS)
        show(answer, looked)


if sys.argv[2] == "--async":
    asyncio.run(main_async(sys.argv[3:]))
else:
    main(sys.argv[2:])
