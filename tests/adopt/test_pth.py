"""The ``.pth`` file: reaches what ``run`` cannot by PYTHONPATH, and only where it is asked to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from revenuebase_compat.adopt import pth as pth_module
from revenuebase_compat.testing.sandbox import Sandbox
from tests.adopt.test_runner import SCRIPT, execute, python, run, served, variables
from tests.support import AFTER, SUNSET

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("served_alone")]

NAME = "revenuebase-compat.pth"


def site_packages(python: Path) -> Path:
    [folder] = (python.parent.parent / "lib").glob("python*/site-packages")
    return folder


def pth(action: str) -> subprocess.CompletedProcess[str]:
    return execute([str(python().with_name("revenuebase-compat")), "pth", action], variables())


@pytest.fixture
def installed(served_alone: None) -> Iterator[Path]:
    done = pth("install")
    assert done.returncode == 0, done.stderr
    yield site_packages(python()) / NAME
    pth("uninstall")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(jobs=[42], now=AFTER, sunset=SUNSET) as running:
        yield running


ISOLATED = "import sys; sys.path.insert(0, '.'); import cancel; print(cancel.cancel(42))"
WAYS = {
    "isolated": ["python", "-I", "-c", ISOLATED],
    "environment ignored": ["python", "-E", "cancel.py", "42"],
    "PYTHONPATH replaced": ["env", "PYTHONPATH=/no/such", *SCRIPT],
    "nothing in its way": SCRIPT,
}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("way", WAYS)
def test_under_run(sandbox: Sandbox, way: str) -> None:
    done = execute([*run(), *WAYS[way]], variables(sandbox))

    assert (done.returncode, done.stdout) == (0, "42 200 CANCELLING\n"), done.stderr
    assert served(sandbox) == [("/v2/jobs/42/cancel", 200)]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("flag", "status"), [("1", 200), ("strict", 200), ("0", 410), ("", 410)])
def test_by_its_variable_alone(sandbox: Sandbox, flag: str, status: int) -> None:
    done = execute(SCRIPT, variables(sandbox, REVENUEBASE_COMPAT_RUN=flag))

    assert done.stdout.split()[:2] == ["42", str(status)], done.stderr


def test_without_it_they_are_out_of_reach(sandbox: Sandbox) -> None:
    for way in ("isolated", "environment ignored", "PYTHONPATH replaced"):
        assert execute([*run(), *WAYS[way]], variables(sandbox)).stdout == "42 410 None\n"


def test_install_status_uninstall() -> None:
    file = site_packages(python()) / NAME
    works = f"installed at {file}: works in processes where REVENUEBASE_COMPAT_RUN=1 is set\n"
    pth("uninstall")
    for action, code, text in [
        ("status", 1, f"not installed at {file}\n"),
        ("uninstall", 0, f"nothing to remove at {file}\n"),
        ("install", 0, works),
        ("install", 0, works),
        ("status", 0, works),
        ("uninstall", 0, f"removed {file}\n"),
    ]:
        done = pth(action)
        assert (done.returncode, done.stdout, done.stderr) == (code, text, "")
        assert file.exists() == (text == works)


def test_a_folder_that_cannot_be_written_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "no such"
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(folder))

    assert pth_module.pth("install") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"revenuebase-compat: {folder / NAME}: No such file or directory\n"


def test_it_costs_nothing_where_it_is_not_asked_for(installed: Path) -> None:
    program = ["python", "-c", "import sys; print(*sorted(sys.modules))"]
    with_file = execute(program, variables())
    installed.unlink()
    without = execute(program, variables())

    assert with_file.stdout == without.stdout
    assert with_file.stderr == ""


@pytest.mark.parametrize(("flag", "said"), [("", 0), ("1", 1)])
def test_it_outlives_the_package_without_harm(
    installed: Path, tmp_path: Path, flag: str, said: int
) -> None:
    venv = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path)]
    subprocess.run(venv, check=True, timeout=60)
    bare = tmp_path / "bin" / "python"
    (site_packages(bare) / NAME).write_text(installed.read_text())
    done = execute([str(bare), "-c", "print(1)"], variables(REVENUEBASE_COMPAT_RUN=flag))

    assert (done.returncode, done.stdout) == (0, "1\n")
    # Said twice, as site reads the folder of a venv twice.
    lines = set(done.stderr.splitlines())
    assert [line.partition(": Mod")[0] for line in lines] == (
        ["revenuebase-compat: not in force"] if said else []
    )


def test_a_broken_setting_without_the_runner(installed: Path, sandbox: Sandbox) -> None:
    broken = variables(sandbox, REVENUEBASE_TIMEOUT="soon", REVENUEBASE_COMPAT_RUN="1")
    done = execute(SCRIPT, broken)

    assert (done.returncode, done.stdout) == (0, "42 200 CANCELLING\n")
    [line] = done.stderr.splitlines()
    assert line.startswith("revenuebase-compat: timeout ")

    strict = execute(SCRIPT, {**broken, "REVENUEBASE_COMPAT_RUN": "strict"})
    assert (strict.returncode, strict.stdout) == (1, "")
    assert "ConfigurationError: timeout (REVENUEBASE_TIMEOUT) 'soon'" in strict.stderr
    assert [status for _, status in served(sandbox)] == [200]
