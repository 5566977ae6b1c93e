"""The rooms of the source: who may import whom, what is private, and how large anything may get.

``.github/ARCHITECTURE.md`` explains the rules; the source is read here, not run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "revenuebase_compat"
ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / PACKAGE

#: Room → the rooms that it may import.
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "client": {"core"},
    "adopt": {"client", "core"},
    "testing": {"client", "core"},
    "contrib": {"client", "core"},
    "cli": {"client", "core", "adopt", "testing", "contrib"},
}
#: What stands beside the rooms, and the rooms that it may import.
ENTRANCES = {"__init__": {"client", "core"}, "__main__": {"cli"}, "_version": set[str]()}

#: The source is larger than the 9,000 lines it was meant to have: it may shrink, and not grow.
FILE_LINES, FUNCTION_LINES, SOURCE_LINES = 420, 70, 10_670


class Import(NamedTuple):
    """One imported name, or module where ``name`` is empty."""

    module: str
    name: str
    line: int
    #: Whether it stands under ``if TYPE_CHECKING``, where it is never carried out.
    for_types: bool


class Module:
    """One file of Python: what it imports, defines and reaches into."""

    def __init__(self, path: Path, root: Path, name: str = "") -> None:
        self.path = path
        self.where = str(path.relative_to(root))
        parts = [name, *path.relative_to(root).with_suffix("").parts]
        self.name = ".".join(part for part in parts if part and part != "__init__")
        self.package = self.name if path.stem == "__init__" else self.name.rpartition(".")[0]
        self.lines = path.read_text("utf-8").splitlines()
        self.tree = ast.parse("\n".join(self.lines))

    @cached_property
    def imports(self) -> list[Import]:
        """Every import, wherever it stands."""
        found = []
        blocks = [node for node in ast.walk(self.tree) if isinstance(node, ast.If)]
        types = [node for node in blocks if getattr(node.test, "id", "") == "TYPE_CHECKING"]
        never = {inner for node in types for body in node.body for inner in ast.walk(body)}
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            base = []
            if isinstance(node, ast.ImportFrom):
                above = self.package.split(".")[: self.package.count(".") + 2 - node.level]
                base = [*(above if node.level else []), *filter(None, [node.module])]
            for one in node.names:
                names = (".".join(base), one.name) if base else (one.name, "")
                found.append(Import(*names, node.lineno, node in never))
        return found

    @cached_property
    def private(self) -> set[str]:
        """The private names that it defines."""
        names = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node, ast.Name):
                    names.add(node.id)
                elif _is_own(node):
                    names.add(node.attr)
        return {name for name in names if is_private(name)}

    def reaches(self) -> Iterator[tuple[str, int]]:
        """Private names of whatever is not ``self``, ``cls`` or ``super()``, and their lines."""
        for one in self.imports:
            if one.module.startswith((PACKAGE, "tests")):
                parts = (*one.module.split("."), one.name)
                yield from ((part, one.line) for part in parts if is_private(part))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and not _is_own(node):
                yield node.attr, node.lineno


def _is_own(node: ast.Attribute) -> bool:
    owner = node.value.func if isinstance(node.value, ast.Call) else node.value
    return getattr(owner, "id", "") in ("self", "cls", "super")


def is_private(name: str) -> bool:
    return re.match("_[A-Za-z]", name) is not None and name != "_version"


MODULES = {
    module.name: module
    for module in (Module(path, SOURCE, PACKAGE) for path in sorted(SOURCE.rglob("*.py")))
}
TESTS = [Module(path, ROOT) for path in sorted((ROOT / "tests").rglob("*.py"))]
every_room = pytest.mark.parametrize("room", ROOMS)


def room_of(name: str) -> str:
    """The room of a module of ours, or the module itself where it is in none."""
    return name.split(".")[1] if "." in name else "__init__"


def imported(module: Module, *, types: bool = True) -> dict[str, int]:
    """The modules of ours that a module imports, and the line."""
    found = {}
    for one in module.imports:
        for target in (f"{one.module}.{one.name}", one.module):
            if target in MODULES and (types or not one.for_types):
                found[target] = one.line
                break
    return found


def test_rooms_are_these() -> None:
    found = {room_of(name) for name in MODULES}
    assert found == {*ROOMS, *ENTRANCES}


def test_imports_go_down_only() -> None:
    """Also those inside functions, and those for types alone."""
    wrong = []
    for module in MODULES.values():
        room = room_of(module.name)
        allowed = {**ROOMS, **ENTRANCES}[room] | {room, "_version"}
        for target, line in imported(module).items():
            if room_of(target) not in allowed:
                wrong.append(f"{module.where}:{line} imports {target}")
    assert wrong == []


def test_imports_make_no_circle() -> None:
    graph = {name: set(imported(module)) - {name} for name, module in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" > ".join(reversed(error.args[1])))


@every_room
def test_a_room_says_what_it_is_and_may_import(room: str) -> None:
    words = ast.get_docstring(MODULES[f"{PACKAGE}.{room}"].tree) or ""
    assert words.startswith("Room:")
    may_import = re.search(r"^May import: (.*?[.;])\s", words + "\n", re.MULTILINE | re.DOTALL)
    assert may_import is not None
    named = ROOMS.keys() & set(re.findall(r"``(\w+)``", may_import[1]))
    assert named == ROOMS[room] or (room == "cli" and "every other room" in may_import[1])


def test_nothing_private_is_used_by_another_module() -> None:
    everything = (*MODULES.values(), *TESTS)
    defined = {name for module in everything for name in module.private}
    # What a patched library hides may be named as ours is.
    wrong = [
        f"{module.where}:{line} {name}"
        for module in everything
        if not module.where.startswith("adopt/libraries/")
        for name, line in module.reaches()
        if name in defined - module.private
    ]
    assert wrong == []


def test_files_and_functions_stay_short() -> None:
    long = [
        f"{module.where} has {len(module.lines)} lines"
        for module in MODULES.values()
        if len(module.lines) >= FILE_LINES
    ]
    long += [
        f"{module.where}:{node.lineno} {node.name}"
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 >= FUNCTION_LINES
    ]
    assert long == []


def test_the_source_as_a_whole_stays_small() -> None:
    assert sum(len(module.lines) for module in MODULES.values()) < SOURCE_LINES
