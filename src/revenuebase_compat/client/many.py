"""Many jobs at once: the iterators behind ``cancel_jobs``. Each job is one flow, as ever."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import inf
from threading import Thread
from typing import TYPE_CHECKING, Any

from revenuebase_compat.core.errors import STOP_ON, CancelError, ConfigurationError
from revenuebase_compat.core.many import (
    SLICE,
    JobCancelled,
    JobFailed,
    JobOutcome,
    RateLimiter,
    paced,
)
from revenuebase_compat.core.models import Job, JobId, check_wait

from .notices import CallSite, call_site

if TYPE_CHECKING:
    import asyncio

    from revenuebase_compat.core.cancellation import Flow
    from revenuebase_compat.core.endpoints import Request
    from revenuebase_compat.core.events import CancelEvent

    from .runtime import Runtime

#: Jobs under way at once where each is waited for: no cancel shall wait for another job's end.
WAITING = 100


class _Closed(BaseException):
    """The iterator, or its client, was closed amid a job."""


@dataclass(eq=False)
class Jobs:
    """The jobs, each handed out when it may start."""

    runtime: Runtime
    process_ids: Iterable[JobId]
    concurrency: int
    wait: float | None
    site: CallSite = field(default_factory=call_site)
    on_start: Callable[[JobId], object] = lambda _: None
    on_status: Callable[[Job], object] | None = None
    on_pause: Callable[[float], object] = lambda _: None
    stop_on: type[CancelError] | tuple[type[CancelError], ...] = STOP_ON

    def __post_init__(self) -> None:
        ids, most, named = self.process_ids, self.concurrency, self.stop_on
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise ConfigurationError(f"concurrency {most!r}: give a whole number from 1 on")
        if isinstance(ids, str | bytes) or not hasattr(type(ids), "__iter__"):
            kind = "one text" if isinstance(ids, str | bytes) else f"a {type(ids).__name__}"
            raise ConfigurationError(f"process_ids is {kind}: give a list of ids")
        kinds = named if isinstance(named, tuple) else (named,)
        if not all(isinstance(one, type) and issubclass(one, CancelError) for one in kinds):
            raise ConfigurationError(f"stop_on {named!r}: give classes of errors of this package")
        self.wait = check_wait(self.wait)
        self.most = most if self.wait is None else max(most, WAITING)
        self.limiter = RateLimiter(most)
        #: Whether no further job is started, and whether those under way are to end as well.
        self.ended = self.closed = False
        self.finished: deque[JobOutcome] = deque()
        self._ids = iter(ids)
        self.next: list[JobId] = []
        self.runtime.send.under_way[id(self)] = self

    def take(self, held: int) -> float | None:
        """``None`` where the ``next`` job may start, else the seconds until it may."""
        if not self.next and not self.ended:
            # Looked at before any pause, so that none follows the last job.
            self.next.extend(islice(self._ids, 1))
            self.ended = not self.next
        self.limiter.newcomers = not self.ended and held < self.most
        if not self.limiter.newcomers:
            return 0.0
        return self.limiter.acquire(self.runtime.monotonic()) or None

    def steps(self, process_id: JobId, events: list[CancelEvent]) -> Flow:
        """The flow of a job that may start, at its time; ``events`` gets those of its calls."""
        hooks = {"on_status": self.on_status, "on_end": events.append}
        begin = partial(self.runtime.cancel, process_id, self.wait, self.site, **hooks)
        return paced(begin, self.limiter, self.runtime.context())

    def close(self) -> None:
        """Start no further job, and let those under way send nothing more."""
        self.ended = self.closed = True

    def failed(self, process_id: JobId, error: BaseException, events: list[CancelEvent]) -> None:
        """Note an outcome: an error of ours, or of somebody else with what is known of the call."""
        if not isinstance(error, CancelError):
            words = f"{type(error).__name__}: {error}"
            if isinstance(error, _Closed):
                words = "the iterator of cancel_jobs, or its client, was closed"
            route = events[-1].route if events else None
            error = CancelError(
                f"job {process_id}: {words}",
                process_id=events[-1].process_id if events else None,
                api_version=route.version if route else None,
                attempts=sum(event.attempts for event in events),
                outcome_unknown=any(event.outcome_unknown for event in events),
            )
        if isinstance(error, self.stop_on):
            self.ended = True
        named: Any = error.process_id or process_id  # what it is, where it is no id
        self.finished.append(JobFailed(named, error))


class _Threads(Jobs):
    """With a thread for each job under way, which nothing keeps alive but its job."""

    under_way = 0
    #: Whether the ``next`` job may start, and waits for a thread to take it.
    granted = False

    def _sleep(self, seconds: float) -> None:
        if self.runtime.sleep is time.sleep:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                self._check()
                time.sleep(min(left, SLICE))
        else:
            self.runtime.sleep(seconds)
        self._check()

    def _send(self, request: Request, timeout: float, left: float) -> Any:
        self._check()
        return self.runtime.send(request, timeout, left)

    def _check(self) -> None:
        if self.closed or self.runtime.send.closed:
            raise _Closed

    def start(self) -> float:
        """Start what may be started; returns the seconds until more may."""
        changed = self.limiter.changed
        while True:
            if not self.granted:  # else a thread could not be had, or an interrupt came in between
                # Outcomes that nobody took yet count, so that they do not pile up.
                pause = self.take(self.under_way + len(self.finished))
                if pause is not None:
                    return pause
                self.on_start(self.next[0])
                self.granted = True
            # It is taken by a new thread, or by one that is about to be free.
            try:
                Thread(target=self.work, name="revenuebase-cancel", daemon=True).start()
            except RuntimeError:  # the process is at its limit, or ends
                if self.under_way:
                    return inf
                self.work(inline=True)
            with changed:
                while self.granted:
                    changed.wait(SLICE)

    def work(self, *, inline: bool = False) -> None:
        """Cancel the granted job, and whichever is granted then."""
        runtime = self.runtime._replace(sleep=self._sleep, send=self._send)
        changed = self.limiter.changed
        while True:
            with changed:
                if not self.granted:
                    return
                self.granted = False
                process_id = self.next.pop()
                self.under_way += 1
                changed.notify_all()
            events: list[CancelEvent] = []
            try:
                result = runtime.drive(self.steps(process_id, events))
                self.finished.append(JobCancelled(result.process_id, result))
            except BaseException as error:  # a warning made an error, say: no job is lost
                self.failed(process_id, error, events)
                if inline and not isinstance(error, Exception | _Closed):
                    raise
            finally:
                with changed:
                    self.under_way -= 1
                    changed.notify_all()


class CancelJobs(Iterator[JobOutcome], AbstractContextManager["CancelJobs"]):
    """Outcomes of many jobs, in the order they finish.

    It may be interrupted (``KeyboardInterrupt``) and iterated on. ``close()``, the end of a
    ``with`` block, or dropping the iterator ends it. Closing the client does the same, but outcomes
    of what was under way still come. In ``atexit``, where Python starts no more threads (3.12 and
    later), jobs run one after the other.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._jobs = _Threads(*arguments, **options)
        self._left, self._pid = False, os.getpid()

    def __next__(self) -> JobOutcome:
        jobs, limiter = self._jobs, self._jobs.limiter
        if self._pid != os.getpid():  # whose threads stayed there
            raise ConfigurationError("these jobs are another process's: call cancel_jobs() here")
        try:
            while not self._left:
                pause = jobs.start()
                with limiter.changed:
                    if jobs.finished:
                        return jobs.finished.popleft()
                    waits = jobs.under_way and (not pause or pause == inf)
                    if waits:
                        limiter.changed.wait(SLICE)
                if pause:
                    jobs.on_pause(limiter.pause(jobs.runtime.monotonic()))
                if waits:
                    continue
                if not pause:
                    break
                if pause == inf:
                    limiter.forget()  # what an interrupt left of a job that was about to start
                else:
                    jobs.runtime.sleep(min(pause, SLICE))
            raise StopIteration
        finally:
            limiter.newcomers = False

    @property
    def under_way(self) -> int:
        """Jobs that were started and have not finished."""
        return self._jobs.under_way

    def stop(self) -> None:
        """Start no further job; those under way still come, those that a 429 made wait failed."""
        self._jobs.ended = self._jobs.limiter.stopped = True

    def close(self) -> None:
        """End it: what is being sent is sent; no further job, no request, no outcome."""
        self._left = True
        self._jobs.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_jobs"):  # refused in the making
            self.close()

    def pauses(self, jobs: int) -> float:
        """Seconds of pauses that so many jobs will cost, as far as the answers tell."""
        return self._jobs.limiter.pauses(jobs, self._jobs.runtime.monotonic())


class _Tasks(Jobs):
    """With a task for each job under way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        super().close()
        for task in self.tasks:
            with suppress(RuntimeError):  # its event loop has ended
                task.get_loop().call_soon_threadsafe(task.cancel)

    async def cancel(self, process_id: JobId) -> None:
        events: list[CancelEvent] = []
        try:
            result = await self.runtime.drive_async(self.steps(process_id, events))
            self.finished.append(JobCancelled(result.process_id, result))
        except Exception as error:
            self.failed(process_id, error, events)
        except BaseException:
            if self.closed:
                self.failed(process_id, _Closed(), events)
            raise

    async def outcomes(self) -> AsyncGenerator[JobOutcome, None]:
        import asyncio

        try:
            while True:
                while (pause := self.take(len(self.tasks))) is None:
                    self.tasks.add(asyncio.create_task(self.cancel(self.next.pop())))
                if pause == inf or (self.tasks and not pause):
                    first = asyncio.FIRST_COMPLETED
                    done, _ = await asyncio.wait(self.tasks, timeout=SLICE, return_when=first)
                    self.tasks -= done
                elif pause:
                    await self.runtime.sleep(min(pause, SLICE))
                else:
                    return
                self.limiter.newcomers = False
                while self.finished:
                    yield self.finished.popleft()
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)


class AsyncCancelJobs(AsyncIterator[JobOutcome], AbstractAsyncContextManager["AsyncCancelJobs"]):
    """As ``CancelJobs``, under ``asyncio``; ending it cancels what is under way."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._jobs = _Tasks(*arguments, **options)
        self._outcomes = self._jobs.outcomes()

    async def __anext__(self) -> JobOutcome:
        return await self._outcomes.__anext__()

    def stop(self) -> None:
        """As ``CancelJobs.stop``."""
        self._jobs.ended = self._jobs.limiter.stopped = True

    async def aclose(self) -> None:
        """End it: no further job, no request, no outcome."""
        self._jobs.close()
        with suppress(RuntimeError):  # somebody waits for an outcome, and will be told
            await self._outcomes.aclose()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
