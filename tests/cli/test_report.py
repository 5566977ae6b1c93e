"""``run --report FILE`` and ``report FILE``: what is said of a report, in which width and code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from revenuebase_compat.adopt.report import Report
from revenuebase_compat.cli.main import main
from revenuebase_compat.testing.sandbox import Sandbox
from tests.cli.test_demo import Terminal

NIGHTLY = "integrations/customers/enrichment/nightly_upload_of_all_regions.py:1203"
PROGRAM = """
import os, httpx
headers = {"x-key": os.environ["REVENUEBASE_API_KEY"]}
with httpx.Client(base_url=os.environ["REVENUEBASE_BASE_URL"], headers=headers) as api:
    for number in range(2):
        print(api.get("/v1/credits").status_code)
    print(api.post("/v1/batch-process-email", json={"filename": "leads.csv"}).status_code)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "report.jsonl"
    report = Report(str(path))
    for _ in range(12):
        report.record("POST /v1/batch-process-email-status", "moved", NIGHTLY)
    report.record("POST /v1/batch-process-email-status", "moved", "app.py:7")
    report.record("GET /v1/credits", "followed", "app.py:7")
    report.record("POST /v1/batch-process-email", "left", "app.py:9")
    return path


def test_the_table_of_a_file_is_whole(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "GET /v1/credits",
        "  followed   1  app.py:7",
        "POST /v1/batch-process-email",
        "  left       1  app.py:9",
        "POST /v1/batch-process-email-status",
        "  moved      1  app.py:7",
        f"  moved     12  {NIGHTLY}",
        "in all: 13 moved, 1 followed, 1 left",
        "1 would fail in a rehearsal",
    ]


@pytest.mark.parametrize("columns", [80, 40])
def test_the_table_fits_the_terminal(
    path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["report", str(path)]) == 1
    lines = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines()
    assert all(len(line) <= columns for line in lines)
    # Endpoints, fates and numbers are whole; of a site its start and its line are left.
    assert lines[6].startswith("  moved     12  inte")
    assert lines[6].endswith("1203")
    assert lines[4] == "POST /v1/batch-process-email-status"
    assert [line[2:16].split() for line in lines[1:4:2]] == [["followed", "1"], ["left", "1"]]


def test_a_report_without_what_was_left_is_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.jsonl"
    path.touch()
    assert main(["report", str(path)]) == 0
    assert capsys.readouterr().out == (
        "in all: none (a program out of reach of run writes none, too)\n"
    )
    Report(str(path)).record("GET /v1/credits", "moved", "a\x1b[31m\n.py:1")
    path.write_bytes(path.read_bytes() + b"broken\n" + b'{"endp')
    assert main(["report", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "GET /v1/credits",
        "  moved     1  a [31m .py:1",
        "in all: 1 moved",
        "lines that could not be read: 1",
    ]


@pytest.mark.parametrize("command", [["report"], ["run", "--report"]])
def test_what_is_no_report_is_one_sentence_and_nothing_is_started(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    folder, other, link = tmp_path / "folder", tmp_path / "other", tmp_path / "link"
    folder.mkdir()
    other.write_text("id\n1\n", "utf-8")
    link.symlink_to(other)
    refused = [folder, other, tmp_path / "no" / "such"] + ([link] if "run" in command else [])
    for path in refused:
        started = tmp_path / "started"
        argv = [*command, str(path), *(["--", "touch", str(started)] if "run" in command else [])]
        assert main(argv) == 2
        assert not started.exists()
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert str(path) in err


def test_what_a_program_did_is_read_from_its_report(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM, "utf-8")
    ours = [sys.executable, "-m", "revenuebase_compat"]

    def call(*argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **variables}
        return subprocess.run(
            [*ours, *argv], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
        )

    with Sandbox() as sandbox:
        variables = {
            "REVENUEBASE_BASE_URL": sandbox.base_url,
            "REVENUEBASE_API_KEY": sandbox.api_key,
            "REVENUEBASE_V1_SUNSET": "2000-01-01",
            "NO_PROXY": "127.0.0.1",
        }
        command = ("--report", "rep", "--", sys.executable, "app.py")
        ran = call("run", *command, **variables)
        assert (ran.stdout.split(), ran.returncode) == (["200", "200", "410"], 0), ran.stderr
        shown = call("report", "rep")
        assert shown.returncode == 1
        assert shown.stdout.splitlines() == [
            "GET /v1/credits",
            "  moved     2  app.py:6",
            "POST /v1/batch-process-email",
            "  left      1  app.py:7",
            "in all: 2 moved, 1 left",
            "1 would fail in a rehearsal",
        ]
        # What a rehearsal says would fail is what does.
        ran = call("run", "--rehearse", *command, **variables)
        assert ran.returncode == 1
        assert "ApiVersionRetiredError" in ran.stderr
        assert "in all: 4 moved, 2 left" in call("report", "rep").stdout
