"""``Client``, ``AsyncClient`` and ``cancel_job``: two small drivers of the one flow.

A driver does what the flow asks for, and sends back what came of it. Semantics live in
``core``; what is sent, and how, in ``transport``.
"""

from __future__ import annotations

import atexit
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from datetime import datetime, timezone
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from . import flags, notices
from .core import flow
from .core.errors import ConfigurationError
from .core.events import CancelEvent
from .core.result import CancelResult, JobOutcome, check_process_id
from .core.routing import Ask, Route
from .core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import httpx

    from .bulk import CancelJobs

T = TypeVar("T")

#: base URL → monotonic time of the last 410 from v1; one memory for all clients of a process.
_gone: dict[str, float] = {}


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


def _chance() -> float:
    import random  # few calls wait, and httpx brings it along

    return random.random()  # noqa: S311 (jitter)


class _Base:
    """What both clients share: settings, clocks, and what listens."""

    def __init__(
        self,
        settings: Settings | None,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        if settings is None:
            settings = Settings.from_env()
        if not isinstance(settings, Settings):
            raise ConfigurationError(
                f"settings is a {type(settings).__name__}: give Settings(…), or nothing for those "
                "of the environment"
            )
        self.settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._random = random
        if settings.stripped_key:
            notices.log(
                "stripped",
                "warning",
                "api_key (REVENUEBASE_API_KEY) was given with white space around it, which was "
                "stripped: without that, every call would answer 401",
                time.monotonic(),
            )

    def _world(self, site: notices.Site | None = None) -> flow.World:
        return flow.World(
            self.settings,
            self._clock,
            self._monotonic,
            self._random,
            _gone,
            notices.tell if site is None else partial(notices.tell, site=site),
            self._emit,
        )

    def _emit(self, event: CancelEvent) -> None:
        try:
            assert self.settings.on_event is not None  # noqa: S101 (the flow has asked)
            self.settings.on_event(event)
        except Exception as error:
            notices.log(
                ("on_event", type(error)),
                "warning",
                f"on_event failed ({type(error).__name__}: {error}); the call was not touched",
                time.monotonic(),
            )

    def _route(self, process_id: int | str) -> Generator[Ask, bool | None, Route]:
        world = self._world()
        return flow.route(world, check_process_id(process_id), flow.now_of(world))

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} holds connections: pickle its settings instead")


def check_wait(wait: object) -> float | None:
    """Seconds to wait for a job's end, checked; ``None`` for not at all."""
    if wait is None:
        return None
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= 86_400:
        raise ConfigurationError(f"wait {wait!r}: give seconds from 0 to 86400, or None")
    return float(wait)


class Client(_Base):
    """Cancels jobs, synchronously; thread-safe, and usable on both sides of ``os.fork()``.

    Args:
        settings: how; those of the environment where none are given.
        http_client: an ``httpx.Client`` or ``httpx2.Client`` of your own to send with. Its
            proxies, TLS settings and hooks are yours, and so is closing it.
        clock: gives the time as an aware ``datetime``; decides the version.
        monotonic: gives seconds; measures deadlines and memory.
        sleep: waits seconds.
        random: gives a number in [0, 1), for the jitter of waits.

    Raises:
        ConfigurationError: a setting is wrong.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        http_client: httpx.Client | None = None,
        clock: Callable[[], datetime] = _utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        random: Callable[[], float] = _chance,
    ) -> None:
        super().__init__(settings, clock, monotonic, random)
        _check_http_client(http_client, asynchronous=False)
        self._sleep = sleep
        from .transport import SyncSender

        self._send = SyncSender(self.settings, http_client)

    def cancel_job(self, process_id: int | str, *, wait: float | None = None) -> CancelResult:
        """Cancel a queued or processing job, on whichever version the settings lead to.

        Args:
            process_id: an ``int`` from 1 on, or a string of digits.
            wait: seconds, beside ``timeout``, to wait for the job to end: a job in ``PROCESSING``
                may not stop at once.

        Raises:
            CancelError: one of its subclasses; ``outcome_unknown`` says whether the job may have
                been cancelled all the same. ``NotCancellableError`` where the job was seen to
                complete before it could be cancelled.
        """
        self._send.check_open()
        checked = check_process_id(process_id)
        return self._drive(flow.cancel(self._world(), checked, check_wait(wait)))

    def cancel_jobs(
        self, process_ids: Iterable[int | str], *, concurrency: int = 8, wait: float | None = None
    ) -> CancelJobs:
        """Cancel many jobs: an iterator of ``JobOutcome`` in the order they finish.

        Calls are paced by the rate limit that the answers state, and one job's error never stops
        the others. Ids are taken as they are needed.

        Args:
            process_ids: the jobs.
            concurrency: requests under way at once, at most; a job that is only waited for does
                not count.
            wait: as for ``cancel_job``.
        """
        from .bulk import CancelJobs

        return CancelJobs(self, process_ids, concurrency, wait, notices.caller())

    def route(self, process_id: int | str) -> Route:
        """Which version a cancel of that job would go to now, and why; sends nothing."""
        return self._drive(self._route(process_id))

    def _drive(self, steps: Generator[Any, Any, T]) -> T:
        answer: Any = None
        try:
            while True:
                effect = steps.send(answer)
                if type(effect) is flow.Send:
                    answer = self._send(effect.request, effect.timeout)
                elif type(effect) is flow.Pause:
                    answer = self._sleep(effect.seconds)
                else:
                    answer = flags.ask(self.settings.v2_flag, effect.context)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        except Exception as error:
            steps.throw(error)  # the flag's or the pause's, which the event shall name
            raise
        finally:
            steps.close()

    def close(self) -> None:
        """Close the connections; further calls are refused."""
        self._send.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(_Base):
    """Cancels jobs under ``asyncio``; the same as ``Client`` otherwise.

    Connections belong to an event loop: used from a second one, a client opens others for it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        http_client: httpx.AsyncClient | None = None,
        clock: Callable[[], datetime] = _utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] | None = None,
        random: Callable[[], float] = _chance,
    ) -> None:
        super().__init__(settings, clock, monotonic, random)
        _check_http_client(http_client, asynchronous=True)
        # Imported only now, as a program that never makes one shall not pay for asyncio.
        import asyncio

        from .transport_async import AsyncSender

        self._sleep = sleep or asyncio.sleep
        self._send = AsyncSender(self.settings, http_client)

    # A plain function: when the coroutine runs, the caller's line may be off the stack.
    def cancel_job(
        self, process_id: int | str, *, wait: float | None = None
    ) -> Coroutine[Any, Any, CancelResult]:
        """As ``Client.cancel_job``, to be awaited."""
        return self._cancel(process_id, wait, notices.caller())

    async def _cancel(
        self, process_id: int | str, wait: float | None, site: notices.Site
    ) -> CancelResult:
        self._send.check_open()
        steps = flow.cancel(self._world(site), check_process_id(process_id), check_wait(wait))
        return await self._drive(steps)

    def cancel_jobs(
        self, process_ids: Iterable[int | str], *, concurrency: int = 8, wait: float | None = None
    ) -> AsyncGenerator[JobOutcome, None]:
        """As ``Client.cancel_jobs``, as an asynchronous iterator."""
        from .bulk import Jobs, outcomes

        return outcomes(self, Jobs(self, process_ids, concurrency, wait, notices.caller()))

    async def route(self, process_id: int | str) -> Route:
        """As ``Client.route``."""
        return await self._drive(self._route(process_id))

    async def _drive(self, steps: Generator[Any, Any, T]) -> T:
        answer: Any = None
        try:
            while True:
                effect = steps.send(answer)
                if type(effect) is flow.Send:
                    answer = await self._send(effect.request, effect.timeout)
                elif type(effect) is flow.Pause:
                    answer = await self._sleep(effect.seconds)
                else:
                    answer = await flags.ask_async(self.settings.v2_flag, effect.context)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        except Exception as error:
            steps.throw(error)  # the flag's or the pause's, which the event shall name
            raise
        finally:
            steps.close()

    async def aclose(self) -> None:
        """Close the connections of this event loop; further calls are refused."""
        await self._send.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _check_http_client(client: object, *, asynchronous: bool) -> None:
    if client is None:
        return
    kind = "AsyncClient" if asynchronous else "Client"
    send = getattr(client, "send", None)
    if not hasattr(client, "build_request") or asynchronous != inspect.iscoroutinefunction(send):
        raise ConfigurationError(
            f"http_client is a {type(client).__module__}.{type(client).__name__}: give an "
            f"httpx.{kind} or an httpx2.{kind}"
        )


_default: dict[str, Client] = {}


@atexit.register
def _close_default() -> None:
    # Another thread's, or a later handler's, call makes a new one.
    for client in [_default.pop(name) for name in [*_default]]:
        client.close()


def cancel_job(
    process_id: int | str, *, client: Client | None = None, wait: float | None = None
) -> CancelResult:
    """Cancel a queued or processing job, on whichever API version the settings lead to.

    Without ``client``, a process-wide one is made of the environment (``REVENUEBASE_API_KEY``
    and its siblings) on first use, and kept.

    Args:
        process_id: an ``int`` from 1 on, or a string of digits.
        client: a client of your own.
        wait: seconds, beside ``timeout``, to wait for the job to end.

    Raises:
        CancelError: one of its subclasses; ``outcome_unknown`` says whether the job may have
            been cancelled all the same.
    """
    if client is None:
        # No lock, which a fork could leave held: of two made at once, the first stays.
        client = _default.get("client") or _default.setdefault("client", Client())
    return client.cancel_job(process_id, wait=wait)
