"""Our cancelling, on both sides of the end of RevenueBase API v1."""

import pytest

from revenuebase_compat import ApiDeprecationWarning, cancel_job
from revenuebase_compat.testing.pytest_plugin import Clock
from revenuebase_compat.testing.sandbox import Sandbox


def test_midnight(revenuebase_sandbox: Sandbox, revenuebase_clock: Clock) -> None:
    revenuebase_sandbox.add_job(1)
    revenuebase_sandbox.add_job(2)
    revenuebase_clock.move_to("2026-07-06T23:00")
    with pytest.warns(ApiDeprecationWarning, match="v1 ends on 2026-07-07"):
        assert str(cancel_job(1).route) == "v1 (DEFAULT)"
    revenuebase_clock.advance(hours=1)
    assert str(cancel_job(2).route) == "v2 (SUNSET)"
    paths = [request.path for request in revenuebase_sandbox.requests]
    assert paths == ["/v1/cancel-process", "/v2/jobs/2/cancel"]


def test_an_answer_is_lost(revenuebase_sandbox: Sandbox) -> None:
    job = revenuebase_sandbox.add_job(4, status="PROCESSING")
    revenuebase_sandbox.drop("v2")  # the job is cancelled, but nobody hears of it
    assert cancel_job(4).attempts == 2
    assert job.status == "CANCELLING"
