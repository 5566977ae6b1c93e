"""The flag by its name, resolved late and once; and flags that are flipped while calls run."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count, cycle
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import revenuebase_compat as rc
from revenuebase_compat.client import notices
from tests.conftest import TEST_KEY
from tests.support import BEFORE, FakeTime
from tests.support.fault_server import FaultServer, respond

pytestmark = pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")

#: Modules that were made by ``plugin`` and have been imported, in that order.
imported: list[str] = []
_numbers = count()

Plugin = Callable[[str], str]
Cancel = Callable[[rc.Settings, int], rc.CancelResult]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugin]:
    """Writes a module under a name of its own, as an operator would put one on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def make(source: str) -> str:
        made.append(f"operators_flag_{next(_numbers)}")
        noted = "from tests.client import test_flags\ntest_flags.imported.append(__name__)\n"
        (tmp_path / f"{made[-1]}.py").write_text(noted + dedent(source), "utf-8")
        importlib.invalidate_caches()
        return made[-1]

    yield make
    imported.clear()
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def cancel_sync(settings: rc.Settings, process_id: int) -> rc.CancelResult:
    with FakeTime(BEFORE).client(settings) as client:
        return client.cancel_job(process_id)


def cancel_async(settings: rc.Settings, process_id: int) -> rc.CancelResult:
    async def main() -> rc.CancelResult:
        async with FakeTime(BEFORE).async_client(settings) as client:
            return await client.cancel_job(process_id)

    return asyncio.run(main())


DRIVERS = pytest.mark.parametrize(
    "cancel", [pytest.param(cancel_sync, id="sync"), pytest.param(cancel_async, id="async")]
)


def from_env(server: FaultServer, flag: str, **explicit: Any) -> rc.Settings:
    environ = {
        "REVENUEBASE_API_KEY": TEST_KEY,
        "REVENUEBASE_BASE_URL": server.base_url,
        "REVENUEBASE_V2_FLAG": flag,
    }
    return rc.Settings.from_env(environ, **explicit)


# --- by name ----------------------------------------------------------------------------------


@DRIVERS
def test_a_named_flag_is_imported_when_a_client_is_made_and_once(
    plugin: Plugin, server: FaultServer, cancel: Cancel
) -> None:
    name = plugin("def flag(context): return context.process_id % 2 == 0")
    settings = from_env(server, f"{name}:flag")
    rc.Client(settings).close()
    assert imported == [name]
    assert str(cancel(settings, 2).route) == "v2 (FLAG)"
    assert str(cancel(settings, 3).route) == "v1 (FLAG)"
    assert imported == [name]


def test_settings_alone_import_nothing(plugin: Plugin) -> None:
    name = plugin("raise SystemExit('imported in vain')")
    rc.Settings.from_env({"REVENUEBASE_V2_FLAG": f"{name}:flag"})
    assert imported == []


def test_the_first_decisions_of_many_threads_import_once(plugin: Plugin) -> None:
    name = plugin("import time; time.sleep(0.02)\ndef flag(context): return True")
    settings = rc.Settings(v2_flag=f"{name}:flag")
    barrier = threading.Barrier(8)
    with FakeTime(BEFORE).client(settings) as client, ThreadPoolExecutor(8) as pool:

        def decide(process_id: int) -> str:
            barrier.wait(10)
            return str(client.route(process_id))

        assert set(pool.map(decide, range(1, 9))) == {"v2 (FLAG)"}
    assert imported == [name]


@DRIVERS
def test_the_attribute_may_be_dotted(plugin: Plugin, server: FaultServer, cancel: Cancel) -> None:
    name = plugin(
        """
        class Switches:
            class cancel:
                @staticmethod
                def on_v2(context): return True
        """
    )
    assert str(cancel(from_env(server, f"{name}:Switches.cancel.on_v2"), 1).route) == "v2 (FLAG)"


def test_the_module_may_lie_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "operators").mkdir()
    (tmp_path / "operators" / "switch.py").write_text("def flag(context): return False", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with FakeTime(BEFORE).client(rc.Settings(v2_flag="operators.switch:flag")) as client:
        assert str(client.route(1)) == "v1 (FLAG)"
    for module in ("operators.switch", "operators"):
        sys.modules.pop(module)


@DRIVERS
@pytest.mark.parametrize(
    ("source", "attribute", "words"),
    [
        ("", "flag", "AttributeError"),
        ("def flag(context): return True", "flag.inner", "AttributeError"),
        ("raise ValueError('no database')", "flag", "ValueError: no database"),
        ("import no_such_module", "flag", "No module named 'no_such_module'"),
        ("def flag(", "flag", "SyntaxError"),
        ("flag = True", "flag", "is not callable"),
        ("flag = None", "flag", "is not callable"),
    ],
)
def test_a_name_that_does_not_resolve_is_said_before_anything_is_sent(
    plugin: Plugin, server: FaultServer, cancel: Cancel, source: str, attribute: str, words: str
) -> None:
    name = f"{plugin(source)}:{attribute}"
    for _ in range(2):
        with pytest.raises(rc.ConfigurationError) as caught:
            cancel(from_env(server, name), 1)
        message = str(caught.value)
        assert "v2_flag (REVENUEBASE_V2_FLAG)" in message
        assert repr(name) in message
        assert words in message
    assert server.connections == 0


@pytest.mark.parametrize("kind", [rc.Client, rc.AsyncClient])
@pytest.mark.parametrize("name", ["v2_flag", "on_event"])
def test_a_broken_name_is_refused_when_a_client_is_made(kind: Any, name: str) -> None:
    with pytest.raises(rc.ConfigurationError, match=f"{name} .REVENUEBASE_{name.upper()}."):
        kind(rc.Settings.from_env({}, **{name: "no_such_module:attribute"}))


@DRIVERS
def test_on_event_may_be_named_by_its_variable(
    plugin: Plugin, server: FaultServer, cancel: Cancel
) -> None:
    name = plugin("heard = []\nrecord = heard.append")
    cancel(from_env(server, "", on_event=f"{name}:record"), 1)
    (event,) = sys.modules[name].heard
    assert (event.process_id, event.outcome) == (1, "cancelled")
    made = rc.Settings.from_env({"REVENUEBASE_ON_EVENT": f"{name}:record"})
    assert made.on_event == f"{name}:record"


@pytest.mark.parametrize("name", ["v2_flag", "on_event"])
def test_a_module_that_ends_the_program_does_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script does that reads its arguments, and has no main guard."""
    (tmp_path / "ends_the_program.py").write_text("raise SystemExit(2)")
    monkeypatch.syspath_prepend(tmp_path)
    given: dict[str, Any] = {name: "ends_the_program:attribute"}
    with pytest.raises(rc.ConfigurationError, match="SystemExit: 2"):
        rc.Client(rc.Settings(TEST_KEY, **given))


def test_a_module_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVENUEBASE_API_KEY", TEST_KEY)
    monkeypatch.setenv("REVENUEBASE_V1_SUNSET", "2999-01-01")
    monkeypatch.setenv("REVENUEBASE_V2_FLAG", "no_such_package.flags:cancel")
    with pytest.raises(rc.ConfigurationError, match=r"REVENUEBASE_V2_FLAG.+no_such_package"):
        rc.cancel_job(42)


# --- a kill switch ----------------------------------------------------------------------------


def test_a_switch_is_flipped_in_a_process_that_was_never_written_for_it(
    server: FaultServer, tmp_path: Path
) -> None:
    """All that its operator adds is a file on the path, and a variable."""
    (tmp_path / "kill_switch.py").write_text(
        "from pathlib import Path\n"
        "file = Path(__file__).with_name('says')\n"
        "def flag(context): return {'v1': False, 'v2': True}.get(file.read_text())\n",
        "utf-8",
    )
    program = (
        "import sys\n"
        "from revenuebase_compat import cancel_job\n"
        "for line in sys.stdin: print(cancel_job(line.strip()).route, flush=True)\n"
    )
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
        "REVENUEBASE_API_KEY": TEST_KEY,
        "REVENUEBASE_BASE_URL": server.base_url,
        "REVENUEBASE_V1_SUNSET": "2999-01-01",
        "REVENUEBASE_V2_FLAG": "kill_switch:flag",
        "REVENUEBASE_V2_ROLLOUT": "100",
    }
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        routes = []
        for process_id, said in enumerate(["v2", "v1", "nothing", "v1"], 1):
            (tmp_path / "says").write_text(said, "utf-8")
            print(process_id, file=process.stdin, flush=True)
            routes.append(process.stdout.readline().strip())
        process.stdin.close()
        assert process.wait(10) == 0
    assert routes == ["v2 (FLAG)", "v1 (FLAG)", "v2 (ROLLOUT)", "v1 (FLAG)"]
    assert [seen.version for seen in server.seen] == ["v2", "v1", "v2", "v1"]


# --- what makes no sense ----------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (lambda context: 1 / 0, "<lambda> gave no opinion (ZeroDivisionError: division by zero)"),
        (lambda context: "v2", "it answered str, not bool or None"),
        (lambda context: 1, "it answered int, not bool or None"),
        (json.dumps, "dumps gave no opinion (TypeError: Object of type RouteContext"),
    ],
)
def test_a_flag_without_sense_is_logged_once_an_hour(
    asynchronous: bool,
    flag: Any,
    words: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeTime(BEFORE)
    monkeypatch.setattr(
        notices, "time", SimpleNamespace(monotonic=fake.monotonic, sleep=fake.sleep)
    )
    settings = rc.Settings(v2_flag=flag, v2_rollout=100)

    def decide(times: int) -> set[str]:
        async def main() -> set[str]:
            async with fake.async_client(settings) as client:
                return {str(await client.route(job)) for job in range(1, times + 1)}

        if asynchronous:
            return asyncio.run(main())
        with fake.client(settings) as client:
            return {str(client.route(job)) for job in range(1, times + 1)}

    assert decide(100) == {"v2 (ROLLOUT)"}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert words in record.getMessage()
    assert "the rollout's share decides" in record.getMessage()
    fake.elapsed += 3600
    assert decide(2) == {"v2 (ROLLOUT)"}
    assert len(caplog.records) == 2
    assert "(99 like this were left out" in caplog.records[1].getMessage()


# --- flipped while calls run ------------------------------------------------------------------


class State(NamedTuple):
    """What is in force: what the flag says, and the share."""

    opinion: bool | None
    share: int

    @property
    def version(self) -> str:
        return "v2" if (self.share == 100 if self.opinion is None else self.opinion) else "v1"


# Flag and share are read one after the other, so each step turns one of them only, and never
# lets an older share with a newer opinion mean a version that was not in force in between.
STATES = (
    State(None, 0), State(None, 100), State(True, 100), State(True, 0), State(False, 0),
)  # fmt: skip


class Operator:
    """Flips flag and share as calls go by; the last of ``history`` is in force.

    The share is a schedule, so what turns it is the clock.
    """

    def __init__(self, *, flips_every: int) -> None:
        self._flips_every = flips_every
        self._states = cycle(STATES)
        self._calls = count(1)
        self._flipping = threading.Lock()
        self.history = [next(self._states)]

    def settings(self, server: FaultServer, flag: Callable[[rc.RouteContext], Any]) -> rc.Settings:
        return rc.Settings(
            TEST_KEY,
            base_url=server.base_url,
            v2_flag=flag,
            v2_rollout={BEFORE.date(): 100},
            max_attempts=20,
        )

    def options(self) -> dict[str, Any]:
        # Without jitter nothing waits; retries come at once.
        return {"clock": self.clock, "random": lambda: 0.0}

    def clock(self) -> Any:
        return BEFORE if self.history[-1].share else BEFORE - timedelta(seconds=1)

    def flag(self, context: rc.RouteContext) -> bool | None:
        return self.history[-1].opinion

    async def flag_async(self, context: rc.RouteContext) -> bool | None:
        await asyncio.sleep(0)
        opinion = self.history[-1].opinion
        await asyncio.sleep(0)
        return opinion

    def call_is_over(self) -> None:
        if next(self._calls) % self._flips_every == 0:
            with self._flipping:
                self.history.append(next(self._states))


class Call(NamedTuple):
    result: rc.CancelResult
    is_active: list[State]


def check(calls: list[Call], server: FaultServer, operator: Operator) -> None:
    assert len(operator.history) >= 2 * len(STATES)
    for call in calls:
        version = f"v{call.result.route.version}"
        assert version in {state.version for state in call.is_active}, call
        sent = [seen for seen in server.seen if seen.process_id == call.result.process_id]
        assert {(seen.route, seen.version) for seen in sent} == {("cancel", version)}
        assert len(sent) == call.result.attempts
    # The checks above say something only where calls had one version, and calls were retried.
    steady = [call for call in calls if len({state.version for state in call.is_active}) == 1]
    assert {f"v{call.result.route.version}" for call in steady} == {"v1", "v2"}
    assert len(steady) > len(calls) / 10
    assert any(call.result.attempts > 2 for call in calls)
    assert {call.result.route.reason.value for call in calls} == {"DEFAULT", "ROLLOUT", "FLAG"}


def test_flipped_under_8_threads(server: FaultServer) -> None:
    operator = Operator(flips_every=20)
    server.chance(0.3, [respond(503)], seed=5)
    settings = operator.settings(server, operator.flag)
    with rc.Client(settings, **operator.options()) as client, ThreadPoolExecutor(8) as pool:

        def cancel(process_id: int) -> Call:
            before = len(operator.history) - 1
            result = client.cancel_job(process_id)
            call = Call(result, operator.history[before:])
            operator.call_is_over()
            return call

        calls = list(pool.map(cancel, range(1, 401)))
    check(calls, server, operator)


def test_flipped_under_50_tasks(server: FaultServer) -> None:
    operator = Operator(flips_every=40)
    server.chance(0.3, [respond(503)], seed=5)
    settings = operator.settings(server, operator.flag_async)

    async def main() -> list[Call]:
        jobs = iter(range(1, 401))
        calls: list[Call] = []
        async with rc.AsyncClient(settings, **operator.options()) as client:

            async def work() -> None:
                for process_id in jobs:
                    before = len(operator.history) - 1
                    result = await client.cancel_job(process_id)
                    calls.append(Call(result, operator.history[before:]))
                    operator.call_is_over()

            await asyncio.gather(*(work() for _ in range(50)))
        return calls

    calls = asyncio.run(main())
    assert len(calls) == 400
    check(calls, server, operator)
