"""tests/benchmarks/README.md: its goals are those that are measured, and its verdicts are true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = (HERE / "README.md").read_text("utf-8")


def goals(text: str) -> list[list[str]]:
    """The rows of the table of goals: what, goal, measured, met or missed."""
    table = re.search(r"^\| +\| goal \|.*?(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    assert table
    rows = [line for line in table[0].splitlines()[2:] if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_what_is_called_met_is_met() -> None:
    for what, goal, measured, verdict in goals(PAGE):
        if goal.startswith(("≤ +", "≥ +")):
            continue  # a sentence, not a number
        sign, limit = goal.split()[:2]
        found = float(re.match(r"[\d.]+", measured)[0])  # type: ignore[index]
        met = found <= float(limit) if sign == "≤" else found >= float(limit)
        assert verdict == ("met" if met else "missed"), what


@pytest.mark.slow
def test_the_goals_are_those_that_are_measured() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick"],
        cwd=HERE.parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    # A quick run has fewer jobs, as it measures little.
    quick = done.stdout.replace("10 to 50 jobs", "10 to 10,000 jobs")
    assert [row[:2] for row in goals(PAGE)] == [row[:2] for row in goals(quick)]
