"""Programs of other kinds, unmodified: an MCP server on stdio, a celery worker, and JavaScript."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from revenuebase_compat.core.endpoints import START
from revenuebase_compat.testing.sandbox import Sandbox
from tests.adopt import test_runner
from tests.support import AFTER, BEFORE, SUNSET
from tests.support.environments import environment
from tests.support.programs import ALIVE, GONE, HERE, Front, Retiring, api, lines

pytestmark = pytest.mark.slow

KEY = "rb_test_sandbox"


# An MCP server.

TOOLS: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "get_credits": ({}, ("GET", "/v2/account/balance")),
    "verify_email": ({"email": "ann@acme.com"}, ("POST", "/v2/email/verify")),
    "list_processes": ({}, ("GET", "/v2/jobs")),
    "get_process_status": ({"process_id": 1}, ("GET", "/v2/jobs/1")),
    "cancel_process": ({"process_id": 1}, ("POST", "/v2/jobs/1/cancel")),
    "new_api_key": ({}, ("POST", "/v2/account/api-keys/rotate")),
    "start_process": ({"filename": "emails.csv"}, (START.method, START.path)),
}
CALLS = [
    *([name, arguments] for name, (arguments, _) in TOOLS.items()),
    ["cancel_process", {"process_id": 1}],
    ["verify_email", {"email": "nonsense"}],
    ["get_credits", {}],
]
PATHS = [
    *(path for _, path in TOOLS.values()),
    TOOLS["cancel_process"][1],
    TOOLS["verify_email"][1],
    TOOLS["get_credits"][1],
]


def mcp(
    front: Front, calls: list[Any], under: Mapping[str, str] | None, *options: str
) -> tuple[list[Any], str]:
    """What a client of the server prints, with the server under our runner; and the log."""
    python = environment("mcp<2", "requests", with_library=True)
    # As an MCP host has it in its configuration: a command with arguments.
    server = [str(python), str(HERE / "at_home.py"), str(front.port), str(HERE / "mcp_server.py")]
    if under is not None:
        server = [str(python.with_name("revenuebase-compat")), "run", *options, "--", *server]
    done = subprocess.run(
        [str(python), str(HERE / "mcp_client.py"), json.dumps(calls), *server],
        env={"PATH": os.defpath, "REVENUEBASE_API_KEY": KEY, **(under or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
    )
    return lines(done), done.stderr


def test_the_tools_of_an_mcp_server(tmp_path: Path) -> None:
    with api(tmp_path, now=BEFORE) as (sandbox, front):
        tools, *expected = mcp(front, CALLS, None)[0]
        assert tools == sorted(TOOLS)
        assert [answer["status"] for _, _, answer in expected] == [200] * 6 + [400, 400, 422, 200]
        assert {one.version for one in sandbox.requests} == {"v1"}
    with api(tmp_path, now=AFTER) as (sandbox, front):
        without = mcp(front, CALLS, None)[0][1:]
        assert {answer["status"] for _, _, answer in without} == {410}
        sandbox.requests.clear()

        [same, *answers], log = mcp(front, CALLS, GONE)
        assert same == tools
        assert [(one.method, one.path) for one in sandbox.requests] == PATHS
    started = [name for name, *_ in expected].index("start_process")
    assert answers.pop(started)[2]["status"] == 410
    expected.pop(started)
    assert answers == expected
    assert "POST /v1/batch-process-email is left to it: API v2 takes no file by its name" in log
    assert "rb_test_rotated" not in log


@pytest.mark.parametrize("share", ["0", "100"])
def test_an_mcp_server_before_the_sunset(share: str, tmp_path: Path) -> None:
    calls = [call for call in CALLS if call[0] != "start_process"]
    with api(tmp_path, now=BEFORE) as (sandbox, front):
        expected = mcp(front, calls, None)[0]
    with api(tmp_path, now=BEFORE) as (sandbox, front):
        under = {**ALIVE, "REVENUEBASE_V2_ROLLOUT": share}
        assert mcp(front, calls, under, "--strict")[0] == expected
        assert {one.version for one in sandbox.requests} == {"v1" if share == "0" else "v2"}
    with api(tmp_path, Retiring, now=BEFORE) as (sandbox, front):
        assert isinstance(sandbox, Retiring)
        sandbox.ends_after = 3
        assert mcp(front, calls, ALIVE, "--strict")[0] == expected
        assert [one.version for one in sandbox.requests] == ["v1"] * 4 + ["v2"] * 6


# A celery worker.

CELERY = ["celery", "--quiet", "--app", "batches", "worker", "--concurrency", "1"]


def test_a_celery_worker_uploads_polls_and_downloads(tmp_path: Path) -> None:
    quick = {"queued_for": 0.1, "processing_for": 0.1}
    with Sandbox(api_key=KEY, now=AFTER, sunset=SUNSET, **quick) as sandbox:  # type: ignore[arg-type]
        bare = test_runner.variables(sandbox, JOBS_QUEUE=str(tmp_path))
        sign = r"batch: done (.*)"
        with test_runner.started(CELERY, bare, sign, graceful=False) as done:
            assert done[1].startswith("410 None 410")
        sandbox.requests.clear()
        command = [*test_runner.run("--strict"), *CELERY]
        with test_runner.started(command, bare, sign, graceful=False) as done:
            assert done[1] == "200 COMPLETED 200 email,status ann@acme.com,Valid bob@acme.com,Valid"
        first, second, *polls, last = [(one.method, one.path) for one in sandbox.requests]
    assert (first, second) == (("GET", "/v2/account/balance"), ("POST", "/v2/email/verify/batch"))
    assert {*polls} == {("GET", "/v2/jobs/1")}
    assert last == ("GET", "/v2/jobs/1/download")


# The gateway, for what is not Python.


@contextmanager
def gateway(upstream: str, **settings: str) -> Iterator[str]:
    """The address of a gateway of its own process; what it logs is shown where a test fails."""
    command = [sys.executable, "-m", "revenuebase_compat", "gateway"]
    command += ["--upstream", upstream, "--port", "0"]
    environ = {**os.environ, **GONE, **settings}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert found
            yield found[0]
        finally:
            process.terminate()
            process.wait(20)


def javascript(url: str) -> list[Any]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js here")
    command = [node, str(HERE / "gateway.mjs"), url]
    return lines(subprocess.run(command, capture_output=True, text=True, timeout=60))


def account(**options: Any) -> Sandbox:
    return Sandbox(**{"api_key": KEY, "jobs": {7: "COMPLETED"}, "sunset": SUNSET, **options})


def test_a_program_in_javascript_by_the_gateway() -> None:
    with account(now=BEFORE) as sandbox:
        expected = javascript(sandbox.base_url)
    assert [status for _, status, *_ in expected] == [200] * 7 + [422, 200, 200]
    with account(now=AFTER) as sandbox, gateway(sandbox.base_url) as url:
        assert javascript(url) == expected
        assert {one.version for one in sandbox.requests} == {"v2"}
    with account(now=BEFORE) as sandbox, gateway(sandbox.base_url, **ALIVE) as url:
        assert javascript(url) == expected
        assert {one.version for one in sandbox.requests} == {"v1"}


def test_curl_by_the_gateway(tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl here")
    (tmp_path / "emails.csv").write_text("email\nann@acme.com\n")
    ask = [curl, "--silent", "--max-time", "20", "--header", f"x-key: {KEY}", "--include"]
    with account(now=AFTER) as sandbox, gateway(sandbox.base_url) as url:

        def told(*arguments: str, path: str) -> str:
            command = [*ask, *arguments, url + path]
            return subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
            ).stdout

        assert '"credits":1000' in told(path="/v1/credits").replace(" ", "")
        uploaded = told("--form", "requested_file=@emails.csv", path="/v1/batch-upload")
        assert "PROCESSING QUEUED" in uploaded
        body = ["--json", '{"process_id": 7}']
        downloaded = told(*body, path="/v1/batch-download")
        assert 'content-disposition: attachment; filename="job-7.csv"' in downloaded.lower()
        assert " 410 " in told("--json", '{"filename": "x.csv"}', path="/v1/batch-process-email")
        assert [one.version for one in sandbox.requests] == ["v2", "v2", "v2", "v1"]
