"""What a caller gets of each fault: from us, from raw httpx, and from the vendor's SDK.

    python -m tests.tools.reliability

Every cell of the table is one process that cancels against a ``FaultServer`` of its own, and
says what came of it: what the caller was told, held against what the server did.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from tests.support.fault_server import (
    CATALOGUE,
    ENVELOPES,
    Fault,
    FaultServer,
    gzip_bomb,
    huge_body,
    redirect,
    refusing,
    respond,
)

REPOSITORY = Path(__file__).resolve().parents[2]
KEY = "rb_test_reliability"
JOB = 42
#: Seconds every contender is told to take at most, and seconds after which it is given up.
TIMEOUT = 2.0
LIMIT = 3.0
#: Seconds and MiB that a call may take beyond its timeout, and beyond a healthy call.
LATE = 0.5
GROWTH = 16
SDK = "0.3.0"


# --- the contenders: what runs in a process of its own ----------------------------------------

Outcome = dict[str, Any]
Run = Callable[[str, list[int]], list[Outcome]]


def collect(
    cancel: Callable[[int], Mapping[str, object]], jobs: list[int], own: type[Exception]
) -> list[Outcome]:
    """What each call came to; ``own`` is the family of errors that a caller is told to expect."""
    outcomes = []
    for job in jobs:
        started = time.monotonic()
        try:
            found = cancel(job)
            outcome = {name: found[name] for name in ("process_id", "current_status")}
        except Exception as error:
            outcome = _told(error, own)
        outcomes.append({**outcome, "seconds": time.monotonic() - started})
    return outcomes


def _told(error: Exception, own: type[Exception]) -> Outcome:
    response = getattr(error, "response", None)
    shown = f"{error}\n{error!r}\n{vars(error)!r}"
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    local = [
        repr(value)
        for frame in frames
        if frame.f_code.co_filename != __file__
        for value in frame.f_locals.values()
    ]
    return {
        "error": type(error).__name__,
        "own": isinstance(error, own),
        "says": str(error),
        "status": getattr(error, "status_code", None) or getattr(response, "status_code", None),
        "unknown": getattr(error, "outcome_unknown", False),
        "shows_key": KEY in shown,
        "locals_show_key": any(KEY in text for text in local),
    }


def ours() -> Run:
    import httpx  # noqa: F401 (so that its import does not count as growth)

    from revenuebase_compat import CancelError, Client, Settings

    def run(url: str, jobs: list[int]) -> list[Outcome]:
        with Client(Settings(KEY, base_url=url, api_version="v2", timeout=TIMEOUT)) as client:
            return collect(lambda job: client.cancel_job(job).to_dict(), jobs, CancelError)

    return run


def ours_async() -> Run:
    import httpx  # noqa: F401

    from revenuebase_compat import AsyncClient, CancelError, Settings

    def run(url: str, jobs: list[int]) -> list[Outcome]:
        client = AsyncClient(Settings(KEY, base_url=url, api_version="v2", timeout=TIMEOUT))
        loop = asyncio.new_event_loop()
        try:
            return collect(
                lambda job: loop.run_until_complete(client.cancel_job(job)).to_dict(),
                jobs,
                CancelError,
            )
        finally:
            loop.run_until_complete(client.aclose())
            loop.close()

    return run


def raw_httpx() -> Run:
    import httpx

    def run(url: str, jobs: list[int]) -> list[Outcome]:
        def cancel(job: int) -> Mapping[str, object]:
            response = client.post(f"/v2/jobs/{job}/cancel")
            response.raise_for_status()
            return response.json()  # type: ignore[no-any-return]

        with httpx.Client(base_url=url, headers={"x-key": KEY}, timeout=TIMEOUT) as client:
            return collect(cancel, jobs, httpx.HTTPError)

    return run


def sdk() -> Run:
    from revenuebase_sdk import APIError, RevenuebaseClient  # type: ignore[import-not-found]

    def run(url: str, jobs: list[int]) -> list[Outcome]:
        with RevenuebaseClient(api_key=KEY, base_url=url, timeout=TIMEOUT) as client:
            return collect(lambda job: vars(client.jobs.cancel(process_id=job)), jobs, APIError)

    return run


CONTENDERS: Mapping[str, Callable[[], Run]] = {
    "ours": ours,
    "ours_async": ours_async,
    "httpx": raw_httpx,
    "sdk": sdk,
}


def contend(name: str, url: str, *jobs: str) -> None:
    run = CONTENDERS[name]()
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(run(url, [int(job) for job in jobs])), flush=True)
    sys.stdin.readline()  # until the memory was looked at


# --- the faults -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A fault that strikes the first request of each job; ``faults`` has one per job."""

    title: str
    faults: tuple[Fault, ...] = ()
    #: What the server says, and the error must pass on.
    words: str = ""
    redirected: bool = False
    refused: bool = False
    reported: bool = False
    #: Seconds after which a contender is given up.
    limit: float = LIMIT

    @property
    def jobs(self) -> list[int]:
        return list(range(JOB, JOB + max(len(self.faults), 1)))


def row(name: str, title: str = "", words: str = "") -> Row:
    fault = CATALOGUE[name]
    return Row(title or fault.title, (fault,), words)


def _already_cancelled() -> tuple[Fault, ...]:
    words = ("already_cancelled", "Job is already cancelled.")
    return tuple(respond(400, envelope(*words)) for envelope in ENVELOPES.values())


ROWS = (
    row("applied_drop"),
    row("applied_502"),
    row("applied_hang"),
    row("applied_cut_body"),
    row("trickle_body"),
    row("trickle_headers"),
    Row("connection refused", refused=True),
    row("retry_after_hour"),
    row("retry_after_negative"),
    row("no_hint", "429 without a hint"),
    Row("307 to another host", redirected=True),
    row("wrong_job"),
    row("ambiguous_id"),
    row("not_json"),
    row("null_current_status"),
    row("deep_nesting"),
    # What swallows these is busy, not stuck: how long it takes depends on the machine.
    Row("right answer, then 64 MiB of blanks", (huge_body(64),), limit=20),
    Row("gzip bomb that expands to 64 MiB", (gzip_bomb(64),), limit=20),
    Row(
        f"400 already_cancelled, in each of {len(ENVELOPES)} envelopes",
        _already_cancelled(),
        words="already",
    ),
    Row(
        "401, and an error reporter that collects locals",
        (CATALOGUE["status_401"],),
        reported=True,
    ),
    row("status_402"),
    row("status_403", "403 with its reason in words", words="not allowed"),
    row("status_405"),
    row("gone"),
    row("status_422", "422 with a list of what is invalid", words="Input should be valid"),
    row("echo_key_403"),
)


# --- one cell ---------------------------------------------------------------------------------


class Severity(Enum):
    RIGHT = "right"
    WRONG = "wrong"
    STUCK = "stuck"
    LEAKS = "leaks"


@dataclass(frozen=True)
class Cell:
    severity: Severity
    phrase: str

    def __str__(self) -> str:
        return f"{'✓' if self.severity is Severity.RIGHT else '✗'} {self.phrase}"


@dataclass
class Process:
    """What the process came to: outcomes per job, or none, and the MiB it grew by."""

    outcomes: list[Outcome] = field(default_factory=list)
    stuck: bool = False
    growth: int = 0


def play(python: Path, contender: str, row: Row) -> Cell:
    with (
        FaultServer() as elsewhere,
        FaultServer() as server,
        refusing() if row.refused else nullcontext(server.base_url) as url,
    ):
        for job, fault in zip(row.jobs, row.faults, strict=False):
            server.script_for(job, fault)
        if row.redirected:
            target = f"http://localhost:{elsewhere.port}/v2/jobs/{JOB}/cancel"
            server.script_for(JOB, redirect(307, target))
        run = _run(python, contender, url, row)
        if any(seen.key == KEY for seen in elsewhere.seen):
            return Cell(Severity.LEAKS, "sends the key to the other host")
        if run.stuck:
            return Cell(Severity.STUCK, f"still waiting after {row.limit:g} s")
        if run.growth > GROWTH:
            # The power of two below it, as the figure itself varies.
            return Cell(Severity.WRONG, f"grows by over {2 ** (run.growth.bit_length() - 1)} MiB")
        if len(run.outcomes) != len(row.jobs):
            return Cell(Severity.WRONG, "the process dies")
        cells = [
            judge(job, outcome, row, server)
            for job, outcome in zip(row.jobs, run.outcomes, strict=True)
        ]
    wrong = [cell for cell in cells if cell.severity is not Severity.RIGHT]
    first = (wrong or cells)[0]
    if len(cells) == 1:
        return first
    return Cell(first.severity, f"{first.phrase}, {len(wrong or cells)} of {len(cells)}")


def judge(job: int, outcome: Outcome, row: Row, server: FaultServer) -> Cell:
    """Whether what the caller was told is true, as far as anybody can tell on that side."""
    applied = job in server.applied
    if "error" not in outcome:
        if outcome["process_id"] != job:
            return Cell(Severity.WRONG, f"a result for job {outcome['process_id']}")
        if not applied:
            return Cell(Severity.WRONG, "a result, though nothing was cancelled")
        if outcome["current_status"] != server.jobs[job]:
            return Cell(Severity.WRONG, f"a result with status {outcome['current_status']}")
        cell = Cell(Severity.RIGHT, "cancelled")
    else:
        cell = _judge_error(outcome, row, applied)
    if outcome["seconds"] > TIMEOUT + LATE:
        return Cell(Severity.STUCK, f"{cell.phrase}, after {outcome['seconds']:.1f} s")
    return cell


def _judge_error(outcome: Outcome, row: Row, applied: bool) -> Cell:
    name, status = f"`{outcome['error']}`", outcome["status"] or 0
    if not outcome["own"]:
        return Cell(Severity.WRONG, f"{name}, which is no error of its own")
    if outcome["shows_key"] or (row.reported and outcome["locals_show_key"]):
        return Cell(Severity.LEAKS, f"{name} shows the key")
    if applied and not outcome["unknown"]:
        return Cell(Severity.WRONG, f"{name}, though the job was cancelled")
    if outcome["unknown"] and 400 <= status < 500:
        return Cell(Severity.WRONG, f"{name} doubts a plain {status}")
    if "Server" in outcome["error"] and status < 500:
        return Cell(Severity.WRONG, f"{name} for a {status}")
    if row.words not in outcome["says"]:
        says = " ".join(outcome["says"].split("\n")[0].split(" for url")[0].split())
        return Cell(Severity.WRONG, f"{name}: “{says}”")
    return Cell(Severity.RIGHT, name + (", outcome unknown" if outcome["unknown"] else ""))


def _run(python: Path, contender: str, url: str, row: Row) -> Process:
    command = [
        str(python),
        "-m",
        "tests.tools.reliability",
        "--as",
        contender,
        url,
        *map(str, row.jobs),
    ]
    run = Process()
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{contender} did not start: {' '.join(command)}")
        before = _mebibytes(process.pid, "VmRSS")

        def fail_open() -> None:
            run.stuck = True
            process.kill()

        timer = threading.Timer(row.limit, fail_open)
        timer.start()
        process.stdin.write("go\n")
        process.stdin.flush()
        line = process.stdout.readline()
        timer.cancel()
        if line:
            run.outcomes = json.loads(line)
            run.growth = _mebibytes(process.pid, "VmHWM") - before
    return run


def _mebibytes(pid: int, name: str) -> int:
    """Memory as Linux counts it: ``VmRSS`` now, ``VmHWM`` at its peak."""
    text = Path(f"/proc/{pid}/status").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(name + ":")]
    return int(line.split()[1]) // 1024


# --- the table --------------------------------------------------------------------------------


def table() -> dict[str, dict[str, Cell]]:
    """Row title → contender → cell."""
    from tests.support.environments import environment

    theirs = environment(f"revenuebase-sdk=={SDK}", with_library=True)
    pythons = {name: theirs if name == "sdk" else Path(sys.executable) for name in CONTENDERS}
    # Mostly waiting; but more at once, and starting them would make the others late.
    with ThreadPoolExecutor(4) as pool:
        cells = {
            (row.title, name): pool.submit(play, python, name, row)
            for row in ROWS
            for name, python in pythons.items()
        }
        return {
            row.title: {name: cells[row.title, name].result() for name in CONTENDERS}
            for row in ROWS
        }


def markdown(cells: Mapping[str, Mapping[str, Cell]]) -> str:
    lines = [
        f"| fault | `revenuebase-compat` | raw `httpx` | `revenuebase-sdk` {SDK} |",
        "| --- | --- | --- | --- |",
    ]
    for title, of in cells.items():
        shown = [str(of["ours"]), str(of["httpx"]), str(of["sdk"])]
        if of["ours"] != of["ours_async"]:
            shown[0] += f"; async: {of['ours_async']}"
        lines.append(f"| {' | '.join([title, *shown])} |")
    right = {
        name: sum(of[name].severity is Severity.RIGHT for of in cells.values())
        for name in CONTENDERS
    }
    totals = [min(right["ours"], right["ours_async"]), right["httpx"], right["sdk"]]
    lines.append("| **right** | " + " | ".join(f"{n} of {len(cells)}" for n in totals) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["--as"]:
        contend(*sys.argv[2:])
    else:
        print(markdown(table()), end="")


if __name__ == "__main__":
    main()
