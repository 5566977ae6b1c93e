"""What programs that were written against v1 come to after the sunset: without us, and with us.

    python -m tests.tools.adopted

Each row is two runs of a program against the sandbox, whose v1 is gone; none of them is changed.
Of the cells, ✓ is a call that was answered by v2, ✗ one that was not, and – one that the program
does not make. They are read off the requests that arrived.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from revenuebase_compat.core.endpoints import ENDPOINTS, Endpoint
from revenuebase_compat.testing.sandbox import Sandbox
from tests.adopt import test_other_programs, test_runner, test_sdk_names
from tests.support import AFTER, SUNSET
from tests.support.environments import environment
from tests.support.programs import GONE, LIBRARIES, PROGRAMS, api, execute

ALL = tuple(one.name for one in ENDPOINTS)
#: A step for each endpoint; job 7 has been worked off.
STEPS = (
    *("credits", "verify=ann@acme.com", "upload", "status=@", "list", "cancel=@", "download=7"),
    *("rotate", "start=job-7.csv"),
)
SERVERS = ("gunicorn", "gunicorn gevent", "gunicorn preload", "uvicorn")

Row = tuple[str, str, list[str]]


def table() -> Iterator[str]:
    """The lines of the table, as Markdown."""
    names = [name.replace("_", " ") for name in ALL]
    yield f"| program | without us | {' | '.join(names)} |"
    yield "| --- |" + " --- |" * (len(ALL) + 1)
    for title, without, cells in (*_sdks(), *_scripts(), *_others(), *_servers()):
        yield f"| {title} | {without} | {' | '.join(cells)} |"


def _cells(sandbox: Sandbox, called: Iterable[str]) -> list[str]:
    """What became of each endpoint's calls."""
    called = [*called]
    return [_cell(sandbox, one) if one.name in called else "–" for one in ENDPOINTS]


def _cell(sandbox: Sandbox, endpoint: Endpoint) -> str:
    path = (endpoint.v2_path or "").replace("{process_id}", r"\d+")
    moved = [
        one.status
        for one in sandbox.requests
        if one.method == endpoint.v2_method and re.fullmatch(path, one.path)
    ]
    return "✓" if moved and {*moved} == {200} else "✗"


def _nothing(sandbox: Sandbox) -> str:
    """The word for a bare run: nothing of it was answered."""
    statuses = {one.status for one in sandbox.requests}
    assert statuses == {410}, statuses
    sandbox.requests.clear()
    return "410"


def _sandbox() -> Sandbox:
    jobs = {7: "COMPLETED", 42: "QUEUED"}
    return Sandbox(api_key="rb_test_sandbox", jobs=jobs, now=AFTER, sunset=SUNSET)


def _sdks() -> Iterator[Row]:
    for written_for, installed, _ in test_sdk_names.PAIRS:
        rows = []
        for use_async in (False, True):
            command = [*test_sdk_names.program(written_for, use_async), *STEPS]
            with _sandbox() as sandbox:
                done = test_sdk_names.run(installed, *command, sandbox=sandbox, with_us=False)
                error = done.stderr.splitlines()[-1].partition(":")[0] if done.returncode else ""
                without = f"`{error}`" if error else _nothing(sandbox)
                test_sdk_names.run(installed, *command, sandbox=sandbox, options=())
                rows.append((without, _cells(sandbox, ALL)))
        assert rows[0] == rows[1]
        code = f"`revenuebase-sdk` {installed}"
        if written_for[:3] != installed[:3]:
            code = f"code for {written_for} on {code}"
        yield f"{code}, sync and async", *rows[0]


def _scripts() -> Iterator[Row]:
    python = environment(*LIBRARIES["recent"], with_library=True)
    for name, (script, *options) in PROGRAMS.items():
        program = [f"workflow_{script}", *options, *STEPS]
        with (
            tempfile.TemporaryDirectory() as folder,
            api(Path(folder), now=AFTER) as (sandbox, front),
        ):
            execute(python, program, front, under=None)
            without = _nothing(sandbox)
            execute(python, program, front, under=GONE, options=())
            title = name.replace(" async", ", asynchronous")
            yield f"script on {title}", without, _cells(sandbox, ALL)


def _others() -> Iterator[Row]:
    calls = [[name, arguments] for name, (arguments, _) in test_other_programs.TOOLS.items()]
    with tempfile.TemporaryDirectory() as folder, api(Path(folder), now=AFTER) as (sandbox, front):
        test_other_programs.mcp(front, calls, None)
        without = _nothing(sandbox)
        test_other_programs.mcp(front, calls, GONE)
        called = [name for name in ALL if name not in ("upload", "download")]
        yield "MCP server on stdio (FastMCP, requests)", without, _cells(sandbox, called)
    if shutil.which("node"):
        with _sandbox() as sandbox:
            test_other_programs.javascript(sandbox.base_url)
            without = _nothing(sandbox)
            with test_other_programs.gateway(sandbox.base_url) as url:
                test_other_programs.javascript(url)
            # It verifies an address that is none, too.
            sandbox.requests[:] = [one for one in sandbox.requests if one.status != 422]
            called = [name for name in ALL if name != "start"]
            yield "JavaScript (`fetch`), by the gateway", without, _cells(sandbox, called)
    with tempfile.TemporaryDirectory() as folder, _sandbox() as sandbox:
        sandbox.queued_for = sandbox.processing_for = 0.1
        environ = test_runner.variables(sandbox, JOBS_QUEUE=folder)
        for prefix in ([], test_runner.run()):
            command = [*prefix, *test_other_programs.CELERY]
            with test_runner.started(command, environ, "batch: done", graceful=False):
                if not prefix:
                    without = _nothing(sandbox)
        called = ["credits", "upload", "status", "download"]
        yield "tasks of a celery worker (prefork)", without, _cells(sandbox, called)


def _servers() -> Iterator[Row]:
    for name in SERVERS:
        with tempfile.TemporaryDirectory() as home, _sandbox() as sandbox:
            environ = test_runner.variables(sandbox, HOME=home)
            for prefix in ([], test_runner.run()):
                command = [*prefix, *test_runner.SERVERS[name]]
                with test_runner.started(command, environ, test_runner.LISTENS) as url:
                    test_runner.get(f"{url[0]}/42")
                if not prefix:
                    without = _nothing(sandbox)
            yield f"view of an app under {name}", without, _cells(sandbox, ["cancel"])


if __name__ == "__main__":
    print("\n".join(table()))
