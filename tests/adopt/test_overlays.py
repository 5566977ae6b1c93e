"""What starts the Python, and what comes between: in force, or said; refused where strict."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.children import GONE, SOURCE, interpreter, prefix, program, variables
from tests.support.environments import environment
from tests.support.raw_server import RawServer, reply

APP = """
import os, sys, urllib.request
url = os.environ.get("JOBS_API") or sys.argv[-1]
body, headers = b'{"process_id": 1}', {"Content-Type": "application/json"}
request = urllib.request.Request(url + "/v1/cancel-process", body, headers)
print(urllib.request.urlopen(request, timeout=20).read().decode())
"""
MOVED, LEFT = ["POST /v2/jobs/1/cancel"], ["POST /v1/cancel-process"]


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer(lambda request, number: reply(200, b"done")) as running:
        yield running


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP, "utf-8")
    return path


def start(
    command: list[str], server: RawServer, *options: str, **more: str
) -> subprocess.CompletedProcess[str]:
    """A command under ``run``."""
    environ = variables("run", server.url, **GONE, **more)
    return subprocess.run(
        [*prefix("run", *options), *command],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


#: What the words of a command line stand for.
PYTHON, APP_PATH, URL = "{python}", "{app}", "{url}"


def filled(words: list[str], server: RawServer, app: object = "") -> list[str]:
    given = {PYTHON: str(interpreter("bare")), APP_PATH: str(app), URL: server.url}
    for name, text in given.items():
        words = [word.replace(name, text) for word in words]
    return words


ADDED = 'PYTHONPATH="/no:$PYTHONPATH" "$0" "$@"'
WITHIN: dict[str, list[str]] = {
    "script": [PYTHON, APP_PATH, URL],
    "by the name of its version": [f"{PYTHON}3", APP_PATH, URL],
    "env": ["env", "A=b", PYTHON, APP_PATH, URL],
    "nice": ["nice", "-n", "1", PYTHON, APP_PATH, URL],
    "shell": ["sh", "-c", '"$0" "$@"; exit $?', PYTHON, APP_PATH, URL],
    "PYTHONPATH added to": [
        "sh",
        "-c",
        'PYTHONPATH="/no:$PYTHONPATH" "$0" "$@"',
        PYTHON,
        APP_PATH,
        URL,
    ],
    "-X and -W": [PYTHON, "-X", "dev", "-W", "ignore", "-u", "-B", APP_PATH, URL],
    "safe path": [PYTHON, "-P", APP_PATH, URL],
    "no user site": [PYTHON, "-s", APP_PATH, URL],
    "code": [PYTHON, "-c", APP, URL],
    "an option of its own": [PYTHON, APP_PATH, "-I", URL],
}


@pytest.mark.parametrize("way", WITHIN)
@pytest.mark.parametrize("options", [(), ("--strict",), ("--rehearse",)])
def test_in_force(server: RawServer, app: Path, way: str, options: tuple[str, ...]) -> None:
    if way == "safe path" and sys.version_info < (3, 11):
        pytest.skip("-P is of Python 3.11")
    done = start(filled(WITHIN[way], server, app), server, *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert server.lines == MOVED


@pytest.mark.parametrize("name", ["python", "echo", "grep"])
def test_words_that_look_like_python_are_not_refused(server: RawServer, name: str) -> None:
    """They are the command's own arguments, and no Python is started with them."""
    words = {
        "echo": ["echo", "python", "-I", "app.py"],
        "grep": ["grep", "-c", "python", "-I", "/dev/null"],
        "python": [PYTHON, "-c", "print('python -I')", "python", "-I"],
    }[name]
    words = filled(words, server)
    bare = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    done = start(words, server, "--strict")
    assert (done.returncode, done.stdout) == (bare.returncode, bare.stdout), done.stderr


OUTSIDE: dict[str, list[str]] = {
    "isolated": [PYTHON, "-I", APP_PATH, URL],
    "isolated, behind others": [PYTHON, "-X", "dev", "-W", "ignore", "-uI", APP_PATH, URL],
    "environment ignored": [PYTHON, "-E", APP_PATH, URL],
    "isolated behind env": ["env", PYTHON, "-I", APP_PATH, URL],
    "isolated by env -S": ["env", "-S", f"{PYTHON} -I {APP_PATH} {URL}"],
    "isolated by env -S and its value": ["env", f"-S{PYTHON} -I", APP_PATH, URL],
    "isolated by env, in full": ["env", f"--split-string={PYTHON} -I", APP_PATH, URL],
    "isolated in a folder": ["env", "-C", "/", PYTHON, "-I", APP_PATH, URL],
    "isolated in a folder, in full": ["env", "--chdir=/", PYTHON, "-I", APP_PATH, URL],
    "an empty environment": ["env", "-i", PYTHON, APP_PATH, URL],
    "no PYTHONPATH": ["env", "-u", "PYTHONPATH", PYTHON, APP_PATH, URL],
    "another PYTHONPATH": ["env", "PYTHONPATH=/no", PYTHON, APP_PATH, URL],
    "no site": [PYTHON, "-S", APP_PATH, URL],
}


@pytest.mark.parametrize("way", OUTSIDE)
def test_out_of_reach_is_said_and_refused_where_strict(
    server: RawServer, app: Path, way: str
) -> None:
    words = filled(OUTSIDE[way], server, app)
    for option in ("--strict", "--rehearse"):
        done = start(words, server, option)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert server.lines == []
        assert done.stderr.count("\n") == 1
    done = start(words, server)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert server.lines == LEFT
    assert done.stderr.startswith("revenuebase-compat: ")
    assert done.stderr.count("\n") == 1


FIRST_LINES = [f"{PYTHON} {options}" for options in ("-I", "-E", "-Es", "-S")]
FIRST_LINES += [f"/usr/bin/env -S {PYTHON} -I", f"/usr/bin/env -vS -u PYTHONPATH {PYTHON}"]


@pytest.mark.parametrize("line", FIRST_LINES)
def test_a_script_whose_first_line_keeps_us_out_is_refused_where_strict(
    server: RawServer, tmp_path: Path, line: str
) -> None:
    """As Debian's programs have it; the kernel starts the Python, with words that we never see."""
    script = tmp_path / "app"
    script.write_text("\n".join(filled([f"#!{line}", APP], server)), "utf-8")
    script.chmod(0o755)
    done = start([str(script), server.url], server, "--strict")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert server.lines == []


def test_a_script_with_an_ordinary_first_line_is_reached(server: RawServer, tmp_path: Path) -> None:
    script = tmp_path / "app"
    script.write_text(f"#!{interpreter('bare')}\n{APP}", "utf-8")
    script.chmod(0o755)
    done = start([str(script), server.url], server, "--strict")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert server.lines == MOVED


@pytest.mark.parametrize(
    "line", ["-S sh -eu", "-S PYTHONUTF8=1 sh -eu", "-Ssh", "--split-string=sh -eu"]
)
def test_a_script_that_env_starts_by_one_word_is_no_hindrance(
    server: RawServer, tmp_path: Path, line: str
) -> None:
    script = tmp_path / "app"
    script.write_text(f"#!/usr/bin/env {line}\necho started\n", "utf-8")
    script.chmod(0o755)
    for words in ([str(script)], ["timeout", "9", str(script)]):
        done = start(words, server, "--strict")
        assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")


@pytest.mark.parametrize("words", [["env", "-S", '"x'], ["env"] * 600 + ["false"]])
def test_a_look_ahead_that_fails_keeps_no_command_from_its_start(
    server: RawServer, words: list[str]
) -> None:
    bare = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    done = start(words, server, "--strict")
    assert (done.returncode, done.stderr) == (bare.returncode, bare.stderr)
    assert bare.returncode


def test_a_zipped_application_is_reached(server: RawServer, tmp_path: Path) -> None:
    path = tmp_path / "app.pyz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", APP)
    done = start(filled([PYTHON, str(path), URL], server), server, "--strict")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert server.lines == MOVED


@pytest.mark.parametrize("options", [["-I"], ["-E"], ["-X", "dev", "-W", "ignore", "-I"], ["-sE"]])
def test_the_pth_file_reaches_those(server: RawServer, app: Path, options: list[str]) -> None:
    done = program(
        "pth", *options, str(app), base_url=server.url, timeout=60, JOBS_API=server.url, **GONE
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert server.lines == MOVED


@pytest.mark.parametrize("words", [[PYTHON, "-I"], ["env", "-u", "PYTHONPATH", PYTHON]])
@pytest.mark.parametrize("way", ["pth", "bare"])
def test_the_pth_file_counts_for_the_python_that_it_is_in(
    server: RawServer, app: Path, way: str, words: list[str]
) -> None:
    ours = [str(interpreter("pth")), "-m", "revenuebase_compat", "run", "--strict", "--"]
    words = [word.replace(PYTHON, str(interpreter(way))) for word in words]
    done = subprocess.run(
        [*ours, *words, str(app), server.url],
        env=variables("run", server.url, **GONE),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    reached = way == "pth"
    assert (done.returncode, server.lines) == ((0, MOVED) if reached else (2, [])), done.stderr
    assert done.stderr.count("\n") == (not reached)


# --- what patching must not miss ----------------------------------------------------------------

RELOADED = """
import importlib, importlib.util, sys, http.client, urllib.request
if sys.argv[1] == "reload":
    importlib.reload(http.client)
elif sys.argv[1] == "import anew":  # as gevent's and eventlet's import of a patched copy does
    del sys.modules["http.client"], sys.modules["urllib.request"]
    import http.client, urllib.request
elif sys.argv[1] == "failed at first":
    class Failing:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "email.parser":
                raise RuntimeError("not yet")
    for name in [*sys.modules]:
        if name.partition(".")[0] in ("http", "urllib", "email"):
            del sys.modules[name]
    sys.meta_path.insert(0, Failing)
    try:
        import http.client
    except RuntimeError:
        sys.meta_path.remove(Failing)
    else:
        raise AssertionError("it did not fail")
elif sys.argv[1] == "looked for":
    importlib.util.find_spec("aiohttp.client")
"""


@pytest.mark.parametrize("how", ["reload", "import anew", "failed at first", "looked for", "plain"])
def test_a_library_that_is_loaded_again_is_patched_again(server: RawServer, how: str) -> None:
    done = program(
        "run", "-c", RELOADED + APP, how, server.url, base_url=server.url, timeout=60, **GONE
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert server.lines == MOVED


LOOKED_FOR_BY_ANOTHER = """
import importlib.util, sys, threading
asked, imported = threading.Event(), threading.Event()
class Slow:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "http.client" and threading.current_thread() is thread:
            asked.set()
            imported.wait(3)
def look():
    import http
    importlib.util._find_spec("http.client", http.__path__)
thread = threading.Thread(target=look)
sys.meta_path.append(Slow)
sys.meta_path.insert(1, sys.meta_path.pop())
thread.start()
asked.wait(10)
import http.client
imported.set()
thread.join()
"""


@pytest.mark.slow
def test_a_thread_that_looks_for_a_library_hides_it_from_none(server: RawServer) -> None:
    """As pkgutil and plug-in loaders do: they ask the finders, and import nothing."""
    code = LOOKED_FOR_BY_ANOTHER + APP
    done = program("run", "-c", code, server.url, base_url=server.url, timeout=60, **GONE)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert server.lines == MOVED


# --- tools that start Python --------------------------------------------------------------------


@pytest.mark.slow
def test_opentelemetry_instrument(server: RawServer, app: Path) -> None:
    """Behind ``run`` it is told how to stand; in front of it, we are in force."""
    python = environment("opentelemetry-distro", with_library=True)
    tool = str(python.with_name("opentelemetry-instrument"))
    ours = [str(python.with_name("revenuebase-compat")), "run"]
    off = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    off |= {"OTEL_LOGS_EXPORTER": "none", "PATH": f"{python.parent}:{os.defpath}"}
    environ = {"REVENUEBASE_BASE_URL": server.url, "JOBS_API": server.url, **GONE, **off}

    def execute(*command: str) -> Any:
        return subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=120, check=False
        )

    done = execute(*ours, "--", tool, str(python), str(app))
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    said = done.stderr.startswith("revenuebase-compat: ")
    assert server.lines == (LEFT if said else MOVED)
    server.requests.clear()
    done = execute(*ours, "--strict", "--", tool, str(python), str(app))
    assert (done.returncode, server.lines) == ((2, []) if said else (0, MOVED))
    server.requests.clear()
    done = execute(tool, *ours, "--strict", "--", str(python), str(app))
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert server.lines == MOVED


def wheel(folder: Path) -> Path:
    """The least that can be installed, so that no registry is asked."""
    path = folder / "overlaid-1-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: overlaid\nVersion: 1\n"
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {"overlaid.py": "", "METADATA": metadata, "WHEEL": kind, "RECORD": ""}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name if name.endswith(".py") else f"overlaid-1.dist-info/{name}", text)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--strict", "--rehearse"])
def test_uv_run_with_an_overlay(server: RawServer, app: Path, option: str) -> None:
    python = environment("uv", with_library=True)
    uv = str(python.with_name("uv"))
    environ = {"REVENUEBASE_BASE_URL": server.url, "JOBS_API": server.url, **GONE}
    environ |= {"PATH": f"{python.parent}:{os.defpath}", "VIRTUAL_ENV": str(python.parent.parent)}
    environ |= {"UV_CACHE_DIR": str(app.parent / "cache"), "UV_NO_PROGRESS": "1"}
    inner = [uv, "run", "--offline", "--no-project", "--active", "--with", str(wheel(app.parent))]
    done = subprocess.run(
        [
            str(python.with_name("revenuebase-compat")),
            "run",
            option,
            "--",
            *inner,
            "python",
            str(app),
        ],
        env=environ,
        cwd=app.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    in_force = (done.returncode, done.stdout, server.lines) == (0, "done\n", MOVED)
    refused = (done.returncode, done.stdout, server.lines) == (2, "", [])
    assert in_force or (refused and "revenuebase-compat: " in done.stderr), done


NIQUESTS = """
import os, niquests
url = os.environ["JOBS_API"] + "/v1/cancel-process"
with niquests.Session(multiplexed=True) as session:
    answer = session.post(url, json={"process_id": 1}, timeout=20)
    session.gather()
    print(answer.status_code)
with niquests.Session() as session:
    print(session.post(url, json={"process_id": 1}, timeout=20).status_code)
"""


@pytest.mark.slow
def test_niquests_whose_answers_are_promises(server: RawServer) -> None:
    """urllib3-future takes urllib3's name; what has no answer yet is left alone before sending."""
    python = environment("niquests", with_library=True)
    run = [str(python.with_name("revenuebase-compat")), "run", "--", str(python), "-c", NIQUESTS]
    environ = {"PATH": os.defpath, "REVENUEBASE_BASE_URL": server.url, "JOBS_API": server.url}
    done = subprocess.run(
        run, env=environ | GONE, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "200\n200\n"), done.stderr
    # Over HTTP/1.1 a session asked to multiplex may answer at once, and then is moved.
    assert len(server.lines) == 2
    assert server.lines[1:] == MOVED


def test_the_source_of_these_tests_is_the_one_that_runs() -> None:
    done = program("bare", "-c", "import revenuebase_compat; print(revenuebase_compat.__file__)")
    assert done.stdout.strip() == str(SOURCE / "revenuebase_compat" / "__init__.py")
