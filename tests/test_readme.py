"""The README's code runs, and its commands are the ones that are tested."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import revenuebase_compat as rc
from revenuebase_compat.core.settings import VARIABLES
from tests.fault_server import FaultServer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


EXAMPLE = (ROOT / "tests/examples/test_both_sides.py").read_text()


def test_the_example_is_the_one_that_is_run() -> None:
    assert f"<!-- example -->\n```python\n{EXAMPLE}```\n<!-- /example -->" in README
    assert EXAMPLE in BLOCKS


@pytest.mark.parametrize("code", [block for block in BLOCKS if block != EXAMPLE])
def test_the_python_in_it_runs(code: str) -> None:
    with FaultServer() as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={
                "REVENUEBASE_API_KEY": "rb_test_readme",
                "REVENUEBASE_BASE_URL": server.base_url,
                "PATH": "",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr


def test_every_setting_has_its_row() -> None:
    for name in rc.Settings.__init__.__annotations__:
        if name == "return":
            continue
        variable = f"`{VARIABLES[name]}`" if name in VARIABLES else "\u2013"
        assert f"| `{name}` | {variable} |" in README


def test_every_error_is_named() -> None:
    for name in rc.__all__:
        if name.endswith("Error"):
            assert f"`{name}`" in README, name
