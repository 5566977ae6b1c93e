"""Time and chance for tests: nothing here waits."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from itertools import product
from typing import Any

from revenuebase_compat import AsyncClient, Client, Settings

UTC = timezone.utc
SUNSET = datetime(2026, 7, 7, tzinfo=UTC)
BEFORE = datetime(2026, 6, 1, tzinfo=UTC)
AFTER = datetime(2026, 8, 1, tzinfo=UTC)

# Read at import: the tests themselves run without REVENUEBASE_* variables.
FULL = os.environ.get("REVENUEBASE_COMPAT_TEST_FULL") == "1"


def thinned(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """A third of all combinations, in turn; all of them with REVENUEBASE_COMPAT_TEST_FULL=1.

    Where one axis has three values, those of the others still meet in every combination.
    """
    combined = product(*(enumerate(axis) for axis in axes))
    return [
        tuple(value for _, value in one)
        for one in combined
        if FULL or sum(turn for turn, _ in one) % 3 == 0
    ]


class FakeTime:
    """A clock, a monotonic clock and a sleep that move together, and only when told."""

    def __init__(self, now: datetime = AFTER, jitter: float = 0.5) -> None:
        self.now = now
        self.jitter = jitter
        self.elapsed = 0.0
        self.slept: list[float] = []

    def clock(self) -> datetime:
        return self.now + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return 1000.0 + self.elapsed

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.elapsed += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)

    def options(self, **more: Any) -> dict[str, Any]:
        fakes = {"clock": self.clock, "monotonic": self.monotonic, "random": lambda: self.jitter}
        return {**fakes, **more}

    def client(self, settings: Settings, **more: Any) -> Client:
        return Client(settings, sleep=self.sleep, **self.options(**more))

    def async_client(self, settings: Settings, **more: Any) -> AsyncClient:
        return AsyncClient(settings, sleep=self.sleep_async, **self.options(**more))
