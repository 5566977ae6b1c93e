"""Many jobs (pure): what became of each, and their pacing by what the answers say of the limit."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Literal

from . import responses
from .calls import CallContext
from .cancellation import Flow, SendRequest, Sleep
from .decoding import AttemptOutcome, Response
from .errors import CancelError, RateLimitError
from .models import CancelResult

#: Seconds that ``X-RateLimit-Limit`` counts (published); only the time left is reckoned with it.
WINDOW = 60.0
#: Seconds paused at a time while no request may go.
SLICE = 0.25
#: How often a job that was refused for its rate, as others use the key too, is begun again.
REFUSALS = 3


@dataclass(frozen=True, slots=True)
class JobCancelled:
    """One of many jobs, which was cancelled."""

    process_id: int
    result: CancelResult
    error: None = None
    ok: ClassVar[Literal[True]] = True


@dataclass(frozen=True, slots=True)
class JobFailed:
    """One of many jobs, which was not cancelled by this call, as far as is known: see ``error``.

    It is this library's own, or a ``CancelError`` that names what came in between (a warning made
    an error, say), with the call's ``attempts`` and ``outcome_unknown``.
    """

    process_id: int | str
    error: CancelError
    result: None = None
    ok: ClassVar[Literal[False]] = False


#: What became of one of many jobs. ``ok`` tells the two apart, for type checkers as well (pyright
#: wants ``outcome.ok is True``, or ``outcome.error is None``).
JobOutcome = JobCancelled | JobFailed


class Stopped(Exception):
    """A stop gave up a job that the server had refused for its rate."""


class RateLimiter:
    """When the next request may go; thread-safe. A server that states no limit is not paced.

    The first goes alone, to learn. Then as many as ``X-RateLimit-Remaining`` allows, at most
    ``most`` at once, each counted before the server does. Where nothing remains, the next goes at
    ``X-RateLimit-Reset``, again alone: a rolling window then forgives only the oldest request.
    """

    def __init__(self, most: int) -> None:
        #: Notified whenever a request ends.
        self.changed = threading.Condition()  # reentrant
        self.answers = 0
        #: Whether jobs wait to be begun: those that are only looked at let them go first.
        self.newcomers = False
        #: Whether what was refused for its rate is given up.
        self.stopped = False
        self._most = most
        self._free = 1.0
        self._under_way = 0
        self._limit = self._remaining = math.inf
        self._reset = 0.0

    def acquire(self, monotonic: float, *, looks: bool = False) -> float:
        """Seconds until a request may go, infinite for not before an answer; 0: it goes now."""
        with self.changed:
            if self._under_way >= self._most or (looks and self.newcomers):
                return math.inf
            if self._free <= 0 and not self._under_way and monotonic >= self._reset:
                self._free = 1.0
            if self._free <= 0:
                return math.inf if self._under_way else self._reset - monotonic
            self._free -= 1
            self._under_way += 1
            return 0.0

    def cancel(self) -> None:
        """What was taken was not needed."""
        with self.changed:
            self._free += 1
            self._under_way -= 1

    def forget(self) -> None:
        """Nothing is under way, whatever was taken."""
        with self.changed:
            self._under_way = 0

    def record(
        self, answer: AttemptOutcome | None, since: int, now: datetime, monotonic: float
    ) -> None:
        """A request ended; ``since``: how many ``answers`` were in when it was sent."""
        with self.changed:
            self._under_way -= 1
            self.changed.notify()
            if not isinstance(answer, Response):
                return
            refused = answer.status == 429
            left = 0 if refused else responses.count(answer.header(b"x-ratelimit-remaining"))
            if left is None:
                # Told once of a limit, an answer without (a proxy's, say) changes nothing.
                if self._remaining == math.inf:
                    self._free = math.inf
                return
            # Answers overtake each other: of two that crossed, the one that leaves less is later.
            crossed = self.answers > since
            self._remaining = min(left, self._remaining) if crossed else left
            self._free = self._remaining - self._under_way
            self._limit = responses.count(answer.header(b"x-ratelimit-limit")) or self._limit
            wait = (responses.retry_wait if refused else responses.rate_limit_wait)(answer, now)
            reset = monotonic + (1.0 if wait is None else wait)
            self._reset = max(reset, self._reset) if crossed else reset
            self.answers += 1

    def pause(self, monotonic: float) -> float:
        """Seconds for which the limit is used up; 0 where it is not."""
        with self.changed:
            return max(self._reset - monotonic, 0.0) if self._remaining <= 0 else 0.0

    def pauses(self, requests: int, monotonic: float) -> float:
        """Seconds of pauses that so many more requests will cost, as far as the answers tell."""
        with self.changed:
            beyond = requests - self._under_way - max(self._free, 0)
            if beyond <= 0 or self._limit == math.inf:
                return 0.0
            windows = math.ceil(beyond / self._limit) - 1
            return max(self._reset - monotonic, 0.0) + windows * WINDOW


def paced(begin: Callable[[], Flow], limiter: RateLimiter, context: CallContext) -> Flow:
    """One job's flow, with each request at its time; its first request may go now.

    A job that was refused for its rate all the same is begun again when its time has come.
    """
    sent = refusals = 0
    while True:
        try:
            result = yield from _gated(begin, limiter, context)
            return replace(result, attempts=sent + result.attempts)
        except RateLimitError as error:
            sent = error.attempts = sent + error.attempts
            refusals += 1
            if error.outcome_unknown or refusals > REFUSALS:
                raise
        yield from _wait(limiter, context, limiter.acquire)


def _gated(begin: Callable[[], Flow], limiter: RateLimiter, context: CallContext) -> Flow:
    taken, looks, refused, since = True, False, False, 0
    answer: Any = None
    try:
        with closing(begin()) as steps:
            while True:
                command = steps.send(answer)
                answer, sending = None, False
                try:
                    if isinstance(command, SendRequest):
                        if not taken:
                            due = partial(limiter.acquire, looks=looks)
                            yield from _wait(limiter, context, due, refused)
                        sending, taken, since = True, False, limiter.answers
                    if refused and isinstance(command, Sleep):
                        ends = float(context.monotonic() + command.seconds)
                        yield from _wait(limiter, context, ends.__sub__)
                    else:
                        answer = yield command
                except Exception as error:
                    if not isinstance(error, Stopped):
                        steps.throw(error)
                    raise
                finally:
                    if sending:
                        limiter.record(answer, since, context.clock(), context.monotonic())
                # What follows a success are looks at how the job ends.
                looks |= isinstance(answer, Response) and answer.status < 300
                if sending:
                    refused = isinstance(answer, Response) and answer.status == 429 and not looks
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        if taken:
            limiter.cancel()


def _wait(
    limiter: RateLimiter, context: CallContext, due: Callable[[float], float], refused: bool = True
) -> Generator[Sleep, None, None]:
    while (seconds := due(context.monotonic())) > 0:
        if refused and limiter.stopped:
            raise Stopped("it waited for the rate limit")
        yield Sleep(min(seconds, SLICE))
