"""The asynchronous sender; a module of its own, as ``asyncio`` costs more than all of the core."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

from revenuebase_compat.core.decoding import MAX_BODY, AttemptOutcome, unpack
from revenuebase_compat.core.protocol import OWN_REQUEST_EXTENSION, Request
from revenuebase_compat.core.settings import Settings

from .transport import (
    Connection,
    RemainingTimeouts,
    _Sender,
    decoded,
    needs_proxy,
    no_response_from,
)
from .watchdog import Attempt

if TYPE_CHECKING:
    import httpx

if sys.version_info >= (3, 11):
    from asyncio import timeout as asyncio_timeout
else:  # pragma: no cover (one branch per Python)

    class asyncio_timeout:  # noqa: N801 (stands in for a function)
        """``asyncio.timeout`` of Python 3.11, as far as it can be had on 3.10."""

        def __init__(self, delay: float) -> None:
            self._delay = delay
            self._expired = False

        async def __aenter__(self) -> None:
            self._task = asyncio.current_task()
            self._handle = asyncio.get_running_loop().call_later(self._delay, self._expire)

        def _expire(self) -> None:
            self._expired = True
            assert self._task is not None  # noqa: S101
            self._task.cancel()

        async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
            self._handle.cancel()
            if self._expired and kind is asyncio.CancelledError:
                raise TimeoutError


class AsyncSender(_Sender):
    """Sends for ``AsyncClient``; a free list per event loop, as connections belong to one."""

    def __init__(self, settings: Settings, http_client: httpx.AsyncClient | None = None) -> None:
        super().__init__(settings, http_client)
        self._pools: _Pools = WeakKeyDictionary()
        self._inherited: list[_Pools] = []

    async def __call__(self, request: Request, timeout: float) -> AttemptOutcome:
        if self._theirs is not None:
            return await self._send_theirs(request, timeout)
        prepared = self._prepared().build(request, {OWN_REQUEST_EXTENSION: True})
        free = self._pool()
        slot = free.pop() if free else self._open()
        attempt = Attempt(timeout, None)
        left = RemainingTimeouts(attempt, prepared.extensions, trace=attempt.trace_async)
        try:
            async with asyncio_timeout(timeout):
                prepared.extensions["timeout"] = left
                answer = await _read_async(await slot.send(prepared))
        except BaseException as error:
            await slot.close()
            await attempt.close_async()
            if isinstance(error, Exception):
                return no_response_from(error, timeout, attempt)
            raise
        finally:
            prepared.extensions.clear()  # ends the circle, which would wait for the collector
        await self._release(free, slot)
        return answer

    async def _send_theirs(self, request: Request, timeout: float) -> AttemptOutcome:
        client = self._theirs
        method, url, headers = self._prepared().arguments(request)
        try:
            prepared = client.build_request(
                method,
                url,
                headers=headers,
                content=request.body,
                timeout=timeout,
                extensions={OWN_REQUEST_EXTENSION: True},
            )
            async with asyncio_timeout(timeout):
                return await _read_async(
                    await client.send(prepared, stream=True, follow_redirects=False)
                )
        except Exception as error:
            return no_response_from(error, timeout)

    def _pool(self) -> deque[Connection[Awaitable[httpx.Response]]]:
        if self._pid != os.getpid():
            # Kept, not closed: closing would unregister the parent's sockets from its selector.
            self._inherited.append(self._pools)
            self._pools, self._pid = WeakKeyDictionary(), os.getpid()
        return self._pools.setdefault(asyncio.get_running_loop(), deque())

    def _open(self) -> Connection[Awaitable[httpx.Response]]:
        import httpx

        if needs_proxy(self._settings):
            client = httpx.AsyncClient(**self._options())
            return Connection(
                lambda request: client.send(request, stream=True, follow_redirects=False),
                client.aclose,
            )
        transport = httpx.AsyncHTTPTransport(**self._options())
        return Connection(transport.handle_async_request, transport.aclose)

    async def _release(
        self,
        free: deque[Connection[Awaitable[httpx.Response]]],
        slot: Connection[Awaitable[httpx.Response]],
    ) -> None:
        if self._closed:
            await slot.close()
            return
        slot.idle_since = time.monotonic()
        free.append(slot)
        surplus = self._evict(free)
        if surplus is not None:
            await surplus.close()

    async def close(self) -> None:
        """Close what is idle in this event loop; other loops' connections end with them."""
        self._closed = True
        free = self._pools.pop(asyncio.get_running_loop(), None)
        while free:
            await free.pop().close()


async def _read_async(response: httpx.Response) -> AttemptOutcome:
    try:
        if response.is_stream_consumed:
            return decoded(response)
        body = bytearray()
        # Closed here and now: the event loop would get to it only some time later.
        raw = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
        async with aclosing(raw) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_BODY:
                    break
    finally:
        await response.aclose()
    return unpack(response.status_code, response.headers.raw, bytes(body))


_Pools = WeakKeyDictionary[
    asyncio.AbstractEventLoop, deque[Connection[Awaitable["httpx.Response"]]]
]
