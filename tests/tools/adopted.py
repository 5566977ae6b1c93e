"""What programs that were written against v1 come to after the sunset: without us, and with us.

    python -m tests.tools.adopted

Each cell is a run of the program against the sandbox, whose v1 is gone; none of them is changed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from revenuebase_compat.testing.sandbox import Sandbox
from tests.adopt import test_programs, test_runner, test_sdk_names
from tests.support import AFTER, SUNSET

LIBRARIES = {
    "requests": "script on requests",
    "urllib3": "script on urllib3",
    "urllib.request": "script on urllib.request",
    "http.client": "script on http.client",
    "httpx": "script on httpx",
    "httpx async": "script on httpx, asynchronous",
    "aiohttp": "script on aiohttp",
}
SERVERS = ("gunicorn", "gunicorn gevent", "gunicorn preload", "uvicorn")


def table() -> Iterator[str]:
    """The lines of the table, as Markdown."""
    yield "| program | without us | with us |"
    yield "| --- | --- | --- |"
    for title, without, within in (*_sdks(), *_scripts(), *_servers()):
        yield f"| {title} | {without} | {within} |"


def _fate(sandbox: Sandbox, told: str) -> str:
    """What the program was told of its job, held against what became of it."""
    if sandbox.jobs[42].status != "CANCELLING":
        return f"✗ {told}"
    cancels = [(one.method, one.path) for one in sandbox.requests if "cancel" in one.path]
    assert cancels == [("POST", "/v2/jobs/42/cancel")]
    return f"✓ {told}"


def _sandbox() -> Sandbox:
    return Sandbox(api_key="rb_test_sandbox", jobs=[42], now=AFTER, sunset=SUNSET)


def _sdks() -> Iterator[tuple[str, str, str]]:
    for written_for, installed, _ in test_sdk_names.PAIRS:
        sync, asynchronous = (
            [_sdk(written_for, installed, options, with_us) for with_us in (False, True)]
            for options in ([], ["--async"])
        )
        assert [cell.replace("Async", "") for cell in asynchronous] == sync
        code = f"`revenuebase-sdk` {installed}"
        if written_for[:3] != installed[:3]:
            code = f"code for {written_for} on {code}"
        yield f"{code}, sync and async", sync[0], sync[1]


def _sdk(written_for: str, installed: str, options: list[str], with_us: bool) -> str:
    command = [test_sdk_names.program(written_for), *options, "42"]
    with _sandbox() as sandbox:
        done = test_sdk_names.run(installed, *command, sandbox=sandbox, with_us=with_us)
        return _fate(sandbox, _sdk_told(done.stdout, done.stderr))


def _sdk_told(stdout: str, stderr: str) -> str:
    if not stdout:
        return f"`{stderr.splitlines()[-1]}`"
    told = json.loads(stdout)
    return (
        f"`{told['error']}` for a {told['status']}" if "error" in told else told["current_status"]
    )


def _scripts() -> Iterator[tuple[str, str, str]]:
    programs = dict(LIBRARIES)
    if sys.version_info >= (3, 11):
        programs["httpx2"] = "script on httpx2"
    for name, title in programs.items():
        cells = []
        program = test_programs.PROGRAMS.get(name, ["with_httpx2.py"])
        for under in (None, test_programs.GONE):
            with (
                tempfile.TemporaryDirectory() as folder,
                test_programs.api(Path(folder), now=AFTER) as (sandbox, front),
            ):
                sandbox.add_job(42)
                [(status, _, body, _)] = test_programs.run(
                    "recent", program, front, "json=42", under=under
                )
                cells.append(_fate(sandbox, f"{status} {body.get('current_status', 'Gone')}"))
        yield title, cells[0], cells[1]


def _servers() -> Iterator[tuple[str, str, str]]:
    cells = []
    for prefix in ([], test_runner.run()):
        with _sandbox() as sandbox:
            command = [*prefix, *test_runner.CELERY]
            with test_runner.started(
                command, test_runner.variables(sandbox), test_runner.DONE, graceful=False
            ) as done:
                cells.append(_fate(sandbox, _told(done[1])))
    yield "task of a celery worker (prefork)", cells[0], cells[1]
    for name in SERVERS:
        cells = []
        for prefix in ([], test_runner.run()):
            with tempfile.TemporaryDirectory() as home, _sandbox() as sandbox:
                environ = test_runner.variables(sandbox, HOME=home)
                command = [*prefix, *test_runner.SERVERS[name]]
                with test_runner.started(command, environ, test_runner.LISTENS) as url:
                    cells.append(_fate(sandbox, _told(test_runner.get(f"{url[0]}/42"))))
        yield f"view of an app under {name}", cells[0], cells[1]


def _told(line: str) -> str:
    """What the programs of ``tests/programs/served`` print: job, HTTP status, the job's status."""
    _, status, current_status = line.split()
    return f"{status} {current_status.replace('None', 'Gone')}"


if __name__ == "__main__":
    print("\n".join(table()))
