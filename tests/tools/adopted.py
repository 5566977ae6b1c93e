"""What programs that were written against v1 come to after the sunset: without us, and with us.

    python -m tests.tools.adopted

Each row is a run of the program against the sandbox, whose v1 is gone; none of them is changed.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from revenuebase_compat.testing.sandbox import RecordedRequest, Sandbox
from tests.adopt import test_other_programs, test_runner, test_sdk_names
from tests.support import AFTER, SUNSET
from tests.support.environments import environment
from tests.support.programs import GONE, LIBRARIES, PROGRAMS, api, execute

#: A column each: what it is headed with, the step of the program, and its request on v2.
STEPS = (
    ("credits", "credits", "GET /v2/account/balance"),
    ("verify", "verify=ann@acme.com", "POST /v2/email/verify"),
    ("upload", "upload=emails.csv", "POST /v2/email/verify/batch"),
    ("status", "status=8", "GET /v2/jobs/8"),
    ("list", "list", "GET /v2/jobs"),
    ("cancel", "cancel=8", "POST /v2/jobs/8/cancel"),
    ("download", "download=7", "GET /v2/jobs/7/download"),
    ("new key", "rotate", "POST /v2/account/api-keys/rotate"),
)
WORK = [step for _, step, _ in STEPS]
#: It has no successor; a run of its own, as some programs end with it.
START = "start=emails.csv"

SERVERS = ("gunicorn", "gunicorn gevent", "gunicorn preload", "uvicorn")


def table() -> Iterator[str]:
    """The lines of the table, as Markdown."""
    head = ["program", "without us", *(title for title, *_ in STEPS), "start"]
    yield _line(head)
    yield _line(["---"] * len(head))
    for row in (*_sdks(), *_scripts(), *_others(), *_served()):
        yield _line(row)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(requests: Sequence[RecordedRequest], told: Sequence[int]) -> list[str]:
    """For each step, whether its request arrived as it should, and the program was told so."""
    assert len(requests) == len(told) == len(STEPS)
    return [
        "✓" if (f"{one.method} {one.path}", one.status, status) == (v2, 200, 200) else f"✗ {status}"
        for one, status, (_, _, v2) in zip(requests, told, STEPS, strict=True)
    ]


# --- the vendor's SDK -------------------------------------------------------------------------


def _sdks() -> Iterator[list[str]]:
    for written_for, installed, _ in test_sdk_names.PAIRS:
        sync, asynchronous = (_sdk(written_for, installed, use) for use in (False, True))
        assert asynchronous == sync
        code = f"`revenuebase-sdk` {installed}"
        if written_for != installed:
            code = f"code for {written_for} on {code}"
        yield [f"{code}, sync and async", *sync]


def _sdk(written_for: str, installed: str, use_async: bool) -> list[str]:
    def run(*steps: str, with_us: bool = True) -> Any:
        command = [*test_sdk_names.program(written_for, use_async), *steps]
        if with_us:  # not strict, as most people would have it
            python = str(test_sdk_names.python(installed))
            command = ["-m", "revenuebase_compat", "run", "--", python, *command]
        return test_sdk_names.run(installed, *command, sandbox=sandbox, with_us=False)

    with test_sdk_names.sandbox(now=AFTER) as sandbox:
        bare = run("credits", with_us=False)
        sandbox.requests.clear()
        start = run(START)
        refused = _error(start.stdout, start.stderr)
        sandbox.requests.clear()
        found = [json.loads(line) for line in run(*WORK).stdout.splitlines()]
        told = [one.get("status") or 200 for one in found if "body" not in one]
        cells = _cells(sandbox.requests, told)
    return [f"✗ {_error(bare.stdout, bare.stderr)}", *cells, f"✗ {refused}"]


def _error(stdout: str, stderr: str) -> str:
    """What the program was told, or died of, in few words."""
    if stdout:
        told = json.loads(stdout.splitlines()[0])
        return f"`{told['error']}` for a {told['status']}"
    kind, _, words = stderr.splitlines()[-1].partition(": ")
    missing = words.rpartition("no attribute ")[2] if "no attribute" in words else ""
    if "cannot import name" in words:
        missing = words.split("'")[1].join("''")
    return f"`{kind}: {missing.strip(chr(39))}`" if missing else f"`{kind}`"


# --- scripts ----------------------------------------------------------------------------------


def _scripts() -> Iterator[list[str]]:
    for name, (script, *options) in PROGRAMS.items():
        program = [f"workflow_{script}", *options]

        def run(*steps: str, under: dict[str, str] | None, program: list[str] = program) -> Any:
            python = environment(*LIBRARIES["recent"], with_library=True)
            done = execute(python, [*program, *steps], front, under=under, options=())
            assert done.returncode == 0, done.stderr
            return [json.loads(line)[1] for line in done.stdout.splitlines()]

        with (
            tempfile.TemporaryDirectory() as folder,
            api(Path(folder), now=AFTER) as (sandbox, front),
        ):
            assert set(run(*WORK, START, under=None)) == {410}
            [started] = run(START, under=GONE)
            sandbox.requests.clear()
            cells = _cells(sandbox.requests, run(*WORK, under=GONE))
        yield [f"script on {name}", "✗ 410 Gone", *cells, f"✗ {started}"]


# --- programs that do a part of the work ------------------------------------------------------


def _others() -> Iterator[list[str]]:
    calls = [[name, given] for name, (given, _) in test_other_programs.TOOLS.items()]
    tools = ("credits", "verify", "list", "status", "cancel", "new key")
    with tempfile.TemporaryDirectory() as folder, api(Path(folder), now=AFTER) as (sandbox, front):
        bare, _ = test_other_programs.mcp(front, calls, None)
        assert {answer["status"] for _, _, answer in bare[1:]} == {410}
        found, _ = test_other_programs.mcp(front, calls, GONE)
        [started] = [answer["status"] for name, _, answer in found[1:] if name == "start_process"]
        cells = _arrived(sandbox, tools)
        yield ["MCP server on stdio, on requests", "✗ 410 Gone", *cells, f"✗ {started}"]

    with test_other_programs.account(now=AFTER) as sandbox:
        assert {status for _, status, *_ in test_other_programs.javascript(sandbox.base_url)} == {
            410
        }
        with test_other_programs.gateway(sandbox.base_url) as url:
            test_other_programs.javascript(url)
        cells = _arrived(sandbox, [title for title, *_ in STEPS])
        yield ["JavaScript (`fetch`) by the gateway", "✗ 410 Gone", *cells, ""]

    with tempfile.TemporaryDirectory() as folder, _sandbox() as sandbox:
        sandbox.queued_for = sandbox.processing_for = 0.1
        environ = test_runner.variables(sandbox, JOBS_QUEUE=folder)
        for prefix in ([], test_runner.run()):
            command, sign = [*prefix, *test_other_programs.CELERY], r"batch: done (\d+)"
            with test_runner.started(command, environ, sign, graceful=False) as told:
                assert told[1] == ("200" if prefix else "410")
        cells = _arrived(sandbox, ("credits", "upload", "status", "download"))
        yield ["batch of a celery worker (prefork)", "✗ 410 Gone", *cells, ""]


def _arrived(sandbox: Sandbox, titles: Sequence[str]) -> list[str]:
    """For each step of a program that takes those, whether v2 has answered it with 200."""
    moved = {f"{one.method} {one.path}" for one in sandbox.requests if one.status == 200}
    found = {re.sub(r"/\d+", "/{}", call) for call in moved}
    return [
        "" if title not in titles else "✓" if re.sub(r"/\d+", "/{}", v2) in found else "✗"
        for title, _, v2 in STEPS
    ]


# --- services, which only cancel --------------------------------------------------------------


def _served() -> Iterator[list[str]]:
    commands = {f"view of an app under {name}": test_runner.SERVERS[name] for name in SERVERS}
    commands = {"task of a celery worker (prefork)": test_runner.CELERY, **commands}
    for title, command in commands.items():
        celery = command is test_runner.CELERY
        with _sandbox() as sandbox:
            bare = _status(sandbox, command, celery)
            assert (bare, sandbox.jobs[42].status) == ("410", "QUEUED")
            sandbox.requests.clear()
            status = _status(sandbox, [*test_runner.run(), *command], celery)
            arrived = [(one.method, one.path, str(one.status)) for one in sandbox.requests]
        moved = arrived == [("POST", "/v2/jobs/42/cancel", status)]
        cells = {"cancel": "✓" if moved and status == "200" else f"✗ {status}"}
        yield [title, "✗ 410 Gone", *(cells.get(title, "") for title, *_ in STEPS), ""]


@contextmanager
def _sandbox() -> Iterator[Sandbox]:
    with Sandbox(api_key="rb_test_sandbox", jobs=[42], now=AFTER, sunset=SUNSET) as sandbox:
        yield sandbox


def _status(sandbox: Sandbox, command: list[str], celery: bool) -> str:
    """The HTTP status that the service got for its cancel of job 42."""
    with tempfile.TemporaryDirectory() as home:
        environ = test_runner.variables(sandbox, HOME=home)
        wanted = test_runner.DONE if celery else test_runner.LISTENS
        with test_runner.started(command, environ, wanted, graceful=not celery) as found:
            told = found[1] if celery else test_runner.get(f"{found[0]}/42")
    return told.split()[1]


if __name__ == "__main__":
    print("\n".join(table()))
