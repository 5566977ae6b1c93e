"""Pacing many calls by what the answers say of the rate limit (pure; never by guess alone)."""

from __future__ import annotations

import threading
from datetime import datetime

from . import answers
from .wire import Response


class Pace:
    """When the next call may start; thread-safe.

    The first call goes alone, to learn. Then as many may be under way as ``X-RateLimit-Remaining``
    allows, counting each call under way as not yet counted by the server. Where nothing remains,
    the next goes at ``X-RateLimit-Reset``, again alone: in a rolling window only the oldest
    request is then forgiven. A server that states no limit is not paced.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = 1.0
        self._under_way = 0
        self._reset = 0.0

    def wait(self, monotonic: float) -> float:
        """Seconds until a call may start: 0 for now, infinite for not before another's answer."""
        with self._lock:
            if self._free <= 0 and not self._under_way and monotonic >= self._reset:
                self._free = 1.0
            if self._free > 0:
                return 0.0
            return float("inf") if self._under_way else self._reset - monotonic

    def start(self) -> None:
        """A call starts."""
        with self._lock:
            self._free -= 1
            self._under_way += 1

    def finish(self) -> None:
        """A call ended, however it did."""
        with self._lock:
            self._under_way -= 1

    def heard(self, response: Response, now: datetime, monotonic: float) -> None:
        """An answer to a call under way."""
        remaining = answers.count(response.header(b"x-ratelimit-remaining"))
        if remaining is None and response.status != 429:
            with self._lock:
                # Told once of a limit, an answer without (a proxy's, say) changes nothing.
                if not self._reset:
                    self._free = float("inf")
            return
        wait = answers.rate_limit_wait(response, now)
        with self._lock:
            self._free = (remaining or 0) - (self._under_way - 1)
            self._reset = monotonic + (1.0 if wait is None else wait)
