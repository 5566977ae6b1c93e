"""The share of jobs that go to v2: sticky, monotonic, fair, and the same everywhere."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from datetime import datetime, timedelta
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revenuebase_compat import RouteReason, Settings
from revenuebase_compat.core.routing import bucket
from revenuebase_compat.core.settings import Rollout
from tests.core.test_routing import decided
from tests.support import BEFORE, UTC

job_ids = st.integers(1, 2**63 - 1)
shares = st.floats(0, 100)

# Computed once: if one of these moves, a deployed rollout moves jobs between versions.
GOLDEN = [
    ("", 1, 18.16221756313432),
    ("", 42, 1.4022373501955343),
    ("", 2**63 - 1, 51.22013976107489),
    ("summer", 42, 79.83443740919398),
    ("sömmer", 42, 55.39507550961069),
]


@pytest.mark.parametrize(("salt", "process_id", "place"), GOLDEN)
def test_bucket_never_moves(salt: str, process_id: int, place: float) -> None:
    assert bucket(salt, process_id) == place


@pytest.mark.parametrize("seed", ["0", "1", "4294967295"])
def test_bucket_of_another_process_agrees_bit_for_bit(seed: str) -> None:
    program = (
        "from revenuebase_compat.core.routing import bucket\n"
        f"for salt, process_id in {[golden[:2] for golden in GOLDEN]!a}:\n"
        "    print(bucket(salt, process_id).hex())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [float.fromhex(line) for line in run.stdout.split()] == [row[2] for row in GOLDEN]


@cache
def places(salt: str) -> list[float]:
    return [bucket(salt, process_id) for process_id in range(1, 100_001)]


def within_three_sigma(hits: int, total: int, probability: float) -> bool:
    sigma = math.sqrt(total * probability * (1 - probability))
    return abs(hits - total * probability) <= 3 * sigma


@pytest.mark.parametrize("salt", ["", "summer"])
@pytest.mark.parametrize("share", [1, 5, 25, 50])
def test_decide_keeps_the_share(salt: str, share: float) -> None:
    hits = sum(place < share for place in places(salt))
    assert within_three_sigma(hits, 100_000, share / 100)


def test_decide_counts_small_shares_and_leaves_the_edge_outside() -> None:
    first = min(range(1, 1001), key=lambda process_id: bucket("", process_id))
    place = bucket("", first)
    assert 0 < place < 0.5
    for share, reason in (
        (0.5, RouteReason.ROLLOUT),
        (math.nextafter(place, 1), RouteReason.ROLLOUT),
        (place, RouteReason.DEFAULT),
    ):
        chosen, _ = decided(Settings(v2_rollout=share), BEFORE, process_id=first)
        assert chosen.reason is reason


@pytest.mark.parametrize("distance", [1, 2, 10])
@pytest.mark.parametrize("share", [5, 25, 50])
def test_bucket_of_neighbouring_ids_is_independent(share: float, distance: int) -> None:
    chosen = [place < share for place in places("")]
    pairs = list(zip(chosen[:-distance], chosen[distance:], strict=True))
    # Disjoint pairs, as overlapping ones depend on each other.
    apart = [pair for at, pair in enumerate(pairs) if at // distance % 2 == 0]
    assert within_three_sigma(sum(a and b for a, b in apart), len(apart), (share / 100) ** 2)


def test_bucket_is_shuffled_by_a_salt() -> None:
    pairs = zip(places(""), places("summer"), strict=True)
    assert within_three_sigma(sum(a < 25 and b < 25 for a, b in pairs), 100_000, 0.0625)


@given(st.text(), job_ids)
def test_bucket_lies_from_0_up_to_100(salt: str, process_id: int) -> None:
    assert 0 <= bucket(salt, process_id) < 100


# Text from the environment holds half surrogates where its bytes are not UTF-8 (PEP 383).
@pytest.mark.parametrize("salt", ["\udcff", "é\udc80x"])
def test_bucket_works_with_every_salt_that_the_environment_can_hold(salt: str) -> None:
    settings = Settings.from_env({"REVENUEBASE_ROLLOUT_SALT": salt})
    assert bucket(settings.rollout_salt, 42) == bucket(salt, 42)
    assert bucket(salt, 42) != bucket("", 42)


@given(job_ids, shares, shares, st.text(max_size=5))
def test_decide_with_a_raised_share_only_adds_jobs(
    process_id: int, one: float, another: float, salt: str
) -> None:
    def on_v2(share: float) -> bool:
        settings = Settings(v2_rollout=share, rollout_salt=salt)
        chosen, _ = decided(settings, BEFORE, process_id=process_id)
        assert chosen.reason in (RouteReason.ROLLOUT, RouteReason.DEFAULT)
        return chosen.reason is RouteReason.ROLLOUT

    low, high = sorted((one, another))
    assert on_v2(low) <= on_v2(high)
    assert on_v2(low) == on_v2(low)
    assert not on_v2(0)
    assert on_v2(100)


@given(job_ids, shares, st.timedeltas(timedelta(0), timedelta(days=30)))
def test_decide_leaves_a_job_where_it_is_until_the_sunset(
    process_id: int, share: float, later: timedelta
) -> None:
    settings = Settings(v2_rollout=share)
    first, _ = decided(settings, BEFORE, process_id=process_id)
    again, _ = decided(settings, BEFORE + later, process_id=process_id)
    assert again == first


def test_rollout_steps_at_the_instant() -> None:
    rollout = Settings(v2_rollout="2026-06-15=50,2026-06-01=5, 2026-07-01T12:00+02:00 = 12.5%")
    tick = timedelta(microseconds=1)

    def share(*moment: int) -> float:
        return rollout.v2_rollout.share(datetime(*moment, tzinfo=UTC))  # type: ignore[misc,arg-type]

    first, second = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 6, 15, tzinfo=UTC)
    assert share(2020, 1, 1) == 0
    assert rollout.v2_rollout.share(first - tick) == 0
    assert rollout.v2_rollout.share(first) == 5
    assert rollout.v2_rollout.share(second - tick) == 5
    assert rollout.v2_rollout.share(second) == 50
    assert share(2026, 7, 1, 9, 59, 59) == 50
    assert share(2026, 7, 1, 10) == 12.5
    assert share(2099, 1, 1) == 12.5


def test_rollout_without_a_date_always_holds() -> None:
    assert Rollout(((None, 5.0),)).share(datetime.min.replace(tzinfo=UTC)) == 5
    assert Rollout().share(BEFORE) == 0
