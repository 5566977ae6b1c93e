"""The vendor's SDK does its whole work on the sandbox, each release on each version it speaks."""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from revenuebase_compat.core.endpoints import ENDPOINTS, START
from revenuebase_compat.testing.sandbox import Sandbox
from tests.support.environments import environment

# Each release gets an environment of its own from the package registry on first use.
pytestmark = pytest.mark.slow

KEY = "rb_test_sandbox"
NEVER = datetime(2999, 1, 1, tzinfo=timezone.utc)
PROGRAM = Path(__file__).parents[1] / "programs" / "vendor" / "sdk.py"

#: The release, the one whose names the program uses, and the version that those speak.
RELEASES = [
    ("0.1.0", "0.1.0", "v1"),
    ("0.2.0", "0.2.0", "v1"),
    ("0.2.1", "0.2.1", "v1"),
    ("0.2.1", "0.3.0", "v2"),
    ("0.3.0", "0.3.0", "v2"),
]
WORK = [
    "credits",
    "verify=ada@example.com",
    "verify=unknown@example.com",
    "verify+=invalid@example.com",
    "upload=leads.csv",
    "status=@",
    "list",
    "cancel=@",
    "cancel=@",
    "download=7",
    "download=8",
    "download=9",
    "credits",
    "rotate",
    "credits",
]


def execute(sandbox: Sandbox, installed: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program with a release of the SDK, while the sandbox serves."""
    with sandbox:
        environ = {"REVENUEBASE_API_KEY": KEY, "REVENUEBASE_BASE_URL": sandbox.base_url}
        return subprocess.run(
            [str(environment(f"revenuebase-sdk=={installed}")), str(PROGRAM), *arguments],
            env={"PATH": os.defpath, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )


def run(
    installed: str, written_for: str, *steps: str, use_async: bool = False
) -> tuple[Sandbox, list[dict[str, Any]]]:
    """The sandbox that was worked on, and each line that the program printed."""
    sandbox = Sandbox(
        api_key=KEY,
        jobs={7: "COMPLETED", 8: "QUEUED", 9: "ERROR"},
        envelope="vendor",
        sunset=NEVER,
        # "" made 0.2.0 raise, which is why there is a 0.2.1.
        mx_record_checked=None if installed == "0.2.0" else "",
    )
    arguments = [written_for, *(["--async"] if use_async else []), *steps]
    done = execute(sandbox, installed, *arguments)
    assert done.returncode == 0, done.stderr
    return sandbox, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("installed", "written_for", "version"), RELEASES)
def test_the_sdk_does_its_whole_work(
    installed: str, written_for: str, version: str, use_async: bool
) -> None:
    sandbox, told = run(installed, written_for, *WORK, use_async=use_async)
    assert [line["step"] for line in told] == WORK
    answers: list[Any] = [line.get("answer", line.get("status")) for line in told]
    job = answers[4]["process_id"]
    assert answers[0] == {"credits": 1000}
    assert [(one["email"], one["status"]) for one in answers[1:4]] == [
        ("ada@example.com", "Valid"),
        ("unknown@example.com", "Unknown"),
        ("invalid@example.com", "Invalid"),
    ]
    assert answers[3]["domain"] == "example.com"
    assert answers[4] == {
        "process_id": 10,
        "filename": "leads.csv",
        "status": "PROCESSING QUEUED",
    }
    assert (answers[5]["process_id"], answers[5]["current_status"]) == (job, "QUEUED")
    assert [one["process_id"] for one in answers[6]["processes"]] == [8, job]
    assert answers[7]["current_status"] == "CANCELLING"
    assert answers[9] == "email,status\nada@example.com,Valid\n"
    # What the SDK raises for the refusals, with the vendor's own body.
    assert [answers[at] for at in (8, 10, 11)] == [400, 400, 400]
    assert [line["error"] for line in told if "error" in line] == ["BadRequestError"] * 3
    bodies = [line["body"] for line in told if "body" in line]
    if version == "v2":
        codes = ["already_cancelled", "not_completed", "process_error"]
        assert bodies == [{"message": code} for code in codes]
    else:
        assert bodies[0] == {"message": "Job is already cancelled."}
    assert answers[12] == {"credits": 998}
    assert answers[14] == {"credits": 998}  # with the new key
    assert sandbox.api_key != KEY
    assert {one.version for one in sandbox.requests} == {version}
    # Every call but the one that has no successor was made.
    made = {
        (one.method, re.sub(r"(?<=/)\d+", "{process_id}", one.path)) for one in sandbox.requests
    }
    assert made == {
        (one.v2_method, one.v2_path) if version == "v2" else (one.method, one.path)
        for one in ENDPOINTS
        if one is not START
    }


@pytest.mark.parametrize("installed", ["0.1.0", "0.2.1"])
def test_a_file_of_the_account_is_started_again_on_v1(installed: str) -> None:
    sandbox, told = run(
        installed, installed, "upload=leads.csv", "start=leads.csv", "start=other.csv"
    )
    assert told[1]["answer"]["status"] == "PROCESSING QUEUED"
    assert told[2]["status"] == 400
    assert [job.filename for job in sandbox.jobs.values()][-2:] == ["leads.csv"] * 2


@pytest.mark.parametrize(
    ("installed", "written_for", "refused"),
    [
        ("0.1.0", "0.1.0", [True, False]),
        ("0.2.0", "0.2.0", ["", "checked"]),
        ("0.2.1", "0.3.0", ["checked"]),
        ("0.3.0", "0.3.0", ["checked"]),
    ],
)
def test_what_the_sources_say_of_mx_record_checked_is_what_the_sdk_takes(
    installed: str, written_for: str, refused: list[object]
) -> None:
    """One program of each release shows what another type than expected there does to it."""
    for checked in ("", None, "checked", True, False):
        sandbox = Sandbox(api_key=KEY, mx_record_checked=checked, sunset=NEVER)
        done = execute(sandbox, installed, written_for, "verify+=ada@example.com")
        assert ("ValidationError" in done.stderr) == (checked in refused), (checked, done.stderr)
