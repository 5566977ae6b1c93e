"""The README, and what of it can be run: its files, its Python, its commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
EXAMPLE = (ROOT / "tests/programs/examples/test_both_sides.py").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


#: The blocks that begin with the name of a file, by that name.
FILES = {
    block.partition("\n")[0].removeprefix("# "): block
    for block in blocks("python")
    if re.match(r"# \w+\.py\n", block)
}
#: The other Python, but for the example, which is a file of the tests.
SNIPPETS = [block for block in blocks("python") if block not in (*FILES.values(), EXAMPLE)]
[FLAGS_JSON] = blocks("json")


def marked(name: str) -> list[str]:
    """The lines between ``<!-- name -->`` and ``<!-- /name -->``."""
    assert README.count(f"<!-- {name} -->") == README.count(f"<!-- /{name} -->") == 1
    inside = README.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
    return inside.strip().splitlines()


def write_files(folder: Path) -> None:
    """Put there what the README says to put into files."""
    for name, code in FILES.items():
        (folder / name).write_text(code, "utf-8")
    (folder / "flags.json").write_text(FLAGS_JSON, "utf-8")
    (folder / "v2.json").write_text(json.dumps({"percent": 10}), "utf-8")


def commands() -> list[tuple[dict[str, str], list[str]]]:
    """The commands of the shell blocks, each with the variables that are set for it."""
    found = []
    for block in blocks("bash"):
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


#: Those of this package: variables, and the words behind its name.
OURS = [(given, words[1:]) for given, words in commands() if words[0] == "revenuebase-compat"]


def recipe(where: str) -> list[str]:
    """What stands in backquotes in the row of that recipe."""
    [row] = [line for line in README.splitlines() if line.startswith(f"| {where} |")]
    return re.findall(r"`([^`]+)`", row)
