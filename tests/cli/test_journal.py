"""Many jobs on the command line: their ids, the journal, and what is printed where."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from revenuebase_compat import (
    AlreadyCancelledError,
    CancelError,
    ConfigurationError,
    JobNotFoundError,
    NotCancellableError,
    TransportError,
)
from revenuebase_compat.cli.journal import Journal, failed
from revenuebase_compat.cli.main import main
from revenuebase_compat.cli.progress import span
from tests.conftest import TEST_KEY
from tests.support import AFTER, UTC
from tests.support.fault_server import Exchange, Fault, FaultServer, drop, respond, truth

# --- the command, without a terminal ------------------------------------------------------------

Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    with FaultServer() as server:
        monkeypatch.setenv("REVENUEBASE_API_KEY", TEST_KEY)
        monkeypatch.setenv("REVENUEBASE_BASE_URL", server.base_url)
        yield server


@pytest.fixture
def run(server: FaultServer, capfd: pytest.CaptureFixture[str]) -> Run:
    """`revenuebase-compat cancel` in this process: its exit code, stdout and stderr."""

    def run(*arguments: str | Path, **clocks: Any) -> tuple[int, list[str], list[str]]:
        still = {"clock": lambda: AFTER, "monotonic": lambda: 0.0, "sleep": lambda _: None}
        clocks = still | clocks
        try:
            code = main(["cancel", *map(str, arguments)], **clocks)
        except SystemExit as wrong_usage:
            code = int(wrong_usage.code or 0)
        out, err = capfd.readouterr()
        assert TEST_KEY not in out + err
        return code, out.splitlines(), err.splitlines()

    return run


def test_ids_of_arguments_and_file_each_once(run: Run, server: FaultServer, tmp_path: Path) -> None:
    ids = tmp_path / "ids.csv"
    ids.write_bytes("\ufefffile,process_id\r\nä.csv,3\r\nb.csv,2\r\nc.csv,2\r\n".encode())
    code, out, err = run(1, 2, "--from-file", ids)
    assert code == 0
    assert sorted(server.applied) == [1, 2, 3]
    assert out[0].split() == ["job", "file", "status", "version", "reason", "attempts"]
    assert [line.split() for line in out[1:]] == [
        [str(job), f"{job}.csv", "CANCELLING", "v2", "SUNSET", "1"] for job in (1, 2, 3)
    ]
    assert sorted(line.split(" ", 1)[1] for line in err[:3]) == [
        f"job {job} cancelled" for job in (1, 2, 3)
    ]
    assert [line.split()[0] for line in err[:3]] == ["1/3", "2/3", "3/3"]
    assert err[3] == "3 jobs in 0:00: 3 cancelled"


@pytest.mark.parametrize("text", ["1\n2\nx\n", "1\n2\n\xff\n"])
def test_nothing_is_sent_where_a_line_is_bad(
    run: Run, server: FaultServer, tmp_path: Path, text: str
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_bytes(text.encode("latin-1"))
    code, out, err = run(7, "--from-file", ids)
    assert code == 2
    assert not out
    assert len(err) == 1
    assert str(ids) in err[0]
    assert server.seen == []


def test_a_file_that_is_missing_or_empty(run: Run, tmp_path: Path) -> None:
    code, _, err = run("--from-file", tmp_path / "none")
    assert (code, err) == (
        2,
        [f"revenuebase-compat: --from-file {tmp_path / 'none'}: No such file or directory"],
    )
    (tmp_path / "empty").touch()
    code, _, err = run("--from-file", tmp_path / "empty")
    assert code == 2
    assert err == [f"revenuebase-compat: cancel: no ids: {tmp_path / 'empty'} holds none"]


def test_no_option_swallows_an_id(run: Run, server: FaultServer) -> None:
    def job(number: int) -> Any:
        facts = {"process_id": number, "filename": "", "current_status": "CANCELLED", "message": ""}
        return respond(200, facts)

    for number in (42, 43, 44, 45):
        server.script_for(number, job(number), route="status")
    assert run("--wait", 42, 43)[0] == 0
    assert run(44, "--wait", "--json", 45, "--quiet")[0] == 0
    assert sorted(server.applied) == [42, 43, 44, 45]
    assert run(46, "--json", "x47")[0] == 2
    for option in ("--resume", "--from-file"):
        code, _, err = run(option, 46, 47)
        assert code == 2
        assert err[0].endswith(f"argument {option}: '46' looks like an id: give ./46 for a file")
    assert run("--wait-timeout", "soon", 48)[0] == 2
    assert run("--wai", 48)[0] == 2
    assert len(server.applied) == 4


def test_ids_of_stdin(server: FaultServer) -> None:
    command = [sys.executable, "-m", "revenuebase_compat", "cancel", "--from-file", "-", "--json"]
    done = subprocess.run(
        command, input=b"\xef\xbb\xbf" + b"\n".join(b"%d" % n for n in range(1, 31)),
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(row["process_id"] for row in rows) == sorted(server.applied)
    assert len(rows) == 30
    assert re.fullmatch(rb"30 jobs in 0:\d\d: 30 cancelled", done.stderr.splitlines()[-1])


def test_those_that_were_not_cancelled_come_last_in_the_table(
    run: Run, server: FaultServer
) -> None:
    server.jobs[1] = "COMPLETED"
    server.missing.add(2)
    code, out, err = run(*range(1, 6))
    assert code == 1
    assert [line.split()[0] for line in out[1:]] == ["3", "4", "5", "1", "2"]
    assert out[-2].split() == ["1", "NotCancellableError", "v2", "SUNSET", "1"]
    assert out[-1].split() == ["2", "JobNotFoundError", "v2", "SUNSET", "1"]
    assert len({len(line) for line in out}) == 1
    assert err[-1] == "5 jobs in 0:00: 3 cancelled, 1 NotCancellableError, 1 JobNotFoundError"
    assert any(
        line.endswith("job 1 NotCancellableError: job 1: API v2 answered 400 not_cancellable: "
                      "A job that is COMPLETED is not cancellable.")
        for line in err
    )  # fmt: skip


def test_outside_a_terminal_no_name_is_shortened_and_none_can_break_the_table(
    run: Run, server: FaultServer
) -> None:
    name = "x" * 200 + ".csv"
    odd = json.dumps(f"{name}\n\x1b[31m\u202e").encode()
    body = b'{"process_id":1,"filename":%b,"current_status":"CANCELLING","message":""}' % odd
    server.script_for(1, respond(200, body))
    code, out, _ = run(1, 2)
    assert code == 0
    assert f"1  {name}  [31m   CANCELLING" in out[1]
    assert len(out) == 3


def test_quiet_says_errors_only(run: Run, server: FaultServer) -> None:
    server.jobs[2] = "COMPLETED"
    assert run(1, 3, "--quiet") == (0, [], [])
    code, out, err = run(4, 2, 5, "--quiet")
    assert (code, out, len(err)) == (1, [], 1)
    assert err[0].startswith("NotCancellableError: job 2: API v2 answered 400")
    assert run(6, "--quiet") == (0, [], [])
    code, out, err = run(2, 7, "--quiet", "--json")
    assert (code, len(out), err) == (1, 2, [])


def test_a_key_that_is_missing_is_said_once(
    run: Run, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REVENUEBASE_API_KEY")
    code, out, err = run(*range(1, 100))
    assert (code, out, len(err)) == (2, [], 1)
    assert server.seen == []


def test_wait_shows_what_it_sees(run: Run, server: FaultServer) -> None:
    def job(state: str) -> Any:
        facts = {"process_id": 1, "filename": "1.csv", "current_status": state, "message": ""}
        return respond(200, facts)

    server.script_for(1, *map(job, ["CANCELLING", "CANCELLING", "CANCELLED"]), route="status")
    code, out, err = run(1, "--wait")
    assert code == 0
    assert out == ["job 1 (1.csv) is CANCELLED, by API v2 (SUNSET): API v1 ended on 2026-07-07"]
    assert err == ["job 1 is CANCELLING", "job 1 is CANCELLED", "1/1 job 1 cancelled"]


def test_wait_tells_truthfully_that_a_job_completed_first(run: Run, server: FaultServer) -> None:
    facts = {"process_id": 1, "filename": "1.csv", "current_status": "COMPLETED", "message": ""}
    server.script_for(1, respond(200, facts), route="status")
    code, out, err = run(1, "--wait-timeout", "60", "--json")
    assert code == 1
    row = json.loads(out[0])
    assert not row["ok"]
    assert row["code"] == "not_cancellable"
    assert "is COMPLETED: it ended before it could be cancelled" in row["message"]
    assert "current_status" not in row
    assert "it ended before it could be cancelled" in err[-1]


def test_the_pace_is_said_where_there_is_no_terminal(run: Run, server: FaultServer) -> None:
    until = str(int(time.time()) + 30)
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": until, "X-RateLimit-Limit": "60"}
    facts = {"process_id": 1, "filename": "1.csv", "current_status": "CANCELLING", "message": ""}
    server.script_for(1, respond(200, facts, headers=headers))
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    code, _, err = run(1, 2, clock=lambda: datetime.now(UTC), monotonic=lambda: now[0], sleep=sleep)
    assert code == 0
    assert 28 < now[0] < 31
    assert re.fullmatch(
        r"1/2 job 1 cancelled\n"
        r"the rate limit is used up: going on in 0:(29|30)\n"
        r"2/2 job 2 cancelled\n"
        r"2 jobs in 0:(29|30): 2 cancelled",
        "\n".join(sorted(err[:2]) + err[2:]),
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0:00"),
        (0.6, "0:01"),
        (59.6, "1:00"),
        (754, "12:34"),
        (3600, "1:00:00"),
        (1e5, "27:46:40"),
    ],
)
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words


# --- the journal --------------------------------------------------------------------------------


def entries(path: Path) -> list[tuple[str, int]]:
    _, *found = [json.loads(line) for line in path.read_text().splitlines()]
    return [(entry["event"], entry["process_id"]) for entry in found]


def journal_of(server: FaultServer, *lines: str) -> str:
    """A journal of that server, with more lines."""
    return "\n".join([json.dumps({"event": "opened", "base_url": server.base_url}), *lines, ""])


def test_started_is_written_before_a_job_is_sent_and_done_after(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    code, *_ = run(1, 2, 3, "--resume", path)
    assert code == 0
    found = entries(path)
    assert len(found) == 6
    for job in (1, 2, 3):
        assert found.index(("started", job)) < found.index(("done", job))
    assert found[0] == ("started", 1)


def test_at_the_time_of_a_request_its_start_is_on_disk(server: FaultServer, tmp_path: Path) -> None:
    path, held = tmp_path / "journal", []

    def look(exchange: Exchange) -> Iterator[bytes]:
        held.append((exchange.seen.process_id, entries(path)))
        return truth(exchange)

    server.always(Fault("a look at the journal", look, applied=True))
    assert main(["cancel", *map(str, range(1, 11)), "--resume", str(path), "--quiet"]) == 0
    assert len(held) == 10
    for job, found in held:
        assert ("started", job) in found
        assert ("done", job) not in found


def test_resume_repeats_nothing_that_is_done_and_tells_all(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    server.jobs[2] = "COMPLETED"
    server.missing.add(3)
    assert run(1, 2, 3, "--resume", path)[0] == 1
    sent = len(server.seen)
    code, out, err = run(1, 2, 3, 4, "--resume", path)
    assert code == 1
    assert [one.process_id for one in server.seen[sent:]] == [4]
    assert [line.split()[0] for line in out[1:]] == ["1", "4", "2", "3"]
    assert err == [
        "4/4 job 4 cancelled",
        "4 jobs in 0:00: 2 cancelled, 1 NotCancellableError, 1 JobNotFoundError "
        "(3 by an earlier run)",
    ]
    code, out, err = run(1, 2, 3, 4, "--resume", path, "--json")
    assert code == 1
    assert [json.loads(line)["ok"] for line in out] == [True, False, False, True]
    assert json.loads(out[0])["current_status"] == "CANCELLING"
    assert len(server.seen) == sent + 1
    assert run(1, 4, "--resume", path)[0] == 0
    code, out, _ = run(1, "--resume", path)
    assert (code, len(out)) == (0, 2)


def test_what_is_worth_another_try_is_repeated(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    server.script_for(1, *[respond(503)] * 3)
    server.script_for(2, respond(500), respond(500), respond(500))
    server.script_for(3, *[drop(applied=True)] * 3)
    server.always(respond(500), route="status")
    code, out, err = run(1, 2, 3, 4, "--resume", path)
    assert code == 1
    assert err[-1] == "worth another try: 3, by the same command"
    server.heal()
    code, out, err = run(1, 2, 3, 4, "--resume", path)
    assert code == 0
    assert sorted(server.applied) == [1, 2, 3, 4]
    # The cancel of the lost answers is no error of the one who sent it.
    assert out[3].split() == ["3", "cancelled", "before", "v2", "SUNSET", "1"]
    assert err[-1] == "4 jobs in 0:00: 3 cancelled, 1 cancelled before (1 by an earlier run)"


def test_a_job_that_was_cancelled_before_is_ok_and_final(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    server.jobs[1] = "CANCELLED"
    code, out, err = run(1, 2, "--resume", tmp_path / "journal")
    assert code == 0
    assert out[1].split() == ["1", "cancelled", "before", "v2", "SUNSET", "1"]
    assert err[-1] == "2 jobs in 0:00: 1 cancelled, 1 cancelled before"
    assert len(server.seen) == 2, "no status is read for it"
    code, out, _ = run(1, 2, "--resume", tmp_path / "journal", "--json")
    assert code == 0
    assert len(server.seen) == 2, "it was done already"
    row = json.loads(out[0])
    assert set(row) == {
        *("process_id", "ok", "already_cancelled", "version", "reason", "attempts", "message")
    }, "and no error"
    assert (row["ok"], row["already_cancelled"]) == (True, True)
    assert run(1) == (0, ["job 1 was cancelled before"], [])


def test_a_job_whose_fate_is_unknown_is_not_ok_though_cancelled_before(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    server.jobs[1] = "CANCELLED"
    server.script_for(1, drop(applied=True))
    server.always(respond(500), route="status")
    code, out, _ = run(1, "--json", "--resume", tmp_path / "journal")
    assert code == 1
    row = json.loads(out[0])
    assert (row["ok"], row["error"]) == (False, "AlreadyCancelledError")
    assert row["outcome_unknown"]
    with open_journal(tmp_path / "journal", server) as journal:
        assert not journal.done


def test_wait_waits_for_a_job_that_was_cancelled_before(run: Run, server: FaultServer) -> None:
    def job(state: str) -> Any:
        facts = {"process_id": 1, "filename": "1.csv", "current_status": state, "message": ""}
        return respond(200, facts)

    server.jobs[1] = "CANCELLING"
    server.script_for(1, *map(job, ["CANCELLING", "CANCELLED"]), route="status")
    code, out, err = run(1, "--wait")
    assert (code, out) == (0, ["job 1 was cancelled before"])
    assert err == ["job 1 is CANCELLING", "job 1 is CANCELLED", "1/1 job 1 cancelled before"]
    assert len(server.seen) == 3
    code, out, _ = run(1, "--wait-timeout", "0", "--quiet")
    assert code == 0
    code, out, _ = run(1, "--wait-timeout", "0")
    assert out == ["job 1 was cancelled before; it had not ended in 0 s"]
    server.script_for(1, job("COMPLETED"), route="status")
    assert run(1, "--wait")[0] == 1, "it completed after all"


def test_a_job_that_was_under_way_and_is_found_cancelled_counts_as_done(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    path.write_text(journal_of(server, '{"event": "started", "process_id": 1}'))
    server.jobs[1] = "CANCELLING"
    assert run(1, "--resume", path) == (0, ["job 1 was cancelled before"], [])
    with open_journal(path, server) as journal:
        assert journal.done[1].ok


def test_a_torn_last_line_is_no_obstacle_however_often_it_tears(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    assert run(1, "--resume", path)[0] == 0
    whole = path.read_bytes()
    line = b'{"event": "started", "process_id": 2}'
    for length in range(len(line) + 1):
        path.write_bytes(whole + line[:length])
        with open_journal(path, server) as journal:
            assert set(journal.done) == {1}
            journal.write("started", process_id=3)
        with open_journal(path, server) as journal:
            assert set(journal.done) == {1}
        assert entries(path) == [("started", 1), ("done", 1), ("started", 3)]
    first = whole.splitlines()[0]
    for length in range(len(first) + 1):
        path.write_bytes(first[:length])
        with open_journal(path, server) as journal:
            assert not journal.done
        assert path.read_bytes() == first + b"\n"


def open_journal(path: Path, server: FaultServer) -> closing[Journal]:
    return closing(Journal(str(path), server.base_url))


def test_a_journal_is_bound_to_its_server(run: Run, server: FaultServer, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(Journal(str(path), "https://api.revenuebase.ai")):
        pass
    assert run(1, "--resume", path) == (
        2,
        [],
        [
            f"revenuebase-compat: --resume {path}: holds jobs of https://api.revenuebase.ai, not "
            f"of {server.base_url}: give another file"
        ],
    )
    assert server.seen == []


def test_a_journal_never_holds_a_sandbox_s_jobs(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    code, out, err = run(42, "--sandbox", "--resume", path)
    assert (code, out) == (2, [])
    assert err == ["revenuebase-compat: cancel: a journal (--resume) holds no jobs of a --sandbox"]
    assert not path.exists()


def test_a_journal_is_locked_while_it_is_in_use(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    with open_journal(path, server) as journal:
        refused = f"revenuebase-compat: --resume {path}: another run is using it"
        assert run(1, "--resume", path) == (2, [], [refused])
        assert server.seen == []
        journal.write("started", process_id=7)
    assert run(1, "--resume", path)[0] == 0
    assert entries(path)[0] == ("started", 7)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1\n2\n", 1),
        ("42", 1),
        ("process_id\n1\n", 1),
        ('{"process_id": 1}\n', 1),
        ('{"event": "opened"}\n', 1),
        ('{"event": "started", "process_id": 1}\n', 1),
        ('{"event": "started", "process_id": 1}\n{"event": "clicked", "process_id": 1}\n', 3),
        ('{"event": "started", "process_id": 1}\n\n{"event": "started", "process_id": 2}\n', 3),
        ('{"event": "started", "process_id": "x"}\n', 2),
        ('{"event": "done", "process_id": 1}\n', 2),
        ('{"event": "done", "process_id": 1, "final": true, "row": {"ok": true}}\n', 2),
        ("[" * 100_000 + "\n", 1),
        ("\x00\xff\n", 1),
    ],
)
def test_another_s_file_is_refused_and_left_as_it_is(
    run: Run, server: FaultServer, tmp_path: Path, text: str, number: int
) -> None:
    path = tmp_path / "report.txt"
    if number > 1:
        text = journal_of(server) + text
    path.write_bytes(text.encode("latin-1"))
    code, out, err = run(1, "--resume", path)
    assert (code, out) == (2, [])
    assert err == [
        f"revenuebase-compat: --resume {path}: line {number} is not of a journal: "
        "give another file, or a new name"
    ]
    assert path.read_bytes() == text.encode("latin-1")
    assert server.seen == []


def test_a_journal_that_cannot_be_opened_or_written(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    code, _, err = run(1, "--resume", tmp_path)
    assert (code, err) == (2, [f"revenuebase-compat: --resume {tmp_path}: Is a directory"])
    assert server.seen == []


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero", "/dev/full"])
def test_a_device_is_no_journal(run: Run, server: FaultServer, device: str) -> None:
    code, out, err = run(1, "--resume", device)
    assert (code, out) == (2, [])
    assert err == [f"revenuebase-compat: --resume {device}: is no regular file"]
    assert server.seen == []


def test_a_journal_that_takes_no_more_stops_the_run(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    python = shlex.quote(sys.executable)
    command = f"ulimit -f 4; {python} -m revenuebase_compat cancel --yes --resume {path}"
    done = subprocess.run(
        ["bash", "-c", f"{command} {{1..100}}"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 130
    assert f"revenuebase-compat: --resume {path}: File too large\n" in done.stderr
    assert len(done.stdout.splitlines()) - 1 == len(server.applied) < 100
    assert re.search(r"of 100 jobs done, \d+ not started: --resume ", done.stderr)
    assert run(*range(1, 101), "--resume", path, "--yes")[0] == 0
    assert sorted(server.applied) == [*range(1, 101)]


@pytest.mark.parametrize(
    ("error", "ok", "final"),
    [
        (AlreadyCancelledError("x"), True, True),
        (AlreadyCancelledError("x", outcome_unknown=True), False, False),
        (NotCancellableError("x"), False, True),
        (JobNotFoundError("x"), False, True),
        (TransportError("x", outcome_unknown=True), False, False),
        (TransportError("x"), False, False),
        (ConfigurationError("x"), False, False),
    ],
)
def test_what_counts_as_cancelled_and_what_is_final(
    server: FaultServer, tmp_path: Path, error: CancelError, ok: bool, final: bool
) -> None:
    found = failed(1, error)
    assert (found.ok, found.final) == (ok, final)
    with open_journal(tmp_path / "journal", server) as journal:
        journal.write("done", process_id=1, row=found)
    with open_journal(tmp_path / "journal", server) as journal:
        assert (1 in journal.done) == final
