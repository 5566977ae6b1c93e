"""How ``revenuebase-compat cancel`` shows on stderr what it is at."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from revenuebase_compat.client.many import CancelJobs
from revenuebase_compat.core.many import WINDOW
from revenuebase_compat.core.models import Job

from .journal import JobRecord
from .output import console, note, printable

_PAUSED = "the rate limit is used up: going on in {}"


def span(seconds: float) -> str:
    """Seconds as people write them: 0:07, 12:30, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _listed(counts: Counter[str]) -> str:
    first = ("cancelled", "cancelled before")
    names = sorted(counts, key=lambda name: (*(name != one for one in first), -counts[name]))
    return ", ".join(f"{counts[name]} {printable(name)}" for name in names)


class Display:
    """Progress while jobs finish: live on a terminal with rich (extra ``cli``), else in lines."""

    def __init__(
        self, before: Iterable[JobRecord], total: int, monotonic: Callable[[], float], quiet: bool
    ) -> None:
        self.stopping = ""  #: what is said once no further job is started
        self.seen = ""  #: the status that was seen last
        self._total, self._monotonic, self._quiet = total, monotonic, quiet
        self._counts = Counter(found.name for found in before)
        self._before = self._counts.total()
        self._began = self._resumes = self._seen = monotonic()
        self._paused = 0.0
        self._times: deque[float] = deque(maxlen=10_000)
        self._states: dict[int, str] = {}
        self._live: Any = None
        self._above: deque[str] = deque()  # lines to be drawn above what is live
        self._ended = threading.Event()
        # The jobs' threads call as well, and so does the one that draws.
        self._lock = threading.Lock()

    @contextmanager
    def following(self, jobs: CancelJobs) -> Iterator[None]:
        self._jobs = jobs
        if not self._quiet:
            self._live = self._new_live()
        if self._live is None:
            yield
            return
        # One thread does all the drawing: rich does not lock a print against a refresh.
        thread = threading.Thread(target=self._draw, daemon=True)
        self._live.start()
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            with suppress(OSError):  # the terminal may be gone
                self._live.stop()

    def _new_live(self) -> Any:
        terminal = console(sys.stderr)
        if terminal is None or terminal.is_dumb_terminal:
            return None
        from rich.console import Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        def drawn() -> Group:
            with self._lock:
                now = self._monotonic()
                rate = sum(now - time < WINDOW for time in self._times)
                counts, states = Counter(self._counts), Counter(self._states.values())
            done = counts.total()
            left, finished = self._total - done, done - self._before
            first, below = f"{done}/{self._total}  {rate}/min", [_listed(counts)]
            if states:
                below.append(f"{self._jobs.under_way} under way: {_listed(states)}")
            elif finished:
                each = (now - self._began - self._paused) / finished
                first += f"  {span(self._jobs.pauses(left) + left * each)} left"
            if self.stopping:
                below.append(self.stopping)
            elif self._resumes > now:
                below.append(_PAUSED.format(span(self._resumes - now)))
            bar = ProgressBar(self._total, done, max(5, min(40, terminal.width - 34)))
            grid = Table.grid(padding=(0, 1))
            grid.add_row(bar, first)
            return Group(grid, *filter(None, below))

        # Results go to stdout, whatever stderr is: only the latter's lines go above the bar.
        options: Any = {"auto_refresh": False, "transient": True, "redirect_stdout": False}
        return Live(get_renderable=drawn, console=terminal, **options)

    def _draw(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(0.1)
            with suppress(OSError):
                while self._above:
                    self._live.console.print(printable(self._above.popleft()), style="red")
                self._live.refresh()

    def looked(self, job: Job) -> None:
        """A job that is being waited for was looked at."""
        with self._lock:
            before = self._states.get(job.process_id)
            self._states[job.process_id] = self.seen = job.current_status
        if before != job.current_status:
            self._say(f"job {job.process_id} is {printable(job.current_status)}")

    def paused(self, seconds: float) -> None:
        """No job may start; ``seconds``: for how long, if that is as the limit is used up."""
        now = self._monotonic()
        if now < self._resumes:
            self._paused += now - self._seen
        elif seconds > 1:
            self._say(_PAUSED.format(span(seconds)))
        self._seen, self._resumes = now, now + seconds

    def finished(self, found: JobRecord) -> None:
        with self._lock:
            self._states.pop(found["process_id"], None)
            self._times.append(self._monotonic())
            self._counts[found.name] += 1
            done = self._counts.total()
        said = found.name if found.ok else f"{found.name}: {found['message']}"
        self._say(f"{done}/{self._total} job {found['process_id']} {said}")
        if self._live is not None and not found.ok:
            self._above.append(said)

    def _say(self, text: str) -> None:
        if self._live is None and not self._quiet:
            note(text)

    def stop(self, again: str, why: str) -> None:
        """No further job is started. For a signal's handler: nothing that may be under way."""
        words = f"stopping when the jobs under way are done; Ctrl-C{again}: now"
        words = f"{why}: {words}" if why else words
        if self._live is None and not self.stopping:
            with suppress(OSError):
                os.write(2, f"{words}\n".encode())
        self.stopping = self.stopping or words

    def summary(self, rows: Iterable[JobRecord], resume: str | None, why: str, refused: int) -> str:
        """What is done, what is not and ``why``, and how to go on."""
        done, took = self._counts.total(), span(self._monotonic() - self._began)
        counts, under_way = _listed(self._counts), self._jobs.under_way
        if done == self._total:
            earlier = f" ({self._before} by an earlier run)" if self._before else ""
            again = sum(not found.final for found in rows)
            more = f"\nworth another try: {again}, by the same command" if again else ""
            return f"{done} jobs in {took}: {counts}{earlier}{more}"
        left = f"{under_way} left under way, " if under_way else ""
        left += f"{refused} refused by the rate limit, " if refused else ""
        how = f"{resume} tells what is done" if resume else "best with --resume JOURNAL"
        return (
            f"stopped after {took} with {done} of {self._total} jobs done, "
            f"{left}{self._total - done - under_way - refused} not started{why and ': ' + why}\n"
            f"{counts or '0 cancelled'}\nto go on: the same command again; {how}"
        )
