"""``--strict``, ``--rehearse`` and broken settings: what ``run`` promises, and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from revenuebase_compat import ConfigurationError, Settings
from revenuebase_compat.adopt.environment import lenient_settings
from revenuebase_compat.adopt.runner import unsupported_option
from tests.support.raw_server import RawServer, reply

COMMAND = str(Path(sys.executable).with_name("revenuebase-compat"))
PYTHON = sys.executable


def run(
    *words: str, options: tuple[str, ...] = (), **variables: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "run", *options, "--", *words],
        env={"PATH": os.defpath, "REVENUEBASE_V1_SUNSET": "2000-01-01", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- where we cannot be in force ----------------------------------------------------------------

IGNORING = [
    ["python", "-I", "app.py"],
    ["python3.11", "-E", "app.py"],
    ["/usr/bin/python3", "-X", "dev", "-I", "app.py"],
    ["python", "-W", "error", "-E", "app.py"],
    ["python", "-Werror", "-bI", "app.py"],
    ["python", "-Xdev", "-Ic", "print()"],
    ["python", "--check-hash-based-pycs", "always", "-I", "app.py"],
    ["env", "A=b", "python", "-I", "app.py"],
    ["nice", "-n", "5", "python3", "-BS", "app.py"],
    ["uv", "run", "--with", "six", "python", "-S", "-m", "app"],
    ["opentelemetry-instrument", "python", "app.py"],
    ["env", "-uPYTHONPATH", "python", "app.py"],
    ["timeout", "5s", "python", "-I", "app.py"],
    ["timeout", "-s", "KILL", "--kill-after=9", "1.5m", "python", "-I", "app.py"],
    ["stdbuf", "-o", "L", "python", "-E", "app.py"],
    ["env", "--unset=PYTHONPATH", "python", "app.py"],
    ["env", "-vSpython -I", "app.py"],
    ["env", "-u", "A", "-S", "-u PYTHONPATH python", "app.py"],
    ["/usr/bin/env", "-S uv run python -I", "app.py"],
    ["taskset", "-c", "0,2-3", "python", "-I", "app.py"],
    ["chrt", "-b", "0", "python", "-E", "app.py"],
    ["ionice", "-c", "idle", "python", "-I", "app.py"],
    ["xargs", "-I", "{}", "-n", "1", "python", "-I", "app.py"],
    ["timeout", ".5", "time", "-f", "%e", "python", "-I", "app.py"],
    ["elasticapm-run", "python", "app.py"],
    ["uv", "run", "--python", "python3", "opentelemetry-instrument", "python", "app.py"],
    ["poetry", "run", "elasticapm-run", "gunicorn", "app:app"],
    ["python", "/opt/bin/opentelemetry-instrument", "python", "app.py"],
    ["tox", "-e", "py"],
    ["python", "-Xdev", "-m", "tox"],
    ["uv", "run", "--group", "dev", "tox"],
    ["uv", "run", "-q", "--", "tox"],
    ["uvx", "--from", "tox", "tox"],
    ["uv", "tool", "run", "tox"],
    ["poetry", "-C", "sub", "run", "timeout", "5", "python", "-I", "app.py"],
    ["sudo", "-E", "python", "app.py"],
    ["su", "-", "app", "-c", "python app.py"],
    ["runuser", "-l", "app", "-c", "python app.py"],
    ["runuser", "-u", "app", "--", "python", "-I", "app.py"],
    ["setpriv", "--reuid", "app", "--no-new-privs", "python", "-I", "app.py"],
    ["strace", "-f", "-o", "out", "python", "-I", "app.py"],
    ["docker", "run", "--rm", "image", "python", "app.py"],
    ["uv", "run", "env", "-u", "PYTHONPATH", "python", "app.py"],
    ["uv", "run", "env", "-i", "python", "app.py"],
    ["uv", "run", "--no-project", "timeout", "5", "python", "-I", "app.py"],
    ["conda", "run", "-n", "env", "python", "-I", "app.py"],
    ["env", "PYTHONPATH=src", "timeout", "5", "nice", "python", "app.py"],
    ["env", "PYTHONPATH=src", "uv", "run", "a-program-of-some-environment"],
    ["env", "PYTHONPATH=src", "uv", "run", "app.py"],
    ["uv", "run", "-m", "tox"],
    ["hatch", "env", "run", "tox"],
    ["taskset", "ff", "python", "-I", "app.py"],
    ["timeout", "infinity", "python", "-I", "app.py"],
    ["flock", "-w", "5", "-n", "lock", "python", "-I", "app.py"],
    ["tini", "-e", "143", "--", "gosu", "app", "python", "-I", "app.py"],
    ["dumb-init", "-r", "15:2", "python", "-I", "app.py"],
    ["chrt", "-d", "-T", "5000", "--sched-period", "9000", "0", "python", "-I", "app.py"],
    ["python3-dbg", "-I", "app.py"],
    ["env", "--ignore-env", "python", "app.py"],
    ["env", "--uns", "PYTHONPATH", "python", "app.py"],
]
HEARING = [
    ["python", "app.py", "-I"],
    ["python", "-m", "app", "-E"],
    ["python", "-c", "print()", "-S"],
    ["python", "-X", "importtime", "app.py"],
    ["python", "-W", "ignore::ImportWarning", "app.py"],
    ["python", "-s", "-P", "-OO", "app.py"],
    ["python", "-", "-I"],
    ["ipython", "-I"],
    ["gunicorn", "app:app"],
    ["python", "app.py", "tox"],
    ["python", "-m", "pytest", "opentelemetry-instrument"],
    ["uv", "run", "pytest", "tests/tox"],
    ["uv", "run", "pytest", "-k", "tox"],
    ["uv", "run", "-q", "pytest", "-k", "tox"],
    ["uv", "run", "--with", "tox", "pytest"],
    ["uv", "run", "--group", "tox", "app.py"],
    ["uv", "run", "--frozen", "ansible-playbook", "--become-method", "sudo", "site.yml"],
    ["uv", "run", "-w", "tox", "pytest"],
    ["uv", "run", "app.py", "--lang", "python", "-I"],
    ["uv", "run", "--python", "python3.12", "app.py"],
    ["uv", "pip", "install", "tox"],
    ["env", "--null"],
    ["su", "app", "-c", "python app.py"],
    ["runuser", "-u", "app", "--", "ls", "-l"],
    ["env", "PYTHONPATH=src", "ls"],
    ["env", "-u", "PYTHONPATH", "A=1", "timeout", "5", "sh", "-c", "make"],
    ["env", "-C", "python", "gunicorn", "-I"],
    ["env", "-u", "PYTHONPATH"],
    ["xargs", "-n", "python", "echo", "-I"],
]


@pytest.mark.parametrize("argv", IGNORING, ids=" ".join)
def test_unsupported_option_is_found_wherever_it_stands(argv: list[str]) -> None:
    assert unsupported_option(argv) is not None


@pytest.mark.parametrize("argv", HEARING, ids=" ".join)
def test_unsupported_option_passes_over_what_is_not_pythons(argv: list[str]) -> None:
    assert unsupported_option(argv) is None


def test_unsupported_option_waits_for_no_pipe_and_ends_with_scripts_that_start_each_other(
    tmp_path: Path,
) -> None:
    one, other, pipe = tmp_path / "one", tmp_path / "other", tmp_path / "pipe"
    one.write_text(f"#!{other}\n")
    other.write_text(f"#!{one} -I\n")
    os.mkfifo(pipe)
    for path in (one, other, pipe):
        path.chmod(0o755)
        assert unsupported_option([str(path)]) is None


@pytest.mark.parametrize("option", ["--strict", "--rehearse"])
@pytest.mark.parametrize("words", [["-X", "dev", "-I"], ["-W", "error", "-E"], ["-S"]])
def test_run_refuses_where_it_could_not_be_in_force(option: str, words: list[str]) -> None:
    done = run(PYTHON, *words, "-c", "print('ran')", options=(option,))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "was not started" in done.stderr
    assert run(PYTHON, *words, "-c", "print('ran')").stdout == "ran\n"


@pytest.mark.parametrize("option", ["--strict", "--rehearse"])
def test_a_run_inside_keeps_the_promise_of_the_one_around(option: str) -> None:
    with RawServer(lambda request, number: reply()) as server:
        url = f"{server.url}/v1/batch-process-email"
        code = f"import requests; requests.post({url!r}, json={{}})"
        inner = [COMMAND, "run", "--", PYTHON, "-c", code]
        done = run(*inner, options=(option,), REVENUEBASE_BASE_URL=server.url)
    assert done.returncode == 1
    assert "ApiVersionRetiredError" in done.stderr
    assert server.requests == []


def bare_python(tmp_path: Path) -> str:
    """A Python in which we are not installed."""
    done = subprocess.run(
        [PYTHON, "-m", "venv", "--without-pip", tmp_path / "bare"], timeout=60, check=True
    )
    assert done.returncode == 0
    return str(tmp_path / "bare" / "bin" / "python")


def test_another_python_says_so_once_and_is_refused_when_strict(tmp_path: Path) -> None:
    other = bare_python(tmp_path)
    done = run(other, "-c", "print('ran')")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert "nothing is moved here: it is not installed in" in done.stderr
    assert done.stderr.count("\n") == 1
    # A launcher has a process of its own in between.
    assert run("sh", "-c", f"{other} -c 'print(1)'; true").stderr.count("\n") == 1
    assert run(other, "-c", "print('ran')", options=("--strict",)).returncode == 2
    # The child of one in which we are in force is that program's own business.
    child = f"import subprocess; subprocess.run([{other!r}, '-c', 'print(2)'], check=True)"
    done = run(PYTHON, "-c", child)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_an_overlay_of_our_environment_is_in_force(tmp_path: Path) -> None:
    """As ``uv run --with`` makes one: another prefix, with our packages within reach."""
    other = bare_python(tmp_path)
    [site] = (tmp_path / "bare" / "lib").glob("python*/site-packages")
    paths = [entry for entry in sys.path if entry.endswith("site-packages")]
    paths.append(str(Path(__file__).parents[2] / "src"))
    (site / "overlay.pth").write_text("\n".join(paths))
    code = "import requests, sys; print(requests.post(sys.argv[1], json={'process_id': 1}).text)"
    with RawServer(lambda request, number: reply(200, b"moved")) as server:
        url = server.url + "/v1/cancel-process"
        launched = f'{other} -c "{code}" {url}; true'
        done = run("sh", "-c", launched, options=("--rehearse",), REVENUEBASE_BASE_URL=server.url)
    assert (done.stdout, done.stderr) == ("moved\n", "")
    assert server.lines == ["POST /v2/jobs/1/cancel"]


# --- what cannot be moved -----------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0.0.0.0", "127.1"])
def test_strict_raises_for_the_same_server_by_its_other_name(host: str) -> None:
    other = "localhost" if host == "127.0.0.1" else "127.0.0.1"
    with RawServer(lambda request, number: reply()) as server:
        for path in ("/v1/credits", "/v1/process-email?metadata=true"):
            method = "GET" if "credits" in path else "POST"
            url = f"http://{host}:{server.port}{path}"
            code = f"import requests; print(requests.request({method!r}, {url!r}).status_code)"
            base: dict[str, Any] = {"REVENUEBASE_BASE_URL": f"http://{other}:{server.port}"}
            strict = run(PYTHON, "-c", code, options=("--strict",), **base)
            assert strict.returncode == 1
            assert f"as base_url is http://{other}" in strict.stderr
            assert server.requests == []
            lenient = run(PYTHON, "-c", code, **base)
            assert (lenient.returncode, lenient.stdout) == (0, "200\n")
            assert "as base_url is" in lenient.stderr
            server.requests.clear()


@pytest.mark.parametrize("option", ["--strict", "--rehearse"])
def test_what_has_no_successor_raises_once_v1_is_gone(option: str) -> None:
    with RawServer(lambda request, number: reply(410, {})) as server:
        code = f"import requests; requests.post('{server.url}/v1/batch-process-email', json={{}})"
        done = run(PYTHON, "-c", code, options=(option,), REVENUEBASE_BASE_URL=server.url)
    assert done.returncode == 1
    assert "POST /v1/batch-process-email would be sent to RevenueBase API v1" in done.stderr
    assert server.requests == []


# --- broken settings ----------------------------------------------------------------------------


def test_a_broken_setting_costs_a_line_and_falls_back_to_its_default() -> None:
    code = "import requests, sys; print(requests.post(sys.argv[1], json={'process_id': 1}).text)"
    with RawServer(lambda request, number: reply(200, b"moved")) as server:
        given: dict[str, Any] = {"REVENUEBASE_BASE_URL": server.url}
        given["REVENUEBASE_V2_ROLLOUT"] = "fifty"
        given["REVENUEBASE_TIMEOUT"] = "soon"
        words = (PYTHON, "-c", code, server.url + "/v1/cancel-process")
        done = run(*words, **given)
        assert (done.returncode, done.stdout) == (0, "moved\n")
        assert [line.split(" ")[1] for line in done.stderr.splitlines()] == [
            "v2_rollout",
            "timeout",
        ]
        assert "the default holds" in done.stderr
        assert server.lines == ["POST /v2/jobs/1/cancel"]
        strict = run(*words, options=("--strict",), **given)
    assert (strict.returncode, strict.stdout) == (2, "")
    assert "fifty" in strict.stderr


@pytest.mark.parametrize(
    ("name", "value"), [("v2_flag", "not a name"), ("api_version", "three"), ("api_version", ">=9")]
)
def test_lenient_settings_move_no_more_jobs_than_asked(name: str, value: str) -> None:
    given = {"REVENUEBASE_V2_ROLLOUT": "100", f"REVENUEBASE_{name.upper()}": value}
    settings, complaints = lenient_settings({**given, "HOME": "/"})
    assert list(complaints) == [name]
    assert settings == Settings()


def test_lenient_settings_keep_what_is_right() -> None:
    given = {"REVENUEBASE_TIMEOUT": "never", "REVENUEBASE_V2_ROLLOUT": "25"}
    settings, complaints = lenient_settings(given)
    assert list(complaints) == ["timeout"]
    assert settings == Settings(v2_rollout=25)
    with pytest.raises(ConfigurationError):
        Settings.from_env(given)


def test_a_flag_that_does_not_resolve_moves_nothing_before_the_sunset() -> None:
    code = "import requests, sys; print(requests.post(sys.argv[1], json={'process_id': 1}).text)"
    with RawServer(lambda request, number: reply(200, b"left")) as server:
        done = run(
            *(PYTHON, "-W", "ignore", "-c", code, server.url + "/v1/cancel-process"),
            REVENUEBASE_BASE_URL=server.url,
            REVENUEBASE_V1_SUNSET="2999-01-01",
            REVENUEBASE_V2_ROLLOUT="100",
            REVENUEBASE_V2_FLAG="no_such_module:flag",
        )
    assert (done.returncode, done.stdout) == (0, "left\n")
    assert "no_such_module" in done.stderr
    assert done.stderr.count("\n") == 1
    assert server.lines == ["POST /v1/cancel-process"]
