"""One class per HTTP library: what ``patches`` must know of a request of it, and do with it.

The steps are coroutines. Those of a synchronous library never suspend, so that one ``send(None)``
runs them to their end. Every request goes through the library's own function, in the caller's
own pool.
"""

from __future__ import annotations

import copy
import io
from collections.abc import AsyncIterator, Generator, Iterator
from contextvars import ContextVar
from types import coroutine
from typing import Any

from revenuebase_compat.adopt.rewrite import (
    Headers,
    describes_body,
    to_v1_body,
    to_v2_headers,
    to_v2_target,
)
from revenuebase_compat.core.decoding import MAX_BODY
from revenuebase_compat.core.protocol import Request

#: Set while a library sends: its retries and lower layers are not decided on once more.
busy: ContextVar[bool] = ContextVar("revenuebase_compat_busy", default=False)


class Call:
    """A request that was recognised: what the library's function was called on, and with."""

    asynchronous = False

    def __init__(
        self, base_url: str, original: Any, owner: Any, given: list[Any], options: dict[str, Any]
    ) -> None:
        self._base_url = base_url
        self._original = original
        self._owner = owner
        self._given = given
        self._options = options

    async def _send(self, *given: Any, **options: Any) -> Any:
        busy.set(True)
        try:
            answer = self._original(self._owner, *given, **options)
            return await answer if self.asynchronous else answer
        finally:
            busy.set(False)


class Httpcore(Call):
    """httpcore and httpcore2."""

    def headers(self) -> Headers:
        """Of the request."""
        headers: Headers = self._given[0].headers
        return headers

    async def peek(self) -> bytes:
        """The body, read ahead; what is sent stays the same."""
        stream = self._given[0].stream
        seen, self._stream = await read_ahead(stream, asynchronous=self.asynchronous)
        return seen

    def _like(self, method: bytes, url: Any, headers: Headers, content: Any) -> Any:
        """A request like the caller's, which is left as it was."""
        request = self._given[0]
        # "target" would overrule the URL, which holds it already.
        extensions = {key: item for key, item in request.extensions.items() if key != "target"}
        like = type(request)(method, url, content=content, extensions=extensions)
        like.headers = headers  # set, as given they would be looked at one by one again
        return like

    async def send(self, moved: Request | None) -> Any:
        """The moved request, or the caller's own where it is ``None``."""
        request, url = self._given[0], self._given[0].url
        if moved is None:
            same = self._like(request.method, url, [*request.headers], self._stream)
            return await self._send(same)
        target = to_v2_target(self._base_url, url.target.decode("latin-1"), moved)
        parts = {"scheme": url.scheme, "host": url.host, "port": url.port}
        url = type(url)(**parts, target=target.encode("latin-1"))
        headers = to_v2_headers(request.headers, moved)
        return await self._send(self._like(moved.method.encode(), url, headers, b""))

    def headers_of(self, response: Any) -> Headers:
        """Of an answer."""
        headers: Headers = response.headers
        return headers

    async def close(self, response: Any) -> None:
        """Be done with an answer that nobody will see."""
        if self.asynchronous:
            await response.aclose()
        else:
            response.close()

    def redirect(self, response: Any, location: str) -> None:
        """Let an answer lead there."""
        response.headers[:] = [
            (name, location.encode("latin-1") if name.lower() == b"location" else value)
            for name, value in response.headers
        ]

    async def translate(self, response: Any) -> Any:
        """A 422 in the words of v1."""
        body = await response.aread() if self.asynchronous else response.read()
        await self.close(response)
        body = to_v1_body(422, response.headers, body)
        framing = (b"content-length", b"transfer-encoding")
        headers = [pair for pair in response.headers if pair[0].lower() not in framing]
        headers.append((b"Content-Length", b"%d" % len(body)))
        return type(response)(422, headers=headers, content=body, extensions=response.extensions)


class AsyncHttpcore(Httpcore):
    """The asynchronous halves of both."""

    asynchronous = True


class Urllib3(Call):
    """urllib3, 1.26 and 2; given are the method and the URL."""

    def headers(self) -> Headers:
        return raw_headers(self._theirs())

    def _theirs(self) -> Any:
        given = self._options["headers"]
        return self._owner.headers if given is None else given

    async def peek(self) -> bytes:
        seen, self._options["body"] = await peek(self._options["body"])
        return seen

    async def send(self, moved: Request | None) -> Any:
        if moved is None:
            return await self._send(*self._given, **self._options)
        url = self._given[1]
        target = to_v2_target(self._base_url, url, moved)
        about_body = {"body": None, "headers": without_body_headers(self._theirs())}
        options = {**self._options, **about_body, "chunked": False, "body_pos": None}
        response = await self._send(moved.method, target, **options)
        if getattr(response, "_request_url", None) == target:
            response._request_url = url
        return response

    def headers_of(self, response: Any) -> Headers:
        return raw_headers(response.headers)

    async def close(self, response: Any) -> None:
        response.drain_conn()

    def redirect(self, response: Any, location: str) -> None:
        response.headers["Location"] = location

    async def translate(self, response: Any) -> Any:
        if response._body:  # read and decompressed already
            response._body = to_v1_body(422, [], response._body)
            return response
        headers = response.headers.copy()
        body = to_v1_body(422, raw_headers(headers), response.read(decode_content=False))
        headers.discard("Transfer-Encoding")
        headers["Content-Length"] = str(len(body))
        return type(response)(
            io.BytesIO(body),
            headers=headers,
            status=422,
            version=response.version,
            reason=response.reason,
            preload_content=False,
            decode_content=self._options.get("decode_content", True),
            original_response=response._original_response,
            retries=response.retries,
            request_url=response._request_url,
        )


class HttpClient(Urllib3):
    """http.client, where the answer is fetched by a call of its own."""

    def _theirs(self) -> Any:
        return self._options["headers"]

    async def send(self, moved: Request | None) -> Any:
        if moved is None:
            await self._send(*self._given, **self._options)
        else:
            target = to_v2_target(self._base_url, self._given[1], moved)
            await self._send(moved.method, target, headers=without_body_headers(self._theirs()))
        return await fetched()

    async def close(self, response: Any) -> None:
        self._owner.close()  # what is left of an answer would be in the way

    def redirect(self, response: Any, location: str) -> None:
        response.headers.replace_header("Location", location)

    async def translate(self, response: Any) -> Any:
        body = to_v1_body(422, raw_headers(response.headers), response.read())
        del response.headers["Transfer-Encoding"], response.headers["Content-Length"]
        response.headers["Content-Length"] = str(len(body))
        response.fp, response.chunked, response.length = io.BytesIO(body), False, len(body)
        return response


@coroutine
def fetched() -> Generator[None, Any, Any]:
    """Suspends until the application asks for its answer."""
    return (yield)


class Aiohttp(Call):
    """aiohttp; given are the method and the URL."""

    asynchronous = True

    def headers(self) -> Headers:
        return raw_headers(self._theirs())

    def _theirs(self) -> Any:
        return self._owner._prepare_headers(self._options.get("headers"))

    async def peek(self) -> bytes:
        options = self._options
        if options.get("json") is not None:
            return as_bytes(self._owner._json_serialize(options["json"]))
        data = options.get("data")
        data = getattr(data, "_value", data)  # of a payload that was made by hand
        if hasattr(data, "__aiter__"):
            seen, options["data"] = await read_ahead(data, asynchronous=True)
        elif isinstance(data, str | bytes | bytearray | memoryview) or hasattr(data, "read"):
            seen, options["data"] = await peek(data)
        else:
            seen = b""
        return seen

    async def send(self, moved: Request | None) -> Any:
        if moved is None:
            return await self._send(*self._given, **self._options)
        url = self._owner._build_url(self._given[1])
        target = type(url)(to_v2_target(self._base_url, url.raw_path_qs, moved), encoded=True)
        dropped = ("data", "json", "compress", "chunked", "expect100")
        options = {name: value for name, value in self._options.items() if name not in dropped}
        options["headers"] = without_body_headers(self._theirs())
        options["skip_auto_headers"] = {"Content-Type", *(options.get("skip_auto_headers") or ())}
        # The session would add its own headers once more: a copy of it, without what we dropped.
        session, self._owner = self._owner, copy.copy(self._owner)
        self._owner._default_headers = without_body_headers(session._default_headers)
        self._owner._base_url = None  # beside which older ones take no absolute URL
        try:
            response = await self._send(moved.method, url.join(target), **options)
        finally:
            self._owner.detach()
            self._owner = session
        if not response._history:
            url = url.with_user(None).with_query(response._url.query)
            info = response._request_info
            response.method, response._url, response._real_url = "POST", url, url
            response._request_info = type(info)(url, "POST", info.headers, url)
            response._cache.clear()  # of the properties over these
        return response

    def headers_of(self, response: Any) -> Headers:
        return raw_headers(response._headers)

    async def close(self, response: Any) -> None:
        response.close()

    def redirect(self, response: Any, location: str) -> None:
        if not response._history:
            headers = response._headers.copy()
            headers["Location"] = location
            response._headers = type(response._headers)(headers)
            response._cache.clear()

    async def translate(self, response: Any) -> Any:
        response._body = to_v1_body(422, [], await response.read())  # decompressed by the library
        return response


class Replay:
    """A body that was read ahead: chunk by chunk as it was, and then what is left of it."""

    def __init__(self, chunks: list[Any], rest: Any) -> None:
        self._chunks = chunks
        self._rest = rest

    def __iter__(self) -> Iterator[Any]:
        yield from self._chunks
        yield from self._rest

    async def __aiter__(self) -> AsyncIterator[Any]:
        for chunk in self._chunks:
            yield chunk
        async for chunk in self._rest:
            yield chunk


async def peek(body: Any) -> tuple[bytes, Any]:
    """What a body holds, and a body to send that is the same."""
    if body is None or isinstance(body, str):
        return as_bytes(body or ""), body
    if hasattr(body, "read"):
        start = body.tell() if hasattr(body, "seekable") and body.seekable() else None
        data = body.read()
        if start is None:
            body = io.StringIO(data) if isinstance(data, str) else io.BytesIO(data)
        else:
            body.seek(start)
        return as_bytes(data), body
    try:
        return bytes(memoryview(body)), body
    except TypeError:
        return await read_ahead(body, asynchronous=False)


async def read_ahead(body: Any, *, asynchronous: bool) -> tuple[bytes, Replay]:
    """The same for what is iterated over; at most a little more than ``MAX_BODY`` is read."""
    chunks: list[Any] = []
    size = 0
    rest = aiter(body) if asynchronous else iter(body)
    try:
        while size <= MAX_BODY:
            chunks.append(await anext(rest) if asynchronous else next(rest))
            size += len(chunks[-1])
    except (StopIteration, StopAsyncIteration):
        pass
    return b"".join(map(as_bytes, chunks)), Replay(chunks, rest)


def as_bytes(text: Any) -> bytes:
    """A text as it is sent."""
    if isinstance(text, str):
        return text.encode()
    return bytes(text) if isinstance(text, bytes | bytearray | memoryview) else str(text).encode()


def raw_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    """A mapping of headers, raw."""
    return [(as_bytes(name), as_bytes(value)) for name, value in headers.items()]


def without_body_headers(headers: Any) -> Any:
    """Headers in a mapping of their own kind, without what describes a body."""
    found = headers.copy() if hasattr(headers, "copy") else dict(headers)
    for name in [*found]:
        if describes_body(as_bytes(name).lower()):
            found.pop(name, None)
    return found
