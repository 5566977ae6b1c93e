"""``Client``, ``AsyncClient`` and ``cancel_job``: the one flow of ``core``, driven in two ways."""

from __future__ import annotations

import atexit
import inspect
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from revenuebase_compat.core.errors import STOP_ON, CancelError, ConfigurationError
from revenuebase_compat.core.models import CancelResult, Job, JobId
from revenuebase_compat.core.routes import Route
from revenuebase_compat.core.settings import Settings

from . import flags, notices
from .memory import memory
from .runtime import Runtime, jitter, utc_now

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import httpx

    from .many import AsyncCancelJobs, CancelJobs


class _Base:
    """What both clients share: the checks of what they are given."""

    def __init__(self, settings: Settings | None, http_client: object, asynchronous: bool) -> None:
        settings = Settings.from_env() if settings is None else settings
        if not isinstance(settings, Settings):
            raise ConfigurationError(
                f"settings is a {type(settings).__name__}: give Settings(…), or nothing for those "
                "of the environment"
            )
        self.settings = settings
        if settings.stripped_key:
            words = "api_key (REVENUEBASE_API_KEY) was given with white space around it, which was "
            words += "stripped: without that, every call would answer 401"
            notices.log("stripped", "warning", words)
        for name in ("v2_flag", "on_event"):
            flags.resolve(name, getattr(settings, name))  # wrong now rather than amid a cancel
        send = inspect.iscoroutinefunction(getattr(http_client, "send", None))
        made = hasattr(http_client, "build_request") and send is asynchronous
        if http_client is not None and not made:
            kind = "AsyncClient" if asynchronous else "Client"
            raise ConfigurationError(
                f"http_client is a {type(http_client).__module__}.{type(http_client).__name__}: "
                f"give an httpx.{kind} or an httpx2.{kind}"
            )

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} holds connections: pickle its settings instead")


class Client(_Base, AbstractContextManager["Client"]):
    """Cancels jobs, synchronously; thread-safe, and usable on both sides of ``os.fork()``.

    Args:
        settings: those of the environment where none are given.
        http_client: an ``httpx.Client`` or ``httpx2.Client`` of your own to send with; closing it
            is yours.
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
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        random: Callable[[], float] = jitter,
    ) -> None:
        super().__init__(settings, http_client, asynchronous=False)
        from .transport import SyncSender

        send = SyncSender(self.settings, http_client)
        self.runtime = Runtime(self.settings, clock, monotonic, random, sleep, send)

    def cancel_job(
        self,
        process_id: JobId,
        *,
        wait: float | None = None,
        already_cancelled: Literal["raise", "return"] | None = None,
    ) -> CancelResult:
        """Cancel a queued or processing job, on whichever version the settings lead to.

        Args:
            process_id: an integer from 1 on (anything with ``__index__``, but ``bool``), or a
                string of digits.
            wait: seconds, 0 to 86,400, beside ``timeout``, to wait for the job to end. When they
                are over, the result has the status that was seen last.
            already_cancelled: ``"raise"`` or ``"return"``, in place of the setting.

        Raises:
            CancelError: one of its subclasses; ``outcome_unknown`` says whether the job may have
                been cancelled all the same. ``NotCancellableError`` also where the job completes
                first. What does not come from the transport (the time limit of a signal handler,
                say) is raised as it is.
        """
        steps = self.runtime.cancel(process_id, wait, already_cancelled=already_cancelled)
        return self.runtime.drive(steps)

    def get_job(self, process_id: JobId) -> Job:
        """Read a job's status, on whichever version the settings lead to.

        Retried, bounded by ``timeout`` and refused as a cancel is; no event is told of it.

        Raises:
            JobNotFoundError: there is no such job, or it is not yours.
            CancelError: another of its subclasses.
        """
        return self.runtime.drive(self.runtime.get_job(process_id))

    def cancel_jobs(
        self,
        process_ids: Iterable[JobId],
        *,
        concurrency: int = 8,
        wait: float | None = None,
        stop_on: type[CancelError] | tuple[type[CancelError], ...] = STOP_ON,
    ) -> CancelJobs:
        """Cancel many jobs: an iterator of outcomes in the order they finish, and to be closed.

        Calls are paced by the rate limit that the answers state. Ids are taken as they are needed.

        Args:
            process_ids: the jobs.
            concurrency: requests under way at once, at most; a job that is only waited for does
                not count.
            wait: as for ``cancel_job``.
            stop_on: errors after which no further job is started: a 401 or 403 where it is not
                given, ``()`` for none.

        Raises:
            ConfigurationError: an argument is wrong. What goes wrong with a job is an outcome.
        """
        from .many import CancelJobs

        return CancelJobs(self.runtime, process_ids, concurrency, wait, stop_on=stop_on)

    def route(self, process_id: JobId) -> Route:
        """Which version a cancel of that job would go to now, and why; sends nothing."""
        return self.runtime.drive(self.runtime.route(process_id))

    def close(self) -> None:
        """Close the connections; further calls are refused."""
        self.runtime.send.close()

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Base, AbstractAsyncContextManager["AsyncClient"]):
    """Cancels jobs under ``asyncio``; the same as ``Client`` otherwise.

    Each event loop that uses it has connections of its own.

    Args:
        max_connections: requests at once, at most, in each event loop; others wait, inside
            ``timeout``. A caller's own ``http_client`` has limits of its own.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        http_client: httpx.AsyncClient | None = None,
        max_connections: int = 100,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] | None = None,
        random: Callable[[], float] = jitter,
    ) -> None:
        super().__init__(settings, http_client, asynchronous=True)
        if type(max_connections) is not int or max_connections < 1:
            given = f"max_connections {max_connections!r}"
            raise ConfigurationError(f"{given}: give a whole number from 1 on")
        # Imported only now, as a program that never makes one shall not pay for asyncio.
        import asyncio

        from .transport_async import AsyncSender

        send = AsyncSender(self.settings, http_client, max_connections)
        wait, ask = sleep or asyncio.sleep, flags.ask_async
        self.runtime = Runtime(self.settings, clock, monotonic, random, wait, send, ask)

    # A plain function: when the coroutine runs, the caller's line may be off the stack.
    def cancel_job(
        self,
        process_id: JobId,
        *,
        wait: float | None = None,
        already_cancelled: Literal["raise", "return"] | None = None,
    ) -> Coroutine[Any, Any, CancelResult]:
        """As ``Client.cancel_job``, to be awaited."""
        site = notices.call_site()
        steps = self.runtime.cancel(process_id, wait, site, already_cancelled=already_cancelled)
        return self.runtime.drive_async(steps)

    def get_job(self, process_id: JobId) -> Coroutine[Any, Any, Job]:
        """As ``Client.get_job``, to be awaited."""
        return self.runtime.drive_async(self.runtime.get_job(process_id, notices.call_site()))

    def cancel_jobs(
        self,
        process_ids: Iterable[JobId],
        *,
        concurrency: int = 8,
        wait: float | None = None,
        stop_on: type[CancelError] | tuple[type[CancelError], ...] = STOP_ON,
    ) -> AsyncCancelJobs:
        """As ``Client.cancel_jobs``, as an asynchronous iterator."""
        from .many import AsyncCancelJobs

        return AsyncCancelJobs(self.runtime, process_ids, concurrency, wait, stop_on=stop_on)

    async def route(self, process_id: JobId) -> Route:
        """As ``Client.route``."""
        return await self.runtime.drive_async(self.runtime.route(process_id))

    async def aclose(self) -> None:
        """Close the connections of this event loop; further calls are refused."""
        await self.runtime.send.close()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@atexit.register
def _close_default() -> None:
    # Another thread's, or a later handler's, call makes a new one.
    client, memory.default_client = memory.default_client, None
    if client is not None:
        client.close()


def cancel_job(
    process_id: JobId,
    *,
    client: Client | None = None,
    wait: float | None = None,
    already_cancelled: Literal["raise", "return"] | None = None,
) -> CancelResult:
    """Cancel a queued or processing job, as ``Client.cancel_job`` does.

    Without ``client``, a process-wide one is made of the environment (``REVENUEBASE_API_KEY``
    and its siblings) on first use, and kept.
    """
    client = client or memory.default_client
    if client is None:
        # No lock, which a fork could leave held: of two made at once, the first stays.
        made = Client()
        client = memory.default_client = memory.default_client or made
    return client.cancel_job(process_id, wait=wait, already_cancelled=already_cancelled)
