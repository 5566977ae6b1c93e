"""What a call costs, as far as it can be counted: modules, requests, connections, memory, threads.

Seconds are measured by ``python -m tests.benchmarks``, not in here.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from revenuebase_compat import AsyncClient, CancelTimeoutError, Client, Settings
from revenuebase_compat.adopt.runner import BOOT
from revenuebase_compat.client import watchdog
from tests.conftest import TEST_KEY
from tests.support import AFTER, BEFORE, FakeTime
from tests.support.fault_server import HEALTHY, End, Exchange, Fault, FaultServer

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = {"asyncio", "httpx", "httpcore", "ssl", "socket", "_socket", "dateutil", "email", "rich"}
HEAVY |= {"importlib.metadata", "http.client", "urllib.request", "pydantic", "fastapi", "uvicorn"}
HEAVY |= {"random"}  # some milliseconds, for the jitter of waits


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def settings(server: FaultServer, **more: Any) -> Settings:
    return Settings(TEST_KEY, base_url=server.base_url, **more)


# --- what is imported -------------------------------------------------------------------------


UNDER_RUN = (sys.executable, "-m", "revenuebase_compat", "run", "--")


def modules(code: str, *runner: str) -> set[str]:
    """What ``code`` leaves in ``sys.modules``, beyond what a bare interpreter has there."""

    def loaded(code: str, runner: tuple[str, ...]) -> set[str]:
        show = "import sys; found = [*sys.modules]; import json; print(json.dumps(found))"
        done = subprocess.run(
            [*runner, sys.executable, "-c", f"{code}\n{show}"],
            cwd=Path(BOOT).parent,  # from the root, "tests" and the like could be found
            capture_output=True,
            text=True,
            check=True,
        )
        return set(json.loads(done.stdout.splitlines()[-1]))

    return loaded(code, runner) - loaded("", ()) - {"__future__"}


def test_import_loads_nothing_but_itself() -> None:
    assert modules("import revenuebase_compat") == {
        "revenuebase_compat",
        "revenuebase_compat._version",
    }


def test_the_name_alone_loads_nothing_heavy() -> None:
    found = modules("from revenuebase_compat import cancel_job")
    assert found & HEAVY == set()
    assert {name for name in found if name.startswith("revenuebase_compat.adopt")} == set()


def test_a_client_that_sent_nothing_has_loaded_nothing_heavy() -> None:
    found = modules(
        "from revenuebase_compat import Client, Settings\n"
        "Client(Settings('rb_test_costs')).route(42)\n"
    )
    assert found & (HEAVY - {"socket", "_socket"}) == set()


def test_a_sync_client_never_loads_asyncio_for_itself(server: FaultServer) -> None:
    code = (
        "import sys, httpx\n"
        "before = set(sys.modules)\n"
        "from revenuebase_compat import Client, Settings\n"
        f"Client(Settings({TEST_KEY!r}, base_url={server.base_url!r})).cancel_job(42)\n"
        "assert 'revenuebase_compat.client.transport_async' not in sys.modules\n"
        "assert not {'asyncio', 'dateutil'} & (set(sys.modules) - before)\n"
    )
    modules(code)
    assert server.applied == [42]


def test_a_process_under_run_loads_what_waits_and_nothing_else() -> None:
    found = modules("", *UNDER_RUN)
    assert {name for name in found if name.startswith("revenuebase_compat")} == {
        "revenuebase_compat",
        "revenuebase_compat._version",
        "revenuebase_compat.adopt",
        "revenuebase_compat.adopt.import_hook",
        "revenuebase_compat.adopt.libraries",
        "revenuebase_compat.adopt.start",
        "revenuebase_compat.client",
        "revenuebase_compat.client.process",
    }
    others = {name for name in found if not name.startswith("revenuebase_compat")}
    assert others & (HEAVY | {"typing", "threading", "contextlib", "re", "enum"}) == set()


# --- what is sent -----------------------------------------------------------------------------


@pytest.mark.parametrize("now", [BEFORE, AFTER], ids=["v1", "v2"])
@pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")
def test_one_request_a_call_over_one_connection(server: FaultServer, now: Any) -> None:
    with FakeTime(now).client(settings(server)) as client:
        for job in range(1, 51):
            client.cancel_job(job)
    assert [seen.process_id for seen in server.seen] == [*range(1, 51)]
    assert {seen.route for seen in server.seen} == {"cancel"}
    assert server.connections == 1


def test_as_many_connections_as_calls_at_once(server: FaultServer) -> None:
    async def main() -> None:
        async with AsyncClient(settings(server)) as client:
            for start in range(1, 101, 10):
                await asyncio.gather(*(client.cancel_job(start + n) for n in range(10)))

    asyncio.run(main())
    assert len(server.seen) == 100
    assert server.connections == 10


def test_a_decision_sends_nothing(server: FaultServer) -> None:
    with FakeTime(BEFORE).client(settings(server, v2_rollout=50)) as client:
        for job in range(1, 101):
            client.route(job)
    assert (server.connections, server.seen) == (0, [])


def test_a_connection_made_anew_is_watched_as_well(server: FaultServer) -> None:
    """Kept connections are not traced, but one that ended is replaced without our doing."""
    sent = []

    def write(_: Exchange) -> Iterator[bytes]:
        for byte in [b"H", *[b"a"] * 100]:
            sent.append(byte)
            yield byte

    slow = Fault("headers byte by byte", write, End.CLOSE, interval=0.2)
    server.script(replace(HEALTHY, end=End.CLOSE), slow)
    # Time enough for the first call on a busy machine, and a twentieth of what the second takes.
    with Client(settings(server, timeout=1, max_attempts=1)) as client:
        client.cancel_job(1)
        while server.open_connections:
            time.sleep(0.001)
        with pytest.raises(CancelTimeoutError):
            client.cancel_job(2)
        assert len(sent) < 100, "the server was heard out"
    assert server.connections == 2


# --- what is kept -----------------------------------------------------------------------------


@pytest.mark.slow
def test_calls_and_decisions_keep_nothing_and_leave_the_collector_nothing() -> None:
    # In a process of its own: what other tests have left running allocates, too.
    program = REPOSITORY / "tests" / "programs" / "growth.py"
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, check=True, timeout=60
    )
    few, many, decisions = json.loads(done.stdout)
    # One object kept a call would be 16,000 bytes and more; caches of the interpreter vary.
    assert many[0] < 10_000
    assert many[1] < few[1] + 10_000, "the peak of one call must not grow with their number"
    assert (few[2], many[2]) == (0, 0)
    kept, peak, found = decisions
    assert kept < 10_000
    assert peak < 10_000
    assert found == 0


def test_one_thread_however_many_clients(server: FaultServer) -> None:
    before = {thread for thread in threading.enumerate() if thread.name == "revenuebase-deadlines"}
    known = set(threading.enumerate()) - before
    for job in range(1, 6):
        with Client(settings(server)) as client:
            client.cancel_job(job)
    ours = {
        thread
        for thread in set(threading.enumerate()) - known
        if "_serve" not in thread.name and "_accept" not in thread.name
    }
    assert [thread.name for thread in ours] == ["revenuebase-deadlines"]
    assert all(thread.daemon for thread in ours)


@pytest.mark.slow
def test_the_thread_ends_after_an_idle_minute(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not with the last deadline: a call every now and then would start one each time."""
    monkeypatch.setattr(watchdog, "IDLE", 0.6)
    monkeypatch.setattr(watchdog, "_watchdog", None)
    before = set(threading.enumerate())

    def cancel(job: int) -> threading.Thread:
        with Client(settings(server, timeout=0.3)) as client:
            client.cancel_job(job)
        found = set(threading.enumerate()) - before
        [ours] = [one for one in found if one.name == "revenuebase-deadlines"]
        return ours

    ours = cancel(1)
    time.sleep(0.5)
    assert cancel(2) is ours
    ours.join(5)
    assert not ours.is_alive()
    assert cancel(3) is not ours
    # Where gevent has patched since, it cannot end without a traceback.
    ours = cancel(4)
    monkeypatch.setattr(watchdog, "place", lambda: ("elsewhere",))
    ours.join(2)
    assert ours.is_alive()
    monkeypatch.undo()
    monkeypatch.setattr(watchdog, "IDLE", 0.1)
    ours.join(5)
    assert not ours.is_alive()


# --- the benchmarks themselves ----------------------------------------------------------------


@pytest.mark.slow
def test_the_benchmarks_run(tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--svg", str(plot)]
    done = subprocess.run(
        [*command, "--only", "sync", "--only", "routing"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "| `Client.cancel_job`, wall, over `httpx.Client.post` | ≤ 0.78 |" in done.stdout
    for name in ("`Client.cancel_job`", "`revenuebase-sdk 0.3.0`", "`bare socket`"):
        assert f"| {name} | " in done.stdout
    assert "| route, flag off | " in done.stdout
    assert plot.read_text("utf-8").startswith("<svg")
    assert "Client.cancel_job" in plot.read_text("utf-8")
