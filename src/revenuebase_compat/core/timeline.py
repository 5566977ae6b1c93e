"""What goes where, from a date on: the decision table played over a rollout's steps (pure)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime

from .errors import ApiVersionRetiredError
from .routing import Route, decide
from .settings import Settings
from .versions import Phase, phase

#: Jobs that are decided on for each period, so that shares are shown as they fall.
SAMPLE = range(1, 10_001)


@dataclass(frozen=True, slots=True)
class Period:
    """From ``start`` on, until the next period: where v1 stands, and where jobs go.

    Attributes:
        start: its first instant (aware).
        phase: where v1 stands in its life.
        share: the rollout's share, in percent.
        flag: whether the flag is asked, whose opinion comes before the share.
        routes: percent of the jobs by route, by the share alone; ``None``: calls fail.
    """

    start: datetime
    phase: Phase
    share: float
    flag: bool
    routes: dict[Route | None, float]


def timeline(settings: Settings, start: datetime) -> list[Period]:
    """The periods from ``start`` on, by the very table that decides for calls."""
    marks = {moment for moment, _ in settings.v2_rollout.steps if moment} | {settings.v1_sunset}
    starts = [start, *sorted(mark for mark in marks if start < mark <= settings.v1_sunset)]
    return [_period(settings, moment) for moment in starts]


def _period(settings: Settings, moment: datetime) -> Period:
    # What a flag will say is nobody's to know; it stands aside, and is named beside the shares.
    plain = replace(settings, v2_flag=None)
    found: Counter[Route | None] = Counter(_route(plain, job, moment) for job in SAMPLE)
    return Period(
        moment,
        phase(moment, settings.v1_sunset),
        settings.v2_rollout.share(moment),
        settings.v2_flag is not None
        and settings.admits_v1
        and settings.admits_v2
        and moment < settings.v1_sunset,
        {route: count * 100 / len(SAMPLE) for route, count in found.most_common()},
    )


def _route(settings: Settings, process_id: int, moment: datetime) -> Route | None:
    try:
        next(decide(settings, process_id, moment, v1_gone=False))
    except StopIteration as decided:
        route: Route = decided.value
        return route
    except ApiVersionRetiredError:
        return None
    raise AssertionError("without a flag nothing is asked")
