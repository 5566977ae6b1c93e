"""What a process remembers: one object, ``memory``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from typing import Any

#: Seconds in which the same notice is logged once.
NOTICE_INTERVAL = 3600.0


class ProcessMemory:
    """All that calls of one process share; thread-safe.

    Without a lock: a signal handler may wait for a thread that logs, a fork would leave it held.
    """

    def __init__(self) -> None:
        #: base URL → monotonic time of the last 410 from v1.
        self.retired_at: dict[str, float] = {}
        #: base URL → the earliest sunset that the server announced.
        self.announced: dict[str, datetime] = {}
        #: Notice → when it was logged last; the counter gives the number left out since.
        self.noticed: dict[object, tuple[float, Iterator[int]]] = {}
        #: The ``Client`` of ``cancel_job()``.
        self.default_client: Any = None
        #: The time for clients that were given no clock; ``None``: the real one.
        self.clock: Callable[[], datetime] | None = None

    def suppressed(self, key: object, at: float) -> int | None:
        """How often ``key`` was left out until ``at`` (monotonic); ``None``: leave it out again."""
        mine = at, count()
        since, left_out = entry = self.noticed.setdefault(key, mine)
        if entry is not mine and 0 <= at - since < NOTICE_INTERVAL:
            next(left_out)
            return None
        self.noticed[key] = mine
        return 0 if entry is mine else next(left_out)

    def reset(self) -> None:
        """Forget everything, and close the default client."""
        client = self.default_client
        ProcessMemory.__init__(self)
        if client is not None:
            client.close()

    def shift(self, seconds: float) -> None:
        """Make what is remembered older, for tests that move a clock: monotonic time cannot be."""
        for url in self.retired_at:
            self.retired_at[url] -= seconds
        for key, (at, left_out) in self.noticed.items():
            self.noticed[key] = at - seconds, left_out

    @contextmanager
    def put_aside(self) -> Iterator[None]:
        """Start with an empty memory, and have the present one back afterwards."""
        before = dict(vars(self))
        ProcessMemory.__init__(self)
        try:
            yield
        finally:
            self.reset()
            vars(self).update(before)


memory = ProcessMemory()
