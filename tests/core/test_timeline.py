"""What goes where, from a date on: as rows, as lines, and as JSON; and it is what calls then do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import pytest

import revenuebase_compat as rc
from revenuebase_compat.cli.main import main
from revenuebase_compat.core.routes import Phase
from revenuebase_compat.core.routing import bucket
from revenuebase_compat.core.timeline import SAMPLE, Period, timeline
from tests.support import AFTER, SUNSET, UTC, FakeTime

START = datetime(2026, 3, 1, tzinfo=UTC)
STEPS = "2026-05-15=5,2026-06-01=50"


def rows(start: datetime = START, **settings: Any) -> list[tuple[str, dict[str, float]]]:
    """The periods as day and percents."""
    return [
        (f"{period.start:%m-%d}", named(period))
        for period in timeline(rc.Settings(**settings), start)
    ]


def named(period: Period) -> dict[str, float]:
    return {str(route): percent for route, percent in period.routes.items()}


@cache
def percent_below(share: float, salt: str = "") -> float:
    return sum(bucket(salt, job) < share for job in SAMPLE) * 100 / len(SAMPLE)


def test_timeline_of_a_rollout_in_steps() -> None:
    few, half = percent_below(5), percent_below(50)
    assert 4 < few < 6
    assert 48 < half < 52
    assert rows(v2_rollout=STEPS) == [
        ("03-01", {"v1 (DEFAULT)": 100}),
        ("05-15", {"v1 (DEFAULT)": 100 - few, "v2 (ROLLOUT)": few}),
        ("06-01", {"v1 (DEFAULT)": 100 - half, "v2 (ROLLOUT)": half}),
        ("07-07", {"v2 (SUNSET)": 100}),
    ]


def test_timeline_has_facts_of_each_period() -> None:
    periods = timeline(rc.Settings(v2_rollout=STEPS), START)
    assert [(period.phase, period.share, period.flag) for period in periods] == [
        (Phase.DEPRECATED, 0, False),
        (Phase.SUNSETTING, 5, False),
        (Phase.SUNSETTING, 50, False),
        (Phase.RETIRED, 50, False),
    ]
    assert [period.start for period in periods] == [
        START, datetime(2026, 5, 15, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC), SUNSET,
    ]  # fmt: skip


def test_timeline_starts_in_the_midst() -> None:
    """What came before counts, and is not shown; a step at the very start is not shown twice."""
    june = datetime(2026, 6, 1, tzinfo=UTC)
    half = {"v1 (DEFAULT)": 100 - percent_below(50), "v2 (ROLLOUT)": percent_below(50)}
    for start in (june, june + timedelta(days=20)):
        assert rows(start, v2_rollout=STEPS) == [
            (f"{start:%m-%d}", half),
            ("07-07", {"v2 (SUNSET)": 100}),
        ]


@pytest.mark.parametrize("start", [SUNSET, AFTER])
def test_timeline_starts_after_the_sunset(start: datetime) -> None:
    later = STEPS + ",2026-09-01=0"
    assert rows(start, v2_rollout=later) == [(f"{start:%m-%d}", {"v2 (SUNSET)": 100})]


def test_timeline_is_not_changed_by_steps_after_the_sunset() -> None:
    assert rows(v2_rollout="2026-08-01=50") == [
        ("03-01", {"v1 (DEFAULT)": 100}),
        ("07-07", {"v2 (SUNSET)": 100}),
    ]


def test_timeline_with_a_sunset_of_ones_own() -> None:
    assert rows(v1_sunset="2026-05-01", v2_rollout=STEPS) == [
        ("03-01", {"v1 (DEFAULT)": 100}),
        ("05-01", {"v2 (SUNSET)": 100}),
    ]


@pytest.mark.parametrize(
    ("settings", "before", "after"),
    [
        ({"api_version": "v2"}, "v2 (PINNED)", "v2 (PINNED)"),
        ({"api_version": "v1"}, "v1 (PINNED)", "v2 (SUNSET)"),
        ({"api_version": "v1", "after_sunset": "try"}, "v1 (PINNED)", "v1 (PINNED)"),
        ({"api_version": "v1", "after_sunset": "raise"}, "v1 (PINNED)", "None"),
        ({"after_sunset": "raise"}, "v1 (DEFAULT)", "v2 (SUNSET)"),
    ],
)
def test_timeline_with_versions_that_are_pinned(
    settings: dict[str, Any], before: str, after: str
) -> None:
    assert rows(**settings) == [("03-01", {before: 100}), ("07-07", {after: 100})]


def test_timeline_with_a_salt_chooses_other_jobs() -> None:
    found = rows(v2_rollout=5, rollout_salt="summer")
    assert found[0][1]["v2 (ROLLOUT)"] == percent_below(5, "summer") != percent_below(5)


def never(context: rc.RouteContext) -> bool:
    raise AssertionError("what a flag will say in future is not asked today")


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, [True, False]),
        ({"api_version": "v1"}, [False, False]),
        ({"api_version": "v2"}, [False, False]),
    ],
)
@pytest.mark.parametrize("flag", [never, "no_such_module:flag"])
def test_timeline_names_a_flag_but_does_not_ask_it(
    settings: dict[str, Any], asked: list[bool], flag: Any
) -> None:
    made = rc.Settings(v2_flag=flag, **settings)
    assert [period.flag for period in timeline(made, START)] == asked
    without = timeline(rc.Settings(**settings), START)
    assert [period.routes for period in timeline(made, START)] == [
        period.routes for period in without
    ]


def test_timeline_says_where_calls_go() -> None:
    settings = rc.Settings(v2_rollout=STEPS, rollout_salt="summer")
    for period in timeline(settings, datetime(2026, 6, 1, tzinfo=UTC)):
        with FakeTime(period.start).client(settings) as client:
            found = Counter(client.route(job) for job in SAMPLE)
        assert {route: hits * 100 / len(SAMPLE) for route, hits in found.items()} == period.routes


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"REVENUEBASE_{name.upper()}", value)

    return set_all


def test_timeline_command_prints_lines(
    environ: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    environ(v2_rollout=STEPS)
    assert main(["timeline", "--from", "2026-03-01"]) == 0
    few, half = percent_below(5), percent_below(50)
    assert capsys.readouterr() == (
        "2026-03-01T00:00:00+00:00  v1 deprecated  100 % v1 (DEFAULT)\n"
        f"2026-05-15T00:00:00+00:00  v1 sunsetting  {100 - few:.4g} % v1 (DEFAULT), "
        f"{few:.4g} % v2 (ROLLOUT)\n"
        f"2026-06-01T00:00:00+00:00  v1 sunsetting  {100 - half:.4g} % v1 (DEFAULT), "
        f"{half:.4g} % v2 (ROLLOUT)\n"
        "2026-07-07T00:00:00+00:00  v1 retired     100 % v2 (SUNSET)\n",
        "",
    )


def test_timeline_command_names_the_flag_and_the_error(
    environ: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    environ(v2_flag="no_such_module:flag")
    assert main(["timeline", "--from", "2026-06-01"]) == 0
    assert capsys.readouterr().out == (
        "2026-06-01T00:00:00+00:00  v1 sunsetting  100 % v1 (DEFAULT); the flag is asked first\n"
        "2026-07-07T00:00:00+00:00  v1 retired     100 % v2 (SUNSET)\n"
    )
    environ(api_version="v1", after_sunset="raise")
    assert main(["timeline", "--from", "2026-08-01"]) == 0
    assert capsys.readouterr().out == (
        "2026-08-01T00:00:00+00:00  v1 retired     100 % ApiVersionRetiredError\n"
    )


def test_timeline_command_prints_json(
    environ: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    environ(v2_rollout=STEPS, v2_flag="no_such_module:flag", after_sunset="raise")
    assert main(["timeline", "--from", "2026-06-15T12:00Z", "--json"]) == 0
    out, err = capsys.readouterr()
    half = percent_below(50)
    v1 = {"version": "v1", "reason": "DEFAULT", "percent": 100 - half}
    v2 = {"version": "v2", "reason": "ROLLOUT", "percent": half}
    first, second = map(json.loads, out.splitlines())
    assert first == {
        "from": "2026-06-15T12:00:00+00:00",
        "phase": "sunsetting",
        "share": 50.0,
        "flag": True,
        "routes": sorted((v1, v2), key=lambda row: -float(str(row["percent"]))),
    }
    assert second == {
        "from": "2026-07-07T00:00:00+00:00",
        "phase": "retired",
        "share": 50.0,
        "flag": False,
        "routes": [{"version": "v2", "reason": "SUNSET", "percent": 100.0}],
    }
    assert err == ""


def test_timeline_command_prints_json_where_calls_fail(
    environ: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    environ(api_version="v1", after_sunset="raise")
    assert main(["timeline", "--from", "2026-08-01", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["routes"] == [
        {"version": None, "reason": "ApiVersionRetiredError", "percent": 100.0}
    ]


def test_timeline_command_starts_now_without_a_date(capsys: pytest.CaptureFixture[str]) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    assert main(["timeline", "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert before <= datetime.fromisoformat(first["from"]) <= datetime.now(UTC)


def test_timeline_command_refuses_wrong_dates_and_settings(
    environ: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["timeline", "--from", "07/08/2026"])
    assert "'07/08/2026' is no date" in capsys.readouterr().err
    environ(v2_rollout="soon=5")
    assert main(["timeline"]) == 2
    assert "v2_rollout (REVENUEBASE_V2_ROLLOUT) 'soon=5'" in capsys.readouterr().err
