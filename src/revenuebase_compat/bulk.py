"""Many jobs at once: the iterators behind ``cancel_jobs``. Each call is one flow, as ever."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .core import flow
from .core.errors import CancelError, ConfigurationError
from .core.pace import Pace
from .core.result import Job, JobOutcome, check_process_id
from .core.wire import Answer, Response

if TYPE_CHECKING:
    from .client import AsyncClient, Client
    from .notices import Site

#: Seconds slept at a time while the rate limit forbids to start, so that ``stop()`` is heard.
_SLICE = 0.25


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
        on_status: Callable[[Job], object] | None = None,
    ) -> None:
        self._client = client
        self._site = site
        self._ids = iter(process_ids)
        self._concurrency = _check(concurrency)
        self._wait = wait
        self._on_status = on_status
        self._pace = Pace()
        self._pool = ThreadPoolExecutor(concurrency, "revenuebase-cancel")
        self._finished: queue.SimpleQueue[JobOutcome] = queue.SimpleQueue()
        self._under_way = 0
        self._ended = False

    def __next__(self) -> JobOutcome:
        while True:
            pause = self._fill()
            if self._under_way:
                outcome = self._finished.get()
                self._under_way -= 1
                return outcome
            if self._ended:
                self._pool.shutdown()
                raise StopIteration
            self._client._sleep(min(pause, _SLICE))

    def stop(self) -> None:
        """Start no further job."""
        self._ended = True

    def _fill(self) -> float:
        """Start what may be started; returns the seconds until more may."""
        while not self._ended and self._under_way < self._concurrency:
            pause = self._pace.wait(self._client._monotonic())
            if pause > 0:
                return pause
            try:
                process_id = next(self._ids)
            except StopIteration:
                self._ended = True
                break
            self._pace.start()
            self._under_way += 1
            self._pool.submit(self._cancel, process_id)
        return 0.0

    def _cancel(self, process_id: int | str) -> None:
        client = self._client
        try:
            client._send.check_open()
            checked = check_process_id(process_id)
            steps = flow.cancel(client._world(self._site), checked, self._wait, self._on_status)
            outcome = JobOutcome(checked, client._drive(steps, self._heard))
        except CancelError as error:
            outcome = JobOutcome(process_id, error=error)
        except BaseException as error:  # a warning made an error, say: never lose a job
            outcome = JobOutcome(process_id, error=_wrapped(error))
        self._pace.finish()
        self._finished.put(outcome)

    def _heard(self, answer: Answer) -> None:
        if isinstance(answer, Response):
            self._pace.heard(answer, self._client._clock(), self._client._monotonic())


async def cancel_jobs_async(
    client: AsyncClient,
    process_ids: Iterable[int | str],
    concurrency: int,
    wait: float | None,
    site: Site,
) -> AsyncGenerator[JobOutcome, None]:
    """The same under ``asyncio``; closing the iterator cancels what is under way."""
    pace, ids = Pace(), iter(process_ids)
    _check(concurrency)

    def heard(answer: Answer) -> None:
        if isinstance(answer, Response):
            pace.heard(answer, client._clock(), client._monotonic())

    async def cancel(process_id: int | str) -> JobOutcome:
        try:
            result = await client._cancel(process_id, wait, site, heard)
            return JobOutcome(result.process_id, result)
        except CancelError as error:
            return JobOutcome(process_id, error=error)
        except Exception as error:
            return JobOutcome(process_id, error=_wrapped(error))
        finally:
            pace.finish()

    under_way: set[asyncio.Task[JobOutcome]] = set()
    ended = False
    try:
        while True:
            pause = 0.0
            while not ended and len(under_way) < concurrency:
                pause = pace.wait(client._monotonic())
                if pause > 0:
                    break
                process_id = next(ids, None)
                if process_id is None:
                    ended = True
                    break
                pace.start()
                under_way.add(asyncio.create_task(cancel(process_id)))
            if under_way:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
            elif ended:
                return
            else:
                await client._sleep(pause)
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def _check(concurrency: object) -> int:
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigurationError(f"concurrency {concurrency!r}: give a whole number from 1 on")
    return concurrency


def _wrapped(error: BaseException) -> CancelError:
    return CancelError(f"{type(error).__name__}: {error}")
