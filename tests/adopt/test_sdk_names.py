"""The vendor's SDK under us: each release that speaks v1, and code for one run on a later one."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from revenuebase_compat.core.rollout import bucket
from revenuebase_compat.testing.sandbox import Sandbox
from tests.support import AFTER, BEFORE, SUNSET
from tests.support.environments import environment

pytestmark = pytest.mark.slow

KEY = "rb_test_sandbox"
PROGRAMS = Path(__file__).parents[1] / "programs" / "vendor"
GONE = {"REVENUEBASE_V1_SUNSET": "2000-01-01"}

#: What the code was written for, the release it runs on, and what comes of it without us.
PAIRS = [
    ("0.1.0", "0.1.0", '"status": 410'),
    ("0.2.1", "0.2.0", '"status": 410'),
    ("0.2.1", "0.2.1", '"status": 410'),
    ("0.1.0", "0.2.1", "AttributeError"),
    ("0.1.0", "0.3.0", "AttributeError"),
    ("0.2.1", "0.3.0", "AttributeError"),
]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    jobs = {42: "QUEUED", 43: "QUEUED", 7: "COMPLETED"}
    with Sandbox(api_key=KEY, jobs=jobs, now=AFTER, sunset=SUNSET) as running:
        yield running


def python(installed: str) -> Path:
    return environment(f"revenuebase-sdk=={installed}", with_library=True)


def run(
    installed: str, *arguments: str, sandbox: Sandbox, with_us: bool = True, **more: str
) -> subprocess.CompletedProcess[str]:
    executable = python(installed)
    command = [str(executable), *arguments]
    if with_us:
        command = [str(executable.with_name("revenuebase-compat")), "run", "--strict", "--"]
        command += [str(executable), *arguments]
    return subprocess.run(
        command,
        env={
            "PATH": os.defpath,
            "REVENUEBASE_API_KEY": KEY,
            "REVENUEBASE_BASE_URL": sandbox.base_url,
            **GONE,
            **more,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def program(written_for: str) -> str:
    return str(PROGRAMS / f"sdk_{written_for.replace('.', '_')}.py")


def lines(done: subprocess.CompletedProcess[str]) -> list[Any]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def served(sandbox: Sandbox) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in sandbox.requests]


@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("written_for", "installed", "failure"), PAIRS)
def test_code_for_one_release_cancels_on_another(
    written_for: str, installed: str, failure: str, use_async: bool, sandbox: Sandbox
) -> None:
    arguments = [program(written_for), *(["--async"] if use_async else [])]

    without = run(installed, *arguments, "42", sandbox=sandbox, with_us=False)
    assert failure in without.stdout + without.stderr
    assert sandbox.jobs[42].status == "QUEUED"
    sandbox.requests.clear()

    cancelled, again, finished = lines(run(installed, *arguments, "42", "42", "7", sandbox=sandbox))
    [looked] = lines(run(installed, *arguments, "--status", "43", sandbox=sandbox))
    assert cancelled == {
        "process_id": 42,
        "filename": "job-42.csv",
        "current_status": "CANCELLING",
        "message": "Job is being cancelled.",
    }
    assert [again["error"], again["status"]] == ["BadRequestError", 400]
    assert "already_cancelled" in json.dumps(again)
    assert "not_cancellable" in json.dumps(finished)
    assert (looked["process_id"], looked["current_status"]) == (43, "QUEUED")
    assert served(sandbox) == [
        *[("POST", "/v2/jobs/42/cancel")] * 2,
        ("POST", "/v2/jobs/7/cancel"),
        ("GET", "/v2/jobs/43"),
    ]


@pytest.mark.parametrize("share", [0, 50, 100])
@pytest.mark.parametrize(("written_for", "installed"), [pair[:2] for pair in PAIRS[:3]])
def test_before_the_sunset_the_share_decides(written_for: str, installed: str, share: int) -> None:
    jobs = range(1, 13)
    with Sandbox(api_key=KEY, jobs=jobs, now=BEFORE, sunset=SUNSET) as sandbox:
        done = run(
            installed,
            *(program(written_for), *map(str, jobs)),
            sandbox=sandbox,
            REVENUEBASE_V1_SUNSET="2999-01-01",
            REVENUEBASE_V2_ROLLOUT=str(share),
        )
        answers = lines(done)
        assert [one["process_id"] for one in answers] == [*jobs]
        assert {one["current_status"] for one in answers} == {"CANCELLING"}
        moved = [bucket("", job) < share for job in jobs]
        assert [one.version for one in sandbox.requests] == ["v2" if yes else "v1" for yes in moved]
        assert len(set(moved)) == (2 if share == 50 else 1)


NAMES = """
import inspect, json, warnings
from revenuebase_sdk import AsyncRevenuebaseClient, RevenuebaseClient
from revenuebase_compat import ApiDeprecationWarning

found = []
with RevenuebaseClient() as client:
    for name in NAMES:
        resource = getattr(client, name)
        for attribute in (*SUCCESSORS, "whatever"):
            try:
                getattr(resource, attribute)
            except AttributeError as error:
                found.append(str(error))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            resource.cancel_batch(process_id=JOB)
        [warning] = caught
        assert warning.category is ApiDeprecationWarning
        assert warning.filename == "<string>", warning
        try:
            resource.cancel_batch(JOB)  # keyword only, as it was
        except TypeError:
            pass
        else:
            raise SystemExit("a positional argument was taken")
        JOB += 1
        assert not hasattr(RevenuebaseClient, name)
        assert name not in dir(client.with_options(timeout=5.0).jobs)
assert inspect.iscoroutinefunction(AsyncRevenuebaseClient().jobs.cancel)
print(json.dumps(found))
"""


@pytest.mark.parametrize(("installed", "gone"), [("0.2.1", 1), ("0.3.0", 2)])
def test_every_other_name_says_what_its_successor_is(
    installed: str, gone: int, sandbox: Sandbox
) -> None:
    successors = {
        "get_credits": "client.account.balance()",
        "rotate_api_key": "client.account.rotate_api_key()",
        "process_email": "client.email.verify()",
        "validate_email": "client.email.verify()",
        "batch_upload": "client.email.batch_upload()",
        "batch_start": "client.email.batch_upload()",
        "list_queued": "client.jobs.list()",
        "download_batch": "client.jobs.download()",
    }
    names = ["email_processing", "v1"][:gone]
    given = f"NAMES, SUCCESSORS, JOB = {names!r}, {[*successors]!r}, 42\n"
    done = run(installed, "-c", given + NAMES, sandbox=sandbox)
    [messages] = lines(done)
    assert len(messages) == gone * (len(successors) + 1)
    for name, message in zip([*successors, "whatever"] * gone, messages, strict=True):
        assert installed in message
        assert successors.get(name, "no successor is published") in message
    # A successor that is named is one that there is.
    check = "from revenuebase_sdk import *\nfrom revenuebase_sdk import RevenuebaseClient\n"
    check += "client = RevenuebaseClient()\n"
    check += "".join(f"{call.removesuffix('()')}\n" for call in successors.values())
    assert run(installed, "-c", check, sandbox=sandbox, with_us=False).returncode == 0
    assert served(sandbox) == [("POST", f"/v2/jobs/{42 + job}/cancel") for job in range(gone)]
    assert done.stderr.count("is forwarded to client.jobs.cancel()") == gone


def test_a_name_that_is_there_stays_what_it_is(sandbox: Sandbox) -> None:
    code = """
        from revenuebase_compat import adopt
        import revenuebase_sdk
        before = dict(vars(revenuebase_sdk.RevenuebaseClient))
        adopt.install()
        adopt.install()
        client = revenuebase_sdk.RevenuebaseClient()
        assert type(client.v1).__name__ == "V1Resource"
        client.v1 = client.email_processing = "the application's own"
        assert (client.v1, client.email_processing) == ("the application's own",) * 2
        adopt.uninstall()
        assert dict(vars(revenuebase_sdk.RevenuebaseClient)) == before
        """
    done = run("0.2.1", "-c", textwrap.dedent(code), sandbox=sandbox, with_us=False)
    assert done.returncode == 0, done.stderr
