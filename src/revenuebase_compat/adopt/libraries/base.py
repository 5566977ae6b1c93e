"""What the libraries share: a call as the interceptor sees it; bodies and headers of any kind."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from typing import Any

from revenuebase_compat.adopt.rewrite import Headers, describes_body
from revenuebase_compat.client.process import from_handler
from revenuebase_compat.core.decoding import MAX_BODY
from revenuebase_compat.core.endpoints import Endpoint, Request

#: Exceptions of httpcore, urllib3, aiohttp and Python, by name, as no library is imported here.
_NOT_CONNECTED = (
    *("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "NewConnectionError"),
    *("ConnectTimeoutError", "EmptyPoolError", "ClientConnectorError", "ConnectionTimeoutError"),
    *("ConnectionRefusedError", "gaierror", "SSLCertVerificationError"),
)


class LibraryCall(ABC):
    """A request that was recognised: what the library's function was called on, and with.

    The coroutines of a synchronous library never suspend (but ``http_client``'s, whose answer is
    fetched by a call of its own). What is no stub here is for headers in a mapping.
    """

    asynchronous = False

    def __init__(
        self, base_url: str, original: Any, owner: Any, /, *given: Any, **options: Any
    ) -> None:
        self._base_url = base_url
        self._original = original
        self._owner = owner
        self._given = given
        self._options = options

    def encoding(self) -> Headers:
        """The Content-Encoding of the request's body, if it has one."""
        return encoding_of(self._options.get("headers"))

    async def peek(self) -> bytes:
        """The body, read ahead; what is sent stays the same, byte for byte."""
        seen, self._options["body"] = await peek(self._options.get("body"))
        return seen

    def replayable(self) -> bool:
        """Whether the body can be sent a second time: there is none, or it is bytes or text."""
        return is_text(self._options.get("body"))

    def unsent(self, error: Exception) -> bool:
        """Whether the library's exception says that it never connected."""
        return any(kind.__name__ in _NOT_CONNECTED for kind in type(error).__mro__)

    @abstractmethod
    async def send(self, endpoint: Endpoint, moved: Request | None) -> Any:
        """By the library's own function: the moved request, or the caller's own (``None``)."""

    def headers_of(self, response: Any) -> Headers:
        """Of an answer."""
        return raw_headers(response.headers)

    @abstractmethod
    async def close(self, response: Any) -> None:
        """Be done with an answer that nobody will see."""

    @abstractmethod
    def redirect(self, response: Any, status: int, location: str) -> None:
        """Let an answer lead there, with that status."""

    @abstractmethod
    async def translate(self, response: Any) -> Any:
        """A 422 in the words of v1."""


class _Replay:
    """A body that was read ahead: chunk by chunk as it was, then its error or what is left.

    Each kind can be iterated over in its own way alone, by which libraries tell them apart.
    """

    def __init__(self, rest: Any) -> None:
        self.chunks: list[Any] = []
        self.error: Exception | None = None
        self._rest = rest


class Replay(_Replay):
    def __iter__(self) -> Iterator[Any]:
        yield from self.chunks
        if self.error is not None:
            raise self.error
        yield from self._rest


class AsyncReplay(_Replay):
    async def __aiter__(self) -> AsyncIterator[Any]:
        for chunk in self.chunks:
            yield chunk
        if self.error is not None:
            raise self.error
        async for chunk in self._rest:
            yield chunk


class _Broken(io.RawIOBase):
    """A file that could not be read: the sending meets the error where it would have met it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, _: Any) -> int:
        raise self._error


def is_text(body: Any) -> bool:
    """Whether a body is bytes or text, or none: such a one can be sent again."""
    return body is None or isinstance(body, str | bytes | bytearray | memoryview)


async def peek(body: Any) -> tuple[bytes, Any]:
    """What a body holds, and a body to send that is the same."""
    if body is None or isinstance(body, str | bytes):
        return as_bytes(body or b""), body
    if hasattr(body, "read"):
        start = body.tell() if hasattr(body, "seekable") and body.seekable() else None
        try:
            data = body.read()
            if start is not None:
                body.seek(start)
                return as_bytes(data), body
        except TypeError:  # it wants a size, as the libraries give it one
            return b"", body
        except Exception as error:
            if from_handler(error):
                raise
            return b"", _Broken(error)
        return as_bytes(data), io.StringIO(data) if isinstance(data, str) else io.BytesIO(data)
    try:
        return bytes(memoryview(body)), body
    except TypeError:
        return await read_ahead(body, asynchronous=False)


async def read_ahead(body: Any, *, asynchronous: bool) -> tuple[bytes, Any]:
    """The same for what is iterated over; at most a little more than ``MAX_BODY`` is read."""
    rest = aiter(body) if asynchronous else iter(body)
    replay, size = (AsyncReplay if asynchronous else Replay)(rest), 0
    try:
        while size <= MAX_BODY:
            replay.chunks.append(await anext(rest) if asynchronous else next(rest))
            size += len(replay.chunks[-1])
    except (StopIteration, StopAsyncIteration):
        pass
    except Exception as error:
        if from_handler(error):
            raise
        replay.error = error  # the sending meets it where it would have met it
    # Of one that breaks off, nothing is known: it is to meet its error where it would have.
    seen = b"" if replay.error is not None else b"".join(map(as_bytes, replay.chunks))
    return seen, replay


def as_bytes(text: Any) -> bytes:
    """A text as it is sent."""
    if isinstance(text, str):
        return text.encode()
    return bytes(text) if isinstance(text, bytes | bytearray | memoryview) else str(text).encode()


def encoding_of(headers: Any) -> Headers:
    """The Content-Encoding that a mapping of headers names, raw."""
    return [
        (b"content-encoding", as_bytes(headers[name]))
        for name in headers or ()
        if len(name) == 16 and as_bytes(name).lower() == b"content-encoding"
    ]


def raw_headers(headers: Any) -> Headers:
    """A mapping of headers, raw."""
    return [(as_bytes(name), as_bytes(value)) for name, value in headers.items()]


def without_body_headers(headers: Any) -> Any:
    """Headers without what describes a body; a mapping that can hold a name twice stays one."""
    if not (hasattr(headers, "getlist") or hasattr(headers, "getall")):
        pairs = (headers or {}).items()
        return {name: value for name, value in pairs if not describes_body(as_bytes(name))}
    found = headers.copy()
    for name in [*found]:
        if describes_body(as_bytes(name)):
            found.pop(name, None)
    return found


def clone(thing: Any) -> Any:
    """A shallow copy, in a third of the time of ``copy.copy``."""
    made = object.__new__(type(thing))
    made.__dict__.update(thing.__dict__)
    return made
