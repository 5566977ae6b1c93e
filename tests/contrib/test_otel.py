"""``CancelMetrics``: what each finished call adds to the histogram and the counter."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

import revenuebase_compat as rc
from revenuebase_compat.contrib.otel import BUCKETS, CancelMetrics
from tests.conftest import TEST_KEY
from tests.support import AFTER, BEFORE, FakeTime
from tests.support.fault_server import FaultServer, respond

pytestmark = pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")

#: Looked for in all that is recorded; no number of a call's own comes near it.
JOB = 987_654_321

Call = Callable[[rc.Settings, FakeTime], None]


def call_sync(settings: rc.Settings, fake: FakeTime) -> None:
    with fake.client(settings) as client:
        client.cancel_job(JOB)


def call_async(settings: rc.Settings, fake: FakeTime) -> None:
    async def main() -> None:
        async with fake.async_client(settings) as client:
            await client.cancel_job(JOB)

    asyncio.run(main())


DRIVERS = pytest.mark.parametrize(
    "call", [pytest.param(call_sync, id="sync"), pytest.param(call_async, id="async")]
)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


class Telemetry:
    """An SDK that keeps what it is given."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        assert data is not None
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        assert (scope.scope.name, scope.scope.version) == ("revenuebase_compat", rc.__version__)
        assert TEST_KEY not in data.to_json()
        assert str(JOB) not in data.to_json()
        return {metric.name: metric for metric in scope.metrics}

    def points(self) -> list[HistogramDataPoint]:
        found: list[HistogramDataPoint] = self.metrics()[
            "revenuebase.cancel.duration"
        ].data.data_points
        return found

    def requests(self) -> int:
        counted = self.metrics()["revenuebase.cancel.requests"].data.data_points
        return sum(point.value for point in counted)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.provider.shutdown()


def settings(server: FaultServer, telemetry: Telemetry, **more: Any) -> rc.Settings:
    metrics = CancelMetrics(telemetry.provider)
    return rc.Settings(TEST_KEY, base_url=server.base_url, on_event=metrics, **more)


@DRIVERS
def test_cancel_metrics_of_a_call_that_cancelled(
    server: FaultServer, telemetry: Telemetry, call: Call
) -> None:
    server.script(respond(503))
    call(settings(server, telemetry), FakeTime(AFTER))
    (point,) = telemetry.points()
    # The wait after the 503 is all the time there is: half of 0.5 s, by the jitter of the tests.
    assert (point.count, point.sum) == (1, 0.25)
    assert dict(point.attributes or {}) == {
        "revenuebase.outcome": "cancelled",
        "revenuebase.switched": False,
        "revenuebase.api.version": "v2",
        "revenuebase.route.reason": "SUNSET",
    }
    assert telemetry.requests() == 2


@DRIVERS
def test_cancel_metrics_of_a_call_that_failed(
    server: FaultServer, telemetry: Telemetry, call: Call
) -> None:
    server.jobs[JOB] = "COMPLETED"
    with pytest.raises(rc.NotCancellableError):
        call(settings(server, telemetry, v2_flag=lambda context: False), FakeTime(BEFORE))
    (point,) = telemetry.points()
    assert (point.count, point.sum) == (1, 0)
    assert dict(point.attributes or {}) == {
        "revenuebase.outcome": "NotCancellableError",
        "revenuebase.switched": False,
        "revenuebase.api.version": "v1",
        "revenuebase.route.reason": "FLAG",
        "http.response.status_code": 400,
        "error.type": "NotCancellableError",
    }
    assert telemetry.requests() == 1


@DRIVERS
def test_cancel_metrics_of_a_call_that_switched(
    server: FaultServer, telemetry: Telemetry, call: Call
) -> None:
    server.always(respond(410), version="v1")
    call(settings(server, telemetry), FakeTime(BEFORE))
    (point,) = telemetry.points()
    assert dict(point.attributes or {}) == {
        "revenuebase.outcome": "cancelled",
        "revenuebase.switched": True,
        "revenuebase.api.version": "v2",
        "revenuebase.route.reason": "V1_GONE",
    }
    assert telemetry.requests() == 2


@DRIVERS
def test_cancel_metrics_of_a_call_that_ended_before_a_decision(
    server: FaultServer, telemetry: Telemetry, call: Call
) -> None:
    made = settings(server, telemetry, api_version="v1", after_sunset="raise")
    with pytest.raises(rc.ApiVersionRetiredError):
        call(made, FakeTime(AFTER))
    (point,) = telemetry.points()
    assert dict(point.attributes or {}) == {
        "revenuebase.outcome": "ApiVersionRetiredError",
        "revenuebase.switched": False,
        "error.type": "ApiVersionRetiredError",
    }
    assert telemetry.requests() == 0


def test_cancel_metrics_of_equal_calls_share_a_series(
    server: FaultServer, telemetry: Telemetry
) -> None:
    with FakeTime(AFTER).client(settings(server, telemetry)) as client:
        for job in range(JOB, JOB + 20):
            client.cancel_job(job)
        with pytest.raises(rc.AlreadyCancelledError):
            client.cancel_job(JOB)
    points = {
        (point.attributes or {})["revenuebase.outcome"]: point for point in telemetry.points()
    }
    assert {outcome: point.count for outcome, point in points.items()} == {
        "cancelled": 20,
        "AlreadyCancelledError": 1,
    }
    assert telemetry.requests() == 21


def test_cancel_metrics_have_units_and_buckets(server: FaultServer, telemetry: Telemetry) -> None:
    server.script(respond(503))
    call_sync(settings(server, telemetry), FakeTime(AFTER))
    metrics = telemetry.metrics()
    assert metrics["revenuebase.cancel.duration"].unit == "s"
    assert metrics["revenuebase.cancel.requests"].unit == "{request}"
    (point,) = telemetry.points()
    assert tuple(point.explicit_bounds) == BUCKETS
    assert point.bucket_counts[BUCKETS.index(0.25)] == 1


def test_cancel_metrics_take_a_provider_that_comes_later() -> None:
    """Settings are often made when a module is imported, and the SDK is set up after that."""
    program = f"""
from revenuebase_compat import Client, Settings
from revenuebase_compat.contrib.otel import CancelMetrics
settings = Settings({TEST_KEY!r}, base_url="http://127.0.0.1:1", on_event=CancelMetrics())

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
try:
    Client(settings, sleep=lambda seconds: None).cancel_job(1)
except Exception as error: print(type(error).__name__)
print(reader.get_metrics_data().to_json())
"""
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("TransportError\n")
    assert '"error.type": "TransportError"' in done.stdout


def test_record_is_named_by_a_variable_and_made_when_the_first_call_ends(
    server: FaultServer,
) -> None:
    program = f"""
import sys
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from revenuebase_compat import Client, Settings
environ = {{
    "REVENUEBASE_API_KEY": {TEST_KEY!r},
    "REVENUEBASE_BASE_URL": sys.argv[1],
    "REVENUEBASE_ON_EVENT": "revenuebase_compat.contrib.otel:record",
}}
client = Client(Settings.from_env(environ, api_version="v2"))
reader = InMemoryMetricReader()
set_meter_provider(MeterProvider([reader]))
client.cancel_job(1)
client.cancel_job(2)
(scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
for metric in scope.metrics:
    print(metric.name, *(getattr(point, "count", None) or point.value
        for point in metric.data.data_points))
"""
    command = [sys.executable, "-c", program, server.base_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == [
        "revenuebase.cancel.duration 2",
        "revenuebase.cancel.requests 2",
    ]


def test_cancel_metrics_without_its_extra_names_what_to_install() -> None:
    done = run(
        "import sys; sys.modules['opentelemetry'] = None; import revenuebase_compat.contrib.otel"
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "MissingExtraError: CancelMetrics needs what is not installed: "
        "pip install 'opentelemetry-api>=1.30'"
    )


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
