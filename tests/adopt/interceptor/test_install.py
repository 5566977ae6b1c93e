"""install() and uninstall(), in this process and in others."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest

from revenuebase_compat import ApiDeprecationWarning, ConfigurationError, Settings, adopt
from revenuebase_compat.adopt import patching
from tests.adopt.interceptor.support import ALIVE, GONE, POINTS, by_requests, cancel, seen
from tests.support.children import interpreter, prefix, variables
from tests.support.fault_server import FaultServer
from tests.support.raw_server import RawServer, reply

# --- installing -------------------------------------------------------------------------------


def patched() -> list[bool]:
    return [hasattr(getattr(owner, name), patching.PATCH_MARK) for owner, name in POINTS]


def test_install_and_uninstall_may_be_repeated(server: FaultServer) -> None:
    originals = [getattr(owner, name) for owner, name in POINTS]
    adopt.install(Settings(base_url=server.base_url, **GONE), strict=True)
    first = [getattr(owner, name) for owner, name in POINTS]
    adopt.install(Settings(base_url=server.base_url, **ALIVE), strict=True)
    assert [getattr(owner, name) for owner, name in POINTS] == first
    with pytest.warns(ApiDeprecationWarning):  # the settings are the second ones
        cancel(by_requests, server.base_url)
    adopt.uninstall()
    adopt.uninstall()
    assert [getattr(owner, name) for owner, name in POINTS] == originals
    assert cancel(by_requests, server.base_url).status == 400
    assert {request.version for request in server.seen} == {"v1"}


def test_settings_of_the_environment(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVENUEBASE_BASE_URL", server.base_url)
    monkeypatch.setenv("REVENUEBASE_V1_SUNSET", "2000-01-01")
    adopt.install(strict=True)
    cancel(by_requests, server.base_url)
    assert seen(server) == [("POST", "/v2/jobs/42/cancel")]


def test_broken_settings_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVENUEBASE_API_VERSION", "v3")
    with pytest.raises(ConfigurationError, match="api_version"):
        adopt.install()
    assert not any(patched())


def test_a_library_that_cannot_be_imported_is_passed_over(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As tests have it that try what a program does without one."""
    monkeypatch.setitem(sys.modules, "httpcore", None)
    adopt.install(Settings(base_url=server.base_url, v1_sunset="2000-01-01"))
    cancel(by_requests, server.base_url)
    assert seen(server) == [("POST", "/v2/jobs/42/cancel")]


def test_installing_from_many_threads() -> None:
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(20):
            adopt.install(Settings(**GONE))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(patched())
    adopt.uninstall()
    assert not any(patched())


UNDER_RUN = """
import os, sys
from revenuebase_compat import Settings, adopt
base_url = os.environ["REVENUEBASE_BASE_URL"]
install = lambda: adopt.install(Settings(base_url=base_url, v1_sunset="2999-01-01"))
{first}
import urllib.request
{then}
body, headers = b'{{"process_id": 1}}', {{"Content-Type": "application/json"}}
for path in ("/v1/cancel-process", "/v1/batch-process-email"):
    request = urllib.request.Request(base_url + path, body, headers)
    try:
        urllib.request.urlopen(request, timeout=20).read()
    except Exception as error:
        print(type(error).__name__)
"""
MOVED, CANCEL, START = "/v2/jobs/1/cancel", "/v1/cancel-process", "/v1/batch-process-email"


@pytest.mark.parametrize(
    ("option", "first", "then", "paths"),
    [
        ("--rehearse", "install()", "", [MOVED]),
        ("--rehearse", "", "install()", [MOVED]),
        ("--rehearse", "", "adopt.uninstall()", [MOVED]),
        ("--rehearse", "install(); adopt.uninstall()", "", [MOVED]),
        ("--strict", "adopt.install()", "", [MOVED]),
        ("--strict", "", "install(); adopt.uninstall()", [MOVED]),
        ("", "install()", "", [CANCEL, START]),
        ("", "", "adopt.uninstall()", [CANCEL, START]),
    ],
)
def test_what_run_promises_a_program_does_not_take_back(
    option: str, first: str, then: str, paths: list[str]
) -> None:
    program = UNDER_RUN.format(first=first, then=then)
    with RawServer(lambda request, number: reply(200, b"done")) as server:
        done = subprocess.run(
            [*prefix("run", *option.split()), str(interpreter("bare")), "-c", program],
            env=variables("run", server.url, REVENUEBASE_V1_SUNSET="2000-01-01"),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.stdout == "ApiVersionRetiredError\n" * (paths == [MOVED]), done.stderr
    assert server.lines == [f"POST {path}" for path in paths]


LAZY = """
import sys
from revenuebase_compat import Settings, adopt

names = {"httpx", "httpcore", "httpx2", "httpcore2", "requests", "urllib3", "aiohttp"}
names |= {"http.client", "urllib.request", "revenuebase_sdk", "asyncio", "ssl"}
adopt.install(Settings(v1_sunset="2000-01-01"))
assert not names & set(sys.modules), names & set(sys.modules)

import importlib.util
for name in ("httpcore", "urllib3.connectionpool", "http.client", "aiohttp.client"):
    # Who only looks, sees a loader that has what the real one has.
    assert importlib.util.find_spec(name).loader.get_filename(name)
    module = importlib.import_module(name)
    kind = type(module.__loader__).__name__
    assert kind == "SourceFileLoader", kind
    assert module.__spec__.loader is module.__loader__
import httpcore, http.client, urllib3, aiohttp

points = [(httpcore.ConnectionPool, "handle_request"), (urllib3.HTTPConnectionPool, "urlopen"),
          (http.client.HTTPConnection, "request"), (aiohttp.ClientSession, "_request"),
          (httpcore.AsyncConnectionPool, "handle_async_request")]
wrappers = [getattr(owner, name) for owner, name in points]
assert {wrapper.__module__ for wrapper in wrappers} == {
    "httpcore._sync.connection_pool", "urllib3.connectionpool", "http.client", "aiohttp.client",
    "httpcore._async.connection_pool"}
assert [wrapper.__name__ for wrapper in wrappers] == [name for _, name in points]
adopt.uninstall()
assert not any(getattr(owner, name) is wrapper
               for (owner, name), wrapper in zip(points, wrappers, strict=True))
importlib.reload(http.client)
adopt.install(Settings(v1_sunset="2000-01-01"))
importlib.reload(http.client)
assert hasattr(http.client.HTTPConnection.request, "_revenuebase_compat")
"""


def test_nothing_is_imported_that_the_application_does_not_import() -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")


def test_a_finder_of_another_tool_is_asked_as_well(tmp_path: Any) -> None:
    (tmp_path / "aiohttp").mkdir()
    (tmp_path / "aiohttp" / "__init__.py").touch()
    (tmp_path / "aiohttp" / "client.py").write_text(
        "class ClientSession:\n    async def _request(self, method, str_or_url): ...\n"
    )
    program = f"""
        import sys
        from importlib.machinery import PathFinder
        from revenuebase_compat import Settings, adopt

        class Own:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name.partition(".")[0] == "aiohttp":
                    return PathFinder.find_spec(name, path or [{str(tmp_path)!r}], target)

        sys.meta_path.insert(0, Own)
        adopt.install(Settings())
        import aiohttp.client
        assert aiohttp.client.__file__.startswith({str(tmp_path)!r})
        assert hasattr(aiohttp.client.ClientSession._request, "_revenuebase_compat")
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_module_that_is_not_what_it_was_is_left_as_it_is(tmp_path: Any) -> None:
    # Neither a pool in the one, nor a distribution to the other.
    (tmp_path / "httpcore.py").write_text("pool = None\n")
    (tmp_path / "revenuebase_sdk.py").write_text("class RevenuebaseClient: ...\n")
    program = """
        import sys
        from revenuebase_compat import Settings, adopt

        adopt.install(Settings(), strict=len(sys.argv) > 1)
        import httpcore
        import revenuebase_sdk
        print(httpcore.pool, vars(revenuebase_sdk.RevenuebaseClient).get("v1"))
        """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environ = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stdout) == (0, "None None\n"), done.stderr
    assert "httpcore is left as it is" in done.stderr
    assert "revenuebase_sdk is left as it is" in done.stderr
    strict = subprocess.run([*command, "strict"], capture_output=True, text=True, env=environ)
    assert strict.returncode == 1
    assert "AttributeError" in strict.stderr
