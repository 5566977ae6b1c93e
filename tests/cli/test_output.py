"""What is written where: in every encoding, on closed, full and broken streams, at 40 columns."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from revenuebase_compat.cli.main import main
from tests.conftest import TEST_KEY
from tests.support.fault_server import FaultServer, late, respond

ROOT = Path(__file__).resolve().parents[2]
OURS = 'ours() { "$python" -m revenuebase_compat "$@"; }; '


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def shell(server: FaultServer, line: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """A line of bash, in which ``ours`` is the command."""
    known = {"REVENUEBASE_API_KEY": TEST_KEY, "REVENUEBASE_BASE_URL": server.base_url}
    done = subprocess.run(
        ["bash", "-c", OURS + line],
        env={**os.environ, **known, "python": sys.executable, **environ},
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr, done.stderr
    assert b"Exception ignored" not in done.stderr, done.stderr
    assert TEST_KEY.encode() not in done.stdout + done.stderr
    return done


def named(server: FaultServer, job: int, filename: str, status: str = "CANCELLING") -> None:
    facts = {"process_id": job, "filename": filename, "current_status": status, "message": ""}
    server.script_for(job, respond(200, facts))


# --- characters -------------------------------------------------------------------------------


def test_printable_keeps_a_server_s_escapes_from_the_terminal(server: FaultServer) -> None:
    for job in (1, 2, 3):
        named(server, job, "a\x1b]0;owned\x07\r\n\x9b31m\u202eb.csv", "CANCELLING\x1b[2J")
    refused = {"detail": "no\x1b[31m\nway\x07"}
    server.script_for(4, respond(422, json.dumps(refused).encode()))
    for line in ("ours cancel 1", "ours cancel 2 4", "ours cancel 3 --json --wait-timeout 0"):
        done = shell(server, line)
        out = (done.stdout + done.stderr).decode()
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out), ascii(out)
        assert "owned" in out
    assert done.returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252:strict", "utf-16"])
def test_no_encoding_is_an_error(server: FaultServer, encoding: str) -> None:
    for job in (1, 2, 3):
        named(server, job, "дата.csv")
    codec = encoding.partition(":")[0]
    shown = "дата.csv".encode(codec, "backslashreplace").decode(codec)
    done = shell(server, "ours cancel 1", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert f"job 1 ({shown}) is CANCELLING" in done.stdout.decode(codec)
    done = shell(server, "ours cancel 2 3", PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    lines = [line.removeprefix("\ufeff") for line in done.stdout.decode(codec).splitlines()]
    assert len({len(line) for line in lines}) == 1, "columns stay below each other"
    assert sum(shown in line for line in lines) == 2
    for line in ("ours", "ours doctor"):
        assert shell(server, line, PYTHONIOENCODING=encoding).returncode in (0, 1, 2)


# --- streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", [0, 1])
@pytest.mark.parametrize("ids", ["1", "1 2", "1 2 --json --wait-timeout 0"])
@pytest.mark.parametrize("to", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_change_the_exit_code(
    server: FaultServer, to: str, ids: str, fate: int
) -> None:
    if fate:
        server.jobs[1] = "COMPLETED"
    done = shell(server, f"ours cancel {ids} {to}")
    assert done.returncode == fate
    assert set(server.applied) == ({1, 2} if "2" in ids.split() else {1}) - ({1} if fate else set())


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("to", [">/dev/full", "2>/dev/full", ">/dev/full 2>&1"])
def test_full_streams_do_not_change_the_exit_code(server: FaultServer, to: str) -> None:
    for number, ids in enumerate(("1", "2 3", "4 --json", "5 6 --quiet --json"), 1):
        done = shell(server, f"ours cancel {ids} {to}")
        stopped = "5 6" in ids and ">/dev/full" in to and not to.startswith("2")
        assert done.returncode == 0 or (stopped and done.returncode == 130), number
        if to == ">/dev/full":
            words = b"revenuebase-compat: stdout: No space left on device\n"
            assert done.stderr.count(words) == 1
    server.jobs[9] = "COMPLETED"
    assert shell(server, f"ours cancel 9 {to}").returncode == 1
    for command in ("route 1", "timeline", "doctor", "--help", "", "cancel x"):
        done = shell(server, f"ours {command} {to}")
        assert done.returncode in (0, 1, 2)


def test_a_reader_who_leaves_ends_the_run_like_a_ctrl_c(server: FaultServer) -> None:
    server.always(late(0.01))
    done = shell(
        server, "set -o pipefail; ours cancel --yes --json {301..400} | head -n 1; echo $?"
    )
    row, code = done.stdout.decode().splitlines()
    assert json.loads(row)["ok"]
    assert code == "130"
    lines = done.stderr.decode().splitlines()
    summary = re.fullmatch(
        r"stopped after 0:\d\d with (\d+) of 100 jobs done, (\d+) not started: nobody reads stdout",
        lines[-3],
    )
    assert any(line.startswith("nobody reads stdout: stopping when the jobs") for line in lines)
    assert summary
    assert int(summary[1]) == len(server.applied) < 50
    assert int(summary[1]) + int(summary[2]) == 100
    assert lines[-1].startswith("to go on: the same command again")


def test_a_reader_who_leaves_at_the_end_undoes_nothing(server: FaultServer) -> None:
    done = shell(server, "set -o pipefail; ours cancel --yes {1..300} | head -n 0; echo $?")
    assert done.stdout == b"130\n"
    assert len(server.applied) == 300
    assert re.fullmatch(r"300 jobs in 0:\d\d: 300 cancelled", done.stderr.decode().splitlines()[-1])
    done = shell(server, "set -o pipefail; ours cancel --yes {1..300} 2> >(head -n 1); echo $?")
    assert done.stdout.endswith(b"\n0\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "command",
    [
        "cancel 1",
        "cancel 1 2 3",
        "cancel 1 2 3 --json",
        "route 1 2",
        "timeline",
        "doctor",
        "report /dev/null",
        "demo",
        "sandbox --port 0",
        "pth status",
        "--version",
        "cancel --help",
    ],
)
def test_where_nobody_reads_every_command_ends_like_a_ctrl_c(
    server: FaultServer, command: str, unbuffered: str
) -> None:
    # The reader is gone before the command begins.
    line = f"(sleep 0.2; ours {command}) | true; echo ${{PIPESTATUS[0]}}"
    done = shell(server, line, PYTHONUNBUFFERED=unbuffered)
    assert done.stdout == b"130\n"
    assert b"again" not in done.stderr
    if command.startswith("cancel 1 2"):
        assert done.stderr.endswith(b": 3 cancelled\n")
        assert sorted(server.applied) == [1, 2, 3]
    else:
        assert done.stderr == b""


def test_what_a_hook_printed_is_flushed_at_the_end(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "hook.py").write_text("def hook(event):\n    print(event.outcome)\n")
    where = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    hook = {"REVENUEBASE_ON_EVENT": "hook:hook", "PYTHONPATH": where, "PYTHONUNBUFFERED": ""}
    line = "(sleep 0.2; ours cancel --quiet 1 2) | true; echo ${PIPESTATUS[0]}"
    done = shell(server, line, **hook)
    assert (done.stdout, done.stderr) == (b"130\n", b"")
    if os.path.exists("/dev/full"):
        done = shell(server, "ours cancel --quiet 3 > /dev/full", **hook)
        assert (done.returncode, done.stderr) == (
            0,
            b"revenuebase-compat: stdout: No space left on device\n",
        )


# --- narrow terminals -------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", "cancel", "run", "sandbox", "timeline"])
def test_help_fits_40_columns(server: FaultServer, command: str) -> None:
    done = shell(server, f"ours {command} {'-h' if command else ''}", COLUMNS="40")
    text = (done.stdout + done.stderr).decode()
    assert all(len(line) <= 40 for line in text.splitlines()), text
    assert text.startswith("usage: revenuebase-compat")
    assert len(text.split()) > 20


def test_without_a_command_the_help_is_printed(server: FaultServer) -> None:
    bare, asked = shell(server, "ours"), shell(server, "ours --help")
    assert (bare.returncode, bare.stdout) == (2, b"")
    assert (asked.returncode, asked.stderr) == (0, b"")
    assert bare.stderr == asked.stdout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


BEGINS = {
    "doctor": [
        "ok       setting  base_url:",
        "         https://api.revenuebase.ai",
        "         (default)",
    ],
    "route 42 1234567": [
        "job 42: v2 (SUNSET): API v1 ended on",
        "        2026-07-07",
        "job 1234567: v2 (SUNSET): API v1 ended",
        "             on 2026-07-07",
    ],
    "timeline --from 2026-07-06": [
        "2026-07-06T00:00:00+00:00  v1 sunsetting",
        "             100 % v1 (DEFAULT)",
        "2026-07-07T00:00:00+00:00  v1 retired",
        "             100 % v2 (SUNSET)",
    ],
    "demo": [
        "2026-06-01  v1 has five weeks left: a",
        "            script as it is, and",
        "            cancel_job",
        "  nightly.py 41",
        "  GET /v1/credits 200 1000 credits",
    ],
}


@pytest.mark.parametrize("command", BEGINS)
def test_lines_are_wrapped_at_40_columns(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    for name in [name for name in os.environ if name.startswith("REVENUEBASE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    text = {}
    for columns in ("40", "200"):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", columns)
        assert main(command.split(), sleep=lambda _seconds: None) == 0
        text[columns] = re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue())
    lines = text["40"].splitlines()
    assert [line for line in lines if len(line) > 40] == []
    first = lines.index(BEGINS[command][0])
    assert lines[first : first + len(BEGINS[command])] == BEGINS[command]
    if command != "demo":  # which is told of v1 once an hour
        narrow, wide = ("".join(one.split()) for one in text.values())
        assert narrow == wide, "nothing is lost"
