"""What a user's program must be able to say under ``mypy --strict`` and pyright; never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from revenuebase_compat import (
    AsyncClient,
    CancelError,
    CancelEvent,
    CancelResult,
    Client,
    Job,
    JobFailed,
    JobOutcome,
    JobStatus,
    NotCancellableError,
    RateLimitError,
    Settings,
    cancel_job,
)


class Integral:
    def __index__(self) -> int:
        return 42


def narrowed(outcome: JobOutcome) -> str:
    if outcome.ok is True:
        result: CancelResult = outcome.result
        return result.filename
    error: CancelError = outcome.error
    return error.code or ""


def narrowed_by_the_error(outcome: JobOutcome) -> int:
    return outcome.result.attempts if outcome.error is None else outcome.error.attempts


def narrowed_by_class(outcome: JobOutcome) -> int | str:
    return outcome.process_id if isinstance(outcome, JobFailed) else outcome.result.process_id


def one() -> JobStatus:
    found: CancelResult = cancel_job(42, wait=60, already_cancelled="return")
    with Client(Settings(on_event="my.metrics:record")) as client:
        job: Job = client.get_job("42")
        client.cancel_job(Integral(), already_cancelled="raise")
        return job.status if found.status is JobStatus.CANCELLING else JobStatus.of("x")


def many(client: Client) -> Iterator[int | str]:
    with client.cancel_jobs(["1", 2, Integral()], stop_on=(NotCancellableError,)) as jobs:
        for outcome in jobs:
            yield outcome.process_id


async def asynchronous() -> AsyncIterator[bool]:
    async with AsyncClient(max_connections=5) as client:
        job: Job = await client.get_job(42)
        async with client.cancel_jobs([job.process_id], stop_on=RateLimitError) as jobs:
            async for outcome in jobs:
                yield outcome.ok


def seconds(error: RateLimitError, event: CancelEvent) -> float:
    return (error.retry_after or 0.0) + event.duration + event.unsent
