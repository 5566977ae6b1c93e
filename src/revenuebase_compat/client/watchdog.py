"""Deadlines that hold: an attempt that is overdue has its connection shut down under it.

httpx bounds each read, not their sum, so a server that sends a byte now and then could hold a
synchronous caller for ever. One daemon thread per process, asleep until the nearest deadline,
ends that: ``shutdown()`` wakes whoever reads. The asynchronous client has ``asyncio`` for it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any


class Attempt:
    """One attempt and its deadline; ``socket`` is set as soon as it is known."""

    __slots__ = ("_connecting", "_stream", "deadline", "overdue", "sent", "socket")

    def __init__(self, timeout: float, known: socket.socket | None) -> None:
        self.deadline = time.monotonic() + timeout
        self.overdue = False
        #: Whether any of the request may have left.
        self.sent = False
        self.socket = known
        self._connecting: socket.socket | None = None
        self._stream: Any = None

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """httpx's ``trace`` extension: learns of a connection while it is being made."""
        if event.endswith("connect_tcp.complete"):
            # A duplicate, as TLS will take the original over, and may hang in its handshake.
            self.release()
            self._stream = info["return_value"]
            try:
                self.socket = self._connecting = self._stream.get_extra_info("socket").dup()
            except OSError:  # no file descriptor is left to watch with: nothing is sent
                self._stream.close()
                raise
            if self.overdue:
                self.shut_down()
        elif event.endswith("start_tls.complete"):
            self._stream = info["return_value"]

    async def trace_async(self, event: str, info: dict[str, Any]) -> None:
        """The same for ``asyncio``, which has the deadline in hand."""
        if event.endswith("connect_tcp.complete"):
            self._stream = info["return_value"]

    async def close_async(self) -> None:
        """Close a new connection, which httpcore forgets if its TLS handshake is cancelled."""
        if self._stream is not None:
            await self._stream.aclose()

    def abandon(self) -> None:
        """End the connection without the help of those who were interrupted."""
        self.shut_down()
        for one in (self._stream, self.socket):
            if one is not None:
                one.close()

    def shut_down(self) -> None:
        """Wake whoever waits on the connection."""
        self.overdue = True
        if self.socket is not None:
            with suppress(OSError):
                # Not the method of an SSLSocket, which would go on in the clear.
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def release(self) -> None:
        """Close the duplicate, if there is one."""
        if self._connecting is not None:
            self._connecting.close()
            self._connecting = None


class DeadlineWatchdog:
    """All attempts under way, and the thread that ends the overdue ones."""

    def __init__(self) -> None:
        # Entered as itself, not by the condition's Python code, where a Ctrl-C could leave it
        # locked; reentrant, as a signal handler may send while its own thread is in here.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._attempts: set[Attempt] = set()
        self._wakes_at = float("inf")
        self._running = False

    def start(self, attempt: Attempt) -> None:
        """Begin to watch an attempt; ``finish`` must follow."""
        with self._lock:
            self._attempts.add(attempt)
            if not self._running:
                with suppress(RuntimeError):  # from Python 3.12 on, while the interpreter ends
                    threading.Thread(
                        target=self._run, name="revenuebase-deadlines", daemon=True
                    ).start()
                # Only now: should a Ctrl-C fall in between, two watch as well as one.
                self._running = True
            elif attempt.deadline < self._wakes_at:
                self._changed.notify()

    def finish(self, attempt: Attempt) -> None:
        """Stop watching: after this, the connection is no longer touched."""
        with self._lock:
            self._attempts.discard(attempt)
        attempt.release()

    def _run(self) -> None:
        with self._lock:
            while True:
                now = time.monotonic()
                for attempt in [one for one in self._attempts if one.deadline <= now]:
                    self._attempts.discard(attempt)
                    attempt.shut_down()
                self._wakes_at = min((one.deadline for one in self._attempts), default=now + 60)
                if not self._changed.wait(self._wakes_at - now) and not self._attempts:
                    self._running = False  # nothing for a minute; the next attempt starts another
                    return


watchdog = DeadlineWatchdog()


def _after_fork() -> None:
    # Of our threads, only the one that forked lives on here; its lock may be another's.
    DeadlineWatchdog.__init__(watchdog)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
