"""The vendor's own client against the sandbox; ours does the same work with the same result."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from revenuebase_compat import ApiDeprecationWarning, AsyncClient, CancelResult, Client, Settings
from revenuebase_compat.testing.sandbox import Sandbox
from tests.support.environments import environment

# Each SDK gets an environment of its own from the package registry on first use.
pytestmark = pytest.mark.slow

KEY = "rb_test_sandbox"
BEFORE_SUNSET = datetime(2026, 6, 1, tzinfo=timezone.utc)
SUNSET = datetime(2026, 7, 7, tzinfo=timezone.utc)
PROGRAM = Path(__file__).parents[1] / "programs" / "vendor" / "sdk.py"


@dataclass(frozen=True)
class Sdk:
    version: str
    api: str
    now: datetime
    cancel: tuple[str, str]
    status: tuple[str, str]


V1 = (
    "v1",
    BEFORE_SUNSET,
    ("POST", "/v1/cancel-process"),
    ("POST", "/v1/batch-process-email-status"),
)
V2 = ("v2", SUNSET, ("POST", "/v2/jobs/42/cancel"), ("GET", "/v2/jobs/42"))
V1_SDKS = [Sdk("0.1.0", *V1), Sdk("0.2.1", *V1)]
SDKS = [*V1_SDKS, Sdk("0.3.0", *V2)]


def python_of(sdk: Sdk) -> Path:
    return environment(f"revenuebase-sdk=={sdk.version}")


def name_of(sdk: Sdk) -> str:
    return sdk.version


@pytest.fixture(scope="session", params=SDKS, ids=name_of)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    wanted: Sdk = request.param
    # Here, so that an unreachable registry is waited for once and not in every test.
    python_of(wanted)
    return wanted


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def use_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def sandbox(sdk: Sdk) -> Iterator[Sandbox]:
    with fresh_sandbox(sdk) as running:
        yield running


def fresh_sandbox(sdk: Sdk) -> Sandbox:
    return Sandbox(api_key=KEY, jobs={42: "QUEUED", 7: "COMPLETED"}, now=sdk.now)


def run_sdk(
    sdk: Sdk,
    sandbox: Sandbox,
    *steps: str,
    use_async: bool,
    key: str = KEY,
) -> list[dict[str, Any]]:
    """What an integration written for this SDK is told: the answer to each step, or the error."""
    options = ["--async"] if use_async else []
    done = subprocess.run(
        [str(python_of(sdk)), str(PROGRAM), sdk.version, *options, *steps],
        env={
            "REVENUEBASE_API_KEY": key,
            "REVENUEBASE_BASE_URL": sandbox.base_url,
            "PYTHONWARNINGS": "default",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [one if "error" in one else one["answer"] for one in found]


def run_ours(sandbox: Sandbox, now: datetime, *, use_async: bool) -> CancelResult:
    settings = Settings(api_key=KEY, base_url=sandbox.base_url)

    async def cancel_async() -> CancelResult:
        async with AsyncClient(settings, clock=lambda: now) as client:
            return await client.cancel_job(42)

    if use_async:
        return asyncio.run(cancel_async())
    with Client(settings, clock=lambda: now) as client:
        return client.cancel_job(42)


def served(sandbox: Sandbox) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in sandbox.requests]


def errors(answers: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(answer["error"], answer["status"]) for answer in answers]


def test_the_sdk_cancels_a_job_once(sdk: Sdk, sandbox: Sandbox, use_async: bool) -> None:
    cancelled, *again = run_sdk(sdk, sandbox, "cancel=42", "cancel=42", use_async=use_async)

    assert set(cancelled) == {"process_id", "filename", "current_status", "message"}
    assert cancelled["process_id"] == 42
    assert cancelled["filename"] == sandbox.jobs[42].filename
    assert cancelled["current_status"] == "CANCELLING"
    assert cancelled["message"]
    assert sandbox.jobs[42].status == "CANCELLING"
    assert errors(again) == [("BadRequestError", 400)]
    assert "already_cancelled" in json.dumps(again)
    assert served(sandbox) == [sdk.cancel, sdk.cancel]


def test_the_sdk_reads_a_status(sdk: Sdk, sandbox: Sandbox, use_async: bool) -> None:
    [job] = run_sdk(sdk, sandbox, "status=42", use_async=use_async)

    assert (job["process_id"], job["current_status"]) == (42, "QUEUED")
    assert sandbox.jobs[42].status == "QUEUED"
    assert served(sandbox) == [sdk.status]


def test_the_sdk_understands_a_refusal(sdk: Sdk, sandbox: Sandbox, use_async: bool) -> None:
    finished, missing = run_sdk(sdk, sandbox, "cancel=7", "cancel=999", use_async=use_async)

    assert errors([finished, missing]) == [("BadRequestError", 400)] * 2
    assert "not_cancellable" in json.dumps(finished)


def test_the_sdk_understands_a_wrong_key(sdk: Sdk, sandbox: Sandbox, use_async: bool) -> None:
    refused = run_sdk(sdk, sandbox, "cancel=42", use_async=use_async, key="rb_test_other")

    assert errors(refused) == [("AuthenticationError", 401)]
    assert sandbox.jobs[42].status == "QUEUED"


@pytest.mark.parametrize("sdk", V1_SDKS, ids=name_of, indirect=True)
def test_an_sdk_for_v1_is_told_that_v1_is_gone(sdk: Sdk, sandbox: Sandbox, use_async: bool) -> None:
    sandbox.now = SUNSET

    cancelled = run_sdk(sdk, sandbox, "cancel=42", use_async=use_async)
    looked_at = run_sdk(sdk, sandbox, "status=42", use_async=use_async)

    # The SDK has no class for 410.
    assert errors(cancelled + looked_at) == [("InternalServerError", 410)] * 2
    assert sandbox.jobs[42].status == "QUEUED"


def test_ours_gives_the_same_four_values(sdk: Sdk, sandbox: Sandbox, use_async: bool) -> None:
    [theirs] = run_sdk(sdk, sandbox, "cancel=42", use_async=use_async)
    notice = pytest.warns(ApiDeprecationWarning) if sdk.api == "v1" else contextlib.nullcontext()

    with fresh_sandbox(sdk) as other:
        with notice:
            ours = run_ours(other, sdk.now, use_async=use_async)
        assert served(other) == [sdk.cancel]

    assert theirs == {
        "process_id": ours.process_id,
        "filename": ours.filename,
        "current_status": ours.current_status,
        "message": ours.message,
    }
