"""Uploads or downloads one large file by v1, chunk by chunk, and says what memory that took.

    large.py requests|httpx|aiohttp upload|download MEGABYTES URL

Prints status, bytes received, file name as announced, and by how many MiB the peak of RSS grew.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, Any

LIBRARY, WAY, SIZE, BASE = sys.argv[1], sys.argv[2], int(sys.argv[3]) << 20, sys.argv[4]
UPLOAD, DOWNLOAD = f"{BASE}/v1/batch-upload?metadata=true", f"{BASE}/v1/batch-download"
HEADERS = {"x-key": "rb_test_sandbox"}
JOB = {"process_id": 7}
HEAD = 'Content-Disposition: form-data; name="requested_file"; filename="large.csv"\r\n\r\n'
FORM = {**HEADERS, "Content-Type": "multipart/form-data; boundary=b"}

library: Any = import_module(LIBRARY)


def form(file: IO[bytes]) -> Iterator[bytes]:
    """What requests itself would put together in memory."""
    yield f"--b\r\n{HEAD}".encode()
    while chunk := file.read(1 << 20):
        yield chunk
    yield b"\r\n--b--\r\n"


def with_requests(file: IO[bytes]) -> tuple[int, int, str | None]:
    if WAY == "upload":
        answer = library.post(UPLOAD, data=form(file), headers=FORM, timeout=60)
        return answer.status_code, len(answer.content), None
    with library.post(DOWNLOAD, json=JOB, headers=HEADERS, stream=True, timeout=60) as answer:
        size = sum(len(chunk) for chunk in answer.iter_content(1 << 16))
        return answer.status_code, size, answer.headers.get("content-disposition")


def with_httpx(file: IO[bytes]) -> tuple[int, int, str | None]:
    if WAY == "upload":
        files = {"requested_file": ("large.csv", file, "text/csv")}
        answer = library.post(UPLOAD, files=files, headers=HEADERS, timeout=60)
        return answer.status_code, len(answer.content), None
    with library.stream("POST", DOWNLOAD, json=JOB, headers=HEADERS, timeout=60) as answer:
        size = sum(len(chunk) for chunk in answer.iter_bytes())
        return answer.status_code, size, answer.headers.get("content-disposition")


async def on_aiohttp(file: IO[bytes]) -> tuple[int, int, str | None]:
    async with library.ClientSession(headers=HEADERS) as session:
        if WAY == "upload":
            data = library.FormData()
            data.add_field("requested_file", file, filename="large.csv", content_type="text/csv")
            async with session.post(UPLOAD, data=data) as answer:
                return answer.status, len(await answer.read()), None
        async with session.post(DOWNLOAD, json=JOB) as answer:
            size = 0
            async for chunk in answer.content.iter_chunked(1 << 16):
                size += len(chunk)
            return answer.status, size, answer.headers.get("content-disposition")


def with_aiohttp(file: IO[bytes]) -> tuple[int, int, str | None]:
    return asyncio.run(on_aiohttp(file))


def peak() -> int:
    """In KiB; getrusage would still know the peak of the process that this one was forked from."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


DO: dict[str, Callable[[IO[bytes]], tuple[int, int, str | None]]] = {
    "requests": with_requests,
    "httpx": with_httpx,
    "aiohttp": with_aiohttp,
}
with tempfile.TemporaryFile() as file:
    file.truncate(SIZE)  # holes: it takes no room
    before = peak()
    found = DO[LIBRARY](file)
    print(json.dumps([*found, (peak() - before) >> 10]))
