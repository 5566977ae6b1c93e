"""The decision table, row by row, and what must hold whatever the settings are."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from revenuebase_compat import ApiVersionRetiredError, Route, RouteReason, Settings
from revenuebase_compat.core.events import RouteContext
from revenuebase_compat.core.routes import FINAL_STRETCH, V1, V1_SUNSET, V2, Phase, phase
from revenuebase_compat.core.routing import EvaluateFlag, decide
from revenuebase_compat.core.settings import Rollout
from tests.support import AFTER, BEFORE, SUNSET, UTC

JOB = 42
TICK = timedelta(microseconds=1)


def decided(
    settings: Settings,
    now: datetime,
    *,
    process_id: int = JOB,
    gone: bool = False,
    says: bool | None = None,
) -> tuple[Route, list[RouteContext]]:
    """The decision, and what the flag was asked; ``says`` is its answer."""
    asked: list[RouteContext] = []
    steps = decide(settings, process_id, now, v1_retired=gone)
    try:
        command = next(steps)
        while True:
            assert type(command) is EvaluateFlag
            asked.append(command.context)
            command = steps.send(says)
    except StopIteration as stop:
        return stop.value, asked


def flag(context: RouteContext) -> bool | None:
    raise AssertionError("the table yields, and leaves asking to its driver")


class Row(NamedTuple):
    number: int
    settings: dict[str, Any]
    now: datetime
    expected: str
    gone: bool = False
    says: bool | None = None
    asks: bool = False


ROWS = [
    Row(1, {"api_version": "v2"}, BEFORE, "v2 (PINNED)"),
    Row(1, {"api_version": "v2"}, AFTER, "v2 (PINNED)"),
    Row(1, {"api_version": ">=2", "v2_flag": flag}, BEFORE, "v2 (PINNED)", says=False),
    Row(1, {"api_version": "v2"}, BEFORE, "v2 (PINNED)", gone=True),
    Row(2, {}, AFTER, "v2 (SUNSET)"),
    Row(2, {"v2_flag": flag}, AFTER, "v2 (SUNSET)", says=False),
    Row(2, {"v2_rollout": 0, "after_sunset": "try"}, AFTER, "v2 (SUNSET)"),
    Row(2, {"after_sunset": "raise"}, AFTER, "v2 (SUNSET)", gone=True),
    Row(3, {"api_version": "v1"}, AFTER, "v2 (SUNSET)"),
    Row(3, {"api_version": "<2", "after_sunset": "migrate"}, AFTER, "v2 (SUNSET)"),
    Row(3, {"api_version": "v1", "after_sunset": "raise"}, AFTER, "retired"),
    Row(3, {"api_version": "v1", "after_sunset": "raise"}, AFTER, "retired", gone=True),
    Row(3, {"api_version": "v1", "after_sunset": "try"}, AFTER, "v1 (PINNED)"),
    Row(3, {"api_version": "v1", "after_sunset": "try"}, AFTER, "v1 (PINNED)", gone=True),
    Row(4, {}, BEFORE, "v2 (V1_GONE)", gone=True),
    Row(4, {"v2_flag": flag}, BEFORE, "v2 (V1_GONE)", gone=True, says=False),
    Row(4, {"api_version": "v1"}, BEFORE, "v2 (V1_GONE)", gone=True),
    Row(4, {"after_sunset": "raise"}, BEFORE, "v2 (V1_GONE)", gone=True),
    Row(5, {"api_version": "v1"}, BEFORE, "v1 (PINNED)"),
    Row(5, {"api_version": "v1", "v2_flag": flag}, BEFORE, "v1 (PINNED)", says=True),
    Row(5, {"api_version": "v1", "v2_rollout": 100}, BEFORE, "v1 (PINNED)"),
    Row(5, {"api_version": "v1", "after_sunset": "raise"}, BEFORE, "v1 (PINNED)", gone=True),
    Row(5, {"api_version": "v1", "after_sunset": "try"}, BEFORE, "v1 (PINNED)", gone=True),
    Row(6, {"v2_flag": flag}, BEFORE, "v2 (FLAG)", says=True, asks=True),
    Row(6, {"v2_flag": flag}, BEFORE, "v1 (FLAG)", says=False, asks=True),
    Row(6, {"v2_flag": flag, "v2_rollout": 100}, BEFORE, "v1 (FLAG)", says=False, asks=True),
    Row(7, {"v2_rollout": 100}, BEFORE, "v2 (ROLLOUT)"),
    Row(7, {"v2_rollout": 100, "v2_flag": flag}, BEFORE, "v2 (ROLLOUT)", asks=True),
    Row(8, {}, BEFORE, "v1 (DEFAULT)"),
    Row(8, {"v2_flag": flag}, BEFORE, "v1 (DEFAULT)", asks=True),
    Row(8, {"v2_rollout": "2026-07-01=100"}, BEFORE, "v1 (DEFAULT)"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number}-{row.expected}")
def test_decide_by_each_row(row: Row) -> None:
    assert outcome(Settings(**row.settings), row.now, row.gone, row.says) == (
        row.expected,
        row.asks,
    )


def outcome(settings: Settings, now: datetime, gone: bool, says: bool | None) -> tuple[str, bool]:
    try:
        chosen, asked = decided(settings, now, gone=gone, says=says)
    except ApiVersionRetiredError:
        return "retired", False
    return str(chosen), bool(asked)


class Case(NamedTuple):
    admits: str
    after_sunset: str
    over: bool
    gone: bool
    says: bool | None
    share: bool


# The table of the design once more, as predicates: the first that holds decides.
TABLE: list[tuple[Callable[[Case], bool], str]] = [
    (lambda case: case.admits == "v2", "v2 (PINNED)"),
    (lambda case: case.over and case.admits == "auto", "v2 (SUNSET)"),
    (lambda case: case.over and case.after_sunset == "migrate", "v2 (SUNSET)"),
    (lambda case: case.over and case.after_sunset == "raise", "retired"),
    (lambda case: case.over, "v1 (PINNED)"),
    (lambda case: case.gone and case.admits == "auto", "v2 (V1_GONE)"),
    (lambda case: case.gone and case.after_sunset == "migrate", "v2 (V1_GONE)"),
    (lambda case: case.admits == "v1", "v1 (PINNED)"),
    (lambda case: case.says is True, "v2 (FLAG)"),
    (lambda case: case.says is False, "v1 (FLAG)"),
    (lambda case: case.share, "v2 (ROLLOUT)"),
    (lambda case: True, "v1 (DEFAULT)"),
]


@pytest.mark.parametrize("after_sunset", ["migrate", "raise", "try"])
@pytest.mark.parametrize("admits", ["auto", "v1", "v2"])
def test_decide_by_every_combination(admits: str, after_sunset: Any) -> None:
    yes_no = (False, True)
    for over, gone, says, share in itertools.product(yes_no, yes_no, (None, *yes_no), yes_no):
        case = Case(admits, after_sunset, over, gone, says, share)
        expected = next(result for holds, result in TABLE if holds(case))
        settings = Settings(
            api_version=admits,
            after_sunset=after_sunset,
            v2_flag=flag,
            v2_rollout=100 if share else 0,
        )
        asks = any(word in expected for word in ("FLAG", "ROLLOUT", "DEFAULT"))
        now = SUNSET if over else SUNSET - TICK
        assert outcome(settings, now, gone, says) == (expected, asks), case


def test_decide_says_what_to_set_where_v1_is_retired() -> None:
    settings = Settings(api_version="v1", after_sunset="raise")
    with pytest.raises(ApiVersionRetiredError, match="REVENUEBASE_API_VERSION=auto") as caught:
        decided(settings, AFTER)
    error = caught.value
    assert "job 42" in str(error)
    assert "2026-07-07" in str(error)
    assert (error.process_id, error.api_version, error.attempts) == (42, V1, 0)
    assert error.status_code is None
    assert error.outcome_unknown is False


def test_decide_tells_the_flag_of_the_job() -> None:
    settings = Settings(v2_flag=flag, v2_rollout="2026-05-01=25")
    _, asked = decided(settings, BEFORE)
    assert asked == [RouteContext(42, BEFORE, SUNSET, Phase.SUNSETTING, 25.0)]


def test_decide_asks_the_flag_anew_for_every_call() -> None:
    settings = Settings(v2_flag=flag)
    assert str(decided(settings, BEFORE, says=True)[0]) == "v2 (FLAG)"
    assert str(decided(settings, BEFORE, says=False)[0]) == "v1 (FLAG)"


settings_texts = st.fixed_dictionaries(
    {
        "after_sunset": st.sampled_from(["migrate", "raise", "try"]),
        "v2_rollout": st.floats(0, 100) | st.just("2026-01-01=5,2027-01-01=50"),
        "rollout_salt": st.text(max_size=5),
        "v2_flag": st.sampled_from([None, flag, "package.module:flag"]),
    }
)
opinions = st.sampled_from([True, False, None])
sunsets = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(
    st.sampled_from(["auto", "v2", ">=1", ">=2", "!=1", ">=1,<3"]),
    settings_texts,
    sunsets,
    st.timedeltas(timedelta(0), timedelta(days=3000)),
    zones,
    st.booleans(),
    opinions,
)
def test_decide_sends_nothing_that_admits_v2_to_v1_from_the_sunset_on(
    api_version: str,
    options: dict[str, Any],
    sunset: datetime,
    later: timedelta,
    zone: timezone,
    gone: bool,
    says: bool | None,
) -> None:
    settings = Settings(api_version=api_version, v1_sunset=sunset, **options)
    now = (sunset + later).astimezone(zone)
    chosen, asked = decided(settings, now, gone=gone, says=says)
    assert chosen.version == V2
    assert chosen.reason in (RouteReason.SUNSET, RouteReason.PINNED)
    assert asked == []


@given(sunsets, zones, zones)
def test_decide_at_the_instant_itself_whatever_the_zone(
    sunset: datetime, written: timezone, clock: timezone
) -> None:
    settings = Settings(v1_sunset=sunset.astimezone(written).isoformat())
    at, _ = decided(settings, sunset.astimezone(clock))
    just_before, _ = decided(settings, (sunset - TICK).astimezone(clock))
    assert str(at) == "v2 (SUNSET)"
    assert str(just_before) == "v1 (DEFAULT)"


@pytest.mark.parametrize(
    "written",
    ["2026-07-07", date(2026, 7, 7), datetime(2026, 7, 7), "2026-07-07T00:00"],  # noqa: DTZ001
)
def test_decide_takes_a_sunset_without_a_zone_for_utc(written: Any) -> None:
    settings = Settings(v1_sunset=written)
    auckland = timezone(timedelta(hours=12))
    assert str(decided(settings, datetime(2026, 7, 7, 12, tzinfo=auckland))[0]) == "v2 (SUNSET)"
    before = datetime(2026, 7, 7, 11, 59, 59, 999999, tzinfo=auckland)
    assert str(decided(settings, before)[0]) == "v1 (DEFAULT)"


def test_decide_by_default_on_the_published_day() -> None:
    assert Settings().v1_sunset == SUNSET == V1_SUNSET
    assert [Version("1"), Version("2")] == [V1, V2]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (SUNSET - FINAL_STRETCH - TICK, Phase.DEPRECATED),
        (SUNSET - FINAL_STRETCH, Phase.SUNSETTING),
        (SUNSET - TICK, Phase.SUNSETTING),
        (SUNSET, Phase.RETIRED),
        (SUNSET + TICK, Phase.RETIRED),
    ],
)
def test_phase_by_time(now: datetime, expected: Phase) -> None:
    assert timedelta(days=90) == FINAL_STRETCH
    assert phase(now, SUNSET) is expected


@pytest.mark.parametrize(
    "value",
    [
        Route(V2, RouteReason.SUNSET),
        RouteContext(JOB, BEFORE, SUNSET, Phase.SUNSETTING, 5.0),
        Rollout(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_route_and_context_are_values(value: Any) -> None:
    assert value == copy.deepcopy(value)
    assert hash(value) == hash(copy.deepcopy(value))
    for name in value.__match_args__:
        with pytest.raises(AttributeError):
            setattr(value, name, None)
    assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 (our own)


def test_route_reads_well() -> None:
    assert str(Route(V2, RouteReason.V1_GONE)) == "v2 (V1_GONE)"
    assert {reason.value for reason in RouteReason} == {
        *("PINNED", "SUNSET", "V1_GONE", "FLAG", "ROLLOUT", "DEFAULT", "V2_MISSING")
    }
