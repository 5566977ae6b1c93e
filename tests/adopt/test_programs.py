"""Programs that were written against v1, not one line changed, under ``revenuebase-compat run``.

The host is hard-coded in them: a name that resolves to loopback, and a certificate of our own.
``with_….py`` cancel jobs in every way a body can be sent; ``workflow_….py`` do the whole work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import trustme

from revenuebase_compat.core.endpoints import ENDPOINTS
from revenuebase_compat.core.routing import bucket
from revenuebase_compat.testing.sandbox import Sandbox
from tests.support import AFTER, BEFORE, thinned
from tests.support.programs import (
    ALIVE,
    GONE,
    HOST,
    LIBRARIES,
    PROGRAMS,
    Front,
    Retiring,
    api,
    run,
)

pytestmark = pytest.mark.slow

URL = f"https://{HOST}/v1/cancel-process"
WAYS = ("json", "insecure", "text", "chunks", "gzip")
CASES = [
    (libraries, name)
    for libraries in LIBRARIES
    for name in PROGRAMS
    if libraries == "recent" or "httpx2" not in name
]

every_program = pytest.mark.parametrize(("libraries", "name"), CASES)
every_library = pytest.mark.parametrize("name", PROGRAMS)


def cancels(
    libraries: str, name: str, front: Front, *jobs: str, under: Mapping[str, str] | None
) -> list[Any]:
    script, *options = PROGRAMS[name]
    return run(libraries, [f"with_{script}", *options], front, *jobs, under=under)


def work(
    libraries: str, name: str, front: Front, *steps: str, under: Mapping[str, str] | None
) -> list[Any]:
    """What a whole integration prints: step, status, request as seen, type, file name, answer."""
    script, *options = PROGRAMS[name]
    return run(libraries, [f"workflow_{script}", *options], front, *steps, under=under)


def versions(sandbox: Sandbox) -> list[str]:
    return [one.version for one in sandbox.requests]


@every_program
def test_a_program_cancels_its_jobs_after_the_sunset(
    libraries: str, name: str, tmp_path: Path
) -> None:
    jobs = {number: f"{way}={number}" for number, way in enumerate(WAYS, 1)}
    with api(tmp_path, now=AFTER) as (sandbox, front):
        without = cancels(libraries, name, front, *jobs.values(), under=None)
        assert [(status, url) for status, url, *_ in without] == [(410, URL)] * len(jobs)
        sandbox.requests.clear()

        answers = cancels(libraries, name, front, *jobs.values(), under=GONE)
        for number, (status, url, cancelled, looked) in zip(jobs, answers, strict=True):
            assert (status, url) == (200, URL)
            assert cancelled.keys() == {"process_id", "filename", "current_status", "message"}
            assert cancelled["process_id"] == looked["process_id"] == number
            assert cancelled["current_status"] == looked["current_status"] == "CANCELLING"
        expected = [
            asked
            for number in jobs
            for asked in (("POST", f"/v2/jobs/{number}/cancel"), ("GET", f"/v2/jobs/{number}"))
        ]
        assert [(one.method, one.path) for one in sandbox.requests] == expected


@pytest.mark.parametrize(
    ("libraries", "name", "share"),
    [(*case, share) for case, share in [*product(CASES, [50]), *thinned(CASES, [0, 100])]],
)
def test_before_the_sunset_the_share_decides(
    libraries: str, name: str, share: int, tmp_path: Path
) -> None:
    # Not gzip: FastAPI, and so the sandbox's v1, does not read it.
    jobs = {number: f"{WAYS[number % 4]}={number}" for number in range(1, 13) if number != 7}
    under = {**ALIVE, "REVENUEBASE_V2_ROLLOUT": str(share)}
    with api(tmp_path, now=BEFORE) as (sandbox, front):
        answers = cancels(libraries, name, front, *jobs.values(), under=under)
        assert [(status, url) for status, url, *_ in answers] == [(200, URL)] * len(jobs)
        moved = [bucket("", number) < share for number in jobs for _ in ("cancel", "status")]
        assert versions(sandbox) == ["v2" if yes else "v1" for yes in moved]
        assert len(set(moved)) == (2 if share == 50 else 1)


@every_program
def test_a_rehearsal_ends_in_v2(libraries: str, name: str, tmp_path: Path) -> None:
    with api(tmp_path, now=AFTER) as (sandbox, front):
        # The settings do not know yet, and the first answer tells them.
        answers = cancels(libraries, name, front, "json=1", "text=2", under=ALIVE)
        assert [(status, url) for status, url, *_ in answers] == [(200, URL)] * 2
        assert versions(sandbox) == ["v1", "v2", "v2", "v2", "v2"]


def test_a_certificate_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    with api(tmp_path, now=AFTER) as (sandbox, front):
        front.certificates = tmp_path / "empty.pem"
        front.certificates.write_bytes(trustme.CA().cert_pem.bytes())
        for name in ("requests", "httpx", "aiohttp"):
            with pytest.raises(AssertionError, match="CERTIFICATE_VERIFY_FAILED"):
                cancels("recent", name, front, "json=1", under=GONE)
        assert sandbox.requests == []


#: The vendor's own workflow; job 7 is one that has been worked off, and 8 one that has not.
STEPS = {
    "credits": "credits",
    "verify=ann@acme.com": "verify",
    "verify+=ann@acme.com": "verify",
    "upload=emails.csv": "upload",
    "status=@": "status",
    "list": "list",
    "cancel=@": "cancel",
    "cancel=7": "cancel",
    "download=7": "download",
    "download=8": "download",
    "rotate": "rotate_key",
    "status=7": "status",
}
BY_NAME = {one.name: one for one in ENDPOINTS}

AsV1Answers = Callable[[str, str], tuple[list[Any], int]]


def path_of(step: str, version: str, uploaded: int) -> tuple[str, str]:
    """Method and path that a step is to arrive with."""
    endpoint, job = BY_NAME[STEPS[step]], step.partition("=")[2].replace("@", str(uploaded))
    if version == "v1":
        return endpoint.method, endpoint.path
    assert endpoint.v2_method is not None
    assert endpoint.v2_path is not None
    return endpoint.v2_method, endpoint.v2_path.format(process_id=job)


def told(answers: list[Any]) -> list[int]:
    return [status for _, status, *_ in answers]


@pytest.fixture(scope="module")
def as_v1_answers(tmp_path_factory: pytest.TempPathFactory) -> AsV1Answers:
    """What the bare program is told by a living v1, and the job that it uploads."""

    @cache
    def made(libraries: str, name: str) -> tuple[list[Any], int]:
        with api(tmp_path_factory.mktemp("bare"), now=BEFORE) as (sandbox, front):
            answers = work(libraries, name, front, *STEPS, under=None)
            uploaded = answers[3][5]["process_id"]
            expected = [path_of(step, "v1", uploaded) for step in STEPS]
            assert [(one.method, one.path) for one in sandbox.requests] == expected
        failing = {"cancel=7": 400, "download=8": 400}
        assert told(answers) == [failing.get(step, 200) for step in STEPS]
        for step, (_, _, seen, *_) in zip(STEPS, answers, strict=True):
            assert seen[0] == BY_NAME[STEPS[step]].method
            assert seen[1].partition("?")[0] == f"https://{HOST}{BY_NAME[STEPS[step]].path}"
        return answers, uploaded

    return made


@every_program
def test_a_whole_integration_cannot_tell_v2_from_v1(
    libraries: str, name: str, as_v1_answers: AsV1Answers, tmp_path: Path
) -> None:
    expected, uploaded = as_v1_answers(libraries, name)
    with api(tmp_path, now=AFTER) as (sandbox, front):
        # Without us all of it fails.
        without = work(libraries, name, front, *STEPS, under=None)
        assert set(told(without)) == {410}
        sandbox.requests.clear()

        assert work(libraries, name, front, *STEPS, under=GONE) == expected
        arrived = [(one.method, one.path) for one in sandbox.requests]
        assert arrived == [path_of(step, "v2", uploaded) for step in STEPS]


@pytest.mark.parametrize(
    ("name", "share"), [*product(PROGRAMS, [50]), *thinned(PROGRAMS, [0, 100])]
)
def test_before_the_sunset_only_the_whole_share_moves_what_names_no_job(
    name: str, share: int, as_v1_answers: AsV1Answers, tmp_path: Path
) -> None:
    expected, uploaded = as_v1_answers("recent", name)
    under = {**ALIVE, "REVENUEBASE_V2_ROLLOUT": str(share)}
    with api(tmp_path, now=BEFORE) as (sandbox, front):
        assert work("recent", name, front, *STEPS, under=under) == expected
        jobs = [step.partition("=")[2].replace("@", str(uploaded)) for step in STEPS]
        moved = [
            bucket("", int(job)) < share if BY_NAME[STEPS[step]].names_job else share == 100
            for step, job in zip(STEPS, jobs, strict=True)
        ]
        arrived = [(one.method, one.path) for one in sandbox.requests]
        ways = zip(STEPS, moved, strict=True)
        assert arrived == [path_of(step, "v2" if yes else "v1", uploaded) for step, yes in ways]


@pytest.mark.parametrize(("name", "after"), thinned(PROGRAMS, [0, 1, 2, 4, 5, 6, 8, 10, 11]))
def test_v1_ends_in_the_middle_of_the_work(
    name: str, after: int, as_v1_answers: AsV1Answers, tmp_path: Path
) -> None:
    expected, uploaded = as_v1_answers("recent", name)
    with api(tmp_path, Retiring, now=BEFORE) as (sandbox, front):
        assert isinstance(sandbox, Retiring)
        sandbox.ends_after = after
        assert work("recent", name, front, *STEPS, under=ALIVE) == expected
        steps = [*STEPS]
        arrived = [(one.method, one.path) for one in sandbox.requests]
        assert arrived == [
            # One request is asked of both, and none ever again of v1.
            *(path_of(step, "v1", uploaded) for step in steps[: after + 1]),
            *(path_of(step, "v2", uploaded) for step in steps[after:]),
        ]


@every_library
def test_v1_ends_with_an_upload(name: str, tmp_path: Path) -> None:
    with api(tmp_path, Retiring, now=BEFORE) as (sandbox, front):
        assert isinstance(sandbox, Retiring)
        sandbox.ends_after = 1
        steps = ("credits", "upload", "upload", "credits")
        answers = work("recent", name, front, *steps, under=ALIVE)
        arrived = [(one.path, one.status) for one in sandbox.requests]
    # What these two send of a form is no text and no bytes, so that it can be sent but once.
    streamed = name == "aiohttp" or name.startswith("httpx")
    assert told(answers) == ([200, 410, 200, 200] if streamed else [200] * 4)
    assert arrived == [
        ("/v1/credits", 200),
        ("/v1/batch-upload", 410),
        *[("/v2/email/verify/batch", 200)] * (1 if streamed else 2),
        ("/v2/account/balance", 200),
    ]


def asked(method: str, path: str, **more: Any) -> str:
    return json.dumps({"method": method, "path": path, **more})


CANCEL, VERIFY, UPLOAD = "/v1/cancel-process", "/v1/process-email", "/v1/batch-upload"
JOB = ("/v1/cancel-process", "/v1/batch-process-email-status", "/v1/batch-download")
CSV = "email\nann@acme.com\n"
NO_JOB: list[Any] = [{}, [], 1, "1", {"process_id": None}]
NO_ADDRESS: list[Any] = [{}, [], {"mail": "ann@acme.com"}]
#: What v1 would have refused, and what it never had.
BAD = [
    *(asked("POST", path) for path in (*JOB, VERIFY, UPLOAD)),
    *(asked("POST", path, params={"process_id": "1"}) for path in JOB),
    *(asked("POST", path, json={"process_id": "x"}) for path in JOB),
    *(asked("POST", path, json={"process_id": 999}) for path in JOB),
    *(asked("POST", CANCEL, json=body) for body in NO_JOB),
    *(asked("POST", CANCEL, json={"process_id": job}) for job in (0, -1, 1.5, "١", [1], 2**70)),
    asked("GET", CANCEL),
    *(asked("POST", VERIFY, json=body) for body in NO_ADDRESS),
    *(asked("POST", VERIFY, json={"email": address}) for address in ("ann", "@", "", None, 1)),
    asked("POST", VERIFY, json={"email": "ann@acme.com"}, params={"metadata": "maybe"}),
    asked("POST", VERIFY, params={"email": "ann@acme.com"}),
    asked("POST", UPLOAD, file=["file", "emails.csv", CSV, "text/csv"]),
    asked("POST", UPLOAD, file=["requested_file", "emails.txt", CSV, "text/plain"]),
    asked("POST", UPLOAD, json={"filename": "emails.csv"}),
    asked("POST", "/v1/batch-process-email", json={"filename": "none.csv"}),
    asked("POST", "/v1/credits"),
    asked("GET", "/v1/no-such-call"),
]


@every_library
def test_bad_input_is_the_servers_to_refuse(name: str, tmp_path: Path) -> None:
    with api(tmp_path, now=BEFORE) as (sandbox, front):
        expected = work("recent", name, front, *BAD, under=None)
        assert {400, 404, 405, 422} <= {*told(expected)} <= {400, 404, 405, 422}
        sandbox.requests.clear()
        under = {**ALIVE, "REVENUEBASE_V2_ROLLOUT": "100"}
        assert work("recent", name, front, *BAD, under=under) == expected
        assert told(expected) == [one.status for one in sandbox.requests]
        assert {*versions(sandbox)} == {"v1", "v2"}


@every_library
def test_bad_input_after_the_sunset(name: str, tmp_path: Path) -> None:
    with api(tmp_path, now=AFTER) as (sandbox, front):
        # Not strict, which has what would go to a v1 that is gone raise.
        script, *options = PROGRAMS[name]
        program = [f"workflow_{script}", *options]
        answers = run("recent", program, front, *BAD, under=GONE, options=())
        assert told(answers) == [one.status for one in sandbox.requests]
        assert {*told(answers)} == {400, 410, 422}
        # Of v2's refusals none shows v2's path, and what named no job met v1's end.
        assert "path" not in {error["loc"][0] for error in blamed(answers)}
        for one in sandbox.requests:
            assert (one.status == 410) == (one.version == "v1")


def blamed(answers: list[Any]) -> list[Any]:
    bodies = [answer for _, status, *_, answer in answers if status == 422]
    return [error for body in bodies for error in body["detail"]]
