"""What patching imports never leads to a library that it patches.

It runs inside the import of such a library, where to import it again gives out half a module.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from revenuebase_compat.adopt import patching
from revenuebase_compat.adopt.libraries import LIBRARIES
from tests.test_house import MODULES, imported

PATCHED = {
    *LIBRARIES,
    *("http.client", "urllib.request", "urllib3", "httpcore", "httpx", "httpx2", "aiohttp"),
    *("requests", "revenuebase_sdk"),
}
#: Nor these: once ssl is loaded, what gevent patches later recurses without end in TLS calls.
FORBIDDEN = PATCHED | {"asyncio", "ssl", "socket", "concurrent.futures"}

LIBRARY_FILES = Path(patching.__file__).with_name("libraries").glob("*.py")

#: What is loaded under ``run`` when a program imports its first library, and in code.
STARTS = {
    "import": "import revenuebase_compat.adopt.patching",
    "install_from_environment": """
from revenuebase_compat.adopt import patching
patching.install_from_environment()
""",
    "install": """
from revenuebase_compat import adopt
adopt.install()
adopt.uninstall()
""",
}


@pytest.mark.parametrize("code", STARTS.values(), ids=STARTS)
def test_patching_loads_nothing_that_is_patched(code: str) -> None:
    show = "import sys; found = [*sys.modules]; import json; print(json.dumps(found))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"{code}\n{show}"],
        # Without site: a .pth file of the environment may import anything.
        env={"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(json.loads(done.stdout))
    assert "revenuebase_compat.adopt.patching" in loaded
    assert loaded & FORBIDDEN == set()


def closure(name: str) -> Iterator[str]:
    """The modules of ours that are loaded with one, by its own imports and those of others."""
    waiting, seen = [name], set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen or module not in MODULES:
            continue
        seen.add(module)
        yield module
        waiting += [module.rpartition(".")[0], *imported(MODULES[module], types=False)]


def test_patching_leads_to_nothing_that_is_patched() -> None:
    """The same in the source, with what a function would import once it is called."""
    reached = set(closure(patching.__name__))
    assert {"revenuebase_compat.core.routing", "revenuebase_compat.client.flags"} <= reached
    wrong = [
        f"{MODULES[module].where}:{one.line} imports {one.module} {one.name}"
        for module in sorted(reached)
        for one in MODULES[module].imports
        if not one.for_types and {one.module, f"{one.module}.{one.name}"} & FORBIDDEN
    ]
    assert wrong == []


@pytest.mark.parametrize("path", sorted(LIBRARY_FILES), ids=lambda path: path.stem)
def test_libraries_import_nothing_by_a_string(path: Path) -> None:
    """Which the imports in the source do not show."""
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    named = {getattr(node, "id", getattr(node, "attr", "")) for node in nodes}
    assert not named & {"import_module", "__import__", "find_spec", "exec"}
