"""The pytest plugin, as an integrator's suite has it: each test runs a pytest of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import revenuebase_compat.testing.sandbox  # noqa: F401 (kept, so that inner runs need not load FastAPI)
from revenuebase_compat.client.memory import memory
from tests.support.environments import environment

pytest_plugins = ["pytester"]

EXAMPLE = Path(__file__).parents[1] / "programs" / "examples" / "test_both_sides.py"
PLUGIN = ("-p", "revenuebase_compat.testing.pytest_plugin", "-p", "no:cacheprovider")

HEAD = """
    import asyncio, os
    from datetime import date, datetime, timedelta, timezone

    import httpx
    import pytest

    from revenuebase_compat import AsyncClient, ApiDeprecationWarning, cancel_job
"""


@pytest.fixture(autouse=True)
def only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # The entry point would bring the plugin in under another name.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def test_the_example(pytester: pytest.Pytester) -> None:
    shutil.copy(EXAMPLE, pytester.path)
    done = pytester.runpytest_subprocess(*PLUGIN, "-W", "error")
    done.assert_outcomes(passed=2)


def test_nothing_leaks_from_test_to_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        HEAD
        + """
    @pytest.mark.parametrize("turn", [1, 2])
    def test_fresh_then_soiled(
        turn, monkeypatch, caplog, revenuebase_sandbox, revenuebase_clock
    ):
        sandbox = revenuebase_sandbox
        assert (sandbox.jobs, sandbox.requests, sandbox.rate_limit) == ({}, [], None)
        assert datetime.now(timezone.utc) - revenuebase_clock.now < timedelta(seconds=5)
        sandbox.add_job(1), sandbox.add_job(2)
        revenuebase_clock.move_to("2026-06-01")
        with pytest.warns(ApiDeprecationWarning):
            assert str(cancel_job(1).route) == "v1 (DEFAULT)"
        assert "API v1 ends on" in caplog.text
        sandbox.fail("v1", 410)
        with pytest.warns(ApiDeprecationWarning):
            assert str(cancel_job(2).route) == "v2 (V1_GONE)"
        sandbox.fail("v2", 500)
        sandbox.rate_limit = 1
        sandbox.api_key = "rb_test_other"
        monkeypatch.setenv("REVENUEBASE_API_KEY", "rb_test_other")
        monkeypatch.setenv("REVENUEBASE_API_VERSION", "v2")

    def test_without_fixtures():
        from revenuebase_compat.client.memory import ProcessMemory, memory

        assert not [name for name in os.environ if name.startswith("REVENUEBASE_")]
        assert "no_proxy" not in os.environ
        assert (memory.default_client, memory.retired_at, memory.clock) == (None, {}, None)
        assert memory.noticed == {}
    """
    )
    pytester.runpytest_inprocess(*PLUGIN).assert_outcomes(passed=3)
    # Nor to the process around, which is this one.
    assert (memory.default_client, memory.retired_at, memory.clock) == (None, {}, None)


def test_a_default_client_from_before_is_put_aside(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        HEAD
        + """
    from revenuebase_compat import Client, ConfigurationError, Settings
    from revenuebase_compat.client.memory import memory

    ours = []
    theirs = memory.default_client = Client(Settings("rb_test_theirs"))

    def test_in_between(revenuebase_sandbox):
        revenuebase_sandbox.add_job(1)
        assert str(cancel_job(1).route) == "v2 (SUNSET)"
        ours.append(memory.default_client)

    def test_afterwards():
        with pytest.raises(ConfigurationError, match="closed"):
            ours[0].cancel_job(1)
        assert memory.default_client is theirs
        memory.default_client = None
        theirs.runtime.send.check_open()
    """
    )
    pytester.runpytest_inprocess(*PLUGIN).assert_outcomes(passed=2)


def test_every_client_reaches_it_at_its_time(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        HEAD
        + """
    @pytest.fixture(autouse=True)
    def job(revenuebase_sandbox, revenuebase_clock):
        revenuebase_sandbox.add_job(1)
        revenuebase_clock.move_to("2026-06-01")

    def test_settings_of_the_test_count(monkeypatch):
        monkeypatch.setenv("REVENUEBASE_V2_ROLLOUT", "100")
        assert str(cancel_job(1).route) == "v2 (ROLLOUT)"

    def test_asynchronous():
        async def cancel():
            async with AsyncClient() as client:
                return await client.cancel_job(1)

        with pytest.warns(ApiDeprecationWarning):
            assert str(asyncio.run(cancel()).route) == "v1 (DEFAULT)"

    def test_somebody_elses_client_behind_a_proxy(monkeypatch, revenuebase_sandbox):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
        headers = {"x-key": os.environ["REVENUEBASE_API_KEY"]}
        base_url = os.environ["REVENUEBASE_BASE_URL"]
        with httpx.Client(base_url=base_url, headers=headers) as client:
            answer = client.post("/v1/cancel-process", json={"process_id": 1})
        assert (answer.status_code, answer.headers["date"][:16]) == (200, "Mon, 01 Jun 2026")
    """
    )
    pytester.runpytest_inprocess(*PLUGIN).assert_outcomes(passed=3)


def test_the_clock(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        HEAD
        + """
    pytestmark = pytest.mark.filterwarnings("ignore")

    def near(moment, *when):
        return timedelta() <= moment - datetime(*when, tzinfo=timezone.utc) < timedelta(minutes=4)

    def test_it_runs_on_from_where_it_was_moved(revenuebase_sandbox, revenuebase_clock):
        clock = revenuebase_clock
        clock.move_to("2026-07-06")
        first, second = clock.now, clock.now
        assert first < second
        assert near(second, 2026, 7, 6)
        clock.advance(days=1, minutes=5)
        assert near(clock.now, 2026, 7, 7, 0, 5)
        assert near(revenuebase_sandbox.now, 2026, 7, 7, 0, 5)
        clock.move_to(date(2026, 6, 1))
        assert near(clock.now, 2026, 6, 1)
        with pytest.raises(ValueError, match="date"):
            clock.move_to("07/08/2026")

    def test_a_410_is_forgotten_in_time(revenuebase_sandbox, revenuebase_clock):
        for job in range(1, 5):
            revenuebase_sandbox.add_job(job)
        revenuebase_clock.move_to("2026-06-01")
        revenuebase_sandbox.fail("v1", 410, times=1)
        assert str(cancel_job(1).route) == "v2 (V1_GONE)"
        revenuebase_clock.advance(minutes=14)
        assert str(cancel_job(2).route) == "v2 (V1_GONE)"
        revenuebase_clock.advance(minutes=1)
        assert str(cancel_job(3).route) == "v1 (DEFAULT)"
        assert [served.version for served in revenuebase_sandbox.requests] == [
            "v1", "v2", "v2", "v1"
        ]

    def test_notices_are_said_again_in_time(revenuebase_sandbox, revenuebase_clock, caplog):
        caplog.set_level("INFO", "revenuebase_compat")
        for job in range(1, 4):
            revenuebase_sandbox.add_job(job)
        revenuebase_clock.move_to("2026-03-01")
        cancel_job(1)
        revenuebase_clock.advance(minutes=59)
        cancel_job(2)
        revenuebase_clock.move_to("2026-06-01")
        cancel_job(3)
        levels = [r.levelname for r in caplog.records if r.name == "revenuebase_compat"]
        assert levels == ["INFO", "WARNING"]
    """
    )
    pytester.runpytest_inprocess(*PLUGIN).assert_outcomes(passed=3)


def test_a_whole_integration(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        HEAD
        + """
    @pytest.mark.parametrize("turn", [1, 2])
    def test_upload_to_download(turn, revenuebase_sandbox, revenuebase_clock):
        revenuebase_clock.move_to("2026-06-01")
        headers = {"x-key": os.environ["REVENUEBASE_API_KEY"]}
        base_url = os.environ["REVENUEBASE_BASE_URL"]
        with httpx.Client(base_url=base_url, headers=headers) as api:
            leads = {"requested_file": ("leads.csv", b"email\\nada@example.com\\n")}
            job = api.post("/v1/batch-upload", files=leads).json()["process_id"]
            assert job == 1
            body = {"process_id": job}
            state = lambda: api.post("/v1/batch-process-email-status", json=body).json()
            assert state()["current_status"] == "QUEUED"
            revenuebase_clock.advance(seconds=59)  # QUEUED for 30 s, PROCESSING for 30 s
            assert state()["current_status"] in ("PROCESSING", "COMPLETED")
            revenuebase_clock.advance(seconds=1)
            assert state()["current_status"] == "COMPLETED"
            done = api.post("/v1/batch-download", json=body)
            assert done.text == "email,status\\nada@example.com,Valid\\n"
            assert api.get("/v1/credits").json() == {"credits": 999}
            revenuebase_clock.move_to("2026-07-07")
            assert state()["detail"].startswith("API v1 is retired")
            assert api.get("/v2/account/balance").json() == {"credits": 999}

    def test_a_rate_limit_is_over_in_time(revenuebase_sandbox, revenuebase_clock):
        revenuebase_clock.move_to("2026-06-01")
        revenuebase_sandbox.rate_limit = 1
        headers = {"x-key": revenuebase_sandbox.api_key}
        with httpx.Client(base_url=revenuebase_sandbox.base_url, headers=headers) as api:
            statuses = [api.get("/v1/credits").status_code for _ in range(2)]
            revenuebase_clock.advance(minutes=1)
            assert [*statuses, api.get("/v1/credits").status_code] == [200, 429, 200]
    """
    )
    pytester.runpytest_inprocess(*PLUGIN).assert_outcomes(passed=3)


WITH_AND_WITHOUT = """
    def test_another():
        assert True

    def test_ours(revenuebase_sandbox, revenuebase_clock):
        assert False, "never reached"
"""
SENTENCE = "the sandbox needs what is not installed: pip install 'fastapi>=*' 'uvicorn>=*'"


def test_without_the_extra(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys; sys.modules['fastapi'] = None")
    pytester.makepyfile(WITH_AND_WITHOUT)
    done = pytester.runpytest_subprocess(*PLUGIN, "-W", "error")
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines([SENTENCE])
    done.stdout.no_fnmatch_line("*During handling of*")


def test_loading_it_is_cheap() -> None:
    code = (
        "import pytest, sys; before = {*sys.modules}\n"
        "import revenuebase_compat.testing.pytest_plugin\n"
        "new = {*sys.modules} - before\n"
        "print(*sorted(m for m in new if m.partition('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == [
        "revenuebase_compat",
        "revenuebase_compat._version",
        "revenuebase_compat.testing",
        "revenuebase_compat.testing.pytest_plugin",
    ]


def test_a_process_that_knows_us_before_pytest_does(pytester: pytest.Pytester) -> None:
    # As under `revenuebase-compat run`, or with its .pth file; pytest would warn of a package
    # with a plugin whose assertions it comes too late to rewrite.
    pytester.makepyfile("def test_another(): pass")
    code = (
        "import sys, pytest, revenuebase_compat\n"
        "options = ['-W', 'error', '-p', 'no:cacheprovider', '-p', 'revenuebase_compat']\n"
        "sys.exit(pytest.main(options))"
    )
    done = pytester.run(sys.executable, "-c", code)
    assert done.ret == 0, done.stderr.str()


# From here on pytest finds the plugin by itself, in environments from the package registry.


def run_in(python: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    names = ("PYTEST", "PYTHON", "REVENUEBASE_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    command = [str(python), "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *options]
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_installed_without_the_extra(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(WITH_AND_WITHOUT)
    done = run_in(environment("pytest", with_library=True), pytester.path)
    assert "needs what is not installed: pip install 'fastapi>=" in done.stdout, done.stdout
    assert "1 passed, 1 error" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_installed_with_the_vendors_sdk(pytester: pytest.Pytester, workers: str) -> None:
    python = environment(
        "revenuebase-sdk==0.2.1",
        "pytest",
        "pytest-xdist",
        "fastapi",
        "uvicorn",
        "python-multipart",
        with_library=True,
    )
    pytester.makepyfile(
        """
    import pytest
    import revenuebase_sdk

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize("job", range(1, 9))
    @pytest.mark.parametrize("day, status", [("2026-07-06", 200), ("2026-07-07", 410)])
    def test_v1(revenuebase_sandbox, revenuebase_clock, job, day, status):
        revenuebase_sandbox.add_job(job)
        revenuebase_clock.move_to(day)
        with revenuebase_sdk.RevenuebaseClient() as client:
            if status == 200:
                client.v1.cancel_batch(process_id=job)
            else:
                with pytest.raises(revenuebase_sdk.APIStatusError):
                    client.v1.cancel_batch(process_id=job)
        assert {served.status for served in revenuebase_sandbox.requests} == {status}
    """
    )
    done = run_in(python, pytester.path, "-n", workers)
    assert "16 passed" in done.stdout, done.stdout
