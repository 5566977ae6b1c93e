"""The deprecation log and the warning: what, when, how often, and at which line it points."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from inspect import currentframe
from types import FrameType
from typing import Any

import pytest

import revenuebase_compat as rc
from revenuebase_compat.adopt.libraries.base import read_ahead
from tests.conftest import TEST_KEY
from tests.support import AFTER, BEFORE, SUNSET, FakeTime
from tests.support.fault_server import FaultServer, gone, packed, respond

LOGGER = "revenuebase_compat"


def settings(server: FaultServer, **more: object) -> rc.Settings:
    return rc.Settings(TEST_KEY, base_url=server.base_url, **more)  # type: ignore[arg-type]


def line() -> int:
    frame = currentframe()
    assert isinstance(frame, FrameType)
    assert isinstance(frame.f_back, FrameType)
    return frame.f_back.f_lineno


def test_points_at_the_callers_line() -> None:
    with FaultServer() as server, FakeTime(BEFORE).client(settings(server)) as client:
        with pytest.warns(rc.ApiDeprecationWarning) as caught:
            here = line() + 1
            client.cancel_job(1)
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, here)]


def test_points_at_the_callers_line_for_the_facade() -> None:
    with FaultServer() as server, FakeTime(BEFORE).client(settings(server)) as client:
        with pytest.warns(rc.ApiDeprecationWarning) as caught:
            here = line() + 1
            rc.cancel_job(1, client=client)
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, here)]


def test_points_at_the_callers_line_when_awaited() -> None:
    lines: list[int] = []

    async def main(server: FaultServer) -> None:
        async with FakeTime(BEFORE).async_client(settings(server)) as client:
            lines.append(line() + 1)
            await client.cancel_job(1)

    with FaultServer() as server, pytest.warns(rc.ApiDeprecationWarning) as caught:
        asyncio.run(main(server))
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, lines[0])]


def test_points_at_the_callers_line_under_gather_and_in_tasks() -> None:
    lines: list[int] = []

    async def main(server: FaultServer) -> None:
        async with FakeTime(BEFORE).async_client(settings(server)) as client:
            lines.append(line() + 1)
            await asyncio.gather(client.cancel_job(1), client.cancel_job(2))
            lines.append(line() + 1)
            task = asyncio.create_task(client.cancel_job(3))
            await task

    with FaultServer() as server, pytest.warns(rc.ApiDeprecationWarning) as caught:
        warnings.simplefilter("always")
        asyncio.run(main(server))
    assert {w.filename for w in caught} == {__file__}
    assert [w.lineno for w in caught] == [lines[0], lines[0], lines[1]]


def test_points_at_the_callers_line_in_threads() -> None:
    lines: list[int] = []

    def work(client: rc.Client, process_id: int) -> None:
        lines.append(line() + 1)
        client.cancel_job(process_id)

    with FaultServer() as server, FakeTime(BEFORE).client(settings(server)) as client:
        with pytest.warns(rc.ApiDeprecationWarning) as caught:
            thread = threading.Thread(target=work, args=(client, 1))
            thread.start()
            thread.join()
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, lines[0])]


def test_warned_once_per_line_by_pythons_default() -> None:
    with FaultServer() as server, FakeTime(BEFORE).client(settings(server)) as client:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for process_id in range(1, 6):
                client.cancel_job(process_id)
            client.cancel_job(6)
    assert len(caught) == 2


def test_an_error_made_of_the_warning_comes_before_anything_is_sent() -> None:
    with FaultServer() as server, FakeTime(BEFORE).client(settings(server)) as client:
        warnings.simplefilter("error")
        with pytest.raises(rc.ApiDeprecationWarning, match="ends on 2026-07-07"):
            client.cancel_job(1)
        assert server.seen == []


def test_a_notice_after_an_answer_never_raises() -> None:
    with FaultServer() as server, FakeTime(BEFORE).client(settings(server)) as client:
        server.script(gone(announced=True), version="v1")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".*jobs are still cancelled")
            assert client.cancel_job(1).route.reason is rc.RouteReason.V1_GONE


@pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")
def test_logged_once_an_hour_with_the_number_left_out(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeTime(BEFORE)
    with FaultServer() as server, fake.client(settings(server)) as client:
        for process_id in range(1, 11):
            client.cancel_job(process_id)
        assert len(caplog.records) == 1
        fake.elapsed += 3599
        client.cancel_job(11)
        assert len(caplog.records) == 1
        fake.elapsed += 1
        client.cancel_job(12)
    assert len(caplog.records) == 2
    assert "(10 like this were left out since it was last said)" in caplog.messages[1]
    assert caplog.records[1].__dict__["left_out"] == 10


@pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")
def test_one_log_line_for_many_threads_and_clients(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeTime(BEFORE)

    def work(process_id: int) -> None:
        with fake.client(settings(server)) as client:
            client.cancel_job(process_id)

    with FaultServer() as server, ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(1, 41)))
    assert len(caplog.records) == 1


@pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")
@pytest.mark.parametrize(
    ("now", "level"),
    [
        (SUNSET - timedelta(days=90, microseconds=1), logging.INFO),
        (SUNSET - timedelta(days=90), logging.WARNING),
        (SUNSET - timedelta(microseconds=1), logging.WARNING),
        (SUNSET, logging.ERROR),
    ],
)
def test_the_level_rises_with_time(
    now: datetime, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    with FaultServer() as server:
        made = settings(server, api_version="v1", after_sunset="try")
        with FakeTime(now).client(made) as client:
            client.cancel_job(1)
    record = next(record for record in caplog.records if record.name == LOGGER)
    assert record.levelno == level
    assert record.__dict__["api_version"] == "v1"
    assert record.__dict__["route_reason"] == "PINNED"
    assert record.__dict__["sunset"] == "2026-07-07T00:00:00+00:00"
    assert record.__dict__["notice"] == "uses_v1"
    assert record.__dict__["successor"] == "POST /v2/jobs/{process_id}/cancel"
    assert 'api_version="auto" (REVENUEBASE_API_VERSION=auto)' in record.getMessage()


def test_a_v1_setting_that_was_migrated_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with FaultServer() as server:
        with FakeTime(AFTER).client(settings(server, api_version="v1")) as client:
            with pytest.warns(rc.ApiDeprecationWarning, match="ended on 2026-07-07"):
                assert str(client.cancel_job(1).route) == "v2 (SUNSET)"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_call_that_failed_because_of_v1_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with FaultServer() as server:
        made = settings(server, api_version="v1", after_sunset="raise")
        with FakeTime(AFTER).client(made) as client:
            with pytest.raises(rc.ApiVersionRetiredError, match="REVENUEBASE_API_VERSION=auto"):
                client.cancel_job(1)
        assert server.seen == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_v1_gone_early_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with FaultServer() as server, FakeTime(BEFORE).client(settings(server)) as client:
        server.script(gone(), version="v1")
        with pytest.warns(rc.ApiDeprecationWarning):
            client.cancel_job(1)
    assert [record.__dict__["notice"] for record in caplog.records] == ["uses_v1", "v1_gone"]
    assert "answered 410" in caplog.messages[1]


@pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")
def test_a_servers_earlier_date_wins(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeTime(BEFORE)
    headers = {
        "Sunset": "Mon, 15 Jun 2026 00:00:00 GMT",
        "Deprecation": "@1767225600",
        "Link": '</v2/jobs/1/cancel>; rel="successor-version"',
    }
    with FaultServer() as server, fake.client(settings(server)) as client:
        server.always(packed("announces its end", headers=headers), version="v1")
        client.cancel_job(1)
        fake.elapsed += 3600
        client.cancel_job(2)
        fake.elapsed += 14 * 86_400
        client.cancel_job(3)
    assert [
        (r.__dict__["notice"], r.__dict__["sunset"][:10], r.levelno) for r in caplog.records
    ] == [
        ("uses_v1", "2026-07-07", logging.WARNING),
        ("announced", "2026-06-15", logging.WARNING),
        ("uses_v1", "2026-06-15", logging.WARNING),
        ("announced", "2026-06-15", logging.WARNING),
        ("uses_v1", "2026-06-15", logging.ERROR),
        ("announced", "2026-06-15", logging.WARNING),
    ]
    assert caplog.records[1].__dict__["successor"] == "/v2/jobs/1/cancel"
    assert "ended on 2026-06-15" in caplog.messages[4]


def test_nothing_is_said_where_v1_plays_no_part(caplog: pytest.LogCaptureFixture) -> None:
    with FaultServer() as server:
        with FakeTime(AFTER).client(settings(server)) as client:
            client.cancel_job(1)
        with FakeTime(BEFORE).client(settings(server, api_version="v2")) as client:
            client.cancel_job(2)
        with FakeTime(BEFORE).client(settings(server, v2_rollout=100)) as client:
            client.cancel_job(3)
        server.script(respond(401, {"detail": "Not authenticated"}))
        with FakeTime(AFTER).client(settings(server)) as client:
            with pytest.raises(rc.AuthenticationError):
                client.cancel_job(4)
    assert caplog.records == []


def test_a_stripped_key_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        rc.Client(rc.Settings(f" {TEST_KEY}\n")).close()
    assert len(caplog.records) == 1
    assert "white space" in caplog.text
    assert TEST_KEY not in caplog.text


def test_without_any_logging_configured_stderr_still_shows_it() -> None:
    program = f"""
import datetime
from revenuebase_compat import Client, Settings
from tests.support.fault_server import FaultServer
june = datetime.datetime(2026, 6, 1, tzinfo=datetime.timezone.utc)
with FaultServer() as server:
    with Client(Settings({TEST_KEY!r}, base_url=server.base_url), clock=lambda: june) as client:
        client.cancel_job(1)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stderr.startswith("revenuebase-compat: RevenueBase API v1 ends on 2026-07-07")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def child(program: str, url: str, *options: str, stderr: Any = subprocess.PIPE) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", program, url, TEST_KEY],
        # Set, it takes the buffer away that has the lock.
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORKS = """
import logging, os, signal, sys, threading, time, warnings
import revenuebase_compat as rc

warnings.simplefilter("always", rc.ApiDeprecationWarning)
warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
client = rc.Client(rc.Settings(sys.argv[2], base_url=sys.argv[1], v1_sunset="2999-01-01"))
ended = threading.Event()

def fork():
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        print("a child speaks", file=sys.stderr, flush=True)
        os._exit(0)
    return os.waitpid(pid, 0)[1]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_forked_while_another_thread_is_told_something_can_write() -> None:
    """stderr's buffer has a lock, which the child would find held for ever."""
    program = (
        FORKS
        + """
reads, writes = os.pipe()
os.dup2(writes, 2)
os.set_blocking(writes, False)
try:
    while True:
        os.write(writes, b"." * 4096)
except BlockingIOError:
    os.set_blocking(writes, True)
entered = threading.Event()

def show(message, *_, **__):
    entered.set()
    print(message, file=sys.stderr, flush=True)

def drain():
    while not ended.wait(0.2):
        os.read(reads, 2**20)

warnings.showwarning = show
logging.disable()
told = threading.Thread(target=client.cancel_job, args=(1,))
told.start()
threading.Thread(target=drain, daemon=True).start()
entered.wait(60)
time.sleep(0.05)
print(fork())
ended.set()
told.join()
"""
    )
    with FaultServer() as server:
        assert child(program, server.base_url) == "0\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_notice_that_blocks_holds_neither_threads_nor_forks_for_long() -> None:
    """As where stderr is a full pipe, or a handler waits for a thread that speaks as well."""
    program = (
        FORKS
        + """
entered = threading.Event()

def show(*_, **__):
    if threading.current_thread().name == "blocked":
        entered.set()
        ended.wait(60)

warnings.showwarning = show
blocked = threading.Thread(target=client.cancel_job, args=(1,), name="blocked")
blocked.start()
entered.wait(60)
other = threading.Thread(target=client.cancel_job, args=(2,))
other.start()
other.join(60)
assert not other.is_alive()
began = time.monotonic()
print(fork(), time.monotonic() - began < 10, blocked.is_alive())
ended.set()
blocked.join()
"""
    )
    with FaultServer() as server:
        assert child(program, server.base_url) == "0 True True\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_handler_of_a_notice_may_fork_and_call() -> None:
    program = (
        FORKS
        + """
def show(*_, **__):
    warnings.showwarning = print
    client.cancel_job(2)
    assert fork() == 0

warnings.showwarning = show
client.cancel_job(1)
print(fork())
"""
    )
    with FaultServer() as server:
        assert child(program, server.base_url).splitlines()[-1] == "0"


# --- a notice that cannot be said ---------------------------------------------------------------


class Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise ValueError("I/O operation on closed file")


@pytest.fixture
def broken_log() -> Iterator[None]:
    handler = Broken()
    logging.getLogger(LOGGER).addHandler(handler)
    yield
    logging.getLogger(LOGGER).removeHandler(handler)


@pytest.mark.usefixtures("broken_log")
@pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")
def test_a_log_that_cannot_be_written_fails_no_call() -> None:
    with FaultServer() as server, FakeTime(BEFORE).client(settings(server)) as client:
        assert str(client.cancel_job(1).route.version) == "1"
        server.script(gone())
        assert str(client.cancel_job(2).route.version) == "2"  # told after an answer


class TimeLimit(Exception):
    """As celery's, which a signal handler raises."""


@pytest.fixture
def time_limit() -> Iterator[Callable[[object], None]]:
    def handler(*_: object) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGUSR1, handler)
    yield lambda _: signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_a_time_limit_passes_through_flag_event_and_log(
    time_limit: Callable[[object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Broken()
    monkeypatch.setattr(handler, "emit", time_limit)
    with FaultServer() as server:
        for more in ({"v2_flag": time_limit}, {"on_event": time_limit, "api_version": "v2"}):
            with FakeTime(BEFORE).client(settings(server, **more)) as client:
                with pytest.raises(TimeLimit):
                    client.cancel_job(1)
        logging.getLogger(LOGGER).addHandler(handler)
        try:
            with FakeTime(BEFORE).client(settings(server)) as client, pytest.raises(TimeLimit):
                client.cancel_job(2)
        finally:
            logging.getLogger(LOGGER).removeHandler(handler)


def test_a_time_limit_amid_a_body_that_is_read_ahead_is_raised_there(
    time_limit: Callable[[object], None],
) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"process_id"'
        time_limit(None)

    with pytest.raises(TimeLimit):
        asyncio.run(read_ahead(body(), asynchronous=False))


def test_a_listener_that_calls_v1_itself_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer() as server, FakeTime(BEFORE).client(settings(server)) as client:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            listen = lambda *_, **__: client.cancel_job(2, already_cancelled="return")  # noqa: E731
            monkeypatch.setattr(warnings, "showwarning", listen)
            client.cancel_job(1)
        assert len(server.seen) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is full")
def test_a_notice_that_stderr_does_not_take_leaves_the_exit_code() -> None:
    program = """
import sys
import revenuebase_compat as rc
settings = rc.Settings(sys.argv[2], base_url=sys.argv[1], v1_sunset="2999-01-01")
with rc.Client(settings) as client:
    client.cancel_job(1)
"""
    with FaultServer() as server, open("/dev/full", "w") as full:
        assert child(program, server.base_url, "-W", "ignore", stderr=full) == ""
        assert server.applied == [1]
