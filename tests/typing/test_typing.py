"""The types as a user's checker sees them: what must pass, and which lines must fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
FAILS = (HERE / "fails.txt").read_text("utf-8")
REFUSED = {
    number for number, line in enumerate(FAILS.splitlines(), 1) if line.endswith("# refused")
}


def mypy(path: Path) -> tuple[set[int], str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-incremental"]
    done = subprocess.run(
        [*command, str(path)], capture_output=True, text=True, timeout=300, cwd=REPOSITORY / "src"
    )
    shown = done.stdout + done.stderr
    return {int(line) for line in re.findall(r"^\S*?\.py:(\d+): error", shown, re.M)}, shown


def pyright(path: Path) -> tuple[set[int], str]:
    """Needs node, which its wheel downloads where there is none."""
    pytest.importorskip("pyright", reason="pyright is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, path],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=REPOSITORY / "src",
    )
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright does not run here: {done.stderr[-300:]}")
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = [one for one in found if one["severity"] == "error"]
    return {one["range"]["start"]["line"] + 1 for one in errors}, done.stdout


CHECKERS = pytest.mark.parametrize("check", [mypy, pyright], ids=["mypy", "pyright"])


@CHECKERS
def test_what_must_pass_passes(check: object) -> None:
    assert callable(check)
    errors, shown = check(HERE / "passes.py")
    assert errors == set(), shown


@CHECKERS
def test_what_must_fail_fails(check: object, tmp_path: Path) -> None:
    assert callable(check)
    assert len(REFUSED) > 10
    program = tmp_path / "fails.py"
    program.write_text(FAILS, "utf-8")
    errors, shown = check(program)
    assert errors == REFUSED, shown


def test_mypy_narrows_by_truth_as_well(tmp_path: Path) -> None:
    """pyright does not follow the truth of an attribute; ``is True`` is for both."""
    program = tmp_path / "program.py"
    program.write_text(
        "from revenuebase_compat import JobOutcome\n"
        "def f(outcome: JobOutcome) -> str | None:\n"
        "    return outcome.result.filename if outcome.ok else outcome.error.code\n",
        "utf-8",
    )
    errors, shown = mypy(program)
    assert errors == set(), shown
