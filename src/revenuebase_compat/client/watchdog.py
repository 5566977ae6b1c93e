"""Deadlines that hold: an attempt that is overdue has its connection shut down under it.

httpx bounds each read, not their sum. One daemon thread per process, asleep until the nearest
deadline, does it: ``shutdown()`` wakes whoever reads. The asynchronous client has ``asyncio``.
"""

from __future__ import annotations

import _socket
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from math import inf
from typing import Any

#: Seconds without an attempt, after which the thread ends.
IDLE = 60.0


def place() -> tuple[object, ...]:
    """Where locks and connections are of use: not in a forked child, nor after gevent patched."""
    return os.getpid(), socket.socket, threading.Lock


class Attempt(dict[str, float]):
    """One attempt: its deadline, and what is known of its connection.

    It is httpx's ``timeout`` extension as well, and says what is left when a phase begins. By
    ``extensions``, the request's, it has a connection traced while it is being made: on one that
    was kept, a trace would cost more than all of the flow.
    """

    #: That of the connection, as soon as it is known; and httpcore's stream on a new one.
    socket: Any = None
    stream: Any = None
    #: Tells among how many addresses the time to connect is shared.
    addresses: Callable[[], int] | None = None
    #: Whether the time was up, and whether any of the request may have left.
    overdue = sent = False
    #: Whether it is being ended.
    ending = False
    asynchronous = False
    _connecting: Any = None
    _tunnelling = False

    def __init__(self, timeout: float, extensions: dict[str, Any] | None = None) -> None:
        self.deadline = time.monotonic() + timeout
        self._extensions = extensions

    def get(self, phase: str, default: Any = None) -> float:
        """Seconds for a phase of httpx's: ``pool``, ``connect``, ``write`` or ``read``."""
        if phase == "write":
            if self.overdue:
                # ssl takes a socket that was shut down for one that is not connected yet, makes
                # no handshake, and would write in the clear.
                raise TimeoutError
            # The request is about to leave, unless it is a CONNECT to a proxy.
            self.sent = self.sent or not self._tunnelling
        if phase != "connect":
            return max(self.deadline - time.monotonic(), 0.001)
        if self._extensions is not None:
            self._extensions["trace"] = self.trace_async if self.asynchronous else self.trace
        # Read once, it counts for each address of the host in turn, and again for TLS.
        shares = (self.addresses() if self.addresses else 1) + 1
        left = self.deadline - time.monotonic()
        if left <= 0:  # the look-up took it all, and httpx would begin with another
            raise TimeoutError
        return left / shares

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """httpx's ``trace`` extension: learns of a connection while it is being made."""
        if event.endswith("send_request_headers.started"):
            self._tunnelling = info["request"].method == b"CONNECT"
        elif event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self.stream = info["return_value"]
            if self.asynchronous or event.endswith("start_tls.complete"):
                return
            # A duplicate, as TLS will take the original over, and may hang in its handshake.
            self.release()
            try:
                self.socket = self._connecting = self.stream.get_extra_info("socket").dup()
            except OSError:  # no file descriptor is left to watch with: nothing is sent
                self.stream.close()
                raise
            if self.overdue:
                self.shut_down()

    async def trace_async(self, event: str, info: dict[str, Any]) -> None:
        """The same for ``asyncio``, which has the deadline in hand."""
        self.trace(event, info)

    def abandon(self) -> None:
        """End the connection without the help of those who were interrupted."""
        self.shut_down()
        for one in (self.stream, self.socket):
            if one is not None:
                with suppress(Exception):
                    one.close()

    def shut_down(self) -> None:
        """Wake whoever waits on the connection; never raises."""
        self.overdue = True
        with suppress(Exception):
            if isinstance(self.socket, _socket.socket):
                # Not the method of an SSLSocket, which would go on in the clear.
                _socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
            elif self.socket is not None:  # gevent's or eventlet's, whose method may want its hub
                with closing(_socket.socket(fileno=os.dup(self.socket.fileno()))) as same:
                    same.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Close the duplicate, if there is one."""
        if self._connecting is not None:
            self._connecting.close()
            self._connecting = None


class DeadlineWatchdog:
    """All attempts under way, and the thread that ends the overdue ones; of use in one place.

    Nothing here waits for a lock: a signal handler may have interrupted whoever would hold it, and
    wait for a thread that sends.
    """

    def __init__(self) -> None:
        self.made_in = place()
        #: By ``id()``, as an attempt is a dict to httpx.
        self._attempts: dict[int, Attempt] = {}
        #: The thread that watches; those that were started beside it end at once.
        self._watching: dict[str, threading.Thread] = {}
        self._wakes_at = inf
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def start(self, attempt: Attempt) -> None:
        """Begin to watch an attempt; ``finish`` must follow."""
        self._attempts[id(attempt)] = attempt
        # While the interpreter ends, a thread that is started would be waited for, for ever.
        if not self._watching and not sys.is_finalizing():
            with suppress(RuntimeError):  # from Python 3.12 on, a little earlier
                threading.Thread(
                    target=self._run, name="revenuebase-deadlines", daemon=True
                ).start()
        elif attempt.deadline < self._wakes_at:
            with suppress(RuntimeError):  # it is awake
                self._asleep.release()

    def finish(self, attempt: Attempt) -> None:
        """Stop watching: after this, the connection is no longer touched."""
        self._attempts.pop(id(attempt), None)
        try:
            for _ in range(1000):  # a bound, as a forked child has no thread that would be done
                if not attempt.ending:
                    break
                time.sleep(0.001)
        finally:
            attempt.release()

    def _run(self) -> None:
        me = threading.current_thread()
        while self._watching.setdefault("by", me) is me:
            idle = False
            # A thread from before gevent patched cannot end: Python knows it by another name.
            while not idle or self._attempts or place() != self.made_in:
                idle = not self._attempts
                self._wakes_at = inf  # who begins from here on wakes this thread
                now = time.monotonic()
                self._wakes_at = self._next_deadline(now)
                idle &= not self._asleep.acquire(timeout=self._wakes_at - now)
            self._watching.clear()
            if not self._attempts:  # else one began meanwhile, and took this thread to watch
                return

    def _next_deadline(self, now: float) -> float:
        """End what is overdue; keeps nothing alive while the thread is asleep."""
        nearest = now + IDLE
        for attempt in list(self._attempts.values()):
            if attempt.deadline > now:
                nearest = min(nearest, attempt.deadline)
                continue
            attempt.ending = True  # first, so that whoever finishes it knows to wait
            if self._attempts.pop(id(attempt), None) is not None:
                attempt.shut_down()
            attempt.ending = False
        return nearest


_watchdog: DeadlineWatchdog | None = None


def watchdog() -> DeadlineWatchdog:
    """This process's; threads that make one at the same time are each watched by their own."""
    global _watchdog
    if _watchdog is None or _watchdog.made_in != place():
        _watchdog = DeadlineWatchdog()
    return _watchdog
