"""``cancel_jobs``: what it started ends when it is closed; outcomes carry the call's own facts."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest

from revenuebase_compat import (
    AsyncClient,
    AuthenticationError,
    CancelError,
    Client,
    ConfigurationError,
    JobFailed,
    JobNotFoundError,
    JobOutcome,
    Settings,
)
from tests.conftest import TEST_KEY
from tests.support import FakeTime
from tests.support.fault_server import FaultServer, hang, late, respond


def settings(server: FaultServer, **more: Any) -> Settings:
    return Settings(TEST_KEY, base_url=server.base_url, api_version="v2", **more)


def workers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "revenuebase-cancel"]


def no_worker_left() -> bool:
    until = time.monotonic() + 5
    while workers() and time.monotonic() < until:
        time.sleep(0.005)
    return not workers()


def by_close(client: Client) -> None:
    jobs = client.cancel_jobs(range(1, 31), wait=600)
    assert next(jobs) is not None
    jobs.close()
    assert list(jobs) == []


def by_with(client: Client) -> None:
    with client.cancel_jobs(range(1, 31), wait=600) as jobs:
        next(jobs)


def by_dropping(client: Client) -> None:
    for _ in client.cancel_jobs(range(1, 31), wait=600):
        break
    gc.collect()


def by_the_client(client: Client) -> None:
    jobs = client.cancel_jobs(range(1, 31), wait=600)
    next(jobs)
    client.close()
    # Nothing is lost: what was started and is ended now, and what is refused, is an outcome.
    rest = list(jobs)
    assert len({one.process_id for one in rest} - {1}) == len(rest) < 30
    assert {type(one.error) for one in rest if not one.ok} <= {CancelError, ConfigurationError}


@pytest.mark.parametrize("close", [by_close, by_with, by_dropping, by_the_client])
def test_cancel_jobs_closed_sends_nothing_more(close: Callable[[Client], None]) -> None:
    with FaultServer() as server:
        server.script_for(1, respond(200, job(1, "CANCELLED")), route="cancel")
        client = Client(settings(server))
        close(client)
        assert no_worker_left(), "each ends within a second, however long it was to wait"
        sent = len(server.seen)
        time.sleep(0.7)  # the first look at a job comes after half a second
        assert len(server.seen) == sent
        client.close()


def test_cancel_jobs_left_in_the_middle_lets_the_process_end() -> None:
    program = """
import sys
from revenuebase_compat import Client, Settings
client = Client(Settings("rb_test_end", base_url=sys.argv[1], api_version="v2"))
for outcome in client.cancel_jobs(range(1, 31), wait=600):
    break
"""
    with FaultServer() as server:
        server.script_for(1, respond(200, job(1, "CANCELLED")), route="cancel")
        began = time.monotonic()
        command = [sys.executable, "-c", program, server.base_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert time.monotonic() - began < 20  # a wait of ten minutes is not sat out


@pytest.mark.parametrize("how", ["aclose", "with", "client"])
def test_async_cancel_jobs_closed_sends_nothing_more(how: str) -> None:
    async def main(server: FaultServer) -> None:
        client = AsyncClient(settings(server))
        jobs = client.cancel_jobs(range(1, 31), wait=600)
        await anext(jobs)
        if how == "aclose":
            await jobs.aclose()
        elif how == "with":
            async with jobs:
                pass
        else:
            waiting = asyncio.ensure_future(anext(jobs))
            await asyncio.wait([waiting], timeout=0.2)  # some have been started by then
            await client.aclose()
            rest = [await waiting, *[one async for one in jobs]]
            started = {seen.process_id for seen in server.seen}
            assert {one.process_id for one in rest} == started - {1} != set()
            assert not any(one.ok for one in rest)
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == 1
        sent = len(server.seen)
        await asyncio.sleep(0.7)
        assert len(server.seen) == sent
        await client.aclose()

    with FaultServer() as server:
        server.script_for(1, respond(200, job(1, "CANCELLED")), route="cancel")
        asyncio.run(main(server))


def job(process_id: int, state: str) -> dict[str, Any]:
    return {"process_id": process_id, "filename": "a", "current_status": state, "message": ""}


# --- outcomes ---------------------------------------------------------------------------------


class NoMore(Exception):
    pass


def test_outcome_of_a_call_that_somebody_else_ended_has_its_facts() -> None:
    """The job was cancelled, and the first pause of the wait for its end raises."""

    def sleep(seconds: float) -> None:
        raise NoMore("no sleep")

    async def sleep_async(seconds: float) -> None:
        sleep(seconds)

    async def main(server: FaultServer) -> list[JobOutcome]:
        async with AsyncClient(settings(server), sleep=sleep_async) as client:
            return [one async for one in client.cancel_jobs([43], wait=5)]

    with FaultServer() as server, Client(settings(server), sleep=sleep) as client:
        outcomes = [*client.cancel_jobs([42], wait=5), *asyncio.run(main(server))]
        assert server.applied == [42, 43]
    for outcome in outcomes:
        assert isinstance(outcome, JobFailed)
        assert "NoMore: no sleep" in str(outcome.error)
        error = outcome.error
        assert (error.attempts, error.outcome_unknown, str(error.api_version)) == (1, True, "2")
    assert [outcome.process_id for outcome in outcomes] == [42, 43]


@pytest.mark.parametrize("failures", [[0], [1], [0, 1, 2], [2, 4], range(100)])
def test_failed_thread_start_loses_and_doubles_nothing(
    failures: Iterable[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last: no thread at all, as in ``atexit`` from Python 3.12 on."""
    starts = itertools.count()
    start = threading.Thread.start

    def failing(self: threading.Thread) -> None:
        if self.name == "revenuebase-cancel" and next(starts) in failures:
            raise RuntimeError("can't start new thread")
        start(self)

    with FaultServer() as server, Client(settings(server)) as client:
        client.cancel_job(1000)
        monkeypatch.setattr(threading.Thread, "start", failing)
        outcomes = list(client.cancel_jobs(range(1, 21), concurrency=4))
    assert Counter(outcome.process_id for outcome in outcomes) == dict.fromkeys(range(1, 21), 1)
    assert all(outcome.ok for outcome in outcomes)
    assert Counter(server.applied) == dict.fromkeys([1000, *range(1, 21)], 1)


def test_cancel_jobs_works_at_exit() -> None:
    program = """
import atexit, sys
from revenuebase_compat import Client, Settings
client = Client(Settings("rb_test_exit", base_url=sys.argv[1], api_version="v2"))
atexit.register(lambda: print(sum(one.ok for one in client.cancel_jobs(range(1, 11)))))
"""
    with FaultServer() as server:
        command = [sys.executable, "-c", program, server.base_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")
        assert sorted(server.applied) == [*range(1, 11)]


# --- stop_on ----------------------------------------------------------------------------------

Run = Callable[..., list[JobOutcome]]


def run_sync(server: FaultServer, ids: Iterable[Any], **more: Any) -> list[JobOutcome]:
    with FakeTime().client(settings(server)) as client:
        return list(client.cancel_jobs(ids, **more))


def run_async(server: FaultServer, ids: Iterable[Any], **more: Any) -> list[JobOutcome]:
    async def main() -> list[JobOutcome]:
        async with FakeTime().async_client(settings(server)) as client:
            return await listed(client.cancel_jobs(ids, **more))

    return asyncio.run(main())


async def listed(jobs: AsyncIterator[JobOutcome]) -> list[JobOutcome]:
    return [one async for one in jobs]


RUN = pytest.mark.parametrize("run", [run_sync, run_async])


@RUN
@pytest.mark.parametrize("status", [401, 403])
def test_wrong_key_stops_starting_more(run: Run, status: int) -> None:
    with FaultServer() as server:
        server.always(respond(status))
        outcomes = run(server, range(1, 51))
        assert len(outcomes) == len(server.seen) == 1


@RUN
def test_stop_on_names_the_errors(run: Run) -> None:
    with FaultServer() as server:
        server.always(respond(401))
        assert len(run(server, range(1, 6), stop_on=())) == 5
        server.heal()
        server.missing.add(3)
        outcomes = run(server, range(1, 51), stop_on=JobNotFoundError, concurrency=1)
        assert [one.process_id for one in outcomes] == [1, 2, 3]
        outcomes = run(server, [3, 4], stop_on=(AuthenticationError,))
        assert len(outcomes) == 2


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"process_ids": 42}, "process_ids is a int: give a list of ids"),
        ({"process_ids": None}, "process_ids is a NoneType: give a list"),
        ({"stop_on": ValueError}, "stop_on .*give classes of errors"),
        ({"stop_on": "AuthenticationError"}, "stop_on"),
    ],
)
def test_wrong_argument_is_a_configuration_error(kind: Any, more: Any, words: str) -> None:
    client = kind(Settings(TEST_KEY))
    with pytest.raises(ConfigurationError, match=words):
        client.cancel_jobs(**{"process_ids": [1], **more})


def test_async_jobs_of_a_task_that_is_cancelled_are_cancelled() -> None:
    async def main(server: FaultServer) -> None:
        async with AsyncClient(settings(server)) as client:
            task = asyncio.ensure_future(listed(client.cancel_jobs([1, 2, 3])))
            await asyncio.wait([task], timeout=0.3)  # hung by then
            task.cancel()
            await asyncio.wait([task], timeout=5)
            assert task.cancelled()
            assert len(asyncio.all_tasks()) == 1

    with FaultServer() as server:
        server.script_for(1, late(0.01))
        server.script_for(2, hang())
        server.script_for(3, hang())
        asyncio.run(main(server))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_does_not_go_on_with_the_jobs_of_its_parent() -> None:
    with FaultServer() as server, Client(settings(server)) as client:
        jobs = client.cancel_jobs([1, 2, 3])
        next(jobs)
        read, write = os.pipe()
        if not (child := os.fork()):
            try:
                next(jobs)
            except ConfigurationError as error:
                os.write(write, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        with os.fdopen(read) as said:
            assert said.read() == "these jobs are another process's: call cancel_jobs() here"
        assert len([*jobs]) == 2
