"""Many jobs at once: the iterators behind ``cancel_jobs``. Each job is one flow, as ever."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from .client import check_wait
from .core import flow
from .core.errors import CancelError, ConfigurationError
from .core.pace import SLICE, Pace, paced
from .core.result import Job, JobOutcome, check_process_id

if TYPE_CHECKING:
    from .client import AsyncClient, Client
    from .notices import Site

#: Jobs under way at once where each is waited for: no cancel shall wait for another job's end.
WAITING = 100


class Jobs:
    """The jobs, each handed out when it may start."""

    def __init__(
        self,
        client: Client | AsyncClient,
        ids: Iterable[int | str],
        concurrency: object,
        wait: float | None,
        site: Site,
        on_status: Callable[[Job], object] | None = None,
    ) -> None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ConfigurationError(f"concurrency {concurrency!r}: give a whole number from 1 on")
        if isinstance(ids, str | bytes):
            raise ConfigurationError("process_ids is one text: give a list of ids")
        self._wait = check_wait(wait)
        self.most = concurrency if wait is None else max(concurrency, WAITING)
        self.pace = Pace(concurrency)
        self.ended = False
        self._client = client
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
        self.pace.newcomers = not self.ended and held < self.most
        if not self.pace.newcomers:
            return 0.0
        return self.pace.take(self._client._monotonic()) or None

    def steps(self, process_id: int | str) -> flow.Flow:
        """The flow of a job that may start, at its pace."""
        world = self._client._world(self._site)

        def begin() -> flow.Flow:
            self._client._send.check_open()
            return flow.cancel(world, check_process_id(process_id), self._wait, self._on_status)

        return paced(begin, self.pace, world)


class CancelJobs(Iterator[JobOutcome]):
    """Outcomes of many jobs, in the order they finish.

    It may be interrupted (``KeyboardInterrupt``) and iterated on. After ``stop()`` no further job
    is started; those under way still come.
    """

    def __init__(
        self,
        client: Client,
        process_ids: Iterable[int | str],
        concurrency: int,
        wait: float | None,
        site: Site,
        on_start: Callable[[int | str], object] | None = None,
        on_status: Callable[[Job], object] | None = None,
        on_pause: Callable[[float], object] | None = None,
    ) -> None:
        self._client = client
        self._jobs = Jobs(client, process_ids, concurrency, wait, site, on_status)
        self._on_start = on_start
        self._on_pause = on_pause
        self._pool = ThreadPoolExecutor(self._jobs.most, "revenuebase-cancel")
        self._finished: deque[JobOutcome] = deque()
        #: Jobs that were started and have not finished.
        self.under_way = 0
        self._begun = 0

    def __next__(self) -> JobOutcome:
        pace = self._jobs.pace
        try:
            while True:
                pause = self._start()
                with pace.changed:
                    if self._finished:
                        return self._finished.popleft()
                    waits = self.under_way and (not pause or pause == inf)
                    if waits:
                        pace.changed.wait(SLICE)
                if pause and self._on_pause is not None:
                    self._on_pause(pace.pause(self._client._monotonic()))
                if waits:
                    continue
                if not pause:
                    self._pool.shutdown()
                    raise StopIteration
                if pause == inf:
                    pace.forget()  # what an interrupt left of a job that was about to start
                else:
                    self._client._sleep(min(pause, SLICE))
        finally:
            pace.newcomers = False

    def stop(self) -> None:
        """Start no further job."""
        self._jobs.ended = True

    def pauses(self, jobs: int) -> float:
        """Seconds of pauses that so many jobs will cost, as far as the answers tell."""
        return self._jobs.pace.pauses(jobs, self._client._monotonic())

    def _start(self) -> float:
        """Start what may be started; returns the seconds until more may."""
        jobs, changed = self._jobs, self._jobs.pace.changed
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
        changed = self._jobs.pace.changed
        with changed:
            self._begun += 1
            self.under_way += 1
            changed.notify()

        try:
            result = self._client._drive(self._jobs.steps(process_id))
            outcome = JobOutcome(result.process_id, result)
        except BaseException as error:  # a warning made an error, say: never lose a job
            outcome = _failed(process_id, error)
        with changed:
            self.under_way -= 1
            self._finished.append(outcome)
            changed.notify()


async def outcomes(client: AsyncClient, jobs: Jobs) -> AsyncGenerator[JobOutcome, None]:
    """The same under ``asyncio``; closing the iterator cancels what is under way."""
    import asyncio

    finished: deque[JobOutcome] = deque()
    under_way: set[asyncio.Task[None]] = set()

    async def cancel(process_id: int | str) -> None:
        try:
            result = await client._drive(jobs.steps(process_id))
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
                await client._sleep(min(pause, SLICE))
            else:
                return
            jobs.pace.newcomers = False
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
