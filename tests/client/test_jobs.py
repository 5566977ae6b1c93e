"""``get_job``, ids of any integral type, ``already_cancelled`` per call, ``retry_after``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import revenuebase_compat as rc
from revenuebase_compat.client.memory import memory
from tests.conftest import TEST_KEY
from tests.support import AFTER, BEFORE, FakeTime
from tests.support.fault_server import FaultServer, drop, gone, respond, too_many, wrong_job


def settings(server: FaultServer, **more: Any) -> rc.Settings:
    return rc.Settings(TEST_KEY, base_url=server.base_url, **more)


Ask = Callable[..., rc.Job]


def get_sync(time: FakeTime, given: rc.Settings, process_id: Any) -> rc.Job:
    with time.client(given) as client:
        return client.get_job(process_id)


def get_async(time: FakeTime, given: rc.Settings, process_id: Any) -> rc.Job:
    async def main() -> rc.Job:
        async with time.async_client(given) as client:
            return await client.get_job(process_id)

    return asyncio.run(main())


DRIVERS = pytest.mark.parametrize("get", [get_sync, get_async])


@DRIVERS
@pytest.mark.parametrize(("now", "version"), [(BEFORE, "v1"), (AFTER, "v2")])
@pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")
def test_get_job_reads_the_status_on_either_version(get: Ask, now: Any, version: str) -> None:
    events: list[rc.CancelEvent] = []
    with FaultServer() as server:
        server.jobs[42] = "PROCESSING"
        job = get(FakeTime(now), settings(server, on_event=events.append), "42")
        assert type(job) is rc.Job
        assert (job.process_id, job.filename, job.status) == (42, "42.csv", "PROCESSING")
        assert [(one.route, one.version) for one in server.seen] == [("status", version)]
        assert server.applied == []
    assert events == []


@DRIVERS
@pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")
def test_get_job_switches_retries_and_remembers_as_a_cancel_does(get: Ask) -> None:
    with FaultServer() as server:
        server.jobs[42] = "QUEUED"
        server.script(drop(), gone(), respond(503))
        time = FakeTime(BEFORE)
        assert get(time, settings(server), 42).status is rc.JobStatus.QUEUED
        assert [one.version for one in server.seen] == ["v1", "v1", "v2", "v2"]
        assert get(time, settings(server), 42).filename == "42.csv"
        assert server.seen[-1].version == "v2"
    assert memory.retired_at


@DRIVERS
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (respond(400, {"detail": "no such job"}), rc.JobNotFoundError),
        (respond(401), rc.AuthenticationError),
        (respond(404), rc.EndpointNotFoundError),
        (respond(500), rc.ServerError),
        (wrong_job(), rc.UnexpectedResponseError),
        (respond(302), rc.UnexpectedResponseError),
        (drop(), rc.TransportError),
    ],
    ids=lambda one: getattr(one, "title", getattr(one, "__name__", "")),
)
def test_get_job_raises_the_same_errors(get: Ask, fault: Any, kind: type[rc.CancelError]) -> None:
    with FaultServer() as server:
        server.always(fault)
        with pytest.raises(kind) as caught:
            get(FakeTime(), settings(server), 42)
    assert not caught.value.outcome_unknown, "a reading changes nothing"
    assert "job 42" in str(caught.value)
    assert caught.value.process_id == 42


@DRIVERS
def test_get_job_checks_before_it_sends(get: Ask) -> None:
    with FaultServer() as server:
        with pytest.raises(rc.InvalidProcessIdError):
            get(FakeTime(), settings(server), "x")
        with pytest.raises(rc.ConfigurationError, match="REVENUEBASE_API_KEY"):
            get(FakeTime(), rc.Settings(base_url=server.base_url), 42)
        assert server.seen == []


def test_get_job_warns_of_v1_in_its_own_words() -> None:
    with FaultServer() as server, FakeTime(BEFORE).client(settings(server)) as client:
        with pytest.warns(rc.ApiDeprecationWarning) as caught:
            client.get_job(42)
    (warning,) = caught
    assert "the status of jobs is still read with POST /v1/batch-process-email-status" in str(
        warning.message
    )
    assert "GET /v2/jobs/{process_id}" in str(warning.message)
    assert warning.filename == __file__


# --- ids --------------------------------------------------------------------------------------


class Indexed:
    """As numpy's integers."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value  # type: ignore[no-any-return]


@pytest.mark.parametrize("given", [42, "42", Indexed(42)])
def test_ids_of_any_integral_type(given: Any) -> None:
    with FaultServer() as server, FakeTime().client(settings(server)) as client:
        assert type(client.cancel_job(given).process_id) is int
        (outcome,) = client.cancel_jobs([given])
        assert outcome.process_id == 42
        assert type(outcome.process_id) is int


@pytest.mark.parametrize("given", [True, Indexed("x"), Indexed(0), Indexed(2**63), 1.0, Indexed])
def test_ids_that_are_none_are_refused(given: Any) -> None:
    with FaultServer() as server, FakeTime().client(settings(server)) as client:
        with pytest.raises(rc.InvalidProcessIdError):
            client.cancel_job(given)
        assert server.seen == []


# --- per call ---------------------------------------------------------------------------------


def test_already_cancelled_may_be_given_per_call() -> None:
    async def main(server: FaultServer) -> rc.CancelResult:
        async with FakeTime().async_client(settings(server)) as client:
            return await client.cancel_job(42, already_cancelled="return")

    with FaultServer() as server, FakeTime().client(settings(server)) as client:
        server.jobs[42] = "CANCELLED"
        with pytest.raises(rc.AlreadyCancelledError):
            client.cancel_job(42)
        assert client.cancel_job(42, already_cancelled="return").status == "CANCELLED"
        assert rc.cancel_job(42, client=client, already_cancelled="return").status == "CANCELLED"
        assert asyncio.run(main(server)).status == "CANCELLED"
        returning = FakeTime().client(settings(server, already_cancelled="return"))
        with pytest.raises(rc.AlreadyCancelledError):
            returning.cancel_job(42, already_cancelled="raise")
        before = len(server.seen)
        wrong: Any = "ignore"
        with pytest.raises(rc.ConfigurationError, match="already_cancelled"):
            client.cancel_job(42, already_cancelled=wrong)
        assert len(server.seen) == before
        returning.close()


def test_retry_after_is_seconds() -> None:
    with FaultServer() as server, FakeTime().client(settings(server, timeout=5)) as client:
        server.script(too_many(Retry_After="90"))
        with pytest.raises(rc.RateLimitError) as caught:
            client.cancel_job(42)
        assert caught.value.retry_after == 90
        assert caught.value.reset_at is not None
        server.script(*[too_many()] * 3)
        with pytest.raises(rc.RateLimitError) as caught:
            client.cancel_job(42)
        assert caught.value.retry_after is None
