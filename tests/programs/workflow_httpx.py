"""A whole v1 integration on httpx or httpx2: see ``steps``.

workflow_httpx.py httpx|httpx2 [--async] STEP…
"""

import asyncio
import sys
from importlib import import_module
from typing import Any

import steps  # type: ignore[import-not-found]

library = import_module(sys.argv[1])


def options(request: steps.Request) -> dict[str, Any]:
    return {
        "params": request.params,
        "json": request.json,
        "files": {request.file[0]: request.file[1:]} if request.file else None,
        "headers": request.headers,
        "timeout": 30,
    }


def answered(answer: Any) -> steps.Answer:
    seen = [answer.request.method, str(answer.url)]
    return steps.Answer(answer.status_code, seen, answer.headers, answer.content)


async def main_async(arguments: list[str]) -> None:
    async with library.AsyncClient() as client:

        async def send(request: steps.Request) -> steps.Answer:
            url = request.url
            return answered(await client.request(request.method, url, **options(request)))

        await steps.run_async(send, arguments)


def main(arguments: list[str]) -> None:
    with library.Client() as client:

        def send(request: steps.Request) -> steps.Answer:
            return answered(client.request(request.method, request.url, **options(request)))

        steps.run(send, arguments)


if sys.argv[2] == "--async":
    asyncio.run(main_async(sys.argv[3:]))
else:
    main(sys.argv[2:])
