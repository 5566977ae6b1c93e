"""``revenuebase-compat sandbox``: its options, its clock, and a line for each request."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import httpx
import pytest

from revenuebase_compat.cli.main import main


@contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-m", "revenuebase_compat", "sandbox", "--port", "0", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout
            found = re.fullmatch(
                r"export REVENUEBASE_BASE_URL=(\S+) REVENUEBASE_API_KEY=(\S+)\n",
                process.stdout.readline(),
            )
            assert found
            headers = {"x-key": found[2]}
            with httpx.Client(base_url=found[1], headers=headers, trust_env=False) as client:
                yield process, client
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> list[str]:
    """What it had said on stderr, when Ctrl-C ended it."""
    assert process.stderr
    lines = [process.stderr.readline().rstrip()]  # by then it can be stopped
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(20) == 0
    assert process.stdout
    assert process.stdout.read() == ""
    return [*lines, *process.stderr.read().splitlines()]


def test_each_request_is_a_line_that_shows_its_version() -> None:
    with serving("--now", "2026-07-06T23:59") as (process, client):
        client.post("/v1/cancel-process", json={"process_id": 1})
        client.get("/v2/jobs/1")
        client.get("/v1/credits", headers={"x-key": "rb_test_other"})
        client.get("/%1b[31m/nowhere")
        assert ended(process) == [
            "serving until Ctrl-C",
            "POST /v1/cancel-process 200",
            "GET /v2/jobs/1 200",
            "GET /v1/credits 401",
            "GET / [31m/nowhere 404",
        ]


def test_quiet_says_nothing_of_requests() -> None:
    with serving("--quiet") as (process, client):
        client.get("/v2/jobs")
        assert ended(process) == ["serving until Ctrl-C"]


def test_a_reader_of_stderr_who_leaves_stops_nothing() -> None:
    with serving() as (process, client):
        assert process.stderr
        process.stderr.close()
        assert [client.get("/v2/jobs").status_code for _ in range(3)] == [200] * 3


def test_its_clock_runs_on_and_its_options_are_in_force() -> None:
    options = ["--now", "2026-06-01", "--credits", "0", "--envelope", "vendor", "--jobs", "7"]
    options += ["--job-seconds", "0", "--mx-record-checked", "true", "--rate-limit", "9"]
    with serving(*options) as (_process, client):
        leads = {"requested_file": ("leads.csv", b"email\nada@example.com\n")}
        job = client.post("/v1/batch-upload", files=leads).json()["process_id"]
        status = client.post("/v1/batch-process-email-status", json={"process_id": job})
        assert (job, status.json()["current_status"]) == (8, "COMPLETED")
        assert client.post("/v2/jobs/8/cancel").json() == {"message": "not_cancellable"}
        body = {"email": "ada@example.com"}
        assert client.post("/v2/email/verify", json=body).status_code == 402
        answers = [client.get("/v2/jobs") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert answers[0].headers["x-ratelimit-limit"] == "9"
        # The first of the day, and some seconds, which would end the limit in time.
        moment = parsedate_to_datetime(answers[0].headers["date"])
        assert (moment.year, moment.month, moment.day, moment.hour) == (2026, 6, 1, 0)
        reset = int(answers[-1].headers["x-ratelimit-reset"])
        assert 0 <= reset - moment.timestamp() <= 61


@pytest.mark.parametrize(
    "option",
    [
        ["--now", "07/08/2026"],
        ["--now", "soon"],
        ["--rate-limit", "-1"],
        ["--rate-limit", "many"],
        ["--credits", "1.5"],
        ["--job-seconds", "-1"],
        ["--job-seconds", "nan"],
        ["--mx-record-checked", "perhaps"],
        ["--envelope", "xml"],
    ],
)
def test_a_wrong_option_is_one_sentence(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["sandbox", "--port", "0", *option])
    except SystemExit as exit_:
        code = exit_.code  # type: ignore[assignment]
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert option[0].strip("-") in err
    assert repr(option[1]) in err
