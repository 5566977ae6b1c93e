"""What importing costs and touches; each case in a process of its own."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import revenuebase_compat
from revenuebase_compat import core

CORE = [f"{core.__name__}.{module.name}" for module in pkgutil.iter_modules(core.__path__)]

NETWORK = {"httpx", "httpcore", "httpx2", "h11", "anyio", "ssl", "_ssl", "socket", "_socket"}
NETWORK |= {"asyncio", "selectors", "http.client", "urllib.request"}

# Before anything of ours is imported, the context is taken away.
SEALED = """
import os, sys, time, datetime
from collections.abc import Mapping

touched = []

class NoEnvironment(Mapping):
    def __getitem__(self, name): touched.append(f"os.environ[{name!r}]"); raise KeyError(name)
    def __iter__(self): touched.append("iter(os.environ)"); return iter(())
    def __len__(self): touched.append("len(os.environ)"); return 0

def sealed(name, original):
    def read(*args):
        # With a moment given, these two convert, and read no clock.
        if args and name in ("time.localtime", "time.gmtime"):
            return original(*args)
        touched.append(name)
        return original(*args)
    return read

def reader(name, original):
    def read(cls, *args):
        touched.append(name)
        return original(*args)
    return classmethod(read)

class Datetime(datetime.datetime):
    now = reader("datetime.now", datetime.datetime.now)
    utcnow = reader("datetime.utcnow", datetime.datetime.utcnow)
    today = reader("datetime.today", datetime.datetime.today)

class Date(datetime.date):
    today = reader("date.today", datetime.date.today)

os.environ = NoEnvironment()
for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns",
             "localtime", "gmtime"):
    setattr(time, name, sealed(f"time.{name}", getattr(time, name)))
datetime.datetime, datetime.date = Datetime, Date
sys.addaudithook(lambda event, _: event.startswith("socket.") and touched.append(event))
"""

REPORT = """
import json
print(json.dumps([touched, sorted(sys.modules)]))
"""


def run(program: str) -> tuple[list[str], set[str]]:
    """What a program touched, and the modules it has loaded at its end."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    touched, modules = json.loads(done.stdout)
    return touched, set(modules)


def loaded_by(program: str) -> set[str]:
    """The modules that a program loads beyond those every Python has."""
    return run(f"import sys\ntouched = []\n{program}\n{REPORT}")[1] - bare()


def bare() -> set[str]:
    return run(f"import sys\ntouched = []\n{REPORT}")[1]


def top(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_sealed_process_notices_what_it_must() -> None:
    # Were these not noticed, the other tests could not fail.
    program = """
import socket
from datetime import datetime, date
os.environ.get("REVENUEBASE_API_KEY"); os.getenv("HOME")
time.time(); time.monotonic(); time.localtime(); time.localtime(0)
datetime.now(); date.today()
socket.socket().close()
"""
    touched, modules = run(SEALED + program + REPORT)
    assert set(touched) == {
        *("os.environ['REVENUEBASE_API_KEY']", "os.environ['HOME']", "socket.__new__"),
        *("time.time", "time.monotonic", "time.localtime", "datetime.now", "date.today"),
    }
    assert touched.count("time.localtime") == 1
    assert "_socket" in modules


def test_core_touches_nothing_when_imported() -> None:
    assert len(CORE) > 8
    touched, modules = run(SEALED + f"import {', '.join(CORE)}" + REPORT)
    assert touched == []
    assert set(CORE) <= modules
    assert not modules & NETWORK


@pytest.mark.parametrize("module", CORE)
def test_core_module_stands_alone(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert not loaded & NETWORK
    assert top(loaded) - sys.stdlib_module_names <= {"revenuebase_compat", "packaging"}
    ours = {name for name in loaded if name.startswith("revenuebase_compat.")}
    above = {name for name in ours if not name.startswith("revenuebase_compat.core")}
    assert above <= {"revenuebase_compat._version"}


@pytest.mark.parametrize("path", core.__path__[:1])
def test_core_imports_nothing_above_it(path: str) -> None:
    # Also where an import waits inside a function.
    for source in Path(path).glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{source.name}:{node.lineno}"
                imported = [node.module or ""] if node.level == 0 else []
            elif isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            else:
                continue
            assert not set(imported) & NETWORK, f"{source.name}:{node.lineno}"
            assert "revenuebase_compat" not in top(set(imported)), f"{source.name}:{node.lineno}"


def test_core_call_touches_nothing_but_what_it_is_given() -> None:
    program = """
from revenuebase_compat.core import calls, cancellation
from revenuebase_compat.core.settings import Settings
from revenuebase_compat.core.decoding import Response

now = Datetime(2026, 6, 1, tzinfo=datetime.timezone.utc)
settings = Settings("rb_test_pure", v2_rollout=10)
body = b'{"process_id":42,"filename":"a","current_status":"CANCELLING","message":"b"}'
stamped = [(b"date", b"Mon, 01 Jun 2026 00:00:00 GMT"), (b"content-length", b"%d" % len(body))]
script = [
    Response(429, [*stamped, (b"retry-after", b"Mon, 01 Jun 2026 00:00:05 GMT")]),
    Response(410, [*stamped, (b"sunset", b"Wed, 01 Jul 2026 00:00:00 GMT")]),
    Response(200, stamped, body),
]
heard = []
zero, half = lambda: 0.0, lambda: 0.5
context = calls.CallContext(settings, lambda: now, zero, half, {}, heard.append, print)
steps = cancellation.cancel(context, 1)
answer = None
try:
    while True:
        command = steps.send(answer)
        answer = script.pop(0) if isinstance(command, cancellation.SendRequest) else None
except Exception as error:
    assert "is about another job, 42" in str(error), error
assert not script
assert [notice.kind.value for notice in heard] == ["uses_v1", "announced", "v1_gone"], heard
"""
    touched, modules = run(SEALED + program + REPORT)
    assert touched == []
    assert not modules & NETWORK


def test_package_import_loads_nothing_but_itself() -> None:
    loaded = loaded_by("import revenuebase_compat") - loaded_by("import __future__, typing")
    assert loaded == {"revenuebase_compat", "revenuebase_compat._version"}


def test_package_loads_httpx_when_it_sends_and_not_before() -> None:
    loaded = loaded_by(
        "from revenuebase_compat import cancel_job, Client, Settings\n"
        "from datetime import datetime, timezone\n"
        "client = Client(Settings('rb_test_lazy'), "
        "clock=lambda: datetime(2026, 8, 1, tzinfo=timezone.utc))\n"
        "assert str(client.route(42)) == 'v2 (SUNSET)'"
    )
    assert not top(loaded) & {"httpx", "httpcore", "httpx2", "h11", "anyio", "dateutil", "certifi"}


def test_package_never_loads_its_optional_parts() -> None:
    loaded = loaded_by("from revenuebase_compat import *\nassert cancel_job and CancelError")
    ours = {name.removeprefix("revenuebase_compat.") for name in loaded}
    optional = {"sandbox", "cli", "adopt", "openfeature", "otel"}
    assert {name.partition(".")[0] for name in ours} & optional == set()
    assert not top(loaded) & {"fastapi", "starlette", "uvicorn", "rich", "openfeature"}


def test_package_names_are_loaded_one_home_at_a_time() -> None:
    loaded = loaded_by("import revenuebase_compat\nrevenuebase_compat.CancelError")
    assert "revenuebase_compat.core.errors" in loaded
    assert "revenuebase_compat.client" not in loaded
    assert not top(loaded) & {"dataclasses", "logging", "packaging", "asyncio"}
    assert revenuebase_compat.CancelError.__module__ == "revenuebase_compat.core.errors"
