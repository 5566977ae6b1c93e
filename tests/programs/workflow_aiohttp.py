"""A whole v1 integration on aiohttp: see ``steps``."""

import asyncio

import aiohttp
import steps  # type: ignore[import-not-found]


async def main() -> None:
    async with aiohttp.ClientSession() as session:

        async def send(request: steps.Request) -> steps.Answer:
            form = None
            if request.file:
                part, name, content, kind = request.file
                form = aiohttp.FormData()
                form.add_field(part, content, filename=name, content_type=kind)
            async with session.request(
                request.method,
                request.url,
                params=request.params,
                json=request.json,
                data=form,
                headers=request.headers,
            ) as answer:
                seen = [answer.method, str(answer.url)]
                return steps.Answer(answer.status, seen, answer.headers, await answer.read())

        await steps.run_async(send)


asyncio.run(main())
