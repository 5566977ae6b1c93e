"""Many jobs at once: the iterators behind ``cancel_jobs``. Each job is one flow, as ever."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from revenuebase_compat.core import cancellation
from revenuebase_compat.core.errors import CancelError, ConfigurationError
from revenuebase_compat.core.models import Job, JobOutcome, check_process_id, check_wait
from revenuebase_compat.core.rate_limit import SLICE, RateLimiter, paced

if TYPE_CHECKING:
    from .notices import CallSite
    from .runtime import Runtime

#: Jobs under way at once where each is waited for: no cancel shall wait for another job's end.
WAITING = 100


class Jobs:
    """The jobs, each handed out when it may start."""

    def __init__(
        self,
        runtime: Runtime,
        ids: Iterable[int | str],
        concurrency: object,
        wait: float | None,
        site: CallSite,
        on_status: Callable[[Job], object] | None = None,
    ) -> None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ConfigurationError(f"concurrency {concurrency!r}: give a whole number from 1 on")
        if isinstance(ids, str | bytes):
            raise ConfigurationError("process_ids is one text: give a list of ids")
        self._wait = check_wait(wait)
        self.most = concurrency if wait is None else max(concurrency, WAITING)
        self.limiter = RateLimiter(concurrency)
        self.ended = False
        self._runtime = runtime
        self._site = site
        self._on_status = on_status
        self._ids = iter(ids)
        self.next: list[int | str] = []

    def take(self, held: int) -> float | None:
        """``None`` where the ``next`` job may start, else the seconds until it may."""
        if not self.next and not self.ended:
            # Looked at before any pause, lest the last job be followed by one for nothing.
            self.next.extend(islice(self._ids, 1))
            self.ended = not self.next
        self.limiter.newcomers = not self.ended and held < self.most
        if not self.limiter.newcomers:
            return 0.0
        return self.limiter.acquire(self._runtime.monotonic()) or None

    def steps(self, process_id: int | str) -> cancellation.Flow:
        """The flow of a job that may start, at its limiter."""
        context = self._runtime.context(self._site)

        def begin() -> cancellation.Flow:
            self._runtime.send.check_open()
            return cancellation.cancel(
                context, check_process_id(process_id), self._wait, self._on_status
            )

        return paced(begin, self.limiter, context)


class CancelJobs(Iterator[JobOutcome]):
    """Outcomes of many jobs, in the order they finish.

    It may be interrupted (``KeyboardInterrupt``) and iterated on. After ``stop()`` no further job
    is started; those under way still come.
    """

    def __init__(
        self,
        runtime: Runtime,
        process_ids: Iterable[int | str],
        concurrency: int,
        wait: float | None,
        site: CallSite,
        on_start: Callable[[int | str], object] | None = None,
        on_status: Callable[[Job], object] | None = None,
        on_pause: Callable[[float], object] | None = None,
    ) -> None:
        self._runtime = runtime
        self._jobs = Jobs(runtime, process_ids, concurrency, wait, site, on_status)
        self._on_start = on_start
        self._on_pause = on_pause
        self._pool = ThreadPoolExecutor(self._jobs.most, "revenuebase-cancel")
        self._finished: deque[JobOutcome] = deque()
        #: Jobs that were started and have not finished.
        self.under_way = 0
        self._begun = 0

    def __next__(self) -> JobOutcome:
        limiter = self._jobs.limiter
        try:
            while True:
                pause = self._start()
                with limiter.changed:
                    if self._finished:
                        return self._finished.popleft()
                    waits = self.under_way and (not pause or pause == inf)
                    if waits:
                        limiter.changed.wait(SLICE)
                if pause and self._on_pause is not None:
                    self._on_pause(limiter.pause(self._runtime.monotonic()))
                if waits:
                    continue
                if not pause:
                    self._pool.shutdown()
                    raise StopIteration
                if pause == inf:
                    limiter.forget()  # what an interrupt left of a job that was about to start
                else:
                    self._runtime.sleep(min(pause, SLICE))
        finally:
            limiter.newcomers = False

    def stop(self) -> None:
        """Start no further job."""
        self._jobs.ended = True

    def pauses(self, jobs: int) -> float:
        """Seconds of pauses that so many jobs will cost, as far as the answers tell."""
        return self._jobs.limiter.pauses(jobs, self._runtime.monotonic())

    def _start(self) -> float:
        """Start what may be started; returns the seconds until more may."""
        jobs, changed = self._jobs, self._jobs.limiter.changed
        # Outcomes that nobody took yet count, lest they pile up.
        while (pause := jobs.take(self.under_way + len(self._finished))) is None:
            if self._on_start is not None:
                self._on_start(jobs.next[0])
            with changed:
                begun = self._begun
                self._pool.submit(self._cancel, jobs.next[0])
                jobs.next.clear()
                # Counted by the thread itself, which no interrupt reaches.
                while self._begun == begun:
                    changed.wait(SLICE)
        return pause

    def _cancel(self, process_id: int | str) -> None:
        changed = self._jobs.limiter.changed
        with changed:
            self._begun += 1
            self.under_way += 1
            changed.notify()

        try:
            result = self._runtime.drive(self._jobs.steps(process_id))
            outcome = JobOutcome(result.process_id, result)
        except BaseException as error:  # a warning made an error, say: never lose a job
            outcome = _failed(process_id, error)
        with changed:
            self.under_way -= 1
            self._finished.append(outcome)
            changed.notify()


async def outcomes(runtime: Runtime, jobs: Jobs) -> AsyncGenerator[JobOutcome, None]:
    """The same under ``asyncio``; closing the iterator cancels what is under way."""
    import asyncio

    finished: deque[JobOutcome] = deque()
    under_way: set[asyncio.Task[None]] = set()

    async def cancel(process_id: int | str) -> None:
        try:
            result = await runtime.drive_async(jobs.steps(process_id))
            finished.append(JobOutcome(result.process_id, result))
        except Exception as error:
            finished.append(_failed(process_id, error))

    try:
        while True:
            while (pause := jobs.take(len(under_way))) is None:
                under_way.add(asyncio.create_task(cancel(jobs.next.pop())))
            if pause == inf or (under_way and not pause):
                first = asyncio.FIRST_COMPLETED
                _, under_way = await asyncio.wait(under_way, timeout=SLICE, return_when=first)
            elif pause:
                await runtime.sleep(min(pause, SLICE))
            else:
                return
            jobs.limiter.newcomers = False
            while finished:
                yield finished.popleft()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def _failed(process_id: int | str, error: BaseException) -> JobOutcome:
    if not isinstance(error, CancelError):
        error = CancelError(f"{type(error).__name__}: {error}")
    return JobOutcome(error.process_id or process_id, error=error)
