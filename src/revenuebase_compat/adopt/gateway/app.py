"""The gateway: a loopback reverse proxy that moves v1 cancels of clients that will not change.

For clients whose base URL can be configured, in whatever language they are written. The upstream
is fixed at the start, and nothing a client sends leads anywhere else. Cancel and status requests
of v1 are decided on as by ``cancel_job``; everything else passes as it is, streamed both ways.
The key travels in the client's own ``x-key``; the gateway has none.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from datetime import datetime
from email.utils import formatdate
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import httpx

from revenuebase_compat.client.extras import missing_extra

try:
    import uvicorn
except ImportError as error:
    raise missing_extra("the gateway", "gateway", error) from error

from revenuebase_compat.adopt import rewrite
from revenuebase_compat.adopt.rewrite import Forward
from revenuebase_compat.client import flags, notices
from revenuebase_compat.client.runtime import call_context, utc_now
from revenuebase_compat.client.transport import (
    needs_proxy,
    no_response_from,
    tls_context,
)
from revenuebase_compat.client.transport_async import asyncio_timeout
from revenuebase_compat.core import cancellation, responses
from revenuebase_compat.core.decoding import MAX_BODY, Response
from revenuebase_compat.core.endpoints import CANCEL, Endpoint
from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.notices import Notice
from revenuebase_compat.core.protocol import OWN_REQUEST_EXTENSION
from revenuebase_compat.core.routing import EvaluateFlag
from revenuebase_compat.core.settings import DEFAULT_BASE_URL, Settings, is_loopback

Headers = list[tuple[bytes, bytes]]
Chunks = AsyncGenerator[bytes, None]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Meant for one connection, not for the message (RFC 9110, 7.6.1); so is what Connection names.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization "
    b"te trailer transfer-encoding upgrade".split()
)
#: No line of a user's is on the stack: warnings point here.
_SITE = notices.CallSite(sys._getframe())


class _ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class _Answer(NamedTuple):
    status: int
    headers: Headers
    body: Chunks


class _Incoming:
    """A request as it arrives, and the client's leaving."""

    def __init__(self, scope: Message, receive: Receive) -> None:
        query = scope["query_string"]
        self.method: str = scope["method"]
        self.target: str = (scope["raw_path"] + (b"?" + query if query else b"")).decode("ascii")
        host, port = scope["server"]
        self.netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        given = dict(scope["headers"])
        self.has_body = b"transfer-encoding" in given or given.get(b"content-length", b"0") != b"0"
        own = (b"host", b"expect")  # what is expected, uvicorn does
        self.headers = [pair for pair in end_to_end(scope["headers"]) if pair[0] not in own]
        self._receive = receive
        #: Set once the body was read: ``receive`` has one reader at a time.
        self.taken = asyncio.Event()
        if not self.has_body:
            self.taken.set()

    async def body(self) -> Chunks:
        more = self.has_body
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            more = message.get("more_body", False)
            if message["body"]:
                yield message["body"]
        self.taken.set()

    async def left(self) -> None:
        """Return when the client has gone."""
        await self.taken.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Gateway:
    """The ASGI application.

    Args:
        settings: decide as they do for ``Client``; their key and base URL are not used.
        upstream: where every request goes; what is right for ``base_url`` is right here.
        clock: gives the time as an aware ``datetime``; decides the version.
        monotonic: gives seconds; measures memory and durations.

    Raises:
        ConfigurationError: ``upstream`` is wrong, or the flag does not resolve.
    """

    def __init__(
        self,
        settings: Settings,
        upstream: str = DEFAULT_BASE_URL,
        *,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            self.settings = replace(settings, api_key=None, base_url=upstream)
        except ConfigurationError as error:
            why = str(error).replace("base_url (REVENUEBASE_BASE_URL)", "upstream (--upstream)")
            raise ConfigurationError(why) from None
        if isinstance(settings.v2_flag, str):
            flags.resolve(settings.v2_flag)
        self._context = call_context(self.settings, _tell, clock, monotonic)
        self._url = httpx.URL(self.settings.base_url)
        self._prefix = urlsplit(self.settings.base_url).path
        self._client = httpx.AsyncClient(
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
            verify=tls_context(self.settings),
            trust_env=needs_proxy(self.settings),
        )

    async def aclose(self) -> None:
        """Close the connections to the upstream."""
        await self._client.aclose()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        incoming = _Incoming(scope, receive)
        answering = asyncio.ensure_future(self._answer(incoming, send))
        leaving = asyncio.ensure_future(incoming.left())
        leaving.add_done_callback(lambda _: answering.cancel())
        try:
            # Cancelled where the client left, or where a stop has waited long enough.
            with suppress(asyncio.CancelledError):
                await answering
        finally:
            leaving.cancel()

    async def _answer(self, incoming: _Incoming, send: Send) -> None:
        started = False

        async def put(answer: _Answer) -> None:
            nonlocal started
            head = {"status": answer.status, "headers": answer.headers}
            await send({"type": "http.response.start", **head})
            started = True
            async with aclosing(answer.body) as chunks:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})

        try:
            async with AsyncExitStack() as opened:
                await put(await self._obtain(incoming, opened))
        except _ClientLeft:
            return
        except (httpx.HTTPError, OSError) as error:
            if started:
                # A connection that breaks is all that tells the client that this is not the end.
                message = f"an answer of the gateway's upstream breaks off: {type(error).__name__}"
                notices.log(("cut", type(error)), "warning", message, time.monotonic())
                return
            what = no_response_from(error, self.settings.timeout)
            why = f"no answer from {self.settings.base_url}: {responses.readable(what.reason)}"
            await put(_own(504 if what.timeout else 502, {"detail": why}))
        # Last of all: for uvicorn, and so for ``left``, the exchange ends here.
        await send({"type": "http.response.body"})

    async def _obtain(self, incoming: _Incoming, opened: AsyncExitStack) -> _Answer:
        target, url = incoming.target, self._url
        if target.partition("?")[0] == "/-/healthz":
            return _own(200, {"status": "ok", "upstream": self.settings.base_url})
        if incoming.method == "CONNECT" or target[:1] != "/" or "#" in target:
            return _own(400, {"detail": "ask for a path, such as /v1/cancel-process"})
        incoming.target = target = self._prefix + target
        endpoint = rewrite.recognise(
            self.settings.base_url, incoming.method, url.scheme, url.host, url.port, target
        )
        content: bytes | Chunks | None = incoming.body() if incoming.has_body else None
        if endpoint is not None and endpoint.names_job:
            start, rest = await _peek(incoming.body())
            process_id = None if rest else rewrite.process_id_of(incoming.headers, start)
            if process_id is not None:
                return await self._move(endpoint, process_id, incoming, start, opened)
            content = _chain(start, rest) if rest else start
            words = rewrite.no_job_words(endpoint)
            notices.log(("gateway", "no job"), "warning", words, time.monotonic())
        elif endpoint is not None:
            self._untouched(endpoint, incoming)
        response = await self._send(incoming, content, opened)
        return _Answer(response.status_code, self._down(incoming, response), _raw(response))

    async def _move(
        self,
        endpoint: Endpoint,
        process_id: int,
        incoming: _Incoming,
        body: bytes,
        opened: AsyncExitStack,
    ) -> _Answer:
        """What comes of a request whose job is known."""
        steps = rewrite.move(self._context, endpoint, process_id)
        ends = time.monotonic() + self.settings.timeout
        step: Callable[[], EvaluateFlag | Forward] = partial(next, steps)
        try:
            while True:
                command = step()
                if isinstance(command, EvaluateFlag):
                    opinion = await flags.ask_async(self.settings.v2_flag, command.context)
                    step = partial(steps.send, opinion)
                    continue
                moved = command.request
                if moved is None:
                    if endpoint is not CANCEL:
                        self._untouched(endpoint, incoming)
                else:
                    base_url, incoming.method = self.settings.base_url, moved.method
                    incoming.target = rewrite.to_v2_target(base_url, incoming.target, moved)
                    incoming.headers = [*rewrite.to_v2_headers(incoming.headers, endpoint)]
                try:
                    async with asyncio_timeout(ends - time.monotonic()):
                        response = await self._send(incoming, None if moved else body, opened)
                except (httpx.HTTPError, OSError) as error:
                    step = partial(steps.throw, error)
                else:
                    seen = Response(response.status_code, response.headers.raw)
                    step = partial(steps.send, seen)
        except StopIteration:
            pass
        finally:
            steps.close()
        status, headers = response.status_code, self._down(incoming, response)
        if moved is None or status != 422:
            return _Answer(status, headers, _raw(response))
        start, rest = await _peek(_raw(response))
        if rest is None:
            start = rewrite.to_v1_body(status, headers, start)
            headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
            headers.append((b"Content-Length", b"%d" % len(start)))
        return _Answer(status, headers, _chain(start, rest))

    async def _send(
        self, incoming: _Incoming, content: bytes | Chunks | None, opened: AsyncExitStack
    ) -> httpx.Response:
        target = incoming.target.encode("ascii")
        request = httpx.Request(
            incoming.method,
            self._url.copy_with(raw_path=target),
            headers=incoming.headers,
            content=content,
            extensions={
                "target": target,  # as it came: a URL of httpx's is normalised
                "timeout": httpx.Timeout(self.settings.timeout).as_dict(),
                OWN_REQUEST_EXTENSION: True,
            },
        )
        request.method = incoming.method  # httpx has made it upper-case
        response = await self._client.send(request, stream=True, follow_redirects=False)
        opened.push_async_callback(response.aclose)
        if response.status_code > 599:
            raise httpx.RemoteProtocolError(f"{response.status_code} is no HTTP status")
        return response

    def _down(self, incoming: _Incoming, response: httpx.Response) -> Headers:
        """An answer's headers; where it redirects to the upstream, it redirects to us."""
        return [
            (name, self._here(incoming, value) if name.lower() == b"location" else value)
            for name, value in end_to_end(response.headers.raw)
        ]

    def _here(self, incoming: _Incoming, location: bytes) -> bytes:
        origin = f"{self._url.scheme}://{self._url.netloc.decode()}"
        try:
            url = rewrite.to_v1_location(origin + incoming.target, location.decode("latin-1"))
            parts = urlsplit(url)
            ours = httpx.URL(f"{parts.scheme}://{parts.netloc}") == httpx.URL(origin)
        except (ValueError, httpx.InvalidURL):
            return location
        if ours and f"{parts.path}/".startswith(f"{self._prefix}/"):
            path = parts.path[len(self._prefix) :]
            url = parts._replace(scheme="http", netloc=incoming.netloc, path=path).geturl()
        return url.encode("latin-1")

    def _untouched(self, endpoint: Endpoint, incoming: _Incoming) -> None:
        now = cancellation.now_of(self._context)
        call = f"{incoming.method} {incoming.target.partition('?')[0]}"
        notices.log_left(*rewrite.pass_through(self.settings, now, endpoint, call))


def _tell(notice: Notice) -> None:
    # Where warnings are errors (-W error), there is no caller that one could reach.
    with suppress(notices.ApiDeprecationWarning):
        notices.tell(notice, _SITE)


def end_to_end(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The headers that are meant for whoever is at the other end, not for the next hop."""
    lowered = [(name.lower(), value.lower()) for name, value in headers]
    named = b",".join(value for name, value in lowered if name == b"connection").split(b",")
    drop = HOP_BY_HOP.union(map(bytes.strip, named))
    if any(name == b"transfer-encoding" for name, _ in lowered):
        drop |= {b"content-length"}  # RFC 9112, 6.3: where both are sent, the length is a lie
    return [pair for pair in headers if pair[0].lower() not in drop]


async def _peek(chunks: Chunks) -> tuple[bytes, Chunks | None]:
    """A body of at most 1 MiB; of a larger one its start, and the rest."""
    start = bytearray()
    async for chunk in chunks:
        start += chunk
        if len(start) > MAX_BODY:
            return bytes(start), chunks
    return bytes(start), None


async def _chain(start: bytes, rest: Chunks | None = None) -> Chunks:
    yield start
    if rest is not None:
        async with aclosing(rest):
            async for chunk in rest:
                yield chunk


def _raw(response: httpx.Response) -> Chunks:
    return cast("Chunks", response.aiter_raw())


def _own(status: int, content: dict[str, str]) -> _Answer:
    body = json.dumps(content).encode()
    headers = [
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Date", formatdate(usegmt=True).encode()),
    ]
    return _Answer(status, headers, _chain(body))


class Server(uvicorn.Server):
    """uvicorn around a gateway; says when it takes requests."""

    def __init__(self, gateway: Gateway, on_ready: Callable[[], object]) -> None:
        config = uvicorn.Config(
            gateway,
            interface="asgi3",
            http="h11",  # refuses more than httptools
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=math.ceil(gateway.settings.timeout),
        )
        super().__init__(config)
        self._gateway = gateway
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def run_on(self, sock: socket.socket) -> None:
        """Serve until told to stop, and until what is under way then has ended."""
        try:
            await self.serve([sock])
        finally:
            await self._gateway.aclose()


def listen(upstream: str, host: str, port: int) -> socket.socket:
    """A socket on loopback that is not its own upstream.

    Raises:
        ConfigurationError: it would be, or would listen beyond loopback, or cannot listen.
    """
    if not is_loopback(host):
        raise ConfigurationError(
            f"host (--host) {host!r}: keys would travel in the clear; give 127.0.0.1 or ::1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigurationError(f"port (--port) {port}: {error.strerror}; give another") from None
    url = httpx.URL(upstream)
    local = is_loopback(url.host) or url.host in ("0.0.0.0", "::")  # noqa: S104
    if local and (url.port or {"https": 443, "http": 80}[url.scheme]) == sock.getsockname()[1]:
        sock.close()
        raise ConfigurationError(
            f"upstream (--upstream) {upstream!r}: that is the gateway itself; give the API's URL"
        )
    # asyncio overlooks a socket made this way, and Nagle then delays every answer by 40 ms.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def serve(
    settings: Settings,
    *,
    upstream: str = DEFAULT_BASE_URL,
    host: str = "127.0.0.1",
    port: int = 8089,
    on_ready: Callable[[str], object] = lambda base_url: None,
) -> None:
    """Run the gateway until SIGINT or SIGTERM, and until the requests under way have ended.

    They are given ``settings.timeout`` seconds. For the main thread, where signals arrive.

    Args:
        settings: decide as they do for ``Client``; their key and base URL are not used.
        upstream: where every request goes; what is right for ``base_url`` is right here.
        host: loopback, by name or address.
        port: 0 takes a free one.
        on_ready: called with the gateway's base URL once it takes requests.

    Raises:
        ConfigurationError: an argument is wrong, or the port is taken.
    """
    gateway = Gateway(settings, upstream)
    sock = listen(gateway.settings.base_url, host, port)
    shown = f"[{host}]" if ":" in host else host
    base_url = f"http://{shown}:{sock.getsockname()[1]}"
    server = Server(gateway, partial(on_ready, base_url))
    # uvicorn raises the signal again once it has stopped, which shall not end the process here.
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, server.handle_exit) for number in numbers]
    try:
        asyncio.run(server.run_on(sock))
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
