"""Bodies and headers of requests, whatever their kind: read ahead, and sent the same."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

from revenuebase_compat.adopt.rewrite import Headers, describes_body
from revenuebase_compat.core.decoding import MAX_BODY


class Replay:
    """A body that was read ahead: chunk by chunk as it was, then its error or what is left."""

    def __init__(self, chunks: list[Any], rest: Any, error: Exception | None = None) -> None:
        self._chunks = chunks
        self._rest = rest
        self._error = error

    def __iter__(self) -> Iterator[Any]:
        yield from self._chunks
        if self._error is not None:
            raise self._error
        yield from self._rest

    async def __aiter__(self) -> AsyncIterator[Any]:
        for chunk in self._chunks:
            yield chunk
        if self._error is not None:
            raise self._error
        async for chunk in self._rest:
            yield chunk


def is_text(body: Any) -> bool:
    """Whether a body is bytes or text, or none: such a one can be sent again."""
    return body is None or isinstance(body, str | bytes | bytearray | memoryview)


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
    size, failed = 0, None
    rest = aiter(body) if asynchronous else iter(body)
    try:
        while size <= MAX_BODY:
            chunks.append(await anext(rest) if asynchronous else next(rest))
            size += len(chunks[-1])
    except (StopIteration, StopAsyncIteration):
        pass
    except Exception as error:
        failed = error  # the sending meets it where it would have met it
    return b"".join(map(as_bytes, chunks)), Replay(chunks, rest, failed)


def as_bytes(text: Any) -> bytes:
    """A text as it is sent."""
    if isinstance(text, str):
        return text.encode()
    return bytes(text) if isinstance(text, bytes | bytearray | memoryview) else str(text).encode()


def encoding_of(headers: Any) -> Headers:
    """The Content-Encoding that a mapping of headers names, raw."""
    found = [name for name in headers or () if len(name) == len("content-encoding")]
    pairs = [(as_bytes(name).lower(), as_bytes(headers[name])) for name in found]
    return [pair for pair in pairs if pair[0] == b"content-encoding"]


def clone(thing: Any) -> Any:
    """A shallow copy, in a third of the time of ``copy.copy``."""
    made = object.__new__(type(thing))
    made.__dict__.update(thing.__dict__)
    return made


def raw_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    """A mapping of headers, raw."""
    return [(as_bytes(name), as_bytes(value)) for name, value in headers.items()]


#: What the names of headers begin with that describe a body.
_INITIALS = frozenset([*"cCtTeE", *(letter.encode() for letter in "cCtTeE")])


def without_body_headers(headers: Any) -> Any:
    """Headers in a mapping of their own kind, without what describes a body."""
    found = headers.copy() if hasattr(headers, "copy") else dict(headers)
    for name in [*found]:
        if name[:1] in _INITIALS and describes_body(as_bytes(name).lower()):
            found.pop(name, None)
    return found
