"""The README's code runs, and its commands are the ones that are tested."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

import revenuebase_compat as rc
from revenuebase_compat.cli.parser import parse
from revenuebase_compat.core.settings import VARIABLES
from revenuebase_compat.testing.sandbox import Sandbox
from tests.support.fault_server import FaultServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


EXAMPLE = (ROOT / "tests/programs/examples/test_both_sides.py").read_text()


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


def shell_lines() -> list[tuple[dict[str, str], list[str]]]:
    """The commands of the shell blocks, each with the variables that are set for it."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        exported: dict[str, str] = {}
        for line in block.splitlines():
            words = [word for word in shlex.split(line, comments=True) if word != "&&"]
            given: dict[str, str] = {}
            if words and words[0] == "export":
                exported |= dict(word.split("=", 1) for word in words[1:])
                continue
            while words and re.match(r"[A-Z_0-9]+=", words[0]):
                name, value = words.pop(0).split("=", 1)
                given[name] = value
            if words:
                found.append(({**exported, **given}, words))
    return found


OURS = [
    (variables, words[1:]) for variables, words in shell_lines() if words[0] == "revenuebase-compat"
]


def test_every_command_in_it_is_one() -> None:
    assert {words[0] for _, words in OURS} == {"run", "timeline", "route", "cancel", "sandbox"}
    for _, words in OURS:
        arguments = parse(words)
        assert arguments.command == words[0]


def test_what_its_commands_are_said_to_do(tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("process_id,file\n5,a.csv\n6,b.csv\n")
    (tmp_path / "app.py").write_text("print('from app.py')")
    told = {}
    with Sandbox(jobs=range(1, 101), now=datetime(2026, 6, 1, tzinfo=timezone.utc)) as sandbox:
        for variables, words in OURS:
            if words[0] == "sandbox":
                continue  # that is this one
            known = {"BASE_URL": sandbox.base_url, "API_KEY": sandbox.api_key}
            done = subprocess.run(
                [Path(sys.executable).with_name("revenuebase-compat"), *words],
                env={
                    "PATH": f"{Path(sys.executable).parent}",
                    **variables,
                    **{f"REVENUEBASE_{name}": value for name, value in known.items()},
                },
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, (words, done.stderr)
            told[" ".join(words[:2])] = done.stdout
    assert "by API v1 (DEFAULT)" in told["cancel 42"]
    assert re.findall(r"(v\d) +([A-Z]+) ", told["cancel 3"]) == [
        ("v1", "DEFAULT"),
        ("v2", "ROLLOUT"),
    ]
    assert told["run --"] == "from app.py\n"
    assert len(told["timeline --from"].splitlines()) == 5
    assert told["route 42"].count("v2 (ROLLOUT)") == 1
    assert sandbox.jobs[5].status == sandbox.jobs[6].status == "CANCELLING"
    assert (tmp_path / "cancel.journal").exists()


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
