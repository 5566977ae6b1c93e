"""A process's first v1 request, struck at one line after another: ``ACTION LIBRARY URL AT_MOST``.

Struck are the lines of our own code, and the calls of the standard library that it makes. Every
moment has a process of its own, forked from one that has imported everything and sent nothing.

``fork``: another thread forks, and the child sends a request of its own.
``signal``: a handler sends a request of its own, and the first goes on.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from senders import ASYNCHRONOUS, CANCEL, SENDERS  # type: ignore[import-not-found]

ACTION, LIBRARY, URL, AT_MOST = sys.argv[1], sys.argv[2], sys.argv[3] + CANCEL, int(sys.argv[4])
STDLIB = (sysconfig.get_path("stdlib"), "<frozen", "<string>")
OURS = "/revenuebase_compat/"


def send(job: int) -> None:
    status = SENDERS[LIBRARY](URL, job)
    assert status == 200, status


def send_in_handler(job: int) -> None:
    # A loop that runs cannot be entered once more.
    library = "requests" if LIBRARY in ASYNCHRONOUS else LIBRARY
    status = SENDERS[library](URL, job)
    assert status == 200, status


def within_ours(frame: FrameType | None) -> bool:
    ours = False
    while frame is not None:
        name = frame.f_code.co_filename
        if OURS in name:
            # A library's own import: forked in there, the child hangs bare, too.
            if ACTION == "fork" and frame.f_code.co_name == "find_spec":
                return False
            ours = True
        elif not name.startswith(STDLIB) or "site-packages" in name:
            break
        frame = frame.f_back
    return ours


class Tracer:
    """Counts the moments, and strikes at one of them."""

    def __init__(self, moment: int | None, strike: Callable[[], object]) -> None:
        self.count = 0
        self._moment = moment
        self._strike = strike

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if event in ("call", "line") and within_ours(frame):
            if self.count == self._moment:
                where = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
                os.write(2, f"struck at moment {self.count}, {where}\n".encode())
                self._strike()
            self.count += 1
            return self if OURS in frame.f_code.co_filename else None
        return None


def traced(moment: int | None, strike: Callable[[], object]) -> int:
    tracer = Tracer(moment, strike)
    sys.settrace(tracer)
    try:
        send(1)
    finally:
        sys.settrace(None)
    return tracer.count


def interrupted(moment: int) -> None:
    handled: list[bool] = []

    def handle(*_: object) -> None:
        send_in_handler(7)
        handled.append(True)

    signal.signal(signal.SIGUSR1, handle)
    traced(moment, lambda: signal.raise_signal(signal.SIGUSR1))
    assert handled == [True]


def forked(moment: int) -> None:
    reached, done = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def strike() -> None:
        reached.set()
        done.wait(1)  # no longer: logging's own lock may be held here, and a fork waits for it

    def first() -> None:
        try:
            traced(moment, strike)
        except BaseException as error:
            failed.append(error)
            reached.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert reached.wait(30)
    status = in_child(lambda: send(7))
    done.set()
    thread.join(15)
    if thread.is_alive():
        faulthandler.dump_traceback(all_threads=True)
    assert not thread.is_alive()
    assert not failed, failed
    assert status == 0, "the child hung, or its request failed"


def in_child(work: Callable[[], object]) -> int:
    """The exit status of a forked process that does the work, or hangs for ten seconds."""
    # The child would wait for its parent's watchdog, a thread that it does not have.
    faulthandler.cancel_dump_traceback_later()
    pid = os.fork()
    faulthandler.dump_traceback_later(10 if pid == 0 else 60, exit=True)
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> int:
    # What the libraries import on their own first request; a fork in there hangs bare, too.
    for library in {LIBRARY, "requests"}:
        SENDERS[library](sys.argv[3] + "/warm", 0)
    reading, writing = os.pipe()
    strike = {"fork": forked, "signal": interrupted}[ACTION]
    counted = in_child(lambda: os.write(writing, b"%d" % traced(None, lambda: None)))
    assert counted == 0
    count = int(os.read(reading, 100))
    moments = range(0, count, -(-count // AT_MOST) or 1)
    for moment in moments:
        if in_child(lambda moment=moment: strike(moment)) != 0:  # type: ignore[misc]
            return 1
    print(len(moments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
