"""Every fault of the catalogue, through both drivers and both versions, over real sockets."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import revenuebase_compat as rc
from tests.conftest import TEST_KEY
from tests.support import AFTER, BEFORE, FakeTime, fault_server
from tests.support.fault_server import Fault, FaultServer, respond
from tests.support.scenarios import LEAVE_V1, outcome_of

JOB = 42
#: Seconds for a call; where the server hangs, the first attempt takes half of it for real.
TIMEOUT, HANGING_TIMEOUT = 10.0, 1.0


def timeout_for(family: str, fault: Fault) -> float:
    endless = family == "endless" or fault.end is fault_server.End.HANG
    return HANGING_TIMEOUT if endless else TIMEOUT


def slow_if(slow: bool) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if slow else []


# What hangs takes its time for real: on v1, where nothing else is done, in the slow tests only.
ROWS = [
    pytest.param(
        *(version, family, name, fault),
        id=f"{name}-{version}",
        marks=slow_if(version == "v1" and timeout_for(family, fault) < TIMEOUT),
    )
    for version in ("v1", "v2")
    for family, faults in fault_server.FAMILIES.items()
    for name, fault in faults.items()
]
LOST = [
    pytest.param(name, marks=slow_if("hang" in name and name != "applied_hang"))
    for name in sorted(fault_server.FAMILIES["lost"])
]

Call = Callable[[rc.Settings, FakeTime], rc.CancelResult]


def call_sync(settings: rc.Settings, fake: FakeTime) -> rc.CancelResult:
    with fake.client(settings) as client:
        return client.cancel_job(JOB)


def call_async(settings: rc.Settings, fake: FakeTime) -> rc.CancelResult:
    async def main() -> rc.CancelResult:
        async with fake.async_client(settings) as client:
            return await client.cancel_job(JOB)

    return asyncio.run(main())


DRIVERS = pytest.mark.parametrize(
    "call", [pytest.param(call_sync, id="sync"), pytest.param(call_async, id="async")]
)


def play(
    call: Call, server: FaultServer, fake: FakeTime, **settings: Any
) -> rc.CancelResult | rc.CancelError:
    settings.setdefault("timeout", TIMEOUT)
    made = rc.Settings(TEST_KEY, base_url=server.base_url, **settings)
    started = time.perf_counter()
    try:
        return call(made, fake)
    except rc.CancelError as error:
        assert_no_key(error)
        return error
    finally:
        # Three attempts may take a half, a half and the whole, as the fake clock stands still.
        assert time.perf_counter() - started < 2 * made.timeout + 3


def assert_no_key(error: rc.CancelError) -> None:
    """Nothing of an error shows the key, nor does any local in its traceback, as reporters do."""
    shown = [str(error), repr(error), repr(vars(error)), "".join(traceback.format_exception(error))]
    shown += [repr(copied.__dict__) for copied in (copy.copy(error), copy.deepcopy(error))]
    assert pickle.dumps(error).find(TEST_KEY.encode()) == -1
    assert error.__cause__ is None
    assert error.__context__ is None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals["__name__"].startswith("revenuebase_compat"):
            shown += [repr(value) for value in frame.f_locals.values()]
    assert not [text for text in shown if TEST_KEY in text]


@DRIVERS
@pytest.mark.parametrize(("version", "family", "name", "fault"), ROWS)
@pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")
def test_a_fault_then_the_truth(
    call: Call,
    version: str,
    family: str,
    name: str,
    fault: Fault,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = outcome_of(family, name)
    fake = FakeTime(BEFORE if version == "v1" else AFTER)
    caplog.set_level(logging.DEBUG)
    with FaultServer() as server:
        server.script(fault, route="cancel")
        got = play(call, server, fake, timeout=timeout_for(family, fault))
        requests = tuple(seen.version + seen.route for seen in server.seen)
        applied = JOB in server.applied
        keys = {seen.key for seen in server.seen}
    assert keys == {TEST_KEY}
    ours = [
        record.getMessage()
        for record in caplog.records
        # A server that sends the key back puts it into httpcore's own log of its headers.
        if not (name.startswith("echo_key") and record.name.startswith("httpcore"))
    ]
    assert not [line for line in ours if TEST_KEY in line]

    if version == "v1" and name in LEAVE_V1:
        assert isinstance(got, rc.CancelResult)
        assert got.route.reason is rc.RouteReason.V1_GONE
        assert requests == ("v1cancel", "v2cancel")
        return
    assert requests == tuple(version + route for route in expected.requests)
    assert fake.slept == pytest.approx(list(expected.slept))
    if expected.error is None:
        assert isinstance(got, rc.CancelResult), got
        assert applied
        assert got.process_id == JOB
        assert got.filename == ("été.csv" if name == "bom" else "42.csv")
        assert got.attempts == expected.requests.count("cancel")
        assert f"v{got.route.version}" == version
    else:
        assert isinstance(got, rc.CancelError)
        assert type(got) is expected.error
        assert expected.words in str(got)
        assert str(got).startswith(f"job {JOB}: API {version} answered ")
        assert got.outcome_unknown is expected.unknown
        assert got.process_id == JOB
        assert got.attempts == 1
        assert not applied or got.outcome_unknown


@pytest.mark.slow
@DRIVERS
@pytest.mark.parametrize("name", LOST)
def test_answers_that_stay_lost(call: Call, name: str) -> None:
    with FaultServer() as server:
        server.always(fault_server.CATALOGUE[name], route="cancel")
        timeout = timeout_for("lost", fault_server.CATALOGUE[name])
        got = play(call, server, FakeTime(jitter=0.1), timeout=timeout)
        expected = ["cancel"] * 3
        if name.startswith("applied_"):
            # The fault only strikes what is applied by it: from the second on, it is lost too.
            assert server.applied == [JOB]
        assert [seen.route for seen in server.seen] == expected
    assert isinstance(got, rc.TransportError)
    assert isinstance(got, rc.CancelTimeoutError) is ("hang" in name)
    assert got.outcome_unknown
    assert got.attempts == 3
    assert "may have been cancelled all the same" in str(got)


@DRIVERS
def test_nothing_listens(call: Call) -> None:
    with FaultServer() as server:
        pass
    got = play(call, server, FakeTime(jitter=0.1))
    assert type(got) is rc.TransportError
    assert not got.outcome_unknown
    assert got.attempts == 3
    assert "ConnectError" in str(got)


@DRIVERS
@pytest.mark.parametrize("envelope", sorted(fault_server.ENVELOPES))
@pytest.mark.parametrize(
    ("state", "error", "code"),
    [
        ("CANCELLED", rc.AlreadyCancelledError, "already_cancelled"),
        ("CANCELLING", rc.AlreadyCancelledError, "already_cancelled"),
        ("COMPLETED", rc.NotCancellableError, "not_cancellable"),
        ("ERROR", rc.NotCancellableError, "not_cancellable"),
    ],
)
def test_every_envelope_of_a_400(
    call: Call, envelope: str, state: str, error: type[rc.CancelError], code: str
) -> None:
    with FaultServer() as server:
        server.envelope = envelope
        server.jobs[JOB] = state
        got = play(call, server, FakeTime())
        assert len(server.seen) == 1, "the code was not recognised, and the status was read"
    assert type(got) is error
    assert isinstance(got, rc.JobStateError)
    assert got.code == code
    assert got.status_code == 400
    assert not got.outcome_unknown


@DRIVERS
@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("CANCELLED", rc.AlreadyCancelledError),
        ("CANCELLING", rc.AlreadyCancelledError),
        ("COMPLETED", rc.NotCancellableError),
        ("ERROR", rc.NotCancellableError),
        ("PROCESSING", rc.UnexpectedResponseError),
        ("missing", rc.JobNotFoundError),
    ],
)
def test_a_400_that_says_nothing_is_settled_by_the_status(
    call: Call, state: str, error: type[rc.CancelError]
) -> None:
    with FaultServer() as server:
        if state == "missing":
            server.missing.add(JOB)
        else:
            server.jobs[JOB] = state
        server.script(respond(400, {"detail": "Bad request"}), route="cancel")
        got = play(call, server, FakeTime())
        assert [seen.route for seen in server.seen] == ["cancel", "status"]
    assert type(got) is error


@DRIVERS
def test_already_cancelled_can_be_a_result(call: Call) -> None:
    with FaultServer() as server:
        server.jobs[JOB] = "CANCELLED"
        got = play(call, server, FakeTime(), already_cancelled="return")
    assert isinstance(got, rc.CancelResult)
    assert got.status is rc.JobStatus.CANCELLED


@DRIVERS
def test_lost_and_then_finished(call: Call) -> None:
    """The cancel was lost, and the job is told cancelled though its status says otherwise."""
    with FaultServer() as server:
        server.script(fault_server.drop(applied=True), route="cancel")
        server.always(respond(200, fault_server.job_body(JOB, "COMPLETED")), route="status")
        got = play(call, server, FakeTime())
    assert type(got) is rc.AlreadyCancelledError
    assert got.outcome_unknown
    assert "its status is COMPLETED" in str(got)


@DRIVERS
@pytest.mark.parametrize("status", [404, 405, 501])
def test_v2_missing_before_the_sunset(call: Call, status: int) -> None:
    with FaultServer() as server:
        server.always(respond(status, {"detail": "Not Found"}), version="v2")
        got = play(call, server, FakeTime(BEFORE), v2_rollout=100)
        assert [seen.version for seen in server.seen] == ["v2", "v1"]
    assert isinstance(got, rc.CancelResult)
    assert str(got.route) == "v1 (V2_MISSING)"


@DRIVERS
@pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")
def test_never_two_switches(call: Call) -> None:
    with FaultServer() as server:
        server.always(respond(404, {"detail": "Not Found"}))
        got = play(call, server, FakeTime(BEFORE))
        assert [seen.version for seen in server.seen] == ["v1", "v2"]
    assert type(got) is rc.EndpointNotFoundError


@DRIVERS
@pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")
def test_a_rehearsed_retirement_comes_back(call: Call) -> None:
    fake = FakeTime(BEFORE)
    with FaultServer() as server:
        server.script(fault_server.gone(), version="v1")
        routes = []
        for minutes in (0, 14, 2):
            fake.elapsed += minutes * 60
            server.jobs.clear()
            got = play(call, server, fake)
            assert isinstance(got, rc.CancelResult)
            routes.append(str(got.route))
    assert routes == ["v2 (V1_GONE)", "v2 (V1_GONE)", "v1 (DEFAULT)"]


@DRIVERS
@pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")
def test_a_lost_answer_is_remembered_across_a_switch(call: Call) -> None:
    with FaultServer() as server:
        server.script(fault_server.drop(applied=True), fault_server.gone(), version="v1")
        got = play(call, server, FakeTime(BEFORE))
        assert [seen.version + seen.route for seen in server.seen] == [
            "v1cancel", "v1cancel", "v2cancel", "v2status",
        ]  # fmt: skip
    assert isinstance(got, rc.CancelResult)
    assert str(got.route) == "v2 (V1_GONE)"


@DRIVERS
def test_a_redirect_does_not_carry_the_key(call: Call) -> None:
    with FaultServer() as other, FaultServer() as server:
        server.always(fault_server.redirect(307, f"{other.base_url}/v2/jobs/42/cancel"))
        got = play(call, server, FakeTime())
        assert other.seen == []
        assert other.connections == 0
    assert type(got) is rc.UnexpectedResponseError


def test_both_drivers_come_to_equal_results() -> None:
    for fault in (fault_server.HEALTHY, fault_server.drop(applied=True), respond(503)):
        results = []
        for call in (call_sync, call_async):
            with FaultServer() as server:
                server.script(fault, route="cancel")
                results.append(play(call, server, FakeTime()))
        assert results[0] == results[1]
