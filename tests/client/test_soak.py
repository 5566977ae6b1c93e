"""A soak: threads and tasks against a server that fails every fifth request, for a while.

What each caller was told is held against what the server did; then nothing may be left over.
The server is a process of its own (``python -m tests.client.test_soak``), so that the callers have
their interpreter to themselves.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from revenuebase_compat import AsyncClient, CancelError, CancelResult, Client, Settings
from tests.conftest import TEST_KEY
from tests.support.fault_server import (
    HEALTHY,
    FaultServer,
    ambiguous,
    cut_body,
    drop,
    hang,
    not_json,
    reset,
    respond,
    stale_connection,
    too_many,
    trickle_body,
    wrong_job,
)

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("REVENUEBASE_COMPAT_TEST_SOAK", "10"))
THREADS = 8
TASKS = 200
#: Seconds for a call, and what may come on top besides the event loop's own lag.
TIMEOUT = 3.0
LATE = 0.5

SHARE = 0.2
FAULTS = (
    *(make(applied) for make in (drop, reset, hang, cut_body) for applied in (False, True)),
    *(respond(status) for status in (408, 500, 502, 503, 504)),
    *(respond(status, applied=True) for status in (500, 502, 503, 504)),
    too_many(),
    too_many(Retry_After="0"),
    too_many(retry_after_ms="20"),
    too_many(Retry_After="3600"),
    trickle_body(),
    trickle_body(applied=True),
    stale_connection(),
    not_json(),
    wrong_job(),
    ambiguous(),
)


# --- the server's process ---------------------------------------------------------------------


def serve() -> None:
    """Serve until a line is read, then tell what happened, as JSON."""
    with FaultServer() as server:
        server.chance(SHARE, FAULTS, seed=20260707)
        print(server.base_url, flush=True)
        sys.stdin.readline()
        # The end of a connection takes a moment to be noticed.
        until = time.monotonic() + 2
        while server.open_connections and time.monotonic() < until:
            time.sleep(0.01)
        record = {
            "still_open": server.open_connections,
            "connections": server.connections,
            "jobs": list(server.jobs.items()),
            "applied": server.applied,
            "requests": [(seen.process_id, seen.route, seen.fault) for seen in server.seen],
        }
    print(json.dumps(record), flush=True)


@dataclass
class Record:
    """What the server did: jobs are (id, status), requests (id, route, fault)."""

    still_open: int
    connections: int
    jobs: list[tuple[int, str]]
    applied: list[int]
    requests: list[tuple[int, str, str]]


# --- the callers ------------------------------------------------------------------------------


@dataclass
class Log:
    """What callers were told, by job."""

    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    told: dict[int, CancelResult | CancelError] = field(default_factory=dict)
    strange: list[BaseException] = field(default_factory=list)
    slowest: float = 0.0
    #: How late the event loop was at worst: 208 callers share it, and the machine, with others.
    lag: float = 0.0

    def note(self, job: int, outcome: CancelResult | BaseException, started: float) -> None:
        if isinstance(outcome, CancelResult | CancelError) and job not in self.told:
            self.told[job] = outcome
        else:
            self.strange.append(outcome)  # type: ignore[arg-type]
        self.slowest = max(self.slowest, time.monotonic() - started)


def test_soak() -> None:
    before = fds(), threads()
    log = Log()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.client.test_soak"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().strip()
        settings = Settings(TEST_KEY, base_url=base_url, api_version="v2", timeout=TIMEOUT)
        started = time.monotonic()
        call_for_a_while(settings, log, started + SECONDS)
        seconds = time.monotonic() - started
        told, _ = process.communicate("done\n", timeout=60)
    record = Record(**json.loads(told))

    # An earlier test's may end meanwhile.
    assert fds() <= before[0]
    assert threads() <= before[1]
    assert record.still_open == 0
    assert log.strange == []
    check_jobs(log, record)
    # A timer is late by one lag, and so is the task that it wakes, at each of three attempts.
    assert log.slowest < TIMEOUT + LATE + 6 * log.lag
    print(figures(log, record, seconds))


def call_for_a_while(settings: Settings, log: Log, until: float) -> None:
    def cancel_in_thread() -> None:
        while (started := time.monotonic()) < until:
            job = next(log.ids)
            try:
                log.note(job, client.cancel_job(job), started)
            except BaseException as error:
                log.note(job, error, started)

    async def cancel_in_task(client: AsyncClient) -> None:
        while (started := time.monotonic()) < until:
            job = next(log.ids)
            try:
                log.note(job, await client.cancel_job(job), started)
            except BaseException as error:
                log.note(job, error, started)

    async def measure_lag() -> None:
        while (started := time.monotonic()) < until:
            await asyncio.sleep(0.02)
            log.lag = max(log.lag, time.monotonic() - started - 0.02)

    async def cancel_in_tasks() -> None:
        async with AsyncClient(settings, random=lambda: 0.01) as client:
            await asyncio.gather(measure_lag(), *(cancel_in_task(client) for _ in range(TASKS)))

    with Client(settings, random=lambda: 0.01) as client:
        workers = [threading.Thread(target=cancel_in_thread) for _ in range(THREADS)]
        for worker in workers:
            worker.start()
        asyncio.run(cancel_in_tasks())
        for worker in workers:
            worker.join()


# --- what came of it --------------------------------------------------------------------------


def check_jobs(log: Log, record: Record) -> None:
    """Every job is accounted for, and nobody was told what is not so."""
    assert sorted(log.told) == list(range(1, next(log.ids)))
    assert {job for job, *_ in record.requests} <= set(log.told)
    applied, status = Counter(record.applied), dict(record.jobs)
    assert set(applied.values()) == {1}

    def true(job: int, outcome: CancelResult | CancelError) -> bool:
        if outcome.process_id != job:
            return False
        if isinstance(outcome, CancelResult):
            return job in applied and outcome.current_status == status[job]
        # Each job had one caller: had it been cancelled, nothing but a doubt would be true, and
        # not even AlreadyCancelledError.
        return job not in applied or outcome.outcome_unknown

    assert [(job, outcome) for job, outcome in log.told.items() if not true(job, outcome)] == []

    sent = Counter(job for job, route, _ in record.requests if route == "cancel")
    assert [job for job, outcome in log.told.items() if sent[job] > outcome.attempts] == []


def figures(log: Log, record: Record, seconds: float) -> str:
    results = [one for one in log.told.values() if isinstance(one, CancelResult)]
    errors = [one for one in log.told.values() if isinstance(one, CancelError)]
    met = sum(fault != HEALTHY.title for *_, fault in record.requests)
    assert abs(met / len(record.requests) - SHARE) < 0.05
    lines = {
        "callers": f"{THREADS} threads and {TASKS} tasks, for {seconds:.0f} s",
        "calls": f"{len(log.told)}, {len(log.told) / seconds:.0f} a second",
        "requests": f"{len(record.requests)} over {record.connections} connections",
        "faults met": f"{met} of {len(FAULTS)} kinds",
        "retries": sum(one.attempts - 1 for one in log.told.values()),
        "jobs cancelled": len(record.applied),
        "results": len(results),
        "errors": len(errors),
        **Counter(f"  {type(error).__name__}" for error in errors),
        "outcome unknown": sum(error.outcome_unknown for error in errors),
        "slowest call": f"{log.slowest:.1f} s, of {TIMEOUT:g} s allowed "
        f"(lag of the event loop: up to {log.lag:.1f} s)",
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def fds() -> int:
    gc.collect()
    return len(os.listdir("/dev/fd"))


def threads() -> set[str]:
    """By name; the thread that watches deadlines stays for the next call."""
    return {one.name for one in threading.enumerate()} - {"revenuebase-deadlines"}


if __name__ == "__main__":
    serve()
