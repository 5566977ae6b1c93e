"""What the documents for contributors name is there: files, folders, and what is in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What a path may be relative to.
FOLDERS = (ROOT / "src/revenuebase_compat", ROOT / "src/revenuebase_compat/adopt", ROOT)
TEXTS = {path.stem: path.read_text("utf-8") for path in (ROOT / ".github").glob("*.md")}
#: Made by using the clone.
MADE = (".cache/", ".venv/")

every_text = pytest.mark.parametrize("name", TEXTS)


def quoted(text: str) -> list[str]:
    """What stands between back quotes, without blocks and patterns such as ``<command>``."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [found for found in re.findall(r"`([^`]+)`", prose) if not set("<…*") & set(found)]


def paths_of(token: str) -> list[Path]:
    """The file or folder that a token names, or the file of a dotted name in it."""
    for folder in FOLDERS:
        if (folder / token).exists():
            return [folder / token]
        module, _, name = token.rpartition(".")
        file = folder / f"{module}.py"
        if not file.exists():
            file = folder / module / "__init__.py"
        if module and file.exists() and re.search(rf"\b{name}\b", file.read_text("utf-8")):
            return [file]
    return []


@every_text
def test_dot_files_name_what_is_there(name: str) -> None:
    named = {token.partition("(")[0].partition(" ")[0] for token in quoted(TEXTS[name])}
    named = {token for token in named if "/" in token and not token.startswith(MADE)}
    assert {token for token in named if not paths_of(token)} == set()


@every_text
def test_dot_files_link_to_what_is_there(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[name]):
        assert (ROOT / ".github" / target).exists(), target


def test_contributing_names_what_is_in_the_files_of_a_step() -> None:
    """Of ``1. `core/endpoints.py`: … `ENDPOINTS` …`` the second is in the first."""
    steps = re.findall(r"^\d\. (.+?)(?=^\d\. |^$)", TEXTS["CONTRIBUTING"], re.MULTILINE | re.DOTALL)
    assert len(steps) > 15
    for step in (step for step in steps if "<" not in step):
        files = [path for token in quoted(step) for path in paths_of(token)]
        texts = [
            file.read_text("utf-8")
            for path in files
            for file in (path.glob("*.py") if path.is_dir() else [path])
        ]
        for token in quoted(step):
            if texts and re.fullmatch(r"[\w.]+", token) and not paths_of(token):
                word = token.rpartition(".")[2]
                assert any(re.search(rf"\b{word}\b", text) for text in texts), (token, step)
