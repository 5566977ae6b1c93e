"""The report: what many processes append to one file, what is refused, and what is read back."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from revenuebase_compat import ApiDeprecationWarning, ConfigurationError, adopt
from revenuebase_compat.adopt import sdk_names
from revenuebase_compat.adopt.report import VARIABLE, Report, prepare, read

CANCEL = "POST /v1/cancel-process"
KEYS = ["endpoint", "fate", "site", "pid", "at"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(prepare(str(tmp_path / "report.jsonl")))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_line_holds_what_was_asked_and_what_came_of_it(path: Path) -> None:
    Report(str(path)).record(CANCEL, "moved", "app.py:12")
    [line] = lines(path)
    assert list(line) == KEYS
    assert [line[key] for key in KEYS[:4]] == [CANCEL, "moved", "app.py:12", os.getpid()]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", str(line["at"]))


def test_the_environment_names_the_file(path: Path) -> None:
    assert Report.from_env({}) is None
    assert Report.from_env({VARIABLE: ""}) is None
    report = Report.from_env({VARIABLE: str(path)})
    assert report is not None
    assert report.path == str(path)


def test_sites_are_told_from_where_the_process_started(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = Report(str(path))
    monkeypatch.chdir("/")
    assert report.site(str(tmp_path / "jobs" / "nightly.py"), 40) == "jobs/nightly.py:40"
    assert report.site("app.py", 12) == "app.py:12"
    assert report.site(f"{tmp_path}-other/app.py", 1) == f"{tmp_path}-other/app.py:1"


class Account:
    """Stands for what the vendor's SDK has in place of the name."""

    def balance(self) -> str:
        return "12"


class Sdk:
    account = Account()


def test_a_name_of_the_sdk_that_is_forwarded_to_v2_counts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of v1 is sent then, and yet the program needs us."""
    resources, types = ModuleType("sdk.resources"), ModuleType("sdk.types")
    sdk: Any = ModuleType("sdk")
    vars(types).update(user_operations=ModuleType("sdk.types.user_operations"))
    vars(sdk).update(__version__="0.3.0", __all__=[], resources=resources, types=types)
    vars(sdk).update(UsageResponse=str, RevenuebaseClient=Sdk, AsyncRevenuebaseClient=Sdk)
    monkeypatch.setenv(VARIABLE, str(path))
    adopt.install()
    sdk_names.restore(sdk)
    try:
        client: Any = Sdk()
        with pytest.warns(ApiDeprecationWarning):
            assert client.v1.get_credits() == "12"
            assert client.user_operations.get_credits() == "12"
        warnings.simplefilter("error", ApiDeprecationWarning)
        with pytest.raises(ApiDeprecationWarning):  # nothing was sent
            client.v1.get_credits()
    finally:
        adopt.uninstall()
    found = [(line["endpoint"], line["fate"], str(line["site"])) for line in lines(path)]
    assert [one[:2] for one in found] == [("GET /v1/credits", "moved")] * 2
    assert len({site for *_, site in found}) == 2
    [where] = {site.rpartition(":")[0] for *_, site in found}
    assert __file__.endswith(where)


def test_record_never_raises(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    report = Report(str(gone / "report"))
    for name in gone.iterdir():
        name.unlink()
    gone.rmdir()
    Report(str(gone / "report")).record(CANCEL, "left", "app.py:1")
    report.record(CANCEL, "left", "app.py:1")
    report = Report(str(path))
    report.record(CANCEL, "left", "caf\udce9.py:1")  # a file name that is not UTF-8
    report.record(CANCEL, "left", object())  # type: ignore[arg-type]
    monkeypatch.setattr(os, "write", lambda *_: 1 / 0)
    report.record(CANCEL, "left", "app.py:1")
    assert [line["site"] for line in lines(path)] == ["caf\udce9.py:1"]


def test_a_directory_that_is_gone_stops_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    report = Report(str(path))
    report.record(CANCEL, "moved", report.site("app.py", 1))
    monkeypatch.chdir(tmp_path)
    assert [line["site"] for line in lines(path)] == ["app.py:1"]


def test_a_descriptor_that_was_closed_and_given_away_is_not_written_to(
    path: Path, tmp_path: Path
) -> None:
    """python-daemon closes all descriptors; the next file gets the number."""
    own = os.open(os.devnull, os.O_RDONLY)
    os.close(own)  # the lowest free number, which the next one to open a file is given
    report = Report(str(path))
    os.close(own)
    with (tmp_path / "theirs").open("wb") as theirs:
        assert theirs.fileno() == own
        report.record(CANCEL, "moved", "app.py:1")
        report.record(CANCEL, "moved", "app.py:2")
        assert os.fstat(own).st_size == 0
    assert [line["site"] for line in lines(path)] == ["app.py:1", "app.py:2"]


def test_a_signal_handler_may_record_in_the_middle_of_a_record(path: Path) -> None:
    report, handled = Report(str(path)), 0

    def record(*_: object) -> None:
        nonlocal handled
        handled += 1
        report.record(CANCEL, "left", "handler.py:1")

    before = signal.signal(signal.SIGALRM, record)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0003)
    try:
        written = 0
        deadline = time.monotonic() + 20
        while handled < 200 and time.monotonic() < deadline:
            report.record(CANCEL, "moved", "app.py:1")
            written += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert handled >= 200
    found = Counter(line["site"] for line in lines(path))
    assert found == {"app.py:1": written, "handler.py:1": handled}


def test_threads_and_forks_write_each_line_whole_under_their_own_pid(path: Path) -> None:
    report = Report(str(path))

    def work() -> None:
        for number in range(200):
            report.record(CANCEL, "moved", f"app.py:{number}")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    # No lock is held by the threads that do not live on in the child.
    code = (
        "import os, sys\n"
        "from revenuebase_compat.adopt.report import Report\n"
        "report = Report(sys.argv[1])\n"
        "child = os.fork()\n"
        "for _ in range(200): report.record('POST /v1/cancel-process', 'left', 'fork.py:1')\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, check=False)
    for thread in threads:
        thread.join(30)
    assert done.returncode == 0
    found = Counter((line["site"] == "fork.py:1", line["pid"]) for line in lines(path))
    assert sorted(found.values()) == [200, 200, 800]
    assert found[False, os.getpid()] == 800


WRITER = """
import os, sys
from revenuebase_compat.adopt.report import Report
report = Report.from_env(os.environ)
print(flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[1])):
    report.record("POST /v1/cancel-process", "moved", f"{'long/' * 30}app.py:{number}")
"""


@pytest.mark.slow
def test_fifty_processes_append_while_one_is_killed(path: Path) -> None:
    """Every line is whole, and none is lost but those that were never written."""
    each = 200
    environ = {**os.environ, VARIABLE: str(path)}
    command = [sys.executable, "-c", WRITER]

    def start(count: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
        )

    doomed, *others = writers = [start(10**9), *(start(each) for _ in range(49))]
    try:
        for writer in writers:
            assert writer.stdout
            assert writer.stdout.readline() == b"\n"
        for writer in writers:
            assert writer.stdin
            writer.stdin.write(b"\n")
            writer.stdin.flush()
        deadline = time.monotonic() + 60
        while not any(read(str(path))[0].values()) and time.monotonic() < deadline:
            time.sleep(0.001)
        counts, unreadable = read(str(path))  # a living file
        assert counts
        assert unreadable == 0
        doomed.kill()
        for writer in writers:
            writer.wait(60)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait(10)
            for pipe in (writer.stdin, writer.stdout):
                assert pipe
                pipe.close()
    written = lines(path)
    assert all(list(line) == KEYS for line in written)
    by_pid: dict[object, list[int]] = {}
    for line in written:
        by_pid.setdefault(line["pid"], []).append(int(str(line["site"]).rpartition(":")[2]))
    cut = by_pid.pop(doomed.pid, [])
    assert cut == list(range(len(cut)))
    assert by_pid == {writer.pid: list(range(each)) for writer in others}
    counts, unreadable = read(str(path))
    assert counts.total() == len(written)
    assert unreadable == 0


# Bad input


def a_folder(path: Path) -> None:
    path.mkdir()


def a_symlink(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def somebody_elses(path: Path) -> None:
    path.write_text("process_id\n42\n", "utf-8")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (a_folder, "a folder, a symlink or a device"),
        (a_symlink, "a folder, a symlink or a device"),
        (a_pipe, "a folder, a symlink or a device"),
        (somebody_elses, "holds something else"),
    ],
)
def test_a_file_that_cannot_be_a_report_is_refused(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "report"
    make(path)
    with pytest.raises(ConfigurationError) as refused:
        prepare(str(path))
    assert str(refused.value) == f"report {str(path)!r}: {words}; give a file of its own"
    assert not (tmp_path / "elsewhere").exists()
    # Nor does a process write there that was told to all the same.
    if make is a_symlink:
        Report(str(path)).record(CANCEL, "left", "app.py:1")
        assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["no/such/folder/report", "plain/report", "x" * 300, "a\0b"])
def test_a_file_that_cannot_be_made_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain").touch()
    with pytest.raises(ConfigurationError) as refused:
        prepare(str(tmp_path / name))
    assert "\n" not in str(refused.value)


def test_a_report_in_a_directory_that_is_gone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        prepare("report.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_is_not_writable_is_refused(path: Path) -> None:
    path.chmod(0o400)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        prepare(str(path))


def test_a_new_file_is_its_owners_and_an_older_report_is_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    try:
        path = prepare("report")
    finally:
        os.umask(before)
    assert path == str(tmp_path / "report")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    Report(path).record(CANCEL, "moved", "app.py:1")
    assert prepare("report") == path
    Report(path).record(CANCEL, "moved", "app.py:1")
    assert read(path) == (Counter({(CANCEL, "moved", "app.py:1"): 2}), 0)


def test_what_is_written_to_a_closed_stderr_does_not_land_in_it(path: Path) -> None:
    program = f"""
import os
os.close(2)
from revenuebase_compat.adopt.report import Report
Report({str(path)!r}).record({CANCEL!r}, "moved", "app.py:1")
try:
    os.write(2, b"lost")
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    assert done.stdout == "Bad file descriptor\n"
    assert read(str(path)) == (Counter({(CANCEL, "moved", "app.py:1"): 1}), 0)


# Reading


def test_read_leaves_out_a_half_last_line_and_finds_the_one_behind_a_cut(path: Path) -> None:
    line = json.dumps({"endpoint": CANCEL, "fate": "left", "site": "a.py:1", "pid": 1, "at": ""})
    text = f"{line}\n{line[:30]}{line}\nnonsense\n" + '{"endpoint": "x"}\n[1]\n'
    text += line.replace("left", "eaten") + "\n" + line[:40]
    path.write_text(text, "utf-8")
    assert read(str(path)) == (Counter({(CANCEL, "left", "a.py:1"): 2}), 4)
    path.write_text(line[:5], "utf-8")
    assert read(str(path)) == (Counter(), 0)
    path.write_text("", "utf-8")
    assert read(str(path)) == (Counter(), 0)


@pytest.mark.parametrize("name", ["missing", ".", "a\0b"])
def test_read_needs_a_report(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError):
        read(str(tmp_path / name))
    other = tmp_path / "other"
    other.write_text("{}\n", "utf-8")
    with pytest.raises(ConfigurationError, match="no report"):
        read(str(other))
