"""What a setting names by a string is imported amid a request: whatever comes in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.raw_server import RawServer, reply

V1, V2 = "POST /v1/cancel-process", "POST /v2/jobs/42/cancel"

PROGRAM = """
import os, signal, sys, threading, warnings
import requests
warnings.simplefilter("ignore")
mode, url = sys.argv[1:]

def send():
    job, key = {"process_id": 42}, {"x-key": "rb_test_key"}
    return requests.post(url + "/v1/cancel-process", json=job, headers=key).status_code

class TimeLimit(Exception):
    pass

def handle(*_):
    if mode == "time limit":
        raise TimeLimit
    send()

def fork():
    if not (child := os.fork()):
        signal.alarm(10)
        os._exit(send() != 200)
    print("child", os.waitpid(child, 0)[1])

def strike():
    while pending:
        pending.pop()
        if mode == "fork":
            thread = threading.Thread(target=fork)
            thread.start()
            thread.join()
        else:
            signal.raise_signal(signal.SIGUSR1)

pending = [1]
signal.signal(signal.SIGUSR1, handle)
if mode == "import":
    import named
try:
    print(send())
except TimeLimit:
    print("time limit")
print(send())
"""

NAMED = """
import __main__
__main__.strike()
def flag(context): return True
def hear(event): pass
"""


@pytest.fixture
def raw() -> Iterator[RawServer]:
    with RawServer(lambda request, number: reply()) as running:
        yield running


def run(
    folder: Path, raw: RawServer, mode: str, *options: str, day: str, **named: str
) -> subprocess.CompletedProcess[str]:
    """The program in that folder, with the given settings."""
    (folder / "app.py").write_text(PROGRAM, "utf-8")
    command = [sys.executable, "-m", "revenuebase_compat", "run", *options, "--", sys.executable]
    return subprocess.run(
        [*command, "app.py", mode, raw.url],
        env={
            "REVENUEBASE_BASE_URL": raw.url,
            "REVENUEBASE_V1_SUNSET": day,
            **{f"REVENUEBASE_{setting}": name for setting, name in named.items()},
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="forks, and signals a process can send itself")
@pytest.mark.parametrize("kind", ["flag", "listener"])
@pytest.mark.parametrize(
    ("mode", "said", "left"),
    [("time limit", "time limit\n", 0), ("handler", "200\n", 1), ("fork", "child 0\n200\n", 1)],
)
def test_what_comes_while_a_named_one_is_imported(
    tmp_path: Path, raw: RawServer, kind: str, mode: str, said: str, left: int
) -> None:
    """A request that finds half a module does without it, and no later one."""
    (tmp_path / "named.py").write_text(NAMED, "utf-8")
    if kind == "flag":
        done = run(tmp_path, raw, mode, day="2999-01-01", V2_FLAG="named:flag")
        expected = [V1] * left + [V2] * (1 + left)
    else:
        done = run(tmp_path, raw, mode, day="2000-01-01", ON_EVENT="named:hear")
        expected = [V2] * (2 + left)
    assert (done.stdout, done.returncode) == (f"{said}200\n", 0), done.stderr
    assert raw.lines == expected


def test_a_flag_whose_package_makes_the_first_request_is_asked_later(
    tmp_path: Path, raw: RawServer
) -> None:
    (tmp_path / "named.py").write_text(NAMED.replace("strike()", "send()"), "utf-8")
    done = run(tmp_path, raw, "import", day="2999-01-01", V2_FLAG="named:flag")
    assert (done.stdout, done.returncode) == ("200\n200\n", 0), done.stderr
    assert raw.lines == [V1, V2, V2]


def test_a_listener_that_is_not_there_is_refused_before_a_request_under_strict(
    tmp_path: Path, raw: RawServer
) -> None:
    done = run(tmp_path, raw, "none", day="2000-01-01", ON_EVENT="nowhere:hear")
    assert (done.stdout, done.returncode) == ("200\n200\n", 0), done.stderr
    raw.requests.clear()
    done = run(tmp_path, raw, "none", "--strict", day="2000-01-01", ON_EVENT="nowhere:hear")
    assert "ConfigurationError: on_event (REVENUEBASE_ON_EVENT) 'nowhere:hear'" in done.stderr
    assert (done.stdout, done.returncode, raw.lines) == ("", 1, [])
