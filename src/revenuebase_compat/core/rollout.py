"""The share of jobs that go to v2 before the sunset: sticky, and without coordination (pure)."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


def bucket(salt: str, process_id: int) -> float:
    """Where a job stands in [0, 100): the same on every machine, in every process, for ever."""
    from hashlib import blake2b  # here, as few processes use a share, and it loads OpenSSL

    # A salt of the environment may hold bytes that are no text: Python makes surrogates of them.
    named = f"{salt}:{process_id}".encode("utf-8", "surrogatepass")
    digest = blake2b(named, digest_size=6).digest()
    # 48 bits, so that the quotient is exact and can never round up to 100.
    return int.from_bytes(digest, "big") * 100 / 2**48


class Rollout(NamedTuple):
    """A share in percent, or a schedule of shares; before its first step the share is 0."""

    steps: tuple[tuple[datetime | None, float], ...] = ((None, 0.0),)

    def share(self, now: datetime) -> float:
        """The share in force at ``now``, in percent."""
        current = 0.0
        for start, share in self.steps:
            if start is not None and start > now:
                break
            current = share
        return current
