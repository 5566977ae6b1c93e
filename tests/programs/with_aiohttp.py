"""An integration on aiohttp: cancels jobs, and looks at them once more."""

import asyncio
import gzip
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

URL = "https://api.revenuebase.ai/v1/cancel-process"
STATUS_URL = "https://api.revenuebase.ai/v1/batch-process-email-status"
HEADERS = {"x-key": "rb_test_sandbox"}
JSON_HEADERS = {**HEADERS, "Content-Type": "application/json"}


async def chunks(job: int) -> AsyncIterator[bytes]:
    yield b'{"process_id":'
    yield b"%d}" % job


def options(way: str, job: int) -> dict[str, Any]:
    text = json.dumps({"process_id": job})
    if way == "insecure":
        return {"json": {"process_id": job}, "ssl": False}
    if way == "text":
        return {"data": text, "headers": JSON_HEADERS}
    if way == "chunks":
        return {"data": chunks(job), "headers": JSON_HEADERS}
    if way == "gzip":
        headers = {**JSON_HEADERS, "Content-Encoding": "gzip"}
        return {"data": gzip.compress(text.encode()), "headers": headers}
    return {"json": {"process_id": job}}


async def main(arguments: list[str]) -> None:
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        for argument in arguments:
            way, _, number = argument.partition("=")
            job = int(number)
            async with session.post(URL, **options(way, job)) as answer:
                found = await answer.json()
            async with session.post(STATUS_URL, json={"process_id": job}) as looked:
                print(json.dumps([answer.status, str(answer.url), found, await looked.json()]))


asyncio.run(main(sys.argv[1:]))
