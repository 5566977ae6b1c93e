"""Pacing by what the answers say: by hand, against simulated limits, and against the sandbox."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from email.utils import format_datetime
from itertools import count
from random import Random

import httpx
import pytest
from starlette import types as asgi

from revenuebase_compat import AsyncClient, Client, JobOutcome, RateLimitError, Settings
from revenuebase_compat.core import calls, cancellation
from revenuebase_compat.core.cancellation import SendRequest, Sleep
from revenuebase_compat.core.decoding import NoResponse, Response
from revenuebase_compat.core.many import REFUSALS, SLICE, RateLimiter, paced
from revenuebase_compat.testing.sandbox import Sandbox
from tests.conftest import TEST_KEY
from tests.support import AFTER

NEVER = float("inf")


def answer(remaining: int | None = None, reset: float = 60, status: int = 200) -> Response:
    """An answer whose server's clock says AFTER, and that `reset` seconds are left."""
    headers = [(b"date", format_datetime(AFTER, usegmt=True).encode())]
    if remaining is not None:
        until = AFTER.timestamp() + reset
        headers += [(b"x-ratelimit-limit", b"60"), (b"x-ratelimit-reset", b"%d" % until)]
        headers += [(b"x-ratelimit-remaining", b"%d" % remaining)]
    return Response(status, headers, b"{}")


def taken(pace: RateLimiter, monotonic: float) -> int:
    """How many may go at that moment."""
    return next(number for number in count() if pace.acquire(monotonic) > 0)


def heard(
    pace: RateLimiter, monotonic: float, *answers: Response, since: int | None = None
) -> None:
    for one in answers:
        pace.record(one, pace.answers if since is None else since, AFTER, monotonic)


def test_acquire_lets_the_first_go_alone_and_then_as_many_as_remain() -> None:
    pace = RateLimiter(100)
    assert taken(pace, 0) == 1
    assert pace.acquire(0) == NEVER
    heard(pace, 0, answer(5))
    assert taken(pace, 0) == 5
    assert pace.acquire(0) == NEVER  # not before an answer


def test_acquire_lets_no_more_go_at_once_than_was_asked_for() -> None:
    pace = RateLimiter(3)
    taken(pace, 0)
    heard(pace, 0, answer(50))
    assert taken(pace, 0) == 3
    heard(pace, 0, answer(49))
    assert taken(pace, 0) == 1


def test_acquire_lets_the_next_go_alone_at_the_reset_where_nothing_remains() -> None:
    pace = RateLimiter(8)
    taken(pace, 0)
    heard(pace, 10, answer(0, reset=42))
    assert pace.acquire(10) == 42
    assert pace.acquire(51.5) == 0.5
    assert taken(pace, 52) == 1
    heard(pace, 53, answer(0, reset=1))
    assert pace.acquire(53) == 1


def test_record_counts_by_the_servers_clock_and_not_ours() -> None:
    pace = RateLimiter(8)
    pace.acquire(0)
    pace.record(answer(0, reset=30), 0, AFTER - timedelta(hours=5), 0)
    assert pace.acquire(0) == 30


def test_record_counts_the_requests_of_others() -> None:
    pace = RateLimiter(8)
    taken(pace, 0)
    heard(pace, 0, answer(59))
    assert pace.acquire(0) == 0
    heard(pace, 0, answer(3))
    assert taken(pace, 0) == 3


def test_record_takes_the_lesser_of_answers_that_overtook_each_other() -> None:
    pace = RateLimiter(8)
    taken(pace, 0)
    heard(pace, 0, answer(2))
    assert taken(pace, 0) == 2
    heard(pace, 0, answer(0, reset=60), answer(1, reset=59), since=1)
    assert pace.acquire(0) == 60


def test_record_sees_a_window_that_slides_as_soon_as_no_answers_cross() -> None:
    pace = RateLimiter(8)
    taken(pace, 0)
    heard(pace, 0, answer(1))
    assert taken(pace, 0) == 1
    heard(pace, 30, answer(30))
    assert pace.acquire(30) == 0


@pytest.mark.parametrize("reset", [b"", b"soon", b"0", b"99999999999999", b"-5"])
def test_record_without_a_sensible_reset_waits_a_second(reset: bytes) -> None:
    pace = RateLimiter(8)
    taken(pace, 0)
    headers = [(b"X-RateLimit-Remaining", b"0"), (b"X-RateLimit-Reset", reset)]
    heard(pace, 5, Response(200, headers))
    assert pace.acquire(5) == 1
    assert taken(pace, 6) == 1


def test_record_without_a_limit_paces_nothing() -> None:
    pace = RateLimiter(8)
    taken(pace, 0)
    heard(pace, 0, answer())
    for _ in range(100):
        assert taken(pace, 0) == 8
        heard(pace, 0, *[answer()] * 8)


def test_record_of_a_proxys_answer_without_the_headers_changes_nothing() -> None:
    pace = RateLimiter(8)
    taken(pace, 0)
    heard(pace, 0, answer(2))
    assert taken(pace, 0) == 2
    heard(pace, 0, answer(status=502), answer(status=502))
    assert pace.acquire(0) == 60


def test_record_of_a_refusal_stops_the_others_for_as_long_as_it_says() -> None:
    pace = RateLimiter(8)
    taken(pace, 0)
    heard(pace, 0, answer(50))
    assert taken(pace, 0) == 8
    refusal = Response(429, [(b"retry-after", b"7"), (b"x-ratelimit-remaining", b"40")])
    heard(pace, 0, refusal, *[answer(39)] * 7, since=1)
    assert 0 < pace.acquire(0) <= 60
    assert taken(pace, 60) == 1


def test_record_of_a_refusal_without_headers_stops_them_for_a_second() -> None:
    pace = RateLimiter(8)
    taken(pace, 0)
    heard(pace, 0, Response(429))
    assert pace.acquire(0) == 1
    assert taken(pace, 1) == 1


def test_record_takes_an_answer_that_never_came_for_counted() -> None:
    pace = RateLimiter(8)
    taken(pace, 0)
    heard(pace, 0, answer(1))
    assert taken(pace, 0) == 1
    pace.record(NoResponse("reset", sent=True), 1, AFTER, 0)
    assert pace.acquire(0) == 60
    assert taken(pace, 60) == 1


def test_acquire_lets_them_go_one_by_one_while_nobody_answers() -> None:
    pace = RateLimiter(8)
    for _ in range(5):
        assert taken(pace, 0) == 1
        pace.record(NoResponse("refused", sent=False), 0, AFTER, 0)


def test_cancel_gives_back_what_was_not_needed() -> None:
    pace = RateLimiter(8)
    taken(pace, 0)
    pace.cancel()
    assert taken(pace, 0) == 1


def test_acquire_lets_newcomers_go_before_looks_at_a_job() -> None:
    pace = RateLimiter(8)
    taken(pace, 0)
    heard(pace, 0, answer(5))
    pace.newcomers = True
    assert pace.acquire(0, looks=True) == NEVER
    assert pace.acquire(0) == 0
    pace.newcomers = False
    assert pace.acquire(0, looks=True) == 0


def test_pauses_is_the_time_that_they_will_cost() -> None:
    pace = RateLimiter(8)
    assert pace.pauses(300, 0) == 0  # nothing is known
    taken(pace, 0)
    heard(pace, 0, answer(59))
    assert pace.pauses(59, 0) == 0
    assert pace.pauses(60, 0) == 60
    assert pace.pauses(299, 20) == 40 + 3 * 60


# --- simulated limits ---------------------------------------------------------------------------


class Rolling:
    """So many requests in any 60 seconds, as the vendor publishes it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.hits: list[float] = []

    def ask(self, now: float) -> tuple[bool, int, float]:
        """Whether it is refused, what remains, and when there will be more."""
        self.hits = [hit for hit in self.hits if hit > now - 60]
        refused = len(self.hits) >= self.limit
        if not refused:
            self.hits.append(now)
        return refused, self.limit - len(self.hits), self.hits[0] + 60


class Fixed(Rolling):
    """So many requests from one full minute to the next."""

    def ask(self, now: float) -> tuple[bool, int, float]:
        self.hits = [hit for hit in self.hits if hit // 60 == now // 60]
        refused = len(self.hits) >= self.limit
        if not refused:
            self.hits.append(now)
        return refused, self.limit - len(self.hits), (now // 60 + 1) * 60


def simulate(server: Rolling, jobs: int, random: Random, latency: float) -> tuple[float, int]:
    """Seconds that the jobs took, and how many were refused; each way takes its own time."""
    pace, now, refusals, todo, under_way = RateLimiter(8), 0.0, 0, jobs, 0
    start = random.uniform(0, 60)
    events: list[tuple[float, int, Callable[[], None]]] = []
    numbers = count()

    def at(moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(events, (moment, next(numbers), action))

    def arrive(since: int) -> None:
        nonlocal refusals
        moment = start + now
        refused, remaining, reset = server.ask(moment)
        refusals += refused
        until = AFTER + timedelta(seconds=-(-reset // 1))
        date = format_datetime(AFTER + timedelta(seconds=moment // 1), usegmt=True)
        headers = [(b"date", date.encode()), (b"x-ratelimit-limit", b"%d" % server.limit)]
        headers += [(b"x-ratelimit-remaining", b"%d" % remaining)]
        headers += [(b"x-ratelimit-reset", b"%d" % until.timestamp())]
        done = Response(429 if refused else 200, headers)
        at(now + random.uniform(0, latency), lambda: finish(done, since))

    def finish(done: Response, since: int) -> None:
        nonlocal todo, under_way
        pace.record(done, since, AFTER, now)
        under_way -= 1
        todo -= done.status == 200

    while todo:
        pause = NEVER
        while under_way < todo and (pause := pace.acquire(now)) == 0:
            under_way += 1
            since = pace.answers
            at(now + random.uniform(0, latency), lambda since=since: arrive(since))  # type: ignore[misc]
        if events and events[0][0] <= now + pause:
            now, _, action = heapq.heappop(events)
            action()
        else:
            assert pause < NEVER, "nothing is under way, and nothing may go"
            now += pause
    return now, refusals


@pytest.mark.parametrize("kind", [Rolling, Fixed])
@pytest.mark.parametrize("latency", [0.0, 0.05, 0.5, 2.0])
def test_rate_limiter_has_none_refused_and_uses_the_limit_whatever_overtakes_what(
    kind: type[Rolling], latency: float
) -> None:
    for seed in range(25):
        took, refusals = simulate(kind(60), 300, Random(seed), latency)  # noqa: S311
        assert refusals == 0, seed
        assert took < 300, seed


@pytest.mark.parametrize("limit", [1, 2, 7, 10_000])
def test_rate_limiter_keeps_other_limits(limit: int) -> None:
    took, refusals = simulate(Rolling(limit), 30, Random(limit), 0.2)  # noqa: S311
    assert refusals == 0
    assert took < 62 * (30 / limit) + 3


# --- one job's flow -----------------------------------------------------------------------------


def begun(time: list[float], pace: RateLimiter, *, wait: float | None = None) -> cancellation.Flow:
    """A paced flow of job 42, whose first request was taken; `time` is its monotonic clock."""
    context = calls.CallContext(
        Settings(TEST_KEY), lambda: AFTER, lambda: time[0], lambda: 0.5, {}, print, print
    )
    assert pace.acquire(time[0]) == 0
    return paced(lambda: cancellation.cancel(context, 42, wait), pace, context)


def passes(steps: cancellation.Flow, time: list[float], pause: Sleep | object) -> object:
    """What the flow asks for once its pauses are over."""
    while isinstance(pause, Sleep):
        time[0] += pause.seconds
        pause = steps.send(None)
    return pause


def cancelled(state: str = "CANCELLING", remaining: int = 59) -> Response:
    body = b'{"process_id":42,"filename":"a","current_status":"%b","message":""}' % state.encode()
    return Response(200, answer(remaining).headers, body)


def test_paced_sends_the_first_request_at_once_and_a_retry_when_it_may() -> None:
    time, pace = [0.0], RateLimiter(8)
    steps = begun(time, pace)
    assert isinstance(next(steps), SendRequest)
    pause = steps.send(answer(0, status=503))
    assert isinstance(passes(steps, time, pause), SendRequest)
    assert 60 <= time[0] < 60 + 2 * SLICE
    with pytest.raises(StopIteration) as ended:
        steps.send(cancelled())
    assert ended.value.value.attempts == 2
    assert taken(pace, time[0]) == 8


def test_paced_begins_a_refused_job_again_when_its_time_has_come() -> None:
    time, pace = [0.0], RateLimiter(8)
    steps = begun(time, pace)
    next(steps)
    # The reset lies beyond the call's own timeout, so its flow gives up at once.
    assert isinstance(
        passes(steps, time, steps.send(answer(0, reset=300, status=429))), SendRequest
    )
    assert 300 <= time[0] < 301
    with pytest.raises(StopIteration) as ended:
        steps.send(cancelled())
    assert ended.value.value.attempts == 2


def test_paced_begins_a_refused_job_not_for_ever() -> None:
    time, pace = [0.0], RateLimiter(8)
    steps = begun(time, pace)
    next(steps)
    for _ in range(REFUSALS):
        assert isinstance(passes(steps, time, steps.send(answer(0, 300, 429))), SendRequest)
    with pytest.raises(RateLimitError) as raised:
        steps.send(answer(0, 300, 429))
    assert raised.value.attempts == REFUSALS + 1


def test_paced_begins_no_job_again_that_may_have_been_cancelled() -> None:
    time, pace = [0.0], RateLimiter(8)
    steps = begun(time, pace)
    next(steps)
    assert isinstance(passes(steps, time, steps.send(answer(30, status=500))), SendRequest)
    with pytest.raises(RateLimitError) as raised:
        steps.send(answer(0, 300, 429))
    assert raised.value.outcome_unknown


def test_paced_looks_wait_for_newcomers_but_retries_do_not() -> None:
    time, pace = [0.0], RateLimiter(8)
    steps = begun(time, pace, wait=600)
    next(steps)
    pace.newcomers = True
    assert isinstance(passes(steps, time, steps.send(answer(5, status=503))), SendRequest)
    pause: object = steps.send(cancelled())
    for _ in range(100):
        assert isinstance(pause, Sleep)
        time[0] += pause.seconds
        pause = steps.send(None)
    pace.newcomers = False
    assert isinstance(passes(steps, time, pause), SendRequest)
    with pytest.raises(StopIteration):
        steps.send(cancelled("CANCELLED"))


def test_paced_flow_that_sends_nothing_gives_its_turn_back() -> None:
    context = calls.CallContext(
        Settings(), lambda: AFTER, lambda: 0.0, lambda: 0.5, {}, print, print
    )
    pace = RateLimiter(8)
    pace.acquire(0)

    def refuse() -> cancellation.Flow:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        next(paced(refuse, pace, context))
    assert taken(pace, 0) == 1
    pace.cancel()

    pace.acquire(0)
    with pytest.raises(ValueError, match="api_key"):
        next(paced(lambda: cancellation.cancel(context, 42), pace, context))
    assert taken(pace, 0) == 1


def test_paced_flow_that_is_abandoned_is_no_longer_under_way() -> None:
    pace = RateLimiter(8)
    steps = begun([0.0], pace)
    next(steps)
    steps.close()
    assert taken(pace, 0) == 1


def test_paced_flow_is_reached_by_what_the_driver_throws() -> None:
    events: list[str] = []
    settings = Settings(TEST_KEY, v2_flag=lambda _: True, v1_sunset="2999-01-01", on_event=print)
    context = calls.CallContext(
        settings,
        lambda: AFTER,
        lambda: 0.0,
        lambda: 0.5,
        {},
        print,
        lambda e: events.append(e.outcome),
    )
    pace = RateLimiter(8)
    pace.acquire(0)
    steps = paced(lambda: cancellation.cancel(context, 42), pace, context)
    next(steps)
    with pytest.raises(ZeroDivisionError):
        steps.throw(ZeroDivisionError())
    assert events == ["ZeroDivisionError"]


# --- against the sandbox ------------------------------------------------------------------------


class Fast:
    """One clock for a client and a sandbox: whoever sleeps moves it, and so does every request."""

    def __init__(self, latency: float = 0.0) -> None:
        self.elapsed = 0.0
        self.latency = latency
        self._lock = threading.Lock()

    def pass_by(self, seconds: float) -> None:
        with self._lock:
            self.elapsed += seconds

    def now(self) -> datetime:
        return AFTER + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep_async(self, seconds: float) -> None:
        self.pass_by(seconds)
        await asyncio.sleep(0)


class LimitedSandbox(Sandbox):
    """A sandbox with the published limit, by the fast clock."""

    def __init__(self, time: Fast, jobs: int) -> None:
        self.time = time
        super().__init__(jobs=range(1, jobs + 1), rate_limit=60)

    @property
    def now(self) -> datetime:
        if self.time.latency:
            self.time.pass_by(self.time.latency)
        return self.time.now()

    @now.setter
    def now(self, value: datetime | None) -> None:
        pass

    def __enter__(self) -> LimitedSandbox:
        super().__enter__()
        return self

    def statuses(self) -> Counter[int | None]:
        return Counter(one.status for one in self.requests)


@pytest.fixture(params=[0.0, 0.1])
def sandbox(request: pytest.FixtureRequest) -> Iterator[LimitedSandbox]:
    with LimitedSandbox(Fast(request.param), 300) as sandbox:
        yield sandbox


def sync(sandbox: LimitedSandbox) -> Client:
    fast = sandbox.time
    settings = Settings(sandbox.api_key, base_url=sandbox.base_url)
    return Client(settings, clock=fast.now, monotonic=fast.monotonic, sleep=fast.pass_by)


def check(sandbox: LimitedSandbox, outcomes: list[JobOutcome]) -> None:
    assert all(outcome.ok for outcome in outcomes)
    assert sorted(int(outcome.process_id) for outcome in outcomes) == sorted(sandbox.jobs)
    assert sandbox.statuses() == {200: 300}
    assert 240 <= sandbox.time.elapsed < 300


def test_cancel_jobs_cancels_300_within_the_five_minutes_that_the_limit_costs(
    sandbox: LimitedSandbox,
) -> None:
    with sync(sandbox) as client:
        check(sandbox, list(client.cancel_jobs(sandbox.jobs)))


def test_cancel_jobs_under_asyncio_does_the_same(sandbox: LimitedSandbox) -> None:
    fast = sandbox.time

    async def main() -> list[JobOutcome]:
        settings = Settings(sandbox.api_key, base_url=sandbox.base_url)
        clocks = {"clock": fast.now, "monotonic": fast.monotonic, "sleep": fast.sleep_async}
        async with AsyncClient(settings, **clocks) as client:  # type: ignore[arg-type]
            return [outcome async for outcome in client.cancel_jobs(sandbox.jobs)]

    check(sandbox, asyncio.run(main()))


def test_cancel_jobs_with_a_key_that_others_use_too() -> None:
    """Somebody spends 20 of each minute's 60, at moments of his own: nothing is lost by it."""
    fast = Fast(0.05)
    with LimitedSandbox(fast, 120) as sandbox, sync(sandbox) as client:
        stranger = httpx.Client(base_url=sandbox.base_url, headers={"x-key": sandbox.api_key})
        due, spent = 0.0, 0
        outcomes = []
        with stranger:
            for outcome in client.cancel_jobs(sandbox.jobs):
                outcomes.append(outcome)
                while fast.elapsed >= due:
                    due += 3
                    spent += stranger.get("/v2/jobs/1").status_code == 200
        assert spent > 20
        assert all(outcome.ok for outcome in outcomes)
        assert sandbox.statuses()[200] == 120 + spent
        assert fast.elapsed < 300


def test_cancel_jobs_takes_a_refusal_all_the_same_for_no_error() -> None:
    fast = Fast()
    with LimitedSandbox(fast, 30) as sandbox, sync(sandbox) as client:
        sandbox.fail("v2", 429, times=3)
        outcomes = list(client.cancel_jobs(sandbox.jobs))
        assert all(outcome.ok for outcome in outcomes)
        assert sandbox.statuses() == {200: 30, 429: 3}
        attempts = Counter(outcome.result.attempts for outcome in outcomes if outcome.result)
        assert attempts.total() == 30
        assert sum(number * times for number, times in attempts.items()) == 33


class Scaled(Fast):
    """The real clock, so many times as fast: for threads that sleep at the same time."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self.speed = speed
        self._began = time.monotonic()

    def monotonic(self) -> float:
        return (time.monotonic() - self._began) * self.speed

    def now(self) -> datetime:
        return AFTER + timedelta(seconds=self.monotonic())

    def pass_by(self, seconds: float) -> None:
        time.sleep(seconds / self.speed)


class StoppingSandbox(LimitedSandbox):
    """Jobs end once all of them were told to."""

    async def _serve(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        await super()._serve(scope, receive, send)
        if all(job.status == "CANCELLING" for job in self.jobs.values()):
            for job in self.jobs.values():
                job.status = "CANCELLED"


@pytest.mark.slow
def test_cancel_jobs_with_wait_cancels_all_before_the_looks_and_none_is_refused() -> None:
    # No faster: on a busy machine the looks would come due before the cancels are sent.
    with StoppingSandbox(Scaled(20), 50) as sandbox, sync(sandbox) as client:
        outcomes = list(client.cancel_jobs(sandbox.jobs, wait=3600))
        states = {outcome.result.current_status for outcome in outcomes if outcome.result}
        assert states == {"CANCELLED"}
        assert len(outcomes) == 50
        assert set(sandbox.statuses()) == {200}
        methods = "".join(one.method[0] for one in sandbox.requests)
        assert methods.count("P") == 50
        assert methods.rindex("P") < 60  # few looks came between
