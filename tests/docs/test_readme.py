"""README.md: length, links, tables that derive from the code, and snippets that run."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module

import pytest

import revenuebase_compat as rc
from revenuebase_compat.core.endpoints import ENDPOINTS
from revenuebase_compat.core.settings import VARIABLES
from tests.client import test_soak
from tests.support.fault_server import FaultServer

from .readme import EXAMPLE, README, ROOT, SNIPPETS, blocks, marked

PAGES = ("README.md", "CHANGELOG.md", "tests/README.md", "tests/benchmarks/README.md")
SOURCE = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 380


def test_readme_example_is_the_one_that_is_run() -> None:
    assert f"<!-- example -->\n```python\n{EXAMPLE}```\n<!-- /example -->" in README
    assert EXAMPLE in blocks("python")


@pytest.mark.parametrize("code", SNIPPETS)
def test_readme_python_runs(code: str) -> None:
    with FaultServer() as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={
                "REVENUEBASE_API_KEY": "rb_test_readme",
                "REVENUEBASE_BASE_URL": server.base_url,
                "PATH": "",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr


def test_readme_endpoints_are_those_of_the_code() -> None:
    rows = [
        f"| `{one.call}` | {f'`{one.successor}`' if one.successor else 'none; it is left to v1'} |"
        for one in ENDPOINTS
    ]
    assert marked("endpoints") == ["| v1 | v2 |", "| --- | --- |", *rows]


def test_readme_has_a_row_for_every_setting() -> None:
    for name in rc.Settings.__init__.__annotations__:
        if name != "return":
            variable = f"`{VARIABLES[name]}`" if name in VARIABLES else "\u2013"
            assert f"| `{name}` | {variable} |" in README


def test_readme_names_every_error_and_reason() -> None:
    for name in [*rc.__all__, *rc.RouteReason.__members__]:
        if name.endswith("Error") or name in rc.RouteReason.__members__:
            assert f"`{name}`" in README, name


def test_readme_messages_are_those_of_the_code() -> None:
    rows = README.partition("## By the message")[2].partition("\n## ")[0]
    for words in (
        "API v2 takes no file by its name",
        "nothing is moved here",
        "was not started",
        "admits nothing else",
        "RevenueBase API v1 ends on",
    ):
        assert words in rows
        assert words.replace("ends on", "{ends}") in SOURCE or words in SOURCE, words


@pytest.mark.parametrize("page", PAGES)
def test_readme_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not link.startswith("https://"):
            assert ((ROOT / page).parent / link).exists(), link


def test_readme_tells_nobody_to_install_a_strangers_package() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        assert not re.search(r"(pip|uv|pipx) +install +['\"]?revenuebase-compat", text), page


def test_readme_names_modules_that_are_there() -> None:
    changed = (ROOT / "CHANGELOG.md").read_text("utf-8").partition("### Changed")[2]
    named = re.findall(r"is\s+`(revenuebase_compat\.[\w.]+)`", changed)
    assert len(named) == 4
    for name in [*named, *re.findall(r"\b(revenuebase_compat\.contrib\.\w+)", README)]:
        assert import_module(name)
    assert "revenuebase_compat.adopt.install()" in README
    adopt = import_module("revenuebase_compat.adopt")
    assert adopt.install
    assert adopt.uninstall


def test_readme_soak_is_the_one_in_the_code() -> None:
    page = " ".join((ROOT / "tests/README.md").read_text("utf-8").split())
    assert f"had {test_soak.THREADS} threads and {test_soak.TASKS} asyncio tasks" in page
    assert f"with {test_soak.SHARE:.0%} faults".replace("%", " %") in page
    assert f"of {len(test_soak.FAULTS)} kinds" in page
    assert f"of {test_soak.TIMEOUT:g} s allowed" in page
