"""What goes where, from a date on: the decision table played over a rollout's steps (pure)."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import NamedTuple

from .errors import ApiVersionRetiredError
from .routes import Phase, Route, phase
from .routing import decide
from .settings import Settings

#: Jobs that are decided on, so that shares are shown as they fall.
SAMPLE = range(1, 10_001)


class Period(NamedTuple):
    """From ``start`` (aware) to the next period: v1's ``phase``, and the ``share`` in percent."""

    start: datetime
    phase: Phase
    share: float
    #: Whether the flag is asked, whose opinion comes before the share.
    flag: bool
    #: Percent of the jobs by route, by the share alone; ``None``: calls fail.
    routes: dict[Route | None, float]


def timeline(settings: Settings, start: datetime) -> list[Period]:
    """The periods from ``start`` on, by the very table that decides for calls."""
    marks = {moment for moment, _ in settings.v2_rollout.steps if moment} | {settings.v1_sunset}
    starts = [start, *sorted(mark for mark in marks if start < mark <= settings.v1_sunset)]
    return [_period(settings, moment) for moment in starts]


def _period(settings: Settings, moment: datetime) -> Period:
    found: Counter[Route | None] = Counter()
    flag = False
    for process_id in SAMPLE:
        steps = decide(settings, process_id, moment, v1_retired=False)
        try:
            next(steps)
            flag = True  # what it will say is nobody's to know: it has no opinion
            steps.send(None)
        except StopIteration as decided:
            found[decided.value] += 1
        except ApiVersionRetiredError:
            found[None] += 1
    stage, share = phase(moment, settings.v1_sunset), settings.v2_rollout.share(moment)
    percents = {route: count * 100 / len(SAMPLE) for route, count in found.most_common()}
    return Period(moment, stage, share, flag, percents)
