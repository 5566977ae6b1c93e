"""`revenuebase-compat cancel` as a person sees it: in a pseudo-terminal of 80 columns."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pexpect
import pyte
import pytest

from revenuebase_compat.testing.sandbox import Sandbox
from tests.support import AFTER

# ptyprocess forks while the sandbox's thread runs; its child executes another program at once.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of forkpty:DeprecationWarning")

SPEED = 20.0
ROOT = Path(__file__).resolve().parents[2]

ASKED = "Cancel 120 jobs? [y/N]"
FIRST = re.compile(r"━*[╸╺]?━* (\d+)/120  (\d+)/min  (\d+):(\d\d) left$")
PAUSE = re.compile(r"the rate limit is used up: going on in (\d+):(\d\d)$")


class FastSandbox(Sandbox):
    """The published limit, on a clock as fast as the command's."""

    _began = time.monotonic()

    @property
    def now(self) -> datetime:
        return AFTER + timedelta(seconds=(time.monotonic() - self._began) * SPEED)

    @now.setter
    def now(self, value: datetime | None) -> None:
        pass


def filename(job: int) -> str:
    return f"customers-of-the-year-2026-by-region-and-owner-part-{job:03}.csv"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with FastSandbox(rate_limit=60) as sandbox:
        for job in range(1, 121):
            sandbox.add_job(job, filename=filename(job))
        yield sandbox


def environment(sandbox: Sandbox, **more: str) -> dict[str, str]:
    dropped = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "COLORTERM")
    environ = {name: value for name, value in os.environ.items() if name not in dropped}
    environ |= {"REVENUEBASE_API_KEY": sandbox.api_key, "REVENUEBASE_BASE_URL": sandbox.base_url}
    return environ | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)} | more


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tests.support.fast_cli", str(SPEED), *map(str, arguments)]


class Terminal:
    """A command in a pseudo-terminal of 80 columns and 24 lines, and what stands on it."""

    columns = 80

    def __init__(self, sandbox: Sandbox, *arguments: object, **environ: str) -> None:
        self._screen = pyte.HistoryScreen(self.columns, 24, history=1000)
        self._stream = pyte.ByteStream(self._screen)
        name, *rest = command(*arguments)
        self._child: pexpect.spawn[bytes] = pexpect.spawn(
            name,
            rest,
            dimensions=(24, self.columns),
            env=environment(sandbox, **environ),
            timeout=30,
        )
        self.raw = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close(force=True)

    def read(self, seconds: float = 0.02) -> bool:
        """Take in what is written meanwhile; false at the end."""
        try:
            new = self._child.read_nonblocking(65_536, timeout=seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += new
        self._stream.feed(new)
        return True

    @property
    def lines(self) -> list[str]:
        """What the screen shows, without the empty rest of it."""
        shown = [line.rstrip() for line in self._screen.display]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    @property
    def everything(self) -> list[str]:
        """The same with what has scrolled away."""
        rows = self._screen.history.top
        above = [
            "".join(row[column].data for column in range(self.columns)).rstrip() for row in rows
        ]
        return above + self.lines

    def until(self, seen: Callable[[list[str]], object], seconds: float = 20) -> list[str]:
        """Wait for a screen."""
        ends = time.monotonic() + seconds
        while not seen(self.lines):
            if time.monotonic() > ends or not self.read():
                raise AssertionError("never seen; at last:\n" + "\n".join(self.lines))
        return self.lines

    def shows(self, text: str) -> list[str]:
        return self.until(lambda lines: text in " ".join(lines))

    def type(self, text: str) -> None:
        self._child.send(text)

    def interrupt(self) -> None:
        self._child.sendintr()

    def end(self, seconds: float = 30) -> int:
        """The exit code, once everything is on the screen."""
        ends = time.monotonic() + seconds
        while self.read():
            assert time.monotonic() < ends, "\n".join(self.lines)
        self._child.close()
        assert self._child.exitstatus is not None, self._child.signalstatus
        return int(self._child.exitstatus)

    def colour(self, text: str) -> str:
        """Of the line on the screen that begins so."""
        for row, line in enumerate(self._screen.display):
            if line.lstrip().startswith(text):
                start = len(line) - len(line.lstrip())
                return str(self._screen.buffer[row][start].fg)
        raise AssertionError(text)


class NarrowTerminal(Terminal):
    columns = 40


def table(lines: list[str]) -> list[list[str]]:
    """The rows of the table, its header first."""
    begins = next(row for row, line in enumerate(lines) if line.split()[:2] == ["job", "file"])
    ends = next(row for row, line in enumerate(lines) if " jobs in " in line or "stopped" in line)
    return [line.split() for line in lines[begins:ends]]


@pytest.mark.slow
def test_120_jobs_at_80_columns(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.jobs[7].status = "COMPLETED"
    del sandbox.jobs[9]
    with Terminal(sandbox, "cancel", *range(1, 121)) as terminal:
        assert terminal.shows(ASKED) == [ASKED]
        assert sandbox.requests == []
        terminal.type("y\n")

        # During: the bar, how many are done, the pace, the time left, counts, and why it pauses.
        shown: list[tuple[int, int, int]] = []
        pauses: list[int] = []
        screens = []
        while terminal.read():
            for line, *below in zip(terminal.lines, terminal.lines[1:], terminal.lines[2:]):  # noqa: B905
                if progress := FIRST.match(line):
                    done, rate, minutes, seconds = map(int, progress.groups())
                    shown.append((done, rate, 60 * minutes + seconds))
                    if pause := PAUSE.match(below[1]):
                        pauses.append(60 * int(pause[1]) + int(pause[2]))
                        screens.append(terminal.lines)
                        rest = "1 NotCancellableError, 1 JobNotFoundError"
                        assert below[0] == f"{done - 2} cancelled, {rest}"
        code = terminal.end()

        assert code == 1
        numbers = [done for done, _, _ in shown]
        assert numbers == sorted(numbers)
        assert {59, 119} <= set(numbers)
        assert max(rate for _, rate, _ in shown) <= 62
        first_pause = [left for done, rate, left in shown if done == 59 and rate == 59]
        assert 100 < max(first_pause) < 200
        assert first_pause[0] - first_pause[-1] > 45
        assert max(pauses) in range(50, 62)
        assert min(pauses) < 5
        assert all(len(line) <= 80 for lines in screens for line in lines)
        # An error is shown at once, and stays above the bar.
        above = " ".join(screens[0])
        assert "NotCancellableError: job 7: API v2 answered 400 not_cancellable: Job has" in above
        assert "JobNotFoundError: job 9: API v2 answered 400: Invalid process_id or job" in above
        assert screens[0][0] == f"{ASKED} y"

        # After: the table, in the order of the ids, those not cancelled last; then the totals.
        lines = terminal.everything
        assert not any(FIRST.match(line) for line in lines)
        assert all(len(line) <= 80 for line in lines)
        header, *rows = table(lines)
        assert header == ["job", "file", "status", "version", "reason", "attempts"]
        cancelled = [job for job in range(1, 121) if job not in (7, 9)]
        assert [int(row[0]) for row in rows] == [*cancelled, 7, 9]
        assert rows[0] == ["1", "customers-of-…-part-001.csv", "CANCELLING", "v2", "SUNSET", "1"]
        assert rows[-2] == ["7", "NotCancellableError", "v2", "SUNSET", "1"]
        assert rows[-1] == ["9", "JobNotFoundError", "v2", "SUNSET", "1"]
        assert re.fullmatch(
            r"120 jobs in 2:\d\d: 118 cancelled, 1 NotCancellableError, 1 JobNotFoundError",
            lines[-1],
        )
        assert terminal.colour("120  ") == "green"
        assert terminal.colour("7  ") == terminal.colour("9  ") == "red"

    # Not one was refused for pace; the job that is not there cost a look at its status.
    assert Counter(one.status for one in sandbox.requests) == {200: 118, 400: 3}


def test_40_columns_are_enough(sandbox: Sandbox) -> None:
    sandbox.jobs[2].status = "COMPLETED"
    with NarrowTerminal(sandbox, "cancel", "--wait", *range(1, 4)) as terminal:
        terminal.shows("2 under way: 2 CANCELLING")
        terminal.interrupt()
        terminal.shows("stopping when the jobs under way are done; Ctrl-C again: now")
        sandbox.jobs[1].status = sandbox.jobs[3].status = "CANCELLED"
        assert terminal.end() == 1
        lines = terminal.everything
    begins = next(row for row, line in enumerate(lines) if line.split()[:1] == ["job"])
    assert [line.split() for line in lines[begins : begins + 4]] == [
        ["job", "status", "version"],
        ["1", "CANCELLED", "v2"],
        ["3", "CANCELLED", "v2"],
        ["2", "NotCancellableError", "v2"],
    ]
    assert "".join(lines[begins + 4 :]).endswith(": 2 cancelled, 1 NotCancellableError")
    # With room for it, a column more.
    with NarrowTerminal(sandbox, "cancel", 4, 5, 3) as terminal:
        assert terminal.end() == 0
        lines = terminal.everything
    assert ["4", "CANCELLING", "v2", "SUNSET"] in [line.split() for line in lines]
    assert ["3", "cancelled", "before", "v2", "SUNSET"] in [line.split() for line in lines]


def test_no_is_no(sandbox: Sandbox) -> None:
    for answer in ("n\n", "\n", "yess\n", "\x04"):
        with Terminal(sandbox, "cancel", *range(1, 121)) as terminal:
            terminal.shows(ASKED)
            terminal.type(answer)
            assert terminal.end() == 1
            assert terminal.lines[-1] == "revenuebase-compat: nothing was sent"
    assert sandbox.requests == []


def test_ctrl_c_at_the_question(sandbox: Sandbox) -> None:
    with Terminal(sandbox, "cancel", *range(1, 121)) as terminal:
        terminal.shows(ASKED)
        terminal.interrupt()
        assert terminal.end() == 130
        assert terminal.lines == [f"{ASKED} ^C"]
    assert sandbox.requests == []


def test_twenty_or_yes_are_not_asked_about(sandbox: Sandbox) -> None:
    with Terminal(sandbox, "cancel", *range(1, 21)) as terminal:
        assert terminal.end() == 0
        assert "[y/N]" not in "".join(terminal.everything)
        assert terminal.lines[-1].endswith(": 20 cancelled")
    with Terminal(sandbox, "cancel", "--yes", *range(21, 46)) as terminal:
        assert terminal.end() == 0
        assert "[y/N]" not in "".join(terminal.everything)
    assert len(sandbox.requests) == 45


def test_quiet_and_json(sandbox: Sandbox) -> None:
    with Terminal(sandbox, "cancel", "--quiet", 1, 2, 3) as terminal:
        assert terminal.end() == 0
        assert terminal.everything == []
    with Terminal(sandbox, "cancel", "--json", 3, 4) as terminal:
        assert terminal.end() == 0
        assert b"\x1b" not in terminal.raw
        *rows, last = terminal.raw.decode().splitlines()
        assert sorted("already_cancelled" in json.loads(row) for row in rows) == [False, True]
        assert re.fullmatch(r"2 jobs in 0:\d\d: 1 cancelled, 1 cancelled before", last)


def test_rows_go_to_the_file_while_the_terminal_shows_the_progress(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    python = shlex.quote(sys.executable)
    line = f"{python} -m tests.support.fast_cli {SPEED} cancel --json {{1..12}} > {rows}"
    with Terminal(sandbox) as terminal:
        terminal._child.close(force=True)
        terminal._child = pexpect.spawn(
            "bash", ["-c", line], dimensions=(24, 80), env=environment(sandbox), timeout=30
        )
        assert terminal.end() == 0
        assert re.search(rb"\d+/12", terminal.raw)
        assert b"process_id" not in terminal.raw
    found = [json.loads(row)["process_id"] for row in rows.read_text().splitlines()]
    assert sorted(found) == list(range(1, 13))


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colour(sandbox: Sandbox, environ: dict[str, str]) -> None:
    sandbox.jobs[2].status = "COMPLETED"
    with Terminal(sandbox, "cancel", 1, 2, **environ) as terminal:
        assert terminal.end() == 1
        assert not re.search(rb"\x1b\[[0-9;]*3[0-9]", terminal.raw)
        _, *rows = table(terminal.everything)
        assert [row[0] for row in rows] == ["1", "2"]
        assert terminal.colour("2  ") == "default"


@pytest.mark.parametrize(("first", "environ"), [("without-rich", {}), ("", {"TERM": "dumb"})])
def test_plain_lines_stand_in(sandbox: Sandbox, first: str, environ: dict[str, str]) -> None:
    sandbox.jobs[2].status = "COMPLETED"
    arguments = [argument for argument in (first, "cancel", *range(1, 13)) if argument]
    with Terminal(sandbox, *arguments, **environ) as terminal:
        assert terminal.end() == 1
        lines = terminal.everything
        assert re.sub(rb"\x1b\[[0-9;]*m", b"", terminal.raw).count(b"\x1b") == 0
        steps = [line for line in lines if re.match(r"\d+/12 job \d+ (cancelled|NotCanc)", line)]
        assert [int(line.partition("/")[0]) for line in steps] == list(range(1, 13))
        _, *rows = table(lines)
        assert len(rows) == 12
        assert rows[0][:3] == ["1", "customers-of-…-part-001.csv", "CANCELLING"]
        assert rows[-1][0] == "2"
        assert lines[-1].endswith("11 cancelled, 1 NotCancellableError")
        assert all(len(line) <= 80 for line in lines)


def test_plain_lines_where_stderr_is_no_terminal(sandbox: Sandbox, tmp_path: Path) -> None:
    done = subprocess.run(
        command("cancel", *range(1, 31)),
        env=environment(sandbox), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [f"{n}/30" for n in range(1, 31)]
    assert filename(17) in done.stdout  # nothing is shortened where there is room


@pytest.mark.slow
def test_ctrl_c_says_what_is_done_and_resume_goes_on(sandbox: Sandbox, tmp_path: Path) -> None:
    journal = tmp_path / "run.journal"
    arguments = ["cancel", "--yes", "--resume", journal, *range(1, 121)]
    with Terminal(sandbox, *arguments) as terminal:
        terminal.shows("the rate limit is used up")
        terminal.interrupt()
        began = time.monotonic()
        assert terminal.end() == 130
        assert time.monotonic() - began < 3
        lines = terminal.everything
        assert len(table(lines)) == 1 + 60
        assert re.fullmatch(
            r"stopped after 0:\d\d with 60 of 120 jobs done, 60 not started", lines[-4]
        )
        assert lines[-3] == "60 cancelled"
        assert "".join(lines[-2:]).startswith("to go on: the same command again; ")
    assert len(sandbox.requests) == 60

    with Terminal(sandbox, *arguments) as terminal:
        shown = terminal.until(lambda lines: any("/120" in line for line in lines))
        assert not any(re.search(r"\b[0-5]?\d/120", line) for line in shown)
        terminal.shows("the rate limit is used up")
        assert terminal.end() == 0
        lines = terminal.everything
        _, *rows = table(lines)
        assert [int(row[0]) for row in rows] == list(range(1, 121))
        assert lines[-1].endswith(": 120 cancelled (60 by an earlier run)")
    # A new process learns from its first request that the limit is used up.
    assert Counter(one.status for one in sandbox.requests) == {200: 120, 429: 1}

    with Terminal(sandbox, *arguments) as terminal:
        assert terminal.end() == 0
    assert len(sandbox.requests) == 121


def test_a_second_ctrl_c_waits_for_nothing(sandbox: Sandbox) -> None:
    for job in sandbox.jobs.values():
        job.status = "PROCESSING"
    with Terminal(sandbox, "cancel", "--wait-timeout", 86400, *range(1, 6)) as terminal:
        terminal.shows("5 under way: 5 CANCELLING")
        terminal.interrupt()
        terminal.shows("stopping when the jobs under way are done; Ctrl-C again: now")
        terminal.interrupt()
        assert terminal.end() == 130
        assert re.fullmatch(
            r"stopped after \d:\d\d with 0 of 5 jobs done, 5 left under way, 0 not started",
            terminal.lines[-3],
        )


def test_ctrl_c_without_rich(sandbox: Sandbox) -> None:
    for job in sandbox.jobs.values():
        job.status = "PROCESSING"
    with Terminal(sandbox, "without-rich", "cancel", "--wait-timeout", 86400, 1, 2) as terminal:
        terminal.shows("job 2 is CANCELLING")
        terminal.interrupt()
        terminal.shows("stopping when the jobs under way are done")
        for job in sandbox.jobs.values():
            job.status = "CANCELLED"
        # Nothing was left to start, so nothing was stopped.
        assert terminal.end() == 0
        assert terminal.lines[-1].endswith(": 2 cancelled")


def test_wait_is_shown_live(sandbox: Sandbox) -> None:
    for job in sandbox.jobs.values():
        job.status = "PROCESSING"
    with Terminal(sandbox, "cancel", "--wait", 1, 2, 3) as terminal:
        terminal.shows("3 under way: 3 CANCELLING")
        sandbox.jobs[1].status = "CANCELLED"
        terminal.shows("2 under way: 2 CANCELLING")
        sandbox.jobs[2].status = "COMPLETED"
        terminal.shows("it ended before it could be cancelled")
        sandbox.jobs[3].status = "CANCELLED"
        assert terminal.end() == 1
        assert [row[2] for row in table(terminal.everything)[1:3]] == ["CANCELLED", "CANCELLED"]
        assert re.search(r": 2 cancelled, 1 NotCancellableError$", terminal.lines[-1])


def test_one_job_that_is_waited_for(sandbox: Sandbox) -> None:
    sandbox.jobs[1].status = "PROCESSING"
    with Terminal(sandbox, "cancel", 1, "--wait") as terminal:
        terminal.shows("1 under way: 1 CANCELLING")
        sandbox.jobs[1].status = "CANCELLED"
        assert terminal.end() == 0
        assert "".join(terminal.lines) == (
            f"job 1 ({filename(1)}) is CANCELLED, by API v2 (SUNSET): API v1 ended on 2026-07-07"
        )
