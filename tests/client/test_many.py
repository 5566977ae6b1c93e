"""`cancel_jobs` and `wait`, in both clients."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count
from random import Random
from time import sleep as real_sleep
from types import FrameType
from typing import Any

import pytest

from revenuebase_compat import (
    ApiDeprecationWarning,
    AsyncClient,
    CancelError,
    CancelEvent,
    CancelResult,
    CancelTimeoutError,
    Client,
    ConfigurationError,
    InvalidProcessIdError,
    JobOutcome,
    JobStatus,
    NotCancellableError,
    Settings,
    cancel_job,
)
from revenuebase_compat.client import notices
from revenuebase_compat.client.many import CancelJobs
from revenuebase_compat.core.cancellation import POLL_FIRST, POLL_MOST
from revenuebase_compat.core.many import SLICE
from revenuebase_compat.testing.sandbox import Sandbox
from tests.conftest import TEST_KEY
from tests.support import AFTER, BEFORE, FakeTime
from tests.support.fault_server import (
    HEALTHY,
    Exchange,
    Fault,
    FaultServer,
    drop,
    hang,
    late,
    respond,
)

Cancel = Callable[..., list[JobOutcome]]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def settings(server: FaultServer, **more: Any) -> Settings:
    return Settings(TEST_KEY, base_url=server.base_url, **more)


def sync(time: FakeTime, settings: Settings, ids: Iterable[Any], **more: Any) -> list[JobOutcome]:
    with time.client(settings) as client:
        return list(client.cancel_jobs(ids, **more))


def under_asyncio(
    time: FakeTime, settings: Settings, ids: Iterable[Any], **more: Any
) -> list[JobOutcome]:
    async def main() -> list[JobOutcome]:
        async with time.async_client(settings) as client:
            return [outcome async for outcome in client.cancel_jobs(ids, **more)]

    return asyncio.run(main())


@pytest.fixture(params=[sync, under_asyncio])
def cancel(request: pytest.FixtureRequest) -> Cancel:
    """Cancels many jobs with one of the clients, by a clock of its own."""

    def cancel(settings: Settings, ids: Iterable[Any], **more: Any) -> list[JobOutcome]:
        return request.param(FakeTime(), settings, ids, **more)  # type: ignore[no-any-return]

    return cancel


# --- outcomes -----------------------------------------------------------------------------------


def test_outcomes_come_in_the_order_they_finish(cancel: Cancel, server: FaultServer) -> None:
    server.script_for(2, late(0.3))
    server.script_for(3, late(0.15))
    outcomes = cancel(settings(server), [1, 2, 3, 4, 5])
    assert outcomes[0].process_id == 1  # alone, to learn the limit
    assert [outcome.process_id for outcome in outcomes][-2:] == [3, 2]
    assert all(outcome.ok for outcome in outcomes)
    result = outcomes[-1].result
    assert result is not None
    assert (result.process_id, result.filename, result.attempts) == (2, "2.csv", 1)
    assert result.status is JobStatus.CANCELLING


def test_one_error_never_stops_the_others(cancel: Cancel, server: FaultServer) -> None:
    server.jobs[2] = "COMPLETED"
    server.missing.add(3)
    server.script_for(4, *[drop()] * 3)
    server.script_for(5, *[respond(503)] * 3)
    server.script_for(6, respond(200, b"no json"))
    outcomes = cancel(settings(server), range(1, 21))
    errors = {outcome.process_id: type(outcome.error).__name__ for outcome in outcomes}
    assert {job: name for job, name in errors.items() if name != "NoneType"} == {
        2: "NotCancellableError",
        3: "JobNotFoundError",
        4: "TransportError",
        5: "ServerError",
        6: "UnexpectedResponseError",
    }
    assert len(outcomes) == 20
    assert all(outcome.ok == (outcome.error is None) for outcome in outcomes)


def test_ids_that_are_none_are_outcomes(cancel: Cancel, server: FaultServer) -> None:
    wrong = [0, -1, "x", None, True, 1.5, "٣", 2**63, object()]
    outcomes = cancel(settings(server), [1, *wrong, "2"])
    assert {repr(outcome.process_id) for outcome in outcomes} == {"1", "2", *map(repr, wrong)}
    assert Counter(outcome.ok for outcome in outcomes) == {True: 2, False: len(wrong)}
    assert {type(one.error) for one in outcomes} == {type(None), InvalidProcessIdError}
    assert sorted(server.applied) == [1, 2]


def test_an_id_given_twice_is_sent_twice(cancel: Cancel, server: FaultServer) -> None:
    outcomes = cancel(settings(server), [1, 2, 2, "2"])
    assert Counter(outcome.process_id for outcome in outcomes) == {1: 1, 2: 3}
    assert server.applied.count(2) == 1


def test_none_is_nothing(cancel: Cancel, server: FaultServer) -> None:
    assert cancel(settings(server), []) == []
    assert server.seen == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"concurrency": 0}, "concurrency 0: give a whole number from 1 on"),
        ({"concurrency": True}, "concurrency True"),
        ({"concurrency": 1.5}, "concurrency 1.5"),
        ({"wait": -1}, "wait -1: give seconds from 0 to 86400"),
        ({"wait": "5"}, "wait '5'"),
        ({"wait": float("nan")}, "wait nan"),
        ({"wait": True}, "wait True"),
        ({"process_ids": "123"}, "process_ids is one text: give a list of ids"),
        ({"process_ids": b"123"}, "process_ids is one text"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_wrong_argument_is_refused_before_anything_is_sent(
    server: FaultServer, kind: Any, more: dict[str, Any], words: str
) -> None:
    client = kind(settings(server))
    with pytest.raises(ConfigurationError) as raised:
        client.cancel_jobs(**{"process_ids": [1], **more})
    assert str(raised.value).startswith(words)
    assert server.seen == []


def test_a_warning_made_an_error_is_one_job_s_outcome(cancel: Cancel, server: FaultServer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ApiDeprecationWarning)
        outcomes = cancel(settings(server, v1_sunset="2999-01-01"), [1, 2])
    assert [type(outcome.error) for outcome in outcomes] == [CancelError] * 2
    assert "ApiDeprecationWarning: RevenueBase API v1 ends" in str(outcomes[0].error)
    assert server.seen == []


def test_a_closed_client_sends_nothing(server: FaultServer) -> None:
    client = Client(settings(server))
    client.close()
    (outcome,) = client.cancel_jobs([1])
    assert isinstance(outcome.error, ConfigurationError)
    assert server.seen == []


def test_warnings_point_at_the_line_of_the_caller(server: FaultServer) -> None:
    time = FakeTime(BEFORE)
    with time.client(settings(server)) as client, pytest.warns(ApiDeprecationWarning) as caught:
        jobs = client.cancel_jobs([1, 2])
        line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]
        assert all(outcome.ok for outcome in jobs)
    assert {(one.filename, one.lineno) for one in caught} == {(__file__, line)}


def test_warnings_point_at_the_line_of_the_caller_under_asyncio(server: FaultServer) -> None:
    async def main() -> int:
        async with FakeTime(BEFORE).async_client(settings(server)) as client:
            jobs = client.cancel_jobs([1, 2])
            line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]
            assert [outcome.ok async for outcome in jobs] == [True, True]
            return line

    with pytest.warns(ApiDeprecationWarning) as caught:
        line = asyncio.run(main())
    assert {(one.filename, one.lineno) for one in caught} == {(__file__, line)}


# --- concurrency --------------------------------------------------------------------------------


class Counted:
    """Counts the requests that it holds at once, and answers once it has held that many."""

    def __init__(self, most: int) -> None:
        self.now = self.seen = self.peak = 0
        self._most = most
        self._changed = threading.Condition()

    def fault(self) -> Fault:
        return Fault("counted", self._write, applied=True)

    def _write(self, exchange: Exchange) -> Iterator[bytes]:
        with self._changed:
            self.now += 1
            self.seen += 1
            self.peak = max(self.peak, self.now)
            self._changed.notify_all()
            if self.seen > 1:  # the first goes alone
                self._changed.wait_for(lambda: self.peak >= self._most, timeout=5)
        time.sleep(0.003)  # in which one too many would come
        with self._changed:
            self.now -= 1
        yield from HEALTHY.write(exchange)


@pytest.mark.parametrize("most", [1, 3, 8, 20])
def test_as_many_at_once_as_was_asked_for_and_no_more(
    cancel: Cancel, server: FaultServer, most: int
) -> None:
    counted = Counted(most)
    server.always(counted.fault())
    assert len(cancel(settings(server), range(1, 3 * most + 1), concurrency=most)) == 3 * most
    assert counted.peak == most


def test_those_waited_for_do_not_count_but_their_looks_do(server: FaultServer) -> None:
    counted = Counted(2)
    server.always(counted.fault())
    with Client(settings(server)) as client:
        began = time.monotonic()
        jobs = client.cancel_jobs(range(1, 41), concurrency=2, wait=0.6)
        outcomes = list(jobs)
        took = time.monotonic() - began
    assert all(outcome.result and outcome.result.status == "CANCELLING" for outcome in outcomes)
    assert counted.peak == 2
    assert took < 3  # one after the other they would take twelve


def test_ids_are_taken_as_they_are_needed(server: FaultServer) -> None:
    taken: list[int] = []

    def ids() -> Iterator[int]:
        for number in count(1):
            taken.append(number)
            yield number

    with Client(settings(server)) as client:
        jobs = client.cancel_jobs(ids(), concurrency=3)
        assert taken == []
        next(jobs)
        assert len(taken) <= 1 + 3 + 1  # done, under way, and the one that comes next
        jobs.stop()
        rest = list(jobs)
        assert len(rest) + 1 == len(server.applied) <= len(taken)
    assert len(taken) < 6


def test_ids_are_taken_as_they_are_needed_under_asyncio(server: FaultServer) -> None:
    taken: list[int] = []

    def ids() -> Iterator[int]:
        for number in count(1):
            taken.append(number)
            yield number

    async def main() -> None:
        async with AsyncClient(settings(server)) as client:
            jobs = client.cancel_jobs(ids(), concurrency=3)
            await anext(jobs)
            await jobs.aclose()

    asyncio.run(main())
    assert len(taken) < 6


def test_an_iterable_that_fails_fails_the_iterator_and_loses_no_outcome(
    server: FaultServer,
) -> None:
    def ids() -> Iterator[int]:
        yield from (1, 2, 3)
        raise OSError("the database has gone")

    outcomes, failures = [], 0
    with Client(settings(server)) as client:
        jobs = client.cancel_jobs(ids())
        while True:
            try:
                outcomes.append(next(jobs))
            except OSError:
                failures += 1
            except StopIteration:
                break
    assert failures == 1
    assert sorted(int(outcome.process_id) for outcome in outcomes) == [1, 2, 3]


# --- stopping -----------------------------------------------------------------------------------


def test_after_stop_only_those_under_way_still_come(server: FaultServer) -> None:
    server.always(late(0.02))
    with Client(settings(server)) as client:
        jobs = client.cancel_jobs(range(1, 1001), concurrency=4)
        first = [next(jobs) for _ in range(10)]
        jobs.stop()
        under_way = jobs.under_way
        rest = list(jobs)
        assert len(rest) <= 4
        assert len(rest) >= under_way
        assert {one.process_id for one in first + rest} == set(server.applied)
        assert list(jobs) == []


def test_stop_is_heard_while_the_rate_limit_forbids_to_start(server: FaultServer) -> None:
    facts = {"process_id": 1, "filename": "", "current_status": "CANCELLING", "message": ""}
    reset = str(int(AFTER.timestamp()) + 3600)
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
    server.script_for(1, respond(200, facts, headers=headers))
    fake = FakeTime()

    def sleep(seconds: float) -> None:
        fake.sleep(seconds)
        if fake.elapsed > 100:
            jobs.stop()

    with Client(settings(server), sleep=sleep, **fake.options()) as client:
        jobs = client.cancel_jobs([1, 2])
        assert [outcome.process_id for outcome in jobs] == [1]
    assert 100 < fake.elapsed < 101
    assert len(server.seen) == 1


def test_what_a_repeat_fails_of_before_its_turn_is_named_by_its_event(server: FaultServer) -> None:
    reset = str(int(AFTER.timestamp()) + 3600)
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
    server.script_for(1, respond(500, headers=headers))
    events, fake = list[CancelEvent](), FakeTime()

    def sleep(seconds: float) -> None:
        raise OSError(f"no pause of {seconds} s")

    options = {**fake.options(), "sleep": sleep, "random": lambda: 0.0}
    with Client(settings(server, on_event=events.append), **options) as client:
        [outcome] = client.cancel_jobs([1])
    assert "OSError: no pause" in str(outcome.error)
    assert [event.outcome for event in events] == ["OSError"]
    assert len(server.seen) == 1


@pytest.mark.slow
@pytest.mark.parametrize("retry_after", [30, 3600])  # a pause of the job's own, and its next turn
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_stop_gives_up_what_was_only_refused_and_waits_for_what_is_sent(
    server: FaultServer, kind: type[Client] | type[AsyncClient], retry_after: int
) -> None:
    refused = late(0.3, respond(429, headers={"Retry-After": str(retry_after)}))
    server.script_for(1, respond(500), refused)  # nobody knows what became of the first
    server.script_for(2, late(1.5))
    server.script_for(3, refused)
    began, events = time.monotonic(), list[CancelEvent]()

    async def main(client: AsyncClient) -> list[JobOutcome]:
        async with client:
            jobs = client.cancel_jobs([4, 1, 2, 3])
            asyncio.get_running_loop().call_later(1.0, jobs.stop)
            return [outcome async for outcome in jobs]

    client = kind(settings(server, on_event=events.append), random=lambda: 0.0)
    if isinstance(client, AsyncClient):
        outcomes = asyncio.run(main(client))
    else:
        with client:
            jobs = client.cancel_jobs([4, 1, 2, 3])
            threading.Timer(1.0, jobs.stop).start()
            outcomes = list(jobs)
    assert 1.5 < time.monotonic() - began < 5
    assert {one.process_id for one in outcomes if one.ok} == {2, 4}
    errors = {one.process_id: one.error for one in outcomes if one.error is not None}
    found = {job: (one.outcome_unknown, one.attempts) for job, one in errors.items()}
    assert found == {1: (True, 2), 3: (False, 1)}
    assert str(errors[3]) == "job 3: Stopped: it waited for the rate limit"
    assert len(server.seen) == 5


def test_no_pause_follows_the_last_job(cancel: Cancel, server: FaultServer) -> None:
    facts = {"process_id": 1, "filename": "", "current_status": "CANCELLING", "message": ""}
    headers = {
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int(AFTER.timestamp()) + 3600),
    }
    server.script_for(1, respond(200, facts, headers=headers))
    fake = FakeTime()
    assert len(sync(fake, settings(server), [1])) == 1
    assert fake.slept == []


def interrupt(seconds: float) -> None:
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGINT)).start()


def test_it_can_be_interrupted_and_iterated_on(server: FaultServer) -> None:
    server.script_for(1, late(0.3))
    with Client(settings(server)) as client:
        jobs = client.cancel_jobs(range(1, 21))
        interrupt(0.1)
        with pytest.raises(KeyboardInterrupt):
            next(jobs)
        assert sorted(int(outcome.process_id) for outcome in jobs) == list(range(1, 21))
    assert sorted(server.applied) == list(range(1, 21))


# Python ignores, and tells of, what is raised in the callback of a weak reference.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_at_any_moment_it_never_hangs(server: FaultServer) -> None:
    interrupts, ended = 0, threading.Event()
    random = Random(1)  # noqa: S311

    def interrupted(_signal: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        while frame is not None:
            if frame.f_code is CancelJobs.__next__.__code__:
                interrupts += 1
                raise KeyboardInterrupt
            frame = frame.f_back

    def pester(main: int) -> None:
        while not ended.wait(random.uniform(0.0005, 0.004)):
            signal.pthread_kill(main, signal.SIGINT)

    found = []
    before = signal.signal(signal.SIGINT, interrupted)
    thread = threading.Thread(target=pester, args=[threading.get_ident()])
    thread.start()
    try:
        with Client(settings(server)) as client:
            jobs = client.cancel_jobs(range(1, 301))
            while True:
                try:
                    found.append(next(jobs))
                except KeyboardInterrupt:
                    continue
                except StopIteration:
                    break
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert interrupts > 10
    assert sorted(server.applied) == list(range(1, 301))
    # In the interpreter's hand at that very moment, an outcome may be lost, or a job begun twice.
    assert 290 < len({outcome.process_id for outcome in found}) <= len(found) < 310


def test_an_interrupt_just_before_a_job_starts_blocks_nothing(server: FaultServer) -> None:
    interrupts = iter([True, False, True, True])

    def on_start(_: object) -> None:
        if next(interrupts, False):
            raise KeyboardInterrupt

    found = []
    with Client(settings(server)) as client:
        jobs = CancelJobs(client.runtime, [1, 2, 3], 1, None, notices.call_site(), on_start)
        for _ in range(6):
            with suppress(KeyboardInterrupt, StopIteration):
                found.append(next(jobs).process_id)
    assert found == server.applied == [1, 2, 3]


def test_an_abandoned_iterator_starts_no_further_job_and_leaves_no_thread(
    server: FaultServer,
) -> None:
    with Client(settings(server)) as client:
        for _ in client.cancel_jobs(range(1, 1001), concurrency=4):
            break
        gc.collect()
        for thread in threading.enumerate():
            if thread.name.startswith("revenuebase-cancel"):
                thread.join(5)
                assert not thread.is_alive()
        assert len(server.seen) <= 6


def test_closing_the_async_iterator_cancels_what_is_under_way(server: FaultServer) -> None:
    events: list[CancelEvent] = []
    server.script_for(2, hang())
    server.script_for(3, hang())

    async def main() -> None:
        async with AsyncClient(settings(server, on_event=events.append)) as client:
            jobs = client.cancel_jobs([1, 2, 3], concurrency=2)
            assert (await anext(jobs)).process_id == 1
            waiting = asyncio.create_task(anext(jobs))
            await asyncio.sleep(0.05)
            assert len(server.seen) == 3
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert len(asyncio.all_tasks()) == 1
            await jobs.aclose()

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 5
    assert Counter(event.outcome for event in events) == {"cancelled": 1, "interrupted": 2}


def test_leaving_an_async_loop_early_cancels_what_is_under_way(server: FaultServer) -> None:
    server.script_for(2, hang())

    async def main() -> None:
        async with AsyncClient(settings(server)) as client:
            async for outcome in client.cancel_jobs([1, 2, 3]):
                assert outcome.ok
                break
            gc.collect()
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert len(asyncio.all_tasks()) == 1

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 5


def test_the_event_loop_runs_on_meanwhile(server: FaultServer) -> None:
    server.always(late(0.05))

    async def main() -> int:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.002)
                beats += 1

        heart = asyncio.create_task(beat())
        async with AsyncClient(settings(server)) as client:
            async for _ in client.cancel_jobs(range(1, 20)):
                pass
        heart.cancel()
        return beats

    assert asyncio.run(main()) > 20


# --- wait ---------------------------------------------------------------------------------------


class Ending(FakeTime):
    """A job in a sandbox that passes on to its next states as time is slept away."""

    def __init__(self, states: dict[float, str]) -> None:
        super().__init__()
        self.states = dict(states)
        self.sandbox = Sandbox(jobs={42: "PROCESSING"})

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if seconds == SLICE:  # a look among many waits for its turn, which takes no time of ours
            real_sleep(0.002)
        for moment in sorted(self.states):
            if moment <= self.elapsed:
                self.sandbox.jobs[42].status = self.states.pop(moment)

    def looks(self) -> int:
        return sum(one.method == "GET" for one in self.sandbox.requests)


Wait = Callable[[Ending, float | None], CancelResult]


def wait_sync(time: Ending, wait: float | None) -> CancelResult:
    with time.sandbox as sandbox:
        with time.client(Settings(sandbox.api_key, base_url=sandbox.base_url)) as client:
            return client.cancel_job(42, wait=wait)


def wait_async(time: Ending, wait: float | None) -> CancelResult:
    async def main() -> CancelResult:
        with time.sandbox as sandbox:
            of = Settings(sandbox.api_key, base_url=sandbox.base_url)
            async with time.async_client(of) as client:
                return await client.cancel_job(42, wait=wait)

    return asyncio.run(main())


def wait_among_many(time: Ending, wait: float | None) -> CancelResult:
    with time.sandbox as sandbox:
        with time.client(Settings(sandbox.api_key, base_url=sandbox.base_url)) as client:
            (outcome,) = client.cancel_jobs(["42"], wait=wait)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.result is not None
    return outcome.result


@pytest.fixture(params=[wait_sync, wait_async, wait_among_many])
def wait(request: pytest.FixtureRequest) -> Wait:
    return request.param  # type: ignore[no-any-return]


def test_wait_looks_until_the_job_is_cancelled(wait: Wait) -> None:
    time = Ending({20: "CANCELLED"})
    result = wait(time, 600)
    assert result.status is JobStatus.CANCELLED
    assert result.attempts == 1
    assert str(result.route) == "v2 (SUNSET)"
    # A look that waits for its turn among many sleeps, too: without a pause, on this clock.
    pauses = [one for one in time.slept if one != SLICE]
    assert time.elapsed >= 20
    assert sum(pauses) < 20 + POLL_MOST
    assert time.looks() < 12
    assert pauses[0] == POLL_FIRST
    assert pauses == sorted(pauses)
    assert max(pauses) <= POLL_MOST


def test_wait_tells_truthfully_that_the_job_ended_first(wait: Wait) -> None:
    for state in ("COMPLETED", "ERROR"):
        with pytest.raises(NotCancellableError) as raised:
            wait(Ending({5: state}), 600)
        error = raised.value
        assert str(error) == (
            f"job 42: API v2 took the cancel, but the job is {state}: "
            "it ended before it could be cancelled"
        )
        assert error.code == "not_cancellable"
        assert not error.outcome_unknown
        assert error.process_id == 42
        assert error.attempts == 1


def test_when_the_time_is_over_the_result_says_what_was_seen_last(wait: Wait) -> None:
    time = Ending({1000: "CANCELLED"})
    result = wait(time, 30)
    assert result.status is JobStatus.CANCELLING
    assert time.elapsed - time.slept.count(SLICE) * SLICE <= 30 <= time.elapsed
    assert time.looks() >= 5 or SLICE in time.slept


def test_a_status_that_cannot_be_read_in_between_is_looked_at_again(wait: Wait) -> None:
    time = Ending({200: "CANCELLED"})
    ordinary = time.sleep

    def sleep(seconds: float) -> None:
        ordinary(seconds)
        time.sandbox.heal()
        if 10 < time.elapsed < 400:
            time.sandbox.fail("v2", 503, times=1)

    time.sleep = sleep  # type: ignore[method-assign]
    assert wait(time, 600).status is JobStatus.CANCELLED
    assert Counter(one.status for one in time.sandbox.requests)[503] > 3


def test_no_wait_and_a_wait_of_nothing_do_not_look(wait: Wait) -> None:
    for seconds in (None, 0, 0.0):
        time = Ending({})
        assert wait(time, seconds).status is JobStatus.CANCELLING
        assert time.looks() == 0
        assert time.slept == []


@pytest.mark.parametrize("seconds", [-1, 86_401, float("inf"), float("nan"), "60", True, [1]])
def test_a_wait_that_makes_no_sense_is_refused(server: FaultServer, seconds: Any) -> None:
    async def main() -> None:
        async with AsyncClient(settings(server)) as client:
            await client.cancel_job(42, wait=seconds)

    with Client(settings(server)) as client:
        with pytest.raises(ConfigurationError, match="give seconds from 0 to 86400, or None"):
            client.cancel_job(42, wait=seconds)
        with pytest.raises(ConfigurationError):
            cancel_job(42, client=client, wait=seconds)
    with pytest.raises(ConfigurationError):
        asyncio.run(main())
    assert server.seen == []


def test_wait_reads_the_status_of_the_version_that_took_the_cancel(server: FaultServer) -> None:
    server.script(respond(200, _job("CANCELLED")), route="status", version="v1")
    with FakeTime(BEFORE).client(settings(server)) as client, pytest.warns(ApiDeprecationWarning):
        assert client.cancel_job(42, wait=60).status is JobStatus.CANCELLED
    assert [(one.version, one.route) for one in server.seen] == [
        ("v1", "cancel"),
        ("v1", "status"),
    ]


def test_the_wait_comes_beside_the_timeout_and_each_look_is_bounded_by_it(
    server: FaultServer,
) -> None:
    server.always(hang(), route="status")
    with Client(settings(server, timeout=0.1, max_attempts=1)) as client:
        began = time.monotonic()
        assert client.cancel_job(42, wait=1).status is JobStatus.CANCELLING
        assert 1 <= time.monotonic() - began < 3
    with pytest.raises(CancelTimeoutError):
        server.always(hang(), route="cancel")
        with Client(settings(server, timeout=0.1, max_attempts=1)) as client:
            client.cancel_job(43, wait=60)


def test_a_result_of_a_job_that_had_ended_before_needs_no_look(server: FaultServer) -> None:
    server.jobs[42] = "CANCELLED"
    fake = FakeTime()
    with fake.client(settings(server, already_cancelled="return")) as client:
        assert client.cancel_job(42, wait=60).status is JobStatus.CANCELLED
    assert fake.slept == []


def _job(state: str) -> dict[str, Any]:
    return {"process_id": 42, "filename": "a", "current_status": state, "message": ""}


async def _listed(jobs: AsyncIterator[JobOutcome]) -> list[JobOutcome]:
    return [outcome async for outcome in jobs]


def test_two_iterators_of_one_client_run_side_by_side(server: FaultServer) -> None:
    async def main() -> list[list[JobOutcome]]:
        async with AsyncClient(settings(server)) as client:
            both = client.cancel_jobs(range(1, 30)), client.cancel_jobs(range(30, 60))
            return await asyncio.gather(*map(_listed, both))

    assert [len(found) for found in asyncio.run(main())] == [29, 30]
    assert sorted(server.applied) == list(range(1, 60))
