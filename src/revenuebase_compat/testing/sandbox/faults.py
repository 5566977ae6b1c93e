"""What the sandbox plays on request: failures, lost answers and a rate limit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from itertools import chain, repeat

VERSIONS = ("v1", "v2")

# The status to answer, None for hanging up; and whether the request takes effect all the same.
Fault = tuple[int | None, bool]


class Faults:
    """Faults of each version, played in the order they were given."""

    def __init__(self) -> None:
        self._faults: dict[str, Iterator[Fault]] = {}

    def fail(
        self, version: str, status: int, *, times: int | None = None, after_applying: bool = False
    ) -> None:
        """Answer ``status`` (400 to 599) to the next ``times`` requests of a version, or to all
        until ``heal()``; ``after_applying``: do what is asked for before, as who fails late does.

        Raises:
            ValueError: there is no such version, or status.
        """
        if not 400 <= status <= 599:
            raise ValueError(f"the status of a fault is 400 to 599, not {status!r}")
        self._add(version, (status, after_applying), times)

    def drop(self, version: str, times: int = 1) -> None:
        """Do what the next ``times`` requests ask for, then hang up without a word."""
        self._add(version, (None, True), times)

    def heal(self, version: str | None = None) -> None:
        """End the faults of a version, or all."""
        for healed in VERSIONS if version is None else (version,):
            self._faults.pop(healed, None)

    def next_fault(self, version: str) -> Fault | None:
        """The fault that the next request of a version meets."""
        return next(self._faults.get(version, iter(())), None)

    def _add(self, version: str, fault: Fault, times: int | None) -> None:
        if version not in VERSIONS:
            raise ValueError(f"a version is one of {', '.join(VERSIONS)}, not {version!r}")
        played = repeat(fault) if times is None else repeat(fault, times)
        self._faults[version] = chain(self._faults.get(version, ()), played)


class RateLimit:
    """So many requests of a key in a rolling minute, as the vendor's page on rate limits has it."""

    def __init__(self) -> None:
        self._hits: dict[bytes, list[float]] = {}

    def count(self, key: bytes, limit: int | None, now: datetime) -> tuple[bool, dict[str, str]]:
        """Count a request, unless it is one too many; whether it is, and what the headers say."""
        if limit is None:
            return False, {}
        second = now.timestamp()
        hits = [hit for hit in self._hits.get(key, ()) if second - 60 < hit <= second]
        exceeded = len(hits) >= limit
        if not exceeded:
            hits.append(second)
        self._hits[key] = hits
        return exceeded, {
            "x-ratelimit-limit": str(limit),
            "x-ratelimit-remaining": str(max(0, limit - len(hits))),
            "x-ratelimit-reset": str(math.ceil(min(hits, default=second) + 60)),
        }
