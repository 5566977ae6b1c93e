"""A whole rollout on a simulated clock, from 2026-05-01 to 2026-07-20, against the sandbox.

    python -m tests.tools.rollout_play

A team moves from v1 to v2 by a schedule, lives through an outage of v2 and turns back with a
flag, sees v1 rehearse its end, and v1's end. Thirty jobs a day are cancelled; one whose cancel
failed is cancelled again once the operator has done something about it. The timeline that is
printed is made of the events of the calls. Nothing waits: clock and sleep are simulated.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import NamedTuple

import revenuebase_compat as rc
from revenuebase_compat.testing.sandbox import Sandbox
from tests.support import UTC, FakeTime

FIRST_DAY, LAST_DAY = date(2026, 5, 1), date(2026, 7, 20)
SCHEDULE = "2026-05-15=5,2026-06-01=50"
JOBS_A_DAY = 30
#: Less than the 15 minutes for which a 410 is remembered, and more than half of them.
BETWEEN_JOBS = timedelta(minutes=12)
OPENING = time(9, tzinfo=UTC)


class SimulatedTime(FakeTime):
    """The client's clock and the sandbox's, which are one."""

    def __init__(self, now: datetime, sandbox: Sandbox) -> None:
        super().__init__(now)
        self.sandbox = sandbox
        self.sleep(0)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.sandbox.now = self.clock()

    def wait_until(self, moment: datetime) -> None:
        self.sleep((moment - self.clock()).total_seconds())


@dataclass
class Chapter:
    """A stretch of the rollout, and what became of the calls in it."""

    start: datetime
    title: str
    events: list[rc.CancelEvent] = field(default_factory=list)
    notices: int = 0


class Failure(NamedTuple):
    """A call that failed, and what became of its job."""

    error: rc.CancelError
    #: What the job's status really was, directly after the error.
    status: str
    #: The route of the cancel that was made again, or the error that it ended with.
    again: rc.Route | rc.CancelError | None = None


class Play:
    """The sandbox, the client, the operator, and all that happened."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.time = SimulatedTime(datetime.combine(FIRST_DAY, time(0, tzinfo=UTC)), sandbox)
        self.says: bool | None = None
        self.chapters: list[Chapter] = []
        self.failures: dict[int, Failure] = {}
        self.settings = rc.Settings(
            sandbox.api_key,
            base_url=sandbox.base_url,
            v2_rollout=SCHEDULE,
            v2_flag=lambda context: self.says,
            on_event=lambda event: self.chapters[-1].events.append(event),
        )
        self.client = self.time.client(self.settings)

    def acts(self) -> list[tuple[datetime, str, Callable[[], object]]]:
        """What happens, in order: by itself, or by the operator's hand."""

        def at(month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
            return datetime(2026, month, day, hour, minute, tzinfo=UTC)

        sandbox = self.sandbox
        return [
            (at(5, 1), "share 0 %", lambda: None),
            (at(5, 15), "share 5 %", lambda: None),
            (at(6, 1), "share 50 %", lambda: None),
            (at(6, 8, 10), "each version loses an answer", self.lose_answers),
            (at(6, 16, 10), "v2 is out: 503", self.break_v2),
            (at(6, 16, 11, 30), "flag says v1; failed jobs again", self.turn_back),
            (at(6, 18, 8), "v2 is healed; flag withdrawn", self.turn_forward),
            (at(6, 24, 10), "v1 rehearses its end: 410", lambda: sandbox.fail("v1", 410)),
            (at(6, 24, 12, 45), "rehearsal over", lambda: sandbox.heal("v1")),
            (at(7, 7), "v1 has ended", lambda: None),
        ]

    def lose_answers(self) -> None:
        self.sandbox.drop("v1")
        self.sandbox.drop("v2")

    def break_v2(self) -> None:
        # At first cancels take effect and only their answers fail; later nothing works.
        self.sandbox.fail("v2", 503, times=4, after_applying=True)
        self.sandbox.fail("v2", 503)

    def turn_back(self) -> None:
        self.says = False
        self.cancel_again()

    def turn_forward(self) -> None:
        self.sandbox.heal("v2")
        self.says = None

    def cancel_again(self) -> None:
        for process_id, failure in self.failures.items():
            if failure.again is None:
                again: rc.Route | rc.CancelError
                try:
                    again = self.client.cancel_job(process_id).route
                except rc.CancelError as error:
                    again = error
                self.failures[process_id] = failure._replace(again=again)

    def cancel(self, process_id: int) -> None:
        self.sandbox.add_job(process_id)
        try:
            self.client.cancel_job(process_id)
        except rc.CancelError as error:
            self.failures[process_id] = Failure(error, self.sandbox.jobs[process_id].status)

    def run(self) -> None:
        acts = self.acts()
        for process_id, moment in enumerate(moments(), 1):
            while acts and acts[0][0] <= moment:
                start, title, act = acts.pop(0)
                self.time.wait_until(start)
                self.chapters.append(Chapter(start, title))
                act()
            self.time.wait_until(moment)
            self.cancel(process_id)
        self.cancel_again()

    def no_response_from(self) -> list[int]:
        """Jobs that are not being cancelled after all, or of which an error did not tell the truth.

        An error that says the cancel was not applied must be right; one that says it is unknown
        is right either way.
        """
        return [
            job.process_id
            for job in self.sandbox.jobs.values()
            if job.status != "CANCELLING" or not self.told_the_truth(job.process_id)
        ]

    def told_the_truth(self, process_id: int) -> bool:
        failure = self.failures.get(process_id)
        return failure is None or failure.error.outcome_unknown or failure.status == "QUEUED"


def moments() -> Iterator[datetime]:
    """When jobs are cancelled."""
    for days in range((LAST_DAY - FIRST_DAY).days + 1):
        opening = datetime.combine(FIRST_DAY + timedelta(days), OPENING)
        for number in range(JOBS_A_DAY):
            yield opening + number * BETWEEN_JOBS


class Ear(logging.Handler):
    """Counts what is logged of v1, by chapter."""

    def __init__(self, play: Play) -> None:
        super().__init__()
        self.play = play

    def emit(self, record: logging.LogRecord) -> None:
        self.play.chapters[-1].notices += 1


def play() -> Play:
    """Play it from the first day to the last."""
    logger = logging.getLogger("revenuebase_compat")
    with Sandbox() as sandbox, warnings.catch_warnings():
        warnings.simplefilter("ignore", rc.ApiDeprecationWarning)
        played = Play(sandbox)
        ear, propagated = Ear(played), logger.propagate
        logger.addHandler(ear)
        logger.propagate = False
        try:
            with played.client:
                played.run()
        finally:
            logger.removeHandler(ear)
            logger.propagate = propagated
    return played


HEAD = f"{'from':16}  {'what':31} {'calls':>5} {'errors':>6} {'retries':>7} {'notices':>7}  routes"


def timeline(played: Play) -> str:
    """The rollout as a table, what became of the jobs whose cancel failed, and the sum."""
    lines = [HEAD, *(row(chapter) for chapter in played.chapters), ""]
    for process_id, (error, status, again) in played.failures.items():
        unknown = ", outcome unknown" if error.outcome_unknown else ""
        then = type(again).__name__ if isinstance(again, Exception) else again
        lines.append(
            f"job {process_id}: {type(error).__name__}{unknown}; it was {status}; again: {then}"
        )
    jobs = played.sandbox.jobs
    cancelled = sum(job.status == "CANCELLING" for job in jobs.values())
    lines += [
        "",
        f"jobs: {len(jobs)}; cancelled: {cancelled}, {len(played.failures)} of them on the second "
        f"try; lost: {len(played.no_response_from())}",
    ]
    return "\n".join(lines)


def row(chapter: Chapter) -> str:
    """One line of the table."""
    events = chapter.events
    routes = Counter(str(event.route) for event in events)
    shown = ", ".join(f"{number} {route}" for route, number in routes.most_common())
    if gone := routes["v2 (V1_GONE)"]:
        told = sum(event.switched for event in events)
        shown += f" ({told} told 410, {gone - told} by memory)"
    errors = sum(event.outcome != "cancelled" for event in events)
    # The request that follows a switch is no retry.
    retries = sum(event.attempts - 1 - event.switched for event in events)
    return (
        f"{chapter.start:%Y-%m-%d %H:%M}  {chapter.title:31} {len(events):5} {errors:6} "
        f"{retries:7} {chapter.notices:7}  {shown}"
    )


def main() -> int:
    """Print the timeline; 1 if a job was lost."""
    played = play()
    print(timeline(played))
    return 1 if played.no_response_from() else 0


if __name__ == "__main__":
    sys.exit(main())
