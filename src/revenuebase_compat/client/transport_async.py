"""The asynchronous sender; a module of its own, as ``asyncio`` costs more than all of the core."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from revenuebase_compat.core.decoding import MAX_BODY, AttemptOutcome, NoResponse, unpack
from revenuebase_compat.core.endpoints import Request
from revenuebase_compat.core.settings import Settings

from .transport import Sender, decoded, no_response_from
from .watchdog import Attempt, place

if TYPE_CHECKING:
    import httpx

    from .factory import Connection

if sys.version_info >= (3, 11):
    from asyncio import timeout as asyncio_timeout
else:  # pragma: no cover (one branch per Python)

    @asynccontextmanager
    async def asyncio_timeout(delay: float) -> AsyncGenerator[None, None]:
        """``asyncio.timeout`` of Python 3.11, as far as it can be had on 3.10."""
        task, expired = cast("asyncio.Task[Any]", asyncio.current_task()), asyncio.Event()

        def expire() -> None:
            expired.set()
            task.cancel()

        timer = asyncio.get_running_loop().call_later(delay, expire)
        try:
            yield
        except asyncio.CancelledError:
            if expired.is_set():
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()


class AsyncSender(Sender):
    """Sends for ``AsyncClient``; a pool per event loop, as connections belong to one."""

    asynchronous = True

    def __init__(self, settings: Settings, http_client: Any, max_connections: int) -> None:
        super().__init__(settings, http_client)
        self._most = max_connections
        # Those that a child inherits are kept, too: closing them would unregister the parent's
        # sockets from its selector.
        self._pools: dict[tuple[object, asyncio.AbstractEventLoop], _Pool] = {}

    async def __call__(self, request: Request, timeout: float, left: float) -> AttemptOutcome:
        if self._theirs is not None:
            return await self._send_theirs(request, timeout)
        pool, began = await self._pool(), time.monotonic()
        try:
            async with asyncio_timeout(left):
                await pool.room.acquire()
        except TimeoutError:
            reason = f"no connection was free (max_connections is {self._most})"
            return NoResponse(reason, sent=False, timeout=True)
        try:
            left = max(left - (time.monotonic() - began), 0.001)
            return await self._exchange(pool, request, min(timeout, left))
        finally:
            pool.room.release()

    async def _exchange(self, pool: _Pool, request: Request, timeout: float) -> AttemptOutcome:
        prepared = self._factory.request(request)
        connection = pool.free.pop() if pool.free else self._factory.connection()
        attempt = Attempt(timeout, prepared.extensions)
        attempt.asynchronous = True
        try:
            async with asyncio_timeout(timeout):
                prepared.extensions["timeout"] = attempt
                answer = await _read_async(await connection.send(prepared))
        except BaseException as error:
            await connection.close()
            if attempt.stream is not None:  # httpcore forgets it, if its handshake was cancelled
                await attempt.stream.aclose()
            answer = no_response_from(error, attempt)
            if connection.idle_since:  # what was idle beside it may be as dead
                await pool.close_idle()
            return answer
        finally:
            prepared.extensions.clear()  # ends the circle, which would wait for the collector
        for surplus in self._keep(connection, pool.free):
            await surplus.close()
        return answer

    async def _send_theirs(self, request: Request, timeout: float) -> AttemptOutcome:
        phases = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
        try:
            prepared = self._factory.request_of(self._theirs, request, phases)
            async with asyncio_timeout(timeout):
                return await _read_async(
                    await self._theirs.send(prepared, stream=True, follow_redirects=False)
                )
        except BaseException as error:
            return no_response_from(error)

    async def _pool(self) -> _Pool:
        key = place(), asyncio.get_running_loop()
        pool = self._pools.get(key)
        if pool is None:
            for ended in [one for one in self._pools if one[1].is_closed()]:
                del self._pools[ended]
            pool = self._pools[key] = _Pool(self._most)
            await pool.keeper.__anext__()
        return pool

    async def close(self) -> None:
        """Close what is idle in this event loop; other loops' connections end with them."""
        self.shut()
        pool = self._pools.pop((place(), asyncio.get_running_loop()), None)
        if pool is not None:
            await pool.keeper.aclose()


class _Pool:
    """The connections of one event loop."""

    def __init__(self, most: int) -> None:
        self.free: deque[Connection] = deque()
        #: For how many requests at once there is room.
        self.room = asyncio.Semaphore(most)
        # An event loop that ends closes its asynchronous generators (``asyncio.run`` does).
        self.keeper = self._kept()

    async def _kept(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.close_idle()

    async def close_idle(self) -> None:
        # Those idle by now: what other tasks release meanwhile would have no end under load.
        idle = [*self.free]
        self.free.clear()
        for connection in idle:
            await connection.close()


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
