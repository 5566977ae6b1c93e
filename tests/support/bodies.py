"""Every kind of body that an HTTP library takes, and how a program would send it."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import io
import json
import ssl
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import requests
import urllib3
from aiohttp import payload

#: Made once: that takes longer than all of a request.
NO_TLS = ssl.create_default_context()
KEY = {"x-key": "rb_test_left", "X-Own": "Ü".encode().decode("latin-1")}


class Opaque:
    """What json.dumps cannot do."""

    def __init__(self, data: Any) -> None:
        self.data = data


class Pipe(io.RawIOBase):
    """A file that cannot be rewound."""

    def __init__(self, text: bytes) -> None:
        self._rest = text

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        taken, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


class ReadOnly:
    """The least that libraries take for a file."""

    def __init__(self, text: bytes) -> None:
        self._file = io.BytesIO(text)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._file)


class Once:
    """Iterable once, and no generator."""

    def __init__(self, text: bytes) -> None:
        self._chunks = chunks(text)

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks


def chunks(text: bytes) -> Iterator[bytes]:
    yield text[:3]
    yield b""
    yield text[3:9]
    yield text[9:]


async def async_chunks(text: bytes) -> AsyncIterator[bytes]:
    for chunk in (text[:3], text[3:9], text[9:]):
        yield chunk


def file_of(text: bytes, start: int = 0) -> Any:
    """A file on disk, read up to some place already."""
    found = tempfile.TemporaryFile()  # noqa: SIM115 (closed by its end)
    found.write(b"#" * start + text)
    found.seek(start)
    return found


def dumped(data: Any) -> bytes:
    return json.dumps(data).encode()


def zipped(data: Any) -> bytes:
    return gzip.compress(dumped(data), mtime=0)


PACKED = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
Body = Callable[[Any], dict[str, Any]]

#: The same for most libraries, under the name that each has for a raw body.
RAW: dict[str, Callable[[Any], Any]] = {
    "bytes": dumped,
    "bytearray": lambda data: bytearray(dumped(data)),
    "str": lambda data: json.dumps(data),
    "str that is not ASCII": lambda data: json.dumps({**data, "ü": "é"}, ensure_ascii=False),
    "BytesIO": lambda data: io.BytesIO(dumped(data)),
    "BytesIO, read in part": lambda data: _at(io.BytesIO(b"####" + dumped(data)), 4),
    "StringIO": lambda data: io.StringIO(json.dumps(data)),
    "file": lambda data: file_of(dumped(data)),
    "file, read in part": lambda data: file_of(dumped(data), 7),
    "pipe": lambda data: io.BufferedReader(Pipe(dumped(data))),
    "read alone": lambda data: ReadOnly(dumped(data)),
    "generator": lambda data: chunks(dumped(data)),
    "iterable": lambda data: Once(dumped(data)),
    "list": lambda data: [*chunks(dumped(data))],
    "tuple of nothing": lambda data: (),
    "async generator": lambda data: async_chunks(dumped(data)),
    "empty": lambda data: b"",
    "None": lambda data: None,
    "object": Opaque,
    "int": lambda data: 42,
    "large": lambda data: dumped({**data, "pad": "x" * 3_000_000}),
    "UTF-16": lambda data: json.dumps(data).encode("utf-16"),
    "BOM": lambda data: b"\xef\xbb\xbf" + dumped(data),
}


def _at(file: Any, place: int) -> Any:
    file.seek(place)
    return file


def raw(name: str) -> dict[str, Body]:
    kinds: dict[str, Body] = {
        kind: lambda data, make=make: {name: make(data)}  # type: ignore[misc]
        for kind, make in RAW.items()
    }
    kinds["gzip"] = lambda data: {name: zipped(data), "headers": {**KEY, **PACKED}}
    kinds["own length"] = lambda data: {
        name: chunks(dumped(data)),
        "headers": {**KEY, "Content-Length": str(len(dumped(data)))},
    }
    kinds["own transfer-encoding"] = lambda data: {
        name: chunks(dumped(data)),
        "headers": {**KEY, "Transfer-Encoding": "chunked"},
    }
    kinds["odd headers"] = lambda data: {
        name: dumped(data),
        "headers": {"X-KEY": "rb_test", "content-TYPE": "Application/Json", "ACCEPT": "", "te": ""},
    }
    return kinds


def without(kinds: dict[str, Body], *names: str) -> dict[str, Body]:
    """Without those whose framing the library makes wrong, so that no server would answer."""
    return {name: kind for name, kind in kinds.items() if name not in names}


def form(data: Any) -> dict[str, str]:
    return {"process_id": str(data["process_id"]), "ü": "é &="}


def by_requests(url: str, options: dict[str, Any]) -> int:
    options = {"headers": KEY, **options}
    return requests.post(url, timeout=5, allow_redirects=False, **options).status_code


def by_session(url: str, options: dict[str, Any]) -> int:
    with requests.Session() as session:
        session.headers.update({**KEY, "Content-Type": "text/x-own"})
        session.cookies.set("a", "b")
        session.auth = ("user", "word")
        return session.post(url, timeout=5, params={"q": "ü"}, **options).status_code


def by_urllib3(url: str, options: dict[str, Any]) -> int:
    with urllib3.PoolManager(headers={"X-Pool": "1"}) as pool:
        return pool.request("POST", url, **{"headers": KEY, **options}).status


def by_urllib(url: str, options: dict[str, Any]) -> int:
    request = urllib.request.Request(url, **{"headers": KEY, "method": "POST", **options})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return int(answer.status)


def by_http_client(url: str, options: dict[str, Any]) -> int:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=5)
    try:
        path = url[url.index("/v1") :]
        connection.request("POST", path, **{"headers": dict(KEY), **options})
        with connection.getresponse() as answer:
            answer.read()
            return answer.status
    finally:
        connection.close()


def by_httpx(url: str, options: dict[str, Any]) -> int:
    with httpx.Client(cookies={"a": "b"}, timeout=5, verify=NO_TLS) as client:
        return client.post(url, **{"headers": ascii_of(KEY), **cleaned(options)}).status_code


def by_httpx_async(url: str, options: dict[str, Any]) -> int:
    async def send() -> int:
        async with httpx.AsyncClient(timeout=5, verify=NO_TLS) as client:
            found = {"headers": ascii_of(KEY), **cleaned(options)}
            return (await client.post(url, **found)).status_code

    return asyncio.run(send())


def ascii_of(headers: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if text.isascii()}


def cleaned(options: dict[str, Any]) -> dict[str, Any]:
    """Without the header that httpx itself refuses to encode."""
    headers = options.get("headers")
    return {**options, "headers": ascii_of(headers)} if isinstance(headers, dict) else options


def by_aiohttp(url: str, options: dict[str, Any]) -> int:
    async def send() -> int:
        made = options.pop("made", None)  # what can be made in a loop alone
        found = {**options, **(made() if made else {})}
        session_options = found.pop("session", {})
        async with aiohttp.ClientSession(**session_options) as session:
            async with session.post(url, **{"headers": KEY, **found}) as answer:
                await answer.read()
                return answer.status

    return asyncio.run(send())


REQUESTS: dict[str, Body] = {
    **without(raw("data"), "own length"),
    "json": lambda data: {"json": data},
    "json that cannot be": lambda data: {"json": Opaque(data)},
    "form": lambda data: {"data": form(data)},
    "form of pairs": lambda data: {"data": [*form(data).items()]},
    "multipart": lambda data: {"files": {"requested_file": ("a.csv", dumped(data), "text/csv")}},
    "multipart of a file": lambda data: {"files": {"f": file_of(dumped(data))}, "data": form(data)},
}
URLLIB3: dict[str, Body] = {
    **raw("body"),
    "json": lambda data: {"json": data},
    "json that cannot be": lambda data: {"json": Opaque(data)},
    "form": lambda data: {"fields": form(data), "encode_multipart": False},
    "multipart": lambda data: {"fields": {"f": ("a.csv", dumped(data), "text/csv"), **form(data)}},
    "chunked": lambda data: {"body": dumped(data), "chunked": True},
    "headers with doubles": lambda data: {
        "body": dumped(data),
        "headers": urllib3.HTTPHeaderDict([("x-key", "rb_test"), ("X-A", "1"), ("X-A", "2")]),
    },
    "headers of the pool": lambda data: {"body": dumped(data), "headers": None},
}
HTTP_CLIENT: dict[str, Body] = {
    **without(raw("body"), "own transfer-encoding"),
    "encode_chunked": lambda data: {
        "body": chunks(dumped(data)),
        "headers": {**KEY, "Transfer-Encoding": "chunked"},
        "encode_chunked": True,
    },
}
HTTPX: dict[str, Body] = {
    **raw("content"),
    "json": lambda data: {"json": data},
    "json that cannot be": lambda data: {"json": Opaque(data)},
    "form": lambda data: {"data": form(data)},
    "multipart": lambda data: {"files": {"f": ("a.csv", dumped(data), "text/csv")}},
    "multipart of a file": lambda data: {"files": {"f": io.BytesIO(dumped(data))}},
    "headers with doubles": lambda data: {
        "content": dumped(data),
        "headers": [("x-key", "rb_test"), ("X-A", "1"), ("X-A", "2"), ("Content-Type", "a/b")],
    },
}


def made_form(data: Any) -> aiohttp.FormData:
    fields = aiohttp.FormData()
    fields.add_field("f", io.BytesIO(dumped(data)), filename="a.csv", content_type="text/csv")
    return fields


def made_multipart(data: Any) -> aiohttp.MultipartWriter:
    with aiohttp.MultipartWriter("mixed") as parts:
        parts.append(dumped(data))
        parts.append_json(data)
    return parts


HEADERS_OF_ITS_OWN = {"Content-Type": "text/x-own", "X-Payload": "1"}
AIOHTTP: dict[str, Body] = {
    **raw("data"),
    "json": lambda data: {"json": data},
    "json that cannot be": lambda data: {"json": Opaque(data)},
    "form": lambda data: {"data": form(data)},
    "form of pairs": lambda data: {"data": [*form(data).items()]},
    "FormData": lambda data: {"made": lambda: {"data": aiohttp.FormData(form(data))}},
    "FormData, multipart": lambda data: {"made": lambda: {"data": made_form(data)}},
    "MultipartWriter": lambda data: {"made": lambda: {"data": made_multipart(data)}},
    "compress": lambda data: {"json": data, "compress": "deflate"},
    "chunked": lambda data: {"data": dumped(data), "chunked": True},
    "expect100": lambda data: {"json": data, "expect100": False},
    "skip_auto_headers": lambda data: {
        "data": dumped(data),
        "skip_auto_headers": ["User-Agent", "Content-Type"],
    },
    "headers of the session": lambda data: {
        "json": data,
        "session": {"headers": {**KEY, "Content-Type": "text/x-own"}, "cookies": {"a": "b"}},
        "headers": {"X-Request": "1"},
    },
    "json_serialize": lambda data: {
        "json": Opaque(data),
        "session": {"json_serialize": lambda one: json.dumps(one.data)},
    },
    **{
        f"{name}, hand-made": lambda data, make=make: {  # type: ignore[misc]
            "made": lambda: {"data": make(data)}
        }
        for name, make in {
            "JsonPayload": payload.JsonPayload,
            "JsonPayload with headers": lambda data: payload.JsonPayload(
                data, headers={"X-Payload": "1"}, content_type="application/vnd.own+json"
            ),
            "BytesPayload": lambda data: payload.BytesPayload(dumped(data)),
            "BytesPayload with headers": lambda data: payload.BytesPayload(
                dumped(data), headers=HEADERS_OF_ITS_OWN
            ),
            "StringPayload": lambda data: payload.StringPayload(json.dumps(data)),
            "StringPayload in latin-1": lambda data: payload.StringPayload(
                json.dumps({**data, "ü": "é"}, ensure_ascii=False), encoding="latin-1"
            ),
            "BytesIOPayload": lambda data: payload.BytesIOPayload(
                io.BytesIO(dumped(data)), filename="a.json", headers={"X-Payload": "1"}
            ),
            "StringIOPayload": lambda data: payload.StringIOPayload(io.StringIO(json.dumps(data))),
            "BufferedReaderPayload": lambda data: payload.BufferedReaderPayload(
                file_of(dumped(data)), content_type="application/json"
            ),
            "AsyncIterablePayload": lambda data: payload.AsyncIterablePayload(
                async_chunks(dumped(data)), content_type="application/json"
            ),
        }.items()
    },
}
if "_json_serialize_bytes" in aiohttp.ClientSession.ATTRS:  # from 3.14 on
    AIOHTTP["json_serialize_bytes"] = lambda data: {
        "json": Opaque(data),
        "session": {"json_serialize_bytes": lambda one: dumped(one.data)},
    }

Send = Callable[[str, dict[str, Any]], int]
PROGRAMS: dict[str, tuple[Send, dict[str, Body]]] = {
    "requests": (by_requests, REQUESTS),
    "requests session": (by_session, REQUESTS),
    "urllib3": (by_urllib3, URLLIB3),
    "urllib.request": (by_urllib, raw("data")),
    "http.client": (by_http_client, HTTP_CLIENT),
    "httpx": (by_httpx, HTTPX),
    "httpx async": (by_httpx_async, HTTPX),
    "aiohttp": (by_aiohttp, AIOHTTP),
}
