"""The demo tells what happened: each line against what the sandbox saw, and no line more."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from revenuebase_compat.cli.demo import Story
from revenuebase_compat.cli.main import main
from revenuebase_compat.testing.sandbox import Sandbox

ROW = re.compile(r"  (\S+|) +(GET|POST) (/\S+) +(no answer|\d{3})(?: +(.+))?")

pytestmark = pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(jobs=range(1, 100), queued_for=0, processing_for=0) as sandbox:
        yield sandbox


def test_each_line_is_what_the_sandbox_saw(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []
    assert Story(sandbox, slept.append).tell()
    told = capsys.readouterr().out
    rows = [row.groups() for row in map(ROW.fullmatch, told.splitlines()) if row]
    assert [row[1:4] for row in rows] == [
        (served.method, served.path, str(served.status or "no answer"))
        for served in sandbox.requests
    ]
    assert f"\n{len(sandbox.requests)} requests, everything as told\n" in told

    # Who was told CANCELLING is so in the sandbox's books, and nobody else is; what was uploaded
    # is done, and the credits are those of two addresses, each checked alone and in a file.
    cancelled = {job for job, at in sandbox.jobs.items() if at.status == "CANCELLING"}
    assert cancelled == {1, 2, 3, 4, 41, 42, 43, 44, 45, 46}
    assert told.count("CANCELLING") == len(cancelled) + 1  # and once from the books
    assert [sandbox.jobs[job].status for job in (100, 101)] == ["COMPLETED"] * 2
    assert len(sandbox.jobs) == 101
    assert sandbox.credits == 1000 - 4
    # Where nobody watches, nothing waits but the client, once, for the lost answer.
    assert len(slept) == 1
    assert slept[0] <= 0.5


def test_the_story(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"], sleep=lambda _seconds: None) == 0
    told = capsys.readouterr().out
    assert all(len(line) < 80 for line in told.splitlines())
    story = [
        "\n2026-06-01",
        "nightly.py 41\n",
        "GET /v1/credits                        200        1000 credits\n",
        "POST /v1/batch-process-email-status    200        COMPLETED\n",
        "POST /v1/batch-download                200        ada@example.com,Valid\n",
        "POST /v1/cancel-process                200        CANCELLING\n",
        "cancel_job(42)  POST /v1/cancel-process  200        CANCELLING, v1 (DEFAULT)",
        "WARNING:revenuebase_compat:RevenueBase API v1 ends on 2026-07-07",
        "\n2026-06-15  v2_rollout=50",
        "cancel_job(2)   POST /v2/jobs/2/cancel   200        CANCELLING, v2 (ROLLOUT)",
        "cancel_job(3)   POST /v1/cancel-process  200        CANCELLING, v1 (DEFAULT)",
        "\n2026-07-01",
        "cancel_job(43)  POST /v1/cancel-process  410\n",
        "POST /v2/jobs/43/cancel  200        CANCELLING, v2 (V1_GONE)",
        "\n2026-07-07",
        "nightly.py 44\n",
        "GET /v1/credits                        410\n",
        '410 Gone: {"detail":"API v1 is retired. Use /v2/ instead."}',
        "cancel_job(44)  POST /v2/jobs/44/cancel  200        CANCELLING, v2 (SUNSET)",
        "\n2026-07-07  revenuebase-compat run --report FILE -- python nightly.py 45",
        "nightly.py 45\n",
        "GET /v2/account/balance                200        998 credits\n",
        "POST /v2/email/verify                  200        Valid\n",
        "POST /v2/email/verify/batch            200        PROCESSING QUEUED\n",
        "GET /v2/jobs/101                       200        COMPLETED\n",
        "GET /v2/jobs/101/download              200        ada@example.com,Valid\n",
        "POST /v2/jobs/45/cancel                200        CANCELLING\n",
        "its report: 6 of 6 requests moved to v2\n",
        "cancel_job(46)  POST /v2/jobs/46/cancel  no answer\n",
        "POST /v2/jobs/46/cancel  400\n",
        "GET /v2/jobs/46          200        CANCELLING, v2 (SUNSET)",
        "job 46 in the sandbox's own books: CANCELLING",
    ]
    found = [told.find(part) for part in story]
    assert -1 not in found, story[found.index(-1)]
    assert found == sorted(found)


def test_an_api_that_does_otherwise_is_told_truly(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.sunset = datetime(2026, 5, 1, tzinfo=timezone.utc)
    assert not Story(sandbox, lambda _seconds: None).tell()
    told = capsys.readouterr().out
    first = told.partition("2026-06-15")[0]
    assert "POST /v1/cancel-process  410\n" in first
    assert "CANCELLING, v2 (V1_GONE)" in first
    assert "NOT as told: 200: CANCELLING, v1 (DEFAULT)" in first
    assert "NOT everything as told" in told


def test_an_error_is_told_with_its_words(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.fail("v2", 403)
    assert not Story(sandbox, lambda _seconds: None).tell()
    told = capsys.readouterr().out
    assert "POST /v2/jobs/44/cancel  403        PermissionDeniedError" in told
    assert "job 44: API v2 answered 403: Forbidden" in told


@pytest.mark.parametrize("rich", [True, False])
@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, rich: bool, no_color: str
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    slept: list[float] = []
    assert Story(sandbox, slept.append).tell()
    told = terminal.getvalue()
    assert ("\x1b[32m" in told) == (rich and not no_color)
    plain = re.sub(r"\x1b\[\d*m", "", told)
    assert "\n  cancel_job(42)  POST /v1/cancel-process  200        CANCELLING, v1" in plain
    assert "WARNING:revenuebase_compat:RevenueBase API v1 ends" in plain
    assert 8 < sum(slept) < 11


def test_without_the_extra() -> None:
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from revenuebase_compat.cli.main import main\n"
        "sys.exit(main(['demo']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "the sandbox needs what is not installed: pip install 'fastapi>=" in done.stderr
