"""``run``: programs that were never told of us, in processes of every kind, move off v1.

The sandbox's v1 is gone, so that without us nothing is cancelled. The programs are those of
``tests/programs/served``, in an environment of their own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from revenuebase_compat.adopt import runner
from revenuebase_compat.core.routing import bucket
from revenuebase_compat.testing.sandbox import Sandbox
from tests.support import AFTER, BEFORE, SUNSET
from tests.support.environments import environment

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("served_alone")]

APPS = Path(__file__).parents[1] / "programs" / "served"


@cache
def python() -> Path:
    """The Python of the one environment that all these programs share."""
    libraries = ("requests", "httpx", "gunicorn", "gevent", "uvicorn", "celery")
    return environment(*libraries, with_library=True)


def run(*options: str) -> list[str]:
    """The start of a command line that ends in the command itself."""
    return [str(python().with_name("revenuebase-compat")), "run", *options, "--"]


def variables(sandbox: Sandbox | None = None, /, **more: str) -> dict[str, str]:
    """All the variables a program gets; today's date plays no part."""
    found = {"PATH": f"{python().parent}:{os.defpath}", "REVENUEBASE_V1_SUNSET": "2000-01-01"}
    if sandbox is not None:
        found |= {"JOBS_API": sandbox.base_url, "REVENUEBASE_BASE_URL": sandbox.base_url}
    return found | more


def execute(
    command: list[str], environ: Mapping[str, str], cwd: Path = APPS
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environ,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(jobs=[42, 43, 44], now=AFTER, sunset=SUNSET) as running:
        yield running


def served(sandbox: Sandbox) -> list[tuple[str, int | None]]:
    return [(request.path, request.status) for request in sandbox.requests]


SCRIPT = ["python", "cancel.py", "42"]
CHILD = "import subprocess, sys; subprocess.run([sys.executable, 'cancel.py', '42'], check=True)"
WAYS = {
    "script": SCRIPT,
    "module": ["python", "-m", "cancel", "42"],
    "code": ["python", "-c", "import cancel; print(cancel.cancel(42))"],
    "no user site, optimised": ["python", "-s", "-OO", "cancel.py", "42"],
    "shell": ["sh", "-c", "python cancel.py 42; exit 0"],
    "child": ["python", "-c", CHILD],
    "fork": ["python", "pool.py", "fork", "42"],
    "spawn": ["python", "pool.py", "spawn", "42"],
    "forkserver": ["python", "pool.py", "forkserver", "42"],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_program_cancels_its_job(sandbox: Sandbox, way: str) -> None:
    done = execute([*run(), *WAYS[way]], variables(sandbox))

    assert (done.returncode, done.stdout) == (0, "42 200 CANCELLING\n"), done.stderr
    assert sandbox.jobs[42].status == "CANCELLING"
    assert served(sandbox) == [("/v2/jobs/42/cancel", 200)]


def test_without_us_it_does_not(sandbox: Sandbox) -> None:
    done = execute(SCRIPT, variables(sandbox))

    assert (done.returncode, done.stdout) == (0, "42 410 None\n")
    assert sandbox.jobs[42].status == "QUEUED"


# Servers and workers.


@contextmanager
def started(
    command: list[str], environ: Mapping[str, str], sign: str, *, graceful: bool = True
) -> Iterator[re.Match[str]]:
    """A process that has given a sign on stderr; stopped by SIGTERM, or else killed."""
    process = subprocess.Popen(
        command,
        env=environ,
        cwd=APPS,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said: list[str] = []
    settled = threading.Event()

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if re.search(sign, line):
                settled.set()
        settled.set()

    with process:
        listener = threading.Thread(target=listen)
        listener.start()
        try:
            settled.wait(30)
            found = re.search(sign, "".join(said))
            assert found, "".join(said)
            yield found
            if graceful:
                process.terminate()
                process.wait(20)
        finally:
            # The whole group: a worker would hold our end of the pipe open.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            listener.join(20)
        assert process.stdout is not None
        assert process.stdout.read() == ""


def get(url: str) -> str:
    """What a server answers, once it listens: uvicorn names its address before that."""
    for _ in range(500):
        try:
            with urlopen(url, timeout=30) as answer:
                return str(answer.read().decode())
        except URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
        time.sleep(0.02)
    raise AssertionError(f"nobody listens at {url}")


# One worker: gunicorn waits half a minute for one that is told to stop while it starts.
GUNICORN = ["gunicorn", "--bind", "127.0.0.1:0", "wsgi:app"]
UVICORN = ["uvicorn", "--host", "127.0.0.1", "--port", "0", "--no-access-log", "asgi:app"]
LISTENS = r"http://127\.0\.0\.1:\d+"
SERVERS = {
    "gunicorn": GUNICORN,
    "gunicorn preload": [*GUNICORN, "--preload"],
    "gunicorn gevent": [*GUNICORN, "--worker-class", "gevent"],
    "uvicorn": UVICORN,
    "uvicorn workers": [*UVICORN, "--workers", "2"],
    "uvicorn reload": [*UVICORN, "--reload"],
}


CELERY = ["celery", "--quiet", "--app", "tasks", "worker", "--concurrency", "1"]
DONE = r"done by \d+: (.*)"


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_cancels_jobs(sandbox: Sandbox, tmp_path: Path, server: str) -> None:
    environ = variables(sandbox, HOME=str(tmp_path))  # gunicorn leaves a socket there
    with started([*run(), *SERVERS[server]], environ, LISTENS) as url:
        answers = [get(f"{url[0]}/{job}") for job in (42, 43, 44)]

    assert answers == [f"{job} 200 CANCELLING" for job in (42, 43, 44)]
    assert served(sandbox) == [(f"/v2/jobs/{job}/cancel", 200) for job in (42, 43, 44)]


def test_a_celery_worker_cancels_a_job(sandbox: Sandbox) -> None:
    # Not graceful: that takes celery five seconds.
    with started([*run(), *CELERY], variables(sandbox), DONE, graceful=False) as done:
        assert done[1] == "42 200 CANCELLING"

    assert served(sandbox) == [("/v2/jobs/42/cancel", 200)]


# What stays the command's own.


def test_the_pid_and_the_exit_code() -> None:
    program = "import os, sys; print(os.getpid()); sys.exit(7)"
    process = subprocess.Popen(
        [*run(), "python", "-c", program], env=variables(), stdout=subprocess.PIPE, text=True
    )
    out, _ = process.communicate(timeout=30)

    assert (process.returncode, out) == (7, f"{process.pid}\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_reach_the_command(name: str) -> None:
    program = (
        "import signal, sys, time\n"
        f"signal.signal(signal.{name}, lambda number, _: sys.exit(f'got {{number}}'))\n"
        "print('up', flush=True)\n"
        "time.sleep(30)"
    )
    with subprocess.Popen(
        [*run(), "python", "-c", program],
        env=variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        number = signal.Signals[name]
        process.send_signal(number)
        _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (1, f"got {number.value}\n")


def test_a_signal_that_python_ignores_is_not_ignored_in_the_command() -> None:
    done = execute([*run(), "sh", "-c", "kill -PIPE $$; echo survived"], variables())

    assert (done.returncode, done.stdout) == (-signal.SIGPIPE, "")


@pytest.mark.parametrize(("command", "code"), [("no-such-command", 127), (str(APPS), 126)])
def test_a_command_that_cannot_be_run(command: str, code: int) -> None:
    done = execute([*run(), command], variables())

    assert (done.returncode, done.stdout) == (code, "")
    assert re.fullmatch(f"revenuebase-compat: {re.escape(command)}: .+\n", done.stderr)


def test_a_script_without_a_first_line_is_a_shells(tmp_path: Path) -> None:
    script = tmp_path / "job"
    script.write_text('echo "$0" "$1"\n', "utf-8")
    script.chmod(0o755)
    done = execute([*run(), str(script), "two words"], variables())

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{script} two words\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("given", [{}, {"LC_CTYPE": "C.UTF-8"}, {"LANG": "C"}])
def test_the_locale(given: dict[str, str]) -> None:
    """Python gives itself one where there is none (PEP 538); grep would take files for others."""
    done = execute([*run(), "env"], variables(**given))

    names = ("LC_", "LANG")
    found = [line for line in done.stdout.splitlines() if line.startswith(names)]
    assert found == [f"{name}={text}" for name, text in given.items()]


def test_a_runner_finds_the_python_of_the_projects_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setattr(runner, "pth_file", lambda: Path(__file__))
    assert runner.unsupported_option(["uv", "run", python().name, "-I", "app.py"]) is None
    monkeypatch.setattr(runner, "pth_file", lambda: Path("none"))
    assert "-I has" in str(runner.unsupported_option(["uv", "run", python().name, "-I", "app.py"]))


@pytest.mark.parametrize("old", ["", "/no/such::/other"])
def test_the_path_of_modules(old: str) -> None:
    program = ["python", "-c", "import sys; print(sys.path)"]
    with_us = execute([*run(), *program], variables(PYTHONPATH=old))
    without = execute(program, variables(PYTHONPATH=old))

    assert with_us.stdout == without.stdout
    assert (with_us.returncode, with_us.stderr) == (0, "")


def test_a_run_within_a_run_is_one() -> None:
    show = ["python", "-c", "import os; print(sorted(os.environ.items()))"]
    once = execute([*run(), *show], variables(PYTHONPATH="/no/such"))
    twice = execute([*run(), *run(), *show], variables(PYTHONPATH="/no/such"))

    assert once.stdout == twice.stdout
    assert once.stdout.count("/boot:/no/such'") == 1


# Other sitecustomize modules, and other Pythons.

#: As ddtrace and newrelic have it: theirs, then the next in line.
CHAINING = """
import os, sys
sys.stderr.write("theirs\\n")
here = os.path.dirname(__file__)
index = sys.path.index(here)
del sys.path[index]
this = sys.modules.pop("sitecustomize")
try:
    import sitecustomize
except ImportError:
    sys.modules["sitecustomize"] = this
finally:
    sys.path.insert(index, here)
"""
PLAIN = "import sys; sys.stderr.write('theirs\\n')"
BEFORE_OURS = 'PYTHONPATH="$0:$PYTHONPATH" exec "$@"'
BEHIND_OURS = 'PYTHONPATH="$PYTHONPATH:$0" exec "$@"'


@pytest.mark.parametrize(
    ("order", "theirs"),
    [(BEFORE_OURS, CHAINING), (BEHIND_OURS, CHAINING), (BEHIND_OURS, PLAIN)],
    ids=["before ours", "behind ours", "last in line"],
)
def test_the_next_sitecustomize_is_loaded(
    sandbox: Sandbox, tmp_path: Path, order: str, theirs: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(theirs)
    done = execute([*run(), "sh", "-c", order, str(tmp_path), *SCRIPT], variables(sandbox))

    assert (done.returncode, done.stdout) == (0, "42 200 CANCELLING\n"), done.stderr
    assert done.stderr.splitlines().count("theirs") == 1


@pytest.mark.parametrize("ours_first", [True, False])
def test_ddtrace_and_we_let_each_other_work(sandbox: Sandbox, ours_first: bool) -> None:
    folder = environment("requests", "ddtrace>=3,<5", with_library=True).parent
    ours = [str(folder / "revenuebase-compat"), "run", "--strict", "--"]
    theirs = [str(folder / "ddtrace-run")]
    environ = variables(
        sandbox,
        PATH=f"{folder}:{os.defpath}",
        DD_TRACE_AGENT_URL="http://127.0.0.1:9",
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
        DD_REMOTE_CONFIGURATION_ENABLED="false",
    )
    done = execute([*(ours + theirs if ours_first else theirs + ours), *SCRIPT], environ)

    assert (done.returncode, done.stdout) == (0, "42 200 CANCELLING\n"), done.stderr
    assert "127.0.0.1:9" in done.stderr  # it has seen the call, and has no agent to tell
    assert served(sandbox) == [("/v2/jobs/42/cancel", 200)]


def test_the_next_sitecustomize_is_the_one_an_application_imports(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("mine = 1")
    program = ["python", "-c", "import sitecustomize; print(sitecustomize.mine)"]
    done = execute([*run(), "sh", "-c", BEHIND_OURS, str(tmp_path), *program], variables())

    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_broken_sitecustomize_fails_as_without_us(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import no_such_module")
    program = ["python", "-c", "print(1)"]
    without = execute(program, variables(PYTHONPATH=str(tmp_path)))
    with_us = execute([*run(), "sh", "-c", BEHIND_OURS, str(tmp_path), *program], variables())

    assert "no_such_module" in without.stderr
    assert (with_us.stdout, with_us.stderr) == (without.stdout, without.stderr)


def test_another_python_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("mine = 1")
    program = (
        "import sys, sitecustomize\n"
        "print([name for name in sys.modules if name.startswith('revenuebase')])\n"
        "print(sitecustomize.mine, any('revenuebase' in repr(one) for one in sys.meta_path))"
    )
    other = str(environment())
    command = [*run(), "sh", "-c", BEHIND_OURS, str(tmp_path), other, "-c", program]
    done = execute(command, variables())

    assert done.stdout == "[]\n1 False\n"
    assert "nothing is moved here: it is not installed in" in done.stderr


# What it costs.

MODULES = "import sys; print(*sorted(sys.modules))"


def test_start_up_loads_nothing_but_what_waits() -> None:
    program = ["python", "-c", MODULES]
    without = set(execute(program, variables()).stdout.split())
    with_us = set(execute([*run(), *program], variables()).stdout.split())

    assert without <= with_us
    assert with_us - without == {
        "__future__",
        "revenuebase_compat",
        "revenuebase_compat._version",
        "revenuebase_compat.adopt",
        "revenuebase_compat.adopt.import_hook",
        "revenuebase_compat.adopt.libraries",
        "revenuebase_compat.adopt.start",
        "revenuebase_compat.client",
        "revenuebase_compat.client.process",
        "sitecustomize",
    }


@pytest.mark.parametrize("library", ["http.client", "urllib3", "httpcore"])
def test_a_patched_library_brings_no_other_with_it(library: str) -> None:
    program = ["python", "-c", f"import {library}; {MODULES}"]
    without = set(execute(program, variables()).stdout.split())
    with_us = set(execute([*run(), *program], variables()).stdout.split())
    new = {name.partition(".")[0] for name in with_us - without}

    assert "revenuebase_compat.adopt.interceptor" in with_us
    assert not new & {"aiohttp", "asyncio", "http", "httpx", "requests", "socket", "ssl", "urllib3"}


def test_start_up_costs_less_than_10_ms() -> None:
    environ = execute([*run(), "env", "-0"], variables()).stdout.rstrip("\0").split("\0")
    ours = dict(pair.split("=", 1) for pair in environ)

    with_us = min(_cpu_time(ours) for _ in range(15))
    without = min(_cpu_time(variables()) for _ in range(15))

    assert with_us - without < 0.010


def _cpu_time(environ: Mapping[str, str]) -> float:
    """Seconds of CPU time of a Python that does nothing."""
    pid = os.posix_spawn(str(python()), [str(python()), "-c", ""], environ)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


# Broken settings.

SOON = (
    r"revenuebase-compat: timeout \(REVENUEBASE_TIMEOUT\) 'soon': .+; "
    r"without it, the default holds\n"
)


def test_a_broken_setting_is_one_line_and_its_default_holds(sandbox: Sandbox) -> None:
    broken = variables(sandbox, REVENUEBASE_TIMEOUT="soon", REVENUEBASE_COMPAT_RUN="1")
    done = execute([*run(), *SCRIPT], broken)

    assert (done.returncode, done.stdout) == (0, "42 200 CANCELLING\n")
    assert re.fullmatch(SOON, done.stderr)


def test_a_broken_setting_stops_a_strict_run(sandbox: Sandbox) -> None:
    done = execute([*run("--strict"), *SCRIPT], variables(sandbox, REVENUEBASE_TIMEOUT="soon"))

    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"revenuebase-compat: timeout \(REVENUEBASE_TIMEOUT\) 'soon': .+; python was not started\n",
        done.stderr,
    )
    assert served(sandbox) == []


def test_a_setting_that_breaks_later_is_one_line(sandbox: Sandbox) -> None:
    """As where an application reads a file of variables of its own."""
    program = (
        "import os; os.environ['REVENUEBASE_TIMEOUT'] = 'soon'\n"
        "import cancel; print(cancel.cancel(42))"
    )
    done = execute([*run(), "python", "-c", program], variables(sandbox))

    assert (done.returncode, done.stdout) == (0, "42 200 CANCELLING\n")
    assert re.fullmatch(SOON, done.stderr)

    strict = execute([*run("--strict"), "python", "-c", program], variables(sandbox))
    assert (strict.returncode, strict.stdout) == (1, "")
    assert "ConfigurationError: timeout (REVENUEBASE_TIMEOUT) 'soon'" in strict.stderr


# Rehearsals: v1 lives, and is taken as gone.

LATER = {"REVENUEBASE_V1_SUNSET": "2999-01-01"}


@pytest.fixture
def alive(sandbox: Sandbox) -> Sandbox:
    sandbox.now = BEFORE
    return sandbox


@pytest.mark.parametrize("share", [0, 50, 100])
def test_before_the_sunset_the_share_decides(alive: Sandbox, tmp_path: Path, share: int) -> None:
    jobs = (42, 43, 44)
    wanted = [
        f"/v2/jobs/{job}/cancel" if bucket("", job) < share else "/v1/cancel-process"
        for job in jobs
    ]
    under = {**LATER, "REVENUEBASE_V2_ROLLOUT": str(share), "HOME": str(tmp_path)}
    with started([*run(), *GUNICORN], variables(alive, **under), LISTENS) as url:
        answers = [get(f"{url[0]}/{job}") for job in jobs]
    assert answers == [f"{job} 200 CANCELLING" for job in jobs]
    assert [path for path, _ in served(alive)] == wanted
    assert len(set(wanted)) == {0: 1, 50: 2, 100: 3}[share]

    alive.requests.clear()
    alive.add_job(42)
    command = [*run(), *CELERY]
    with started(command, variables(alive, **under), DONE, graceful=False) as done:
        assert done[1] == "42 200 CANCELLING"
    assert [path for path, _ in served(alive)] == wanted[:1]


@pytest.mark.parametrize("version", ["auto", "v1", "v2"])
def test_a_rehearsal_takes_v1_as_gone(alive: Sandbox, version: str) -> None:
    environ = variables(alive, REVENUEBASE_API_VERSION=version, **LATER)
    before = execute([*run(), "python", "cancel.py", "42"], environ)
    done = execute([*run("--rehearse"), "python", "cancel.py", "43"], environ)

    assert before.stdout == "42 200 CANCELLING\n"
    assert done.stdout == "43 200 CANCELLING\n"
    today = "/v2/jobs/42/cancel" if version == "v2" else "/v1/cancel-process"
    assert served(alive) == [(today, 200), ("/v2/jobs/43/cancel", 200)]


@pytest.mark.parametrize("after_sunset", ["raise", "try"])
def test_a_rehearsal_fails_where_the_day_itself_would_fail(
    alive: Sandbox, after_sunset: str
) -> None:
    pinned = {"REVENUEBASE_API_VERSION": "v1", "REVENUEBASE_AFTER_SUNSET": after_sunset}
    done = execute([*run("--rehearse"), *SCRIPT], variables(alive, **LATER, **pinned))

    assert (done.returncode, done.stdout) == (1, "")
    assert "ApiVersionRetiredError: job 42: API v1 was retired" in done.stderr
    assert served(alive) == []


@pytest.mark.parametrize("path", ["/v1/cancel-process", "/v1/credits"])
@pytest.mark.parametrize("library", ["requests", "httpx"])
def test_a_rehearsal_fails_for_what_would_be_left_to_v1(
    alive: Sandbox, path: str, library: str
) -> None:
    program = f"import os, {library}; {library}.post(os.environ['JOBS_API'] + {path!r}, json=[])"
    left = execute([*run(), "python", "-c", program], variables(alive, **LATER))
    done = execute([*run("--rehearse"), "python", "-c", program], variables(alive, **LATER))

    assert left.returncode == 0
    assert done.returncode == 1
    assert "ApiVersionRetiredError: " in done.stderr
    assert [request.path for request in alive.requests] == [path]


PTH = "`revenuebase-compat pth install` once in its environment"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("-I", f"-I has python ignore PYTHONPATH: {PTH}"),
        ("-sE", f"-E has python ignore PYTHONPATH: {PTH}"),
        ("-S", "-S has python start without site, and so without us"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_an_option_that_keeps_us_out_is_told(option: str, words: str, strict: bool) -> None:
    program = ["python", option, "-c", "print('-I')"]
    done = execute([*run(*["--strict"] * strict), *program], variables())

    fate = "was not started" if strict else "runs without us"
    assert done.stderr == f"revenuebase-compat: {words}; python {fate}\n"
    assert (done.returncode, done.stdout) == ((2, "") if strict else (0, "-I\n"))
