"""Many jobs on the command line: their ids, the journal, and what is printed where."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from revenuebase_compat import (
    AlreadyCancelledError,
    CancelError,
    ConfigurationError,
    JobFailed,
    JobNotFoundError,
    NotCancellableError,
    TransportError,
)
from revenuebase_compat.cli.journal import Journal, read_ids
from revenuebase_compat.cli.main import main
from revenuebase_compat.cli.output import span
from tests.conftest import TEST_KEY
from tests.support import AFTER, UTC
from tests.support.fault_server import FaultServer, drop, respond

# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1\n2\n3\n",
        "1\r\n2\r\n3",
        "1\r2\r3\r",
        "\n# wanted by sales\n 1 \n\n\t2\n  # and these\n3\n\n",
        "process_id\n1\n2\n3\n",
        "file,process_id,owner\na.csv,1,x\nb.csv,2,y\nc.csv,3\n",
        'process_id,file\r\n"1","a, b.csv"\r\n"2","say ""no"".csv"\r\n 3 , c.csv\r\n',
        "\n# exported today\nfile, process_id\n\na, 1\n# not this one\nb, 2\nc, 3\n",
        'note,process_id\n"two\nlines",1\nx,2\n"and\n\nthree",3\n',
        "file;process_id\na,b.csv;1\nc.csv;2\nd.csv;3\n",
        '"file\tname"\tprocess_id\na\t1\nb\t2\nc\t3\n',
        '"a,b",process_id\nx,1\ny,2\nz,3\n',
        '{"process_id": 1}\n{"process_id": "2", "ok": false}\n\n 3 \n',
        '{"file": "a\x85b\u2028c", "process_id": 1}\n{"process_id": 2}\r\n{"process_id": 3}',
    ],
)
def test_ids_in_every_form(text: str) -> None:
    assert list(read_ids(text, "ids")) == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "\n", "# none\n\n", "process_id\n", "process_id,file\n\n"])
def test_a_file_without_ids(text: str) -> None:
    assert list(read_ids(text, "ids")) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n\n# two\nx\n", "ids, line 4: process_id 'x' is no process id: give an int from 1"),
        ("1\n-2\n", "ids, line 2: process_id '-2'"),
        ("1 2\n", "ids, line 1: process_id '1 2'"),
        ("1\n[2, 3]\n", "ids, line 2: process_id '[2, 3]'"),
        ("job\n1\n", "ids, line 1: process_id 'job'"),
        ("9" * 5000, "ids, line 1: process_id"),
        ("process_id,file\n1,a\n\n,b\n", "ids, line 4: process_id ''"),
        ("file,process_id\na,1\nb\n", "ids, line 3: process_id ''"),
        ('note,process_id\n"two\nlines",1\n"two\nmore",x\n', "ids, line 4: process_id 'x'"),
        ('process_id,n\n1,"' + "x" * 200_000, "ids, after line 1: field larger than field limit"),
        (
            '{"process_id": 1}\n{"id": 2}\n',
            "ids, line 2: give a JSON object with a process_id, not",
        ),
        ('{"process_id": 1.0}\n', "ids, line 1: process_id 1.0"),
        ('{"process_id": true}\n', "ids, line 1: process_id True"),
        ('{"process_id": 1\n', "ids, line 1: give a JSON object"),
        ('{"process_id": ' + "9" * 5000 + "}", "ids, line 1: "),
        ('{"a": ' + "[" * 100_000, "ids, line 1: give a JSON object"),
    ],
)
def test_a_bad_line_is_named_by_its_number(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        list(read_ids(text, "ids"))
    assert str(raised.value).startswith(words)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("form", ["{}", '{{"process_id": {}}}', "{},a.csv"])
def test_a_hundred_thousand_lines(form: str) -> None:
    text = "process_id,file\n" * form.endswith("csv")
    text += "\n".join(form.format(number) for number in range(1, 100_001))
    began = time.process_time()
    assert list(read_ids(text, "ids")) == list(range(1, 100_001))
    assert time.process_time() - began < 2


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
        clocks = {"clock": lambda: AFTER, "sleep": lambda _: None} | clocks
        code = main(["cancel", *map(str, arguments)], **clocks)
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
    code, _, err = run("--wait", 42)
    assert code == 2
    assert "--wait took 42 for its seconds" in err[0]


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
    assert done.stderr.splitlines()[-1] == b"30 jobs in 0:00: 30 cancelled"


def test_those_that_were_not_cancelled_come_last_in_the_table(
    run: Run, server: FaultServer
) -> None:
    server.jobs[1] = "COMPLETED"
    server.missing.add(2)
    code, out, err = run(*range(1, 6))
    assert code == 1
    assert [line.split()[0] for line in out[1:]] == ["3", "4", "5", "1", "2"]
    assert out[-2].split() == ["1", "NotCancellableError", "v2", "not_cancellable", "1"]
    assert out[-1].split() == ["2", "JobNotFoundError", "v2", "1"]
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
    code, out, err = run(1, "--wait", "60", "--json")
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
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [(entry["event"], entry["process_id"]) for entry in found]


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


def test_at_the_time_of_a_request_its_start_is_on_disk(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, held = tmp_path / "journal", []
    answer = server._answer

    def spy(*arguments: Any, **options: Any) -> tuple[int, object]:
        held.append((arguments[0].process_id, entries(path)))
        return answer(*arguments, **options)

    monkeypatch.setattr(server, "_answer", spy)
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
    server.script_for(2, respond(401))
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
    assert out[3].split() == ["3", "cancelled", "before", "v2", "already_cancelled", "1"]
    assert err[-1] == "4 jobs in 0:00: 4 cancelled (1 by an earlier run)"


def test_a_job_that_somebody_else_cancelled_is_an_error_all_the_same(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    server.jobs[1] = "CANCELLED"
    assert run(1, 2, "--resume", tmp_path / "journal")[0] == 1
    assert run(1, 2, "--resume", tmp_path / "journal")[0] == 1
    assert len(server.seen) == 2


def test_a_job_that_was_under_way_and_is_found_cancelled_counts_as_done(
    run: Run, server: FaultServer, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    path.write_text('{"event": "started", "process_id": 1}\n')
    server.jobs[1] = "CANCELLING"
    code, out, err = run(1, "--resume", path)
    assert (code, out, err) == (0, ["job 1 was cancelled before, by a run of this journal"], [])
    with open_journal(path) as journal:
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
        with open_journal(path) as journal:
            assert set(journal.done) == {1}
            journal.started(3)
        with open_journal(path) as journal:
            assert set(journal.done) == {1}
        assert entries(path) == [("started", 1), ("done", 1), ("started", 3)]


class open_journal:  # noqa: N801 (reads as a function)
    def __init__(self, path: Path) -> None:
        self.journal = Journal(path)

    def __enter__(self) -> Journal:
        return self.journal

    def __exit__(self, *_: object) -> None:
        self.journal.close()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1\n2\n", 1),
        ("42", 1),
        ("process_id\n1\n", 1),
        ('{"process_id": 1}\n', 1),
        ('{"event": "started", "process_id": 1}\n{"event": "clicked", "process_id": 1}\n', 2),
        ('{"event": "started", "process_id": 1}\n\n{"event": "started", "process_id": 2}\n', 2),
        ('{"event": "started", "process_id": "x"}\n', 1),
        ('{"event": "done", "process_id": 1}\n', 1),
        ("[" * 100_000 + "\n", 1),
        ("\x00\xff\n", 1),
    ],
)
def test_another_s_file_is_refused_and_left_as_it_is(
    run: Run, server: FaultServer, tmp_path: Path, text: str, number: int
) -> None:
    path = tmp_path / "report.txt"
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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_without_a_journal_written_nothing_is_sent(server: FaultServer) -> None:
    journal = Journal(None)
    journal._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(ConfigurationError, match="No space left on device"):
        journal.started(1)
    journal.close()


@pytest.mark.parametrize(
    ("error", "doubtful", "ok", "final"),
    [
        (AlreadyCancelledError("x"), False, False, True),
        (AlreadyCancelledError("x"), True, True, True),
        (AlreadyCancelledError("x", outcome_unknown=True), True, False, False),
        (AlreadyCancelledError("x", outcome_unknown=True), False, False, False),
        (NotCancellableError("x"), True, False, True),
        (JobNotFoundError("x"), False, False, True),
        (TransportError("x", outcome_unknown=True), False, False, False),
        (TransportError("x"), True, False, False),
        (ConfigurationError("x"), False, False, False),
    ],
)
def test_what_counts_as_cancelled_and_what_is_final(
    tmp_path: Path, error: CancelError, doubtful: bool, ok: bool, final: bool
) -> None:
    path = tmp_path / "journal"
    if doubtful:
        path.write_text('{"event": "started", "process_id": 1}\n')
    with open_journal(path) as journal:
        fate = journal.settle(JobFailed(1, error))
    assert (fate.ok, fate.final) == (ok, final)
    with open_journal(path) as journal:
        assert (1 in journal.done) == final
