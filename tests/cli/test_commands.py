"""The command: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from revenuebase_compat.cli.main import main
from revenuebase_compat.testing.sandbox import ENVELOPE_NAMES, Sandbox
from tests.conftest import TEST_KEY
from tests.support.fault_server import FaultServer, late, respond


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "REVENUEBASE" not in name}
    return subprocess.run(
        [sys.executable, "-m", "revenuebase_compat", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=clean | environ,
        check=False,
    )


JOB = {"process_id": 1, "filename": "1.csv", "current_status": "CANCELLING", "message": ""}


def test_cancel_in_the_sandbox() -> None:
    done = run("cancel", "42", "--sandbox")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "job 42 (job-42.csv) is CANCELLING, by API v2 (SUNSET): API v1 ended on 2026-07-07\n"
    )
    assert done.stderr == ""


@pytest.mark.slow
def test_a_wait_in_the_sandbox_ends() -> None:
    done = run("cancel", "42", "--sandbox", "--wait")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("job 42 (job-42.csv) is CANCELLED, by API v2 (SUNSET): ")


def test_a_wait_that_is_over_says_so() -> None:
    with Sandbox(jobs=[42]) as sandbox:
        where = {"BASE_URL": sandbox.base_url, "API_KEY": sandbox.api_key}
        variables = {f"REVENUEBASE_{name}": value for name, value in where.items()}
        done = run("cancel", "42", "--wait-timeout", "0.1", **variables)
    assert done.returncode == 0, done.stderr
    assert "is CANCELLING" in done.stdout
    assert done.stdout.endswith("; it had not ended in 0.1 s\n")


def test_cancel_before_the_sunset(capsys: pytest.CaptureFixture[str]) -> None:
    done = run("cancel", "42", "--sandbox", REVENUEBASE_V1_SUNSET="2999-01-01")
    assert "by API v2 (V1_GONE)" in done.stdout
    assert "answered 410" in done.stderr


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    with FaultServer() as server:
        monkeypatch.setenv("REVENUEBASE_API_KEY", TEST_KEY)
        monkeypatch.setenv("REVENUEBASE_BASE_URL", server.base_url)
        yield server


def test_json_is_one_object_a_line_for_every_job(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.jobs[2] = "COMPLETED"
    assert main(["cancel", "1", "2", "1", "--json"]) == 1
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert first == {
        "process_id": 1,
        "ok": True,
        "filename": "1.csv",
        "current_status": "CANCELLING",
        "message": first["message"],
        "version": "v2",
        "reason": "SUNSET",
        "attempts": 1,
    }
    assert second == {
        "process_id": 2,
        "ok": False,
        "version": "v2",
        "reason": "SUNSET",
        "attempts": 1,
        "error": "NotCancellableError",
        "code": "not_cancellable",
        "message": second["message"],
        "outcome_unknown": False,
    }
    assert err.splitlines()[0] == "1/2 job 1 cancelled"
    assert err.splitlines()[1].startswith("2/2 job 2 NotCancellableError: job 2: API v2 answered")


def test_errors_go_to_stderr(server: FaultServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.jobs[2] = "COMPLETED"
    assert main(["cancel", "2"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("NotCancellableError: job 2: API v2 answered 400 not_cancellable")
    assert TEST_KEY not in err


def test_route(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["route", "42"]) == 0
    assert main(["route", "42", "--at", "2026-06-01"]) == 0
    assert main(["route", "42", "--at", "2026-06-01", "--json"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "job 42: v2 (SUNSET): API v1 ended on 2026-07-07",
        "job 42: v1 (DEFAULT): API v1 lives until 2026-07-07",
        '{"process_id": 42, "ok": true, "version": "v1", "reason": "DEFAULT"}',
    ]


def test_route_with_a_flag_of_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "flagmod.py").write_text("def flag(context): return context.process_id == 1\n")
    (tmp_path / "httpx.py").write_text("raise SystemExit('it hid a library')\n")
    script = Path(sys.executable).with_name("revenuebase-compat")
    clean = {name: value for name, value in os.environ.items() if "REVENUEBASE" not in name}
    command = [str(script), "route", "1", "2", "--at", "2026-06-01"]
    done = subprocess.run(
        command, cwd=tmp_path, env=clean | {"REVENUEBASE_V2_FLAG": "flagmod:flag"},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert [line.split(": ")[1] for line in done.stdout.splitlines()] == ["v2 (FLAG)", "v1 (FLAG)"]
    missing = clean | {"REVENUEBASE_V2_FLAG": "flagmot:flag"}
    done = subprocess.run(
        command, cwd=tmp_path, env=missing, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "No module named 'flagmot'" in done.stderr


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_stops_the_run(
    server: FaultServer, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    server.always(respond(status))
    assert main(["cancel", "--json", "--yes", *map(str, range(1, 51))]) == 1
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert sorted(row["process_id"] for row in rows) == [*range(1, 51)], "one for each"
    fates = Counter(row["error"] for row in rows)
    name = {401: "AuthenticationError", 403: "PermissionDeniedError"}[status]
    assert set(fates) == {name, "not_started"}
    assert fates[name] == len(server.seen) <= 8, "no more than may be under way"
    left = next(row for row in rows if row["error"] == "not_started")
    assert left == {
        "process_id": left["process_id"],
        "ok": False,
        "version": None,
        "reason": None,
        "attempts": 0,
        "error": "not_started",
        "code": None,
        "message": "stopped before it was sent",
        "outcome_unknown": False,
    }
    assert re.search(
        rf"with {fates[name]} of 50 jobs done, {fates['not_started']} not started: "
        "the key was refused\n",
        err,
    )


@pytest.mark.slow
@pytest.mark.parametrize("retry_after", [40, 3600])  # within a call's timeout, and beyond it
def test_ctrl_c_waits_for_no_rate_limit(
    server: FaultServer, tmp_path: Path, retry_after: int
) -> None:
    refused = respond(429, headers={"Retry-After": str(retry_after)})
    server.script_for(2, late(2.0))
    for job in range(3, 10):  # eight are under way by then
        server.script_for(job, late(0.5, refused))
    journal = tmp_path / "journal"
    ours = [sys.executable, "-m", "revenuebase_compat", "cancel", "--json", "--yes"]
    command = [*ours, "--resume", str(journal), *map(str, range(1, 31))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as it:
        ends = time.monotonic() + 20
        while len(server.seen) < 9:
            assert time.monotonic() < ends
            time.sleep(0.01)
        time.sleep(1.0)  # what was refused is asleep
        began = time.monotonic()
        it.send_signal(signal.SIGINT)
        try:
            out, err = it.communicate(timeout=20)
        finally:
            it.kill()
    assert it.returncode == 130
    assert time.monotonic() - began < 10
    rows = {row["process_id"]: row for row in map(json.loads, out.splitlines())}
    assert sorted(rows) == [*range(1, 31)]
    assert rows[2]["ok"], "it was waited for"
    assert rows[5] == {
        "process_id": 5,
        "ok": False,
        "version": "v2",
        "reason": "SUNSET",
        "attempts": 1,
        "error": "interrupted",
        "code": None,
        "message": "job 5: Stopped: it waited for the rate limit",
        "outcome_unknown": False,
    }
    words = rb"with 2 of 30 jobs done, 7 refused by the rate limit, 21 not started\n2 cancelled\n"
    assert re.search(words, err), err
    assert {row["error"] for job, row in rows.items() if job > 9} == {"not_started"}
    noted = [json.loads(line) for line in journal.read_text().splitlines()]
    assert {one["process_id"] for one in noted if one["event"] == "done"} == {1, 2}


def test_a_key_that_is_refused_later_stops_the_run_as_well(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script_for(1, respond(200, {**JOB, "process_id": 1}))
    server.script_for(2, respond(401))
    assert main(["cancel", "--yes", *map(str, range(1, 101))]) == 1
    _, err = capsys.readouterr()
    assert len(server.seen) < 30
    assert "1 AuthenticationError" in err
    assert "not started: the key was refused" in err


def test_route_where_v1_is_retired(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REVENUEBASE_API_VERSION", "v1")
    monkeypatch.setenv("REVENUEBASE_AFTER_SUNSET", "raise")
    assert main(["route", "42", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"] == "ApiVersionRetiredError"


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        (["cancel"], {}, "no ids: give some, or --from-file FILE"),
        (["cancel", "x"], {}, "process_id 'x' is no process id: give an int from 1"),
        (["cancel", "0"], {}, "process_id '0'"),
        (["cancel", "42"], {}, "api_key (REVENUEBASE_API_KEY) is missing"),
        (["cancel", "42"], {"REVENUEBASE_TIMEOUT": "soon"}, "timeout (REVENUEBASE_TIMEOUT) 'soon'"),
        (["cancel", "42"], {"REVENUEBASE_API_KEY": "a\tb"}, "api_key (REVENUEBASE_API_KEY): holds"),
        (["route", "1", "--at", "07/08/2026"], {}, "'07/08/2026' is no date: give ISO 8601"),
        (["sandbox", "--port", "70000"], {}, "'70000' is no port"),
        (["sandbox", "--now", "soon"], {}, "'soon' is no date"),
        (["cancle", "42"], {}, "cancle"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], environ: dict[str, str], words: str
) -> None:
    done = run(*arguments, **environ)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr


def test_help_and_version() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "cancel jobs" in done.stdout
    assert run("--version").stdout.startswith("revenuebase-compat ")


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    python = shlex.quote(sys.executable)
    command = f"{python} -m revenuebase_compat route $(seq 1 5000) | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert done.stderr == ""


def test_sandbox_serves_until_told_to_stop() -> None:
    command = [sys.executable, "-m", "revenuebase_compat", "sandbox", "--port", "0"]
    command += ["--now", "2026-06-01", "--jobs", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        exported = dict(word.split("=", 1) for word in it.stdout.readline().split() if "=" in word)
        headers = {"x-key": exported["REVENUEBASE_API_KEY"]}
        url = exported["REVENUEBASE_BASE_URL"] + "/v1/cancel-process"
        assert url.startswith("http://127.0.0.1:")
        answer = httpx.post(url, json={"process_id": 7}, headers=headers, trust_env=False)
        assert answer.json()["current_status"] == "CANCELLING"
        it.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert it.wait(10) == 0
        assert time.monotonic() - started < 5
        assert it.stderr is not None
        assert it.stderr.read() == "serving until Ctrl-C\nPOST /v1/cancel-process 200\n"


def test_a_port_in_use_is_said_plainly() -> None:
    with FaultServer() as server:
        done = run("sandbox", "--port", str(server.port))
    assert done.returncode == 2
    assert done.stderr.startswith(f"revenuebase-compat: port {server.port}: Address already in use")


def test_without_its_extra_the_sandbox_names_what_to_install() -> None:
    blocked = "import sys; sys.modules['fastapi'] = None\n"
    program = blocked + "from revenuebase_compat.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "cancel", "42", "--sandbox"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'fastapi>=" in done.stderr
    assert "'uvicorn>=" in done.stderr
    assert "revenuebase-compat[" not in done.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "pth a start-up file with which run also reaches Pythons that ignore PYTHONPATH"),
        ("pth", "a start-up file with which run also reaches Pythons that ignore PYTHONPATH"),
        ("pth", "or say whether it is there (exit code 1: it is not)"),
        (
            "cancel",
            "like --wait, for at most SECONDS; a job that is still CANCELLING counts as",
        ),
        ("cancel", "--yes cancel more than 20 jobs without asking"),
        *(("sandbox", name) for name in ENVELOPE_NAMES),
        ("sandbox", "--mx-record-checked KIND what mx_record_checked is in the answer"),
        ("doctor", "who still speaks v1; exit code 1: a problem; 2: a wrong setting"),
    ],
)
def test_the_help_is_a_sentence(command: str, says: str) -> None:
    done = run(*command.split(), "--help", COLUMNS="80")
    assert says in " ".join(done.stdout.split()).replace("- ", "-")
