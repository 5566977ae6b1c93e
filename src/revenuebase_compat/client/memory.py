"""What a process remembers: one object, ``memory``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import RLock
from typing import Any

#: Seconds in which the same notice is logged once.
NOTICE_INTERVAL = 3600.0


class NoticeThrottle:
    """When each notice was logged last, and how often it was left out since; thread-safe."""

    def __init__(self) -> None:
        # Reentrant, as a signal handler may log while its own thread is in here.
        self.lock = RLock()
        self.last: dict[object, tuple[float, int]] = {}
        #: base URL → the earliest sunset that the server announced.
        self.announced: dict[str, datetime] = {}

    def suppressed(self, key: object, at: float) -> int | None:
        """How often ``key`` was left out until ``at`` (monotonic); ``None``: leave it out again."""
        with self.lock:
            since, left_out = self.last.get(key, (None, 0))
            if since is not None and 0 <= at - since < NOTICE_INTERVAL:
                self.last[key] = (since, left_out + 1)
                return None
            self.last[key] = (at, 0)
            return left_out


class ProcessMemory:
    """All that calls of one process share."""

    def __init__(self) -> None:
        #: base URL → monotonic time of the last 410 from v1.
        self.retired_at: dict[str, float] = {}
        self.throttle = NoticeThrottle()
        #: The ``Client`` of ``cancel_job()``.
        self.default_client: Any = None
        #: The time for clients that were given no clock; ``None``: the real one.
        self.clock: Callable[[], datetime] | None = None

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
        last = self.throttle.last
        last.update({key: (at - seconds, left_out) for key, (at, left_out) in last.items()})

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


def _after_fork() -> None:
    memory.throttle.lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
