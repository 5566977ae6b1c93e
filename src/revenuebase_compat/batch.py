"""``revenuebase-compat cancel`` for many jobs: ids in, a journal beside, progress and a table out.

The work itself is ``Client.cancel_jobs``; rich (extra ``cli``) draws, plain text stands in.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from .core.errors import (
    AlreadyCancelledError,
    ConfigurationError,
    InvalidProcessIdError,
    JobNotFoundError,
    JobStateError,
)
from .core.result import Job, JobOutcome, check_process_id

COLUMNS = ("job", "file", "status", "version", "reason", "attempts")


def read_ids(text: str, source: str) -> Iterator[int]:
    """The ids of a file: plain lines, CSV with a ``process_id`` column, or JSON lines.

    Raises:
        ConfigurationError: names the first bad line by its number.
    """
    lines = text.splitlines()
    first = next((line.strip() for line in lines if line.strip()), "")
    header = [name.strip() for name in next(csv.reader([first]), [])]
    if "process_id" in header:
        rows = csv.DictReader(io.StringIO(text), fieldnames=None, skipinitialspace=True)
        rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
        found: Iterable[tuple[int, Any]] = (
            (rows.line_num, (row.get("process_id") or "").strip()) for row in rows
        )
    else:
        found = ((number, line.strip()) for number, line in enumerate(lines, 1))
        found = ((number, line) for number, line in found if line and not line.startswith("#"))
    for number, value in found:
        try:
            if isinstance(value, str) and value.startswith("{"):
                value = json.loads(value)["process_id"]
            yield check_process_id(value)
        except InvalidProcessIdError as error:
            raise ConfigurationError(f"{source}, line {number}: {error}") from None
        except (ValueError, LookupError, TypeError):
            raise ConfigurationError(
                f"{source}, line {number}: give a JSON object with a process_id, not {value!r}"
            ) from None


class Journal:
    """What was started and what is done, a JSON line each, written and flushed as it goes.

    After a ``kill -9`` at most the jobs under way are *started* and not *done*. They are repeated,
    and found cancelled already they count as done.
    """

    def __init__(self, path: Path | None) -> None:
        self.done: set[int] = set()
        self.doubtful: set[int] = set()
        self._file: TextIO | None = None
        if path is None:
            return
        try:
            self._file = path.open("a+", encoding="utf-8")
            self._file.seek(0)
            lines = self._file.read().split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"--resume {path}: {error}") from None
        for number, line in enumerate(lines, 1):
            try:
                self._replay(json.loads(line))
            except (ValueError, LookupError, TypeError):
                # The last line may have been torn by the end of the process that wrote it.
                if line and number < len(lines):
                    self._file.close()
                    raise ConfigurationError(
                        f"--resume {path}, line {number} is not of this journal: give another file"
                    ) from None
        if lines[-1]:
            self._file.write("\n")

    def _replay(self, entry: dict[str, Any]) -> None:
        process_id = check_process_id(entry["process_id"])
        if entry["event"] == "started":
            self.doubtful.add(process_id)
        elif entry["final"]:
            self.done.add(process_id)
        elif not entry["outcome_unknown"]:
            self.doubtful.discard(process_id)

    def started(self, process_ids: Iterable[int]) -> Iterator[int]:
        """The ids, each written down as it is taken."""
        for process_id in process_ids:
            self._write({"event": "started", "process_id": process_id})
            yield process_id

    def settle(self, outcome: JobOutcome) -> bool:
        """Write down an outcome; returns whether the job counts as cancelled."""
        error = outcome.error
        ok = outcome.ok or (
            isinstance(error, AlreadyCancelledError) and outcome.process_id in self.doubtful
        )
        self._write(
            {
                "event": "done",
                "process_id": outcome.process_id,
                "ok": ok,
                # Another try may help against anything else.
                "final": ok or isinstance(error, JobStateError | JobNotFoundError),
                "outcome_unknown": error is not None and error.outcome_unknown,
            }
        )
        return ok

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def cells(outcome: JobOutcome, ok: bool) -> tuple[str, ...]:
    """One job's row of the table."""
    result, error = outcome.result, outcome.error
    if result is not None:
        version, reason = f"v{result.route.version}", result.route.reason.value
        shown = (result.filename, result.current_status, version, reason, str(result.attempts))
        return (str(outcome.process_id), *(_line(text) for text in shown))
    assert error is not None  # noqa: S101 (an outcome is one or the other)
    name = "cancelled by an earlier run" if ok else type(error).__name__
    version = f"v{error.api_version}" if error.api_version else ""
    return (str(outcome.process_id), "", name, version, error.code or "", str(error.attempts))


def _line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


class Display:
    """Progress on stderr while jobs finish; with rich a live bar, else a line a job."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._total = total
        self._quiet = quiet
        self._began = time.monotonic()
        self._waiting: dict[int, str] = {}
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            self._bar = _rich_bar(total)

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def looked(self, job: Job) -> None:
        """A job that is being waited for was looked at."""
        changed = self._waiting.get(job.process_id) != job.current_status
        self._waiting[job.process_id] = job.current_status
        if self._bar is not None:
            self._update(0)
        elif changed and not self._quiet:
            print(f"job {job.process_id} is {_line(job.current_status)}", file=sys.stderr)

    def finished(self, outcome: JobOutcome, ok: bool) -> None:
        """A job is done with."""
        self._waiting.pop(int(outcome.process_id), None)
        name = "cancelled" if ok else type(outcome.error).__name__
        self.counts[name] += 1
        if self._bar is not None:
            self._update(1)
        elif not self._quiet:
            done = self.counts.total()
            said = f": {outcome.error}" if outcome.error is not None and not ok else ""
            print(f"{done}/{self._total} job {outcome.process_id} {name}{said}", file=sys.stderr)

    def _update(self, advance: int) -> None:
        counts = ", ".join(f"{number} {name}" for name, number in self.counts.most_common())
        waiting = f"; waiting for {len(self._waiting)}" if self._waiting else ""
        rate = self.counts.total() / max(time.monotonic() - self._began, 1e-3) * 60
        self._bar.update(
            self._bar.task_ids[0],
            advance=advance,
            counts=counts + waiting,
            rate=f"{rate:.0f}/min",
        )


def _rich_bar(total: int) -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining
    except ImportError:
        return None
    bar = Progress(
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        Remaining(compact=True),
        TextColumn("{task.fields[counts]}"),
        console=Console(stderr=True),
    )
    bar.add_task("", total=total, counts="", rate="")
    return bar


def table(rows: Sequence[tuple[bool, tuple[str, ...]]]) -> None:
    """All jobs on stdout, readable at 80 columns; colour by outcome on a terminal."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        widths = [
            max(len(row[column]) for row in [COLUMNS, *(cell for _, cell in rows)])
            for column in range(len(COLUMNS))
        ]
        for row in [COLUMNS, *(cell for _, cell in rows)]:
            padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
            print("  ".join(padded).rstrip())
        return
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in COLUMNS:
        # The file name gives way first; ids and states are always whole.
        numeric = name in ("job", "attempts")
        drawn.add_column(name, no_wrap=name != "status", justify="right" if numeric else "left")
    for ok, row in rows:
        drawn.add_row(*(Text(text, style="green" if ok else "red") for text in row))
    Console(width=None if sys.stdout.isatty() else 120).print(drawn)
