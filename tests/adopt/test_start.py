"""Start-up under ``run`` and under the ``.pth`` file: it waits for nothing that an import may hold.

Each program runs in a process of its own, and tells where its threads hang before it gives up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from revenuebase_compat.adopt import pth
from tests.support.raw_server import RawServer, reply

RUN = [str(Path(sys.executable).with_name("revenuebase-compat")), "run", "--"]

GIVES_UP = "import faulthandler; faulthandler.dump_traceback_later(20, exit=True)\n"

PATCHED = """
import aiohttp, http.client, httpcore, urllib3
for point in (
    httpcore.ConnectionPool.handle_request, httpcore.AsyncConnectionPool.handle_async_request,
    urllib3.HTTPConnectionPool.urlopen, http.client.HTTPConnection.request,
    http.client.HTTPConnection.getresponse, aiohttp.ClientSession._request,
):
    assert hasattr(point, "_revenuebase_compat"), point
print("patched")
"""

# One thread is in the middle of importing a module that patching needs, another imports a library.
FORCED = """
import sys, threading, time
name, importing = sys.argv[1], threading.Event()
def slowly(frame, event, arg):
    if event == "call" and frame.f_code.co_name == "<module>":
        if frame.f_globals.get("__name__") == name:
            importing.set()
            time.sleep(0.3)
def first():
    sys.settrace(slowly)
    __import__(name)
    importing.set()
thread = threading.Thread(target=first)
thread.start()
importing.wait(10)
import urllib.request
thread.join()
"""

POOL = """
import random, sys, threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
names = '''requests httpx aiohttp urllib3 json dataclasses typing packaging.version urllib.request
http.client email.message decimal fractions httpcore logging asyncio zlib inspect datetime ipaddress
dateutil.parser revenuebase_compat.core.settings revenuebase_compat.client.facade'''.split()
chance = random.Random(int(sys.argv[1]))
barrier = threading.Barrier(8)
def work(mine):
    barrier.wait(10)
    for name in mine:
        import_module(name)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(work, [chance.sample(names, len(names)) for _ in range(8)]))
"""


def run_program(
    code: str, *arguments: str, way: list[str] | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    command = [*(RUN if way is None else way), sys.executable, "-c", GIVES_UP + code, *arguments]
    return subprocess.run(
        command,
        env={"PATH": os.defpath, "REVENUEBASE_V1_SUNSET": "2000-01-01", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def by_pth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Code that has site read the ``.pth`` file, as it would at its start."""
    monkeypatch.setattr(pth, "pth_file", lambda: tmp_path / "revenuebase-compat.pth")
    assert pth.pth("install") == 0
    return f"import site; site.addsitedir({str(tmp_path)!r})\n"


# What settings, notices and the rewrite import, and what a thread may be in the middle of.
MODULES = ["dataclasses", "inspect", "enum", "json", "typing", "logging", "ipaddress"]
MODULES += ["urllib.parse", "packaging.version", "revenuebase_compat.core.settings"]


@pytest.mark.parametrize("name", MODULES)
def test_start_never_waits_for_an_import_of_another_thread(name: str) -> None:
    done = run_program(FORCED + PATCHED, name)
    assert (done.returncode, done.stdout) == (0, "patched\n"), done.stderr


@pytest.mark.parametrize("name", ["dataclasses", "json"])
def test_start_by_pth_never_waits_for_an_import_of_another_thread(name: str, by_pth: str) -> None:
    done = run_program(by_pth + FORCED + PATCHED, name, way=[], REVENUEBASE_COMPAT_RUN="1")
    assert (done.returncode, done.stdout) == (0, "patched\n"), done.stderr


@pytest.mark.parametrize("seed", range(4))
def test_start_lets_threads_import_in_any_order(seed: int, by_pth: str) -> None:
    done = run_program(POOL + PATCHED, str(seed))
    assert (done.returncode, done.stdout) == (0, "patched\n"), done.stderr
    done = run_program(by_pth + POOL + PATCHED, str(seed), way=[], REVENUEBASE_COMPAT_RUN="1")
    assert (done.returncode, done.stdout) == (0, "patched\n"), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["run", "pth"])
def test_start_lets_threads_import_in_any_order_fifty_times(way: str, by_pth: str) -> None:
    for seed in range(100, 150):
        if way == "run":
            done = run_program(POOL + PATCHED, str(seed))
        else:
            code = by_pth + POOL + PATCHED
            done = run_program(code, str(seed), way=[], REVENUEBASE_COMPAT_RUN="1")
        assert (done.returncode, done.stdout) == (0, "patched\n"), (seed, done.stderr)


# A child is forked while another thread is in the middle of the process's first v1 request.
FORK = """
import os, sys, threading
import httpcore, requests, httpx
url, library = sys.argv[1], {"requests": requests, "httpx": httpx}[sys.argv[2]]
def post(job):
    url_of_v1 = url + "/v1/cancel-process"
    return library.post(url_of_v1, json={"process_id": job}, timeout=10).status_code
thread = threading.Thread(target=post, args=(1,))
def tracer(frame, event, arg):
    # At every line of ours, in turn: wherever the other thread stands, a child is made.
    global left
    if "revenuebase_compat" in frame.f_code.co_filename and left > 0:
        left -= 1
        if left % 20 == 0:
            pid = os.fork()
            if pid == 0:
                os._exit(0 if post(2) == 200 else 3)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return tracer
codes, left = [], 400
threading.settrace(tracer)
thread.start()
thread.join()
print(len(codes) > 3, set(codes))
"""


@pytest.mark.parametrize("library", ["requests", "httpx"])
def test_a_fork_in_the_first_request_finds_nothing_half_done(library: str) -> None:
    with RawServer(lambda request, number: reply()) as server:
        done = run_program(FORK, server.url, library, REVENUEBASE_BASE_URL=server.url)
    assert (done.returncode, done.stdout) == (0, "True {0}\n"), done.stderr
    assert set(server.lines) == {"POST /v2/jobs/1/cancel", "POST /v2/jobs/2/cancel"}


def test_install_waits_for_what_another_thread_is_importing() -> None:
    code = """
import sys, threading, time
importing = threading.Event()
def slowly(frame, event, arg):
    if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "aiohttp.client":
        importing.set()
        time.sleep(0.3)
def first():
    sys.settrace(slowly)
    import aiohttp
thread = threading.Thread(target=first)
thread.start()
importing.wait(10)
from revenuebase_compat import adopt
adopt.install()
thread.join()
"""
    done = run_program(code + PATCHED, way=[])
    assert (done.returncode, done.stdout) == (0, "patched\n"), done.stderr


def test_what_another_finder_hid_is_patched_at_the_next_look() -> None:
    code = """
import sys
from importlib.machinery import PathFinder
class Hides:
    def find_spec(self, name, path=None, target=None):
        return PathFinder.find_spec(name, path) if name.partition(".")[0] == "urllib3" else None
sys.meta_path.insert(0, Hides())
import urllib3
import json.tool
"""
    done = run_program(code + PATCHED)
    assert (done.returncode, done.stdout) == (0, "patched\n"), done.stderr


def test_what_this_thread_is_importing_is_patched_at_the_next_look() -> None:
    code = """
import sys
def inside(frame, event, arg):
    name = frame.f_globals.get("__name__")
    if frame.f_code.co_name == "<module>" and name == "urllib3.connectionpool":
        sys.settrace(None)
        from revenuebase_compat import adopt
        adopt.install()
sys.settrace(inside)
import requests
import json.tool
"""
    done = run_program(code + PATCHED, way=[])
    assert (done.returncode, done.stdout) == (0, "patched\n"), done.stderr


def test_a_flag_module_that_imports_a_library_is_resolved_at_the_first_request(
    tmp_path: Path,
) -> None:
    text = "from requests import Session\n\ndef flag(context):\n    return True\n"
    (tmp_path / "flagged.py").write_text(text)
    code = """
import requests, sys
print(requests.post(sys.argv[1] + "/v1/cancel-process", json={"process_id": 1}).status_code)
"""
    with RawServer(lambda request, number: reply()) as server:
        done = run_program(
            code,
            server.url,
            PYTHONPATH=str(tmp_path),
            REVENUEBASE_V2_FLAG="flagged:flag",
            REVENUEBASE_V1_SUNSET="2999-01-01",
            REVENUEBASE_BASE_URL=server.url,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n", "")
    assert server.lines == ["POST /v2/jobs/1/cancel"]
