"""How ``revenuebase-compat cancel`` shows many jobs: progress on stderr, a table on stdout.

rich (extra ``cli``) draws on a terminal; plain lines stand in.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revenuebase_compat.core.rate_limit import WINDOW

if TYPE_CHECKING:
    from revenuebase_compat.client.many import CancelJobs
    from revenuebase_compat.core.models import Job

    from .journal import JobRecord

COLUMNS = ("job", "file", "status", "version", "reason", "attempts")

_STOPPING = "stopping when the jobs under way are done; Ctrl-C again: now"


def span(seconds: float) -> str:
    """Seconds as people write them: 0:07, 12:30, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _name(fate: JobRecord) -> str:
    return "cancelled" if fate.ok else str(fate.row["error"])


def _listed(counts: Counter[str]) -> str:
    names = sorted(counts, key=lambda name: (name != "cancelled", -counts[name]))
    return ", ".join(f"{counts[name]} {_line(name)}" for name in names)


class Display:
    """Progress on stderr while jobs finish: with rich on a terminal live, else a line a job."""

    def __init__(
        self,
        total: int,
        before: Iterable[JobRecord],
        monotonic: Callable[[], float],
        *,
        quiet: bool,
    ) -> None:
        self.stopping = False
        self._total = total
        self._counts = Counter(map(_name, before))
        self._before = self._counts.total()
        self._quiet = quiet
        self._monotonic = monotonic
        self._began = self._resumes = self._seen = monotonic()
        self._paused = 0.0
        self._times: list[float] = []
        self._states: dict[int, str] = {}
        self._live: Any = None
        #: Lines to be drawn above what is live.
        self._above: deque[str] = deque()
        self._ended = threading.Event()
        # The jobs' threads call as well, and so does the one that draws.
        self._lock = threading.Lock()

    @contextmanager
    def following(self, jobs: CancelJobs) -> Iterator[None]:
        """Show how these jobs get on."""
        self._jobs = jobs
        self._live = None if self._quiet or not sys.stderr.isatty() else _live(self._drawn)
        if self._live is None:
            yield
            return
        # One thread does all the drawing: rich does not lock a print against a refresh.
        thread = threading.Thread(target=self._draw, daemon=True)
        with self._live:
            thread.start()
            try:
                yield
            finally:
                self._ended.set()
                thread.join()

    def _draw(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(0.1)
            while self._above:
                text = self._above.popleft()
                self._live.console.print(text, style="red", markup=False, emoji=False)
            self._live.refresh()

    def looked(self, job: Job) -> None:
        """A job that is being waited for was looked at."""
        with self._lock:
            before = self._states.get(job.process_id)
            self._states[job.process_id] = job.current_status
        if before != job.current_status:
            self._say(f"job {job.process_id} is {_line(job.current_status)}")

    def paused(self, seconds: float) -> None:
        """No job may start; ``seconds``: for how long, if that is as the limit is used up."""
        now = self._monotonic()
        if now < self._resumes:
            self._paused += now - self._seen
        elif seconds > 1:
            self._say(f"the rate limit is used up: going on in {span(seconds)}")
        self._seen, self._resumes = now, now + seconds

    def finished(self, fate: JobRecord) -> None:
        """A job is done with."""
        name, job = _name(fate), fate.row["process_id"]
        with self._lock:
            self._states.pop(job, None)
            self._times.append(self._monotonic())
            self._counts[name] += 1
            done = self._counts.total()
        said = "" if fate.ok else f"{name}: {fate.row['message']}"
        self._say(f"{done}/{self._total} job {job} {said or name}", above=said)

    def stop(self) -> None:
        """No further job is started. For a signal's handler: nothing that may be under way."""
        self.stopping = True
        if self._live is None:
            os.write(2, f"{_STOPPING}\n".encode())

    def summary(self, fates: Iterable[JobRecord], resume: Path | None) -> str:
        """What is done, what is not, and how to go on."""
        done, took = self._counts.total(), span(self._monotonic() - self._began)
        if done == self._total:
            earlier = f" ({self._before} by an earlier run)" if self._before else ""
            text = f"{done} jobs in {took}: {_listed(self._counts)}{earlier}"
            again = sum(not fate.final for fate in fates)
            return text + (f"\nworth another try: {again}, by the same command" if again else "")
        under_way = self._jobs.under_way
        left = f"{under_way} left under way, " if under_way else ""
        how = f"{resume} tells what is done" if resume else "best with --resume JOURNAL"
        return (
            f"stopped after {took} with {done} of {self._total} jobs done, "
            f"{left}{self._total - done - under_way} not started\n"
            f"{_listed(self._counts) or '0 cancelled'}\n"
            f"to go on: the same command again; {how}"
        )

    def _say(self, text: str, *, above: str = "") -> None:
        """A line where lines are the progress, and what belongs above what is live."""
        if self._live is None and not self._quiet:
            sys.stderr.write(text + "\n")  # in one piece, as other threads write, too
        elif above and self._live is not None:
            self._above.append(above)

    def _drawn(self) -> tuple[int, int, list[str]]:
        """What is shown live: how many are done, of how many, and lines of text."""
        with self._lock:
            now, finished = self._monotonic(), len(self._times)
            rate = sum(now - time < WINDOW for time in self._times[-10_000:])
            counts, states = Counter(self._counts), Counter(self._states.values())
        done = counts.total()
        left = self._total - done
        lines = [f"{done}/{self._total}  {rate}/min", _listed(counts)]
        if finished and not states:
            each = (now - self._began - self._paused) / finished
            lines[0] += f"  {span(self._jobs.pauses(left) + left * each)} left"
        if states:
            lines.append(f"{self._jobs.under_way} under way: {_listed(states)}")
        if self.stopping:
            lines.append(_STOPPING)
        elif self._resumes > now:
            lines.append(f"the rate limit is used up: going on in {span(self._resumes - now)}")
        return done, self._total, [line for line in lines if line]


def _live(drawn: Callable[[], tuple[int, int, list[str]]]) -> Any:
    try:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return None
    console = Console(stderr=True, highlight=False)
    if console.is_dumb_terminal:
        return None

    def draw() -> Group:
        done, total, (first, *rest) = drawn()
        grid = Table.grid(padding=(0, 1))
        grid.add_row(ProgressBar(total, done, width=max(5, min(40, console.width - 34))), first)
        return Group(grid, *(Text(line, no_wrap=True, overflow="ellipsis") for line in rest))

    # Results go to stdout, whatever stderr is: only the latter's lines go above the bar.
    return Live(
        get_renderable=draw,
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
    )


def table(fates: Iterable[JobRecord]) -> None:
    """All jobs on stdout, those not cancelled last; on a terminal as wide as that, in colour."""
    chosen = sorted(fates, key=lambda fate: not fate.ok)
    cells = [list(COLUMNS), *([_line(text) for text in fate.cells] for fate in chosen)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    terminal = sys.stdout.isatty()
    if terminal:
        # The file name gives way, in its middle; ids, states and reasons are always whole.
        rest = sum(widths) - widths[1] + 2 * (len(widths) - 1)
        widths[1] = min(widths[1], max(8, shutil.get_terminal_size().columns - rest))
    say = printer(terminal)
    styles = ["bold", *("green" if fate.ok else "red" for fate in chosen)]
    for style, (job, file, *others, attempts) in zip(styles, cells, strict=True):
        if len(file) > widths[1]:
            half = widths[1] // 2
            file = f"{file[:half]}…{file[half + 1 - widths[1] :]}"
        row = [
            job.rjust(widths[0]),
            *map(str.ljust, [file, *others], widths[1:]),
            attempts.rjust(widths[-1]),
        ]
        say("  ".join(row), style)


def printer(styled: bool) -> Callable[[str, str], object]:
    """Prints a line on stdout in a style, if ``styled`` and if there is one to be had."""
    if styled:
        with suppress(ImportError):
            from rich.console import Console

            console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
            return lambda text, style: console.print(text, style=style)
    return lambda text, _style: print(text, flush=True)
