"""A request as it arrives, an answer as it leaves, and whom the gateway answers."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from email.utils import formatdate
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NamedTuple

from revenuebase_compat.client.transport_async import asyncio_timeout
from revenuebase_compat.core.decoding import MAX_BODY

Headers = list[tuple[bytes, bytes]]
Chunks = AsyncGenerator[bytes, None]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Bytes of a request-target; RFC 9112, 3 recommends at least 8000.
MAX_TARGET = 16 * 1024

#: Meant for one connection, not for the message (RFC 9110, 7.6.1); so is what Connection names.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization "
    b"te trailer transfer-encoding upgrade".split()
)


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Answer(NamedTuple):
    status: int
    headers: Headers
    body: Chunks


def within(timeout: float, deadline: float) -> AbstractAsyncContextManager[object]:
    """Raises ``TimeoutError`` after that many seconds, or at that time of the event loop's."""
    return asyncio_timeout(min(timeout, deadline - asyncio.get_running_loop().time()))


class Incoming:
    """A request as it arrives, and the client's leaving.

    Each piece of the body may take ``timeout`` seconds, and all until ``deadline`` (loop's time).
    """

    def __init__(self, scope: Message, receive: Receive, timeout: float) -> None:
        query = scope["query_string"].decode("ascii")
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("ascii")  # as it came
        self.target = f"{self.path}?{query}" if query else self.path
        given = self.given = dict(scope["headers"])
        self.host: str = given.get(b"host", b"").decode("latin-1")
        self.is_chunked = b"transfer-encoding" in given
        self.has_body = self.is_chunked or given.get(b"content-length", b"0") != b"0"
        own = (b"host", b"expect")  # what is expected, uvicorn does
        self.headers = [pair for pair in end_to_end(scope["headers"]) if pair[0] not in own]
        self.deadline = math.inf
        #: Whether the client is to send more of the body, and we wait for it.
        self.is_awaited = False
        self._more = self.has_body
        self._receive, self._timeout = receive, timeout
        self._task: Any = asyncio.current_task()
        self.watcher: asyncio.Task[None] | None = None

    async def body(self) -> Chunks:
        """The body, piece by piece; ``ClientLeft``, or ``TimeoutError`` where one is late."""
        while self._more:
            self.is_awaited = True
            async with within(self._timeout, self.deadline):
                message = await self._receive()
            self.is_awaited = False
            if message["type"] == "http.disconnect":
                raise ClientLeft
            self._more = message.get("more_body", False)
            if not self._more:
                self.watch()
            if message["body"]:
                yield message["body"]

    def watch(self) -> None:
        """Cancel the task when the client leaves; from when the body is read, if there is one."""
        if not self._more:  # ``receive`` has one reader at a time
            self.watcher = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._task.cancel()


def refusal(incoming: Incoming, hosts: frozenset[str], pseudonym: bytes) -> Answer | None:
    """The answer to a request that no client of an API sends, or ``None``.

    A web page in the user's browser may reach loopback, under a name of its own too (DNS
    rebinding): it is known by ``Host``, ``Origin`` or ``Sec-Fetch-Site``, which it cannot set.
    """
    given = incoming.given
    if incoming.method == "CONNECT" or incoming.target[:1] != "/" or "#" in incoming.target:
        return own_answer(400, {"detail": "ask for a path, such as /v1/cancel-process"})
    if b"origin" in given or given.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
        return own_answer(403, {"detail": "requests of web pages are refused"})
    if incoming.host and not _is_known(incoming.host, hosts):
        why = f"Host {incoming.host!r} is refused: start the gateway with --allow-host NAME"
        return own_answer(403, {"detail": why})
    if pseudonym in given.get(b"via", b""):
        return own_answer(508, {"detail": "the upstream leads back to this gateway"})
    if len(incoming.target) > MAX_TARGET:
        return own_answer(414, {"detail": f"the target is longer than {MAX_TARGET} bytes"})
    return None


@lru_cache(maxsize=64)
def _is_known(host: str, hosts: frozenset[str]) -> bool:
    name = host.rpartition(":")[0] if host[-1:].isdigit() and ":" in host else host
    name = name.lower().rstrip(".")
    if name in hosts:
        return True
    try:
        return bool(ip_address(name.strip("[]")))
    except ValueError:
        return False


def end_to_end(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The headers that are meant for whoever is at the other end, not for the next hop."""
    lowered = [(name.lower(), value) for name, value in headers]
    drop = HOP_BY_HOP
    for name, value in lowered:
        if name == b"connection":
            drop = drop.union(part.strip() for part in value.lower().split(b","))
        elif name == b"transfer-encoding":
            # RFC 9112, 6.3: where both are sent, the length is a lie.
            drop = drop.union((b"content-length",))
    return [pair for pair, (name, _) in zip(headers, lowered, strict=True) if name not in drop]


async def peek(chunks: Chunks) -> tuple[bytes, Chunks | None]:
    """A body of at most 1 MiB; of a larger one its start, and the rest."""
    start = bytearray()
    async for chunk in chunks:
        start += chunk
        if len(start) > MAX_BODY:
            return bytes(start), chunks
    return bytes(start), None


async def chain(start: bytes, rest: Chunks | None = None) -> Chunks:
    if start:
        yield start
    if rest is not None:
        async with aclosing(rest):
            async for chunk in rest:
                yield chunk


def own_answer(status: int, content: dict[str, Any]) -> Answer:
    """An answer of the gateway's own, in JSON."""
    body = json.dumps(content).encode()
    return Answer(status, own_headers(body), chain(body))


def own_headers(body: bytes, content_type: bytes = b"application/json") -> Headers:
    """The headers of an answer of the gateway's own."""
    return [
        (b"Content-Type", content_type),
        (b"Content-Length", b"%d" % len(body)),
        (b"Date", formatdate(usegmt=True).encode()),
    ]
