"""The files that README.md has its readers write: each is used as it stands there."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from openfeature import api

from revenuebase_compat import Client, Settings
from revenuebase_compat.testing.sandbox import Sandbox
from tests.support.environments import environment

from .readme import FILES, write_files

Load = Callable[[str], ModuleType]

#: A day before the sunset, on the real clock.
BEFORE = {"v1_sunset": "2999-01-01"}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Imports a file of the README, in a folder that holds all of them."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_readme_files_are_each_tested_here() -> None:
    assert sorted(FILES) == ["api.py", "fileflag.py", "flagdflag.py", "tasks.py", "views.py"]


def test_readme_fastapi_endpoint(load: Load, revenuebase_sandbox: Sandbox) -> None:
    for job, state in {1: "QUEUED", 2: "CANCELLED", 3: "COMPLETED"}.items():
        revenuebase_sandbox.add_job(job, state)
    module = load("api")

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(module.app)
        async with module.client, httpx.AsyncClient(transport=transport) as http:
            answers = [await http.post(f"http://app/jobs/{job}/cancel") for job in (1, 2, 3, 4)]
            revenuebase_sandbox.fail("v2", 403)
            return [*answers, await http.post("http://app/jobs/1/cancel")]

    answers = asyncio.run(ask())
    assert [answer.status_code for answer in answers] == [200, 200, 409, 404, 502]
    assert answers[0].json()["current_status"] == "CANCELLING"
    assert answers[-1].json()["detail"]["unknown"] is False


# --- celery and Django, in an environment of their own ----------------------------------------


@cache
def frameworks() -> Path:
    return environment("celery>=5.4,<6", "django>=4.2,<6", with_library=True)


def told(code: str, folder: Path, server: Sandbox) -> list[Any]:
    """What that program prints, as JSON lines, among the files of the README."""
    write_files(folder)
    done = subprocess.run(
        [str(frameworks()), "-c", code],
        env={
            "REVENUEBASE_API_KEY": server.api_key,
            "REVENUEBASE_BASE_URL": server.base_url,
            "REVENUEBASE_MAX_ATTEMPTS": "1",
            "PATH": "",
        },
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_readme_celery_task(tmp_path: Path) -> None:
    code = (
        "import json, tasks\n"
        "for job in (3, 1, 2, 4):\n"
        "    done = tasks.cancel.apply(args=[job])\n"
        "    print(json.dumps([done.state, done.result if done.successful() else "
        "type(done.result).__name__]))\n"
    )
    with Sandbox(jobs={1: "QUEUED", 2: "CANCELLED", 3: "QUEUED", 4: "COMPLETED"}) as server:
        server.fail("v2", 503, times=2)
        results = told(code, tmp_path, server)
        sent = [seen.path for seen in server.requests]
    assert results == [
        ["SUCCESS", "CANCELLING"],
        ["SUCCESS", "CANCELLING"],
        ["SUCCESS", "CANCELLED"],
        ["FAILURE", "NotCancellableError"],
    ]
    assert sent.count("/v2/jobs/3/cancel") == 3


@pytest.mark.slow
def test_readme_django_view(tmp_path: Path) -> None:
    code = (
        "import json\n"
        "from django.conf import settings\n"
        "settings.configure(ALLOWED_HOSTS=['*'])\n"
        "import django; django.setup()\n"
        "from django.test import RequestFactory\n"
        "from views import cancel\n"
        "factory = RequestFactory()\n"
        "for job in (3, 1, 2):\n"
        "    answer = cancel(factory.post('/'), job)\n"
        "    print(json.dumps([answer.status_code, json.loads(answer.content)]))\n"
        "print(json.dumps([cancel(factory.get('/'), 1).status_code, {}]))\n"
    )
    with Sandbox(jobs={1: "QUEUED", 2: "CANCELLED", 3: "QUEUED"}) as server:
        server.fail("v2", 503, times=1)
        answers = told(code, tmp_path, server)
    assert [status for status, _ in answers] == [502, 200, 409, 405]
    assert answers[0][1]["unknown"] is True
    assert answers[1][1]["current_status"] == "CANCELLING"


# --- flags ------------------------------------------------------------------------------------


def share(flag: str) -> float:
    """Percent of a thousand jobs that the flag sends to v2."""
    with Client(Settings(v2_flag=flag, **BEFORE)) as client:  # type: ignore[arg-type]
        routes = [str(client.route(job)) for job in range(1, 1001)]
    assert set(routes) <= {"v1 (FLAG)", "v2 (FLAG)"}
    return routes.count("v2 (FLAG)") / 10


def test_readme_flag_file(load: Load, tmp_path: Path) -> None:
    flag = load("fileflag").flag
    assert 7 < share("fileflag:flag") < 13
    context = type("Context", (), {"process_id": None})
    for percent, unnamed in {0: False, 100: True, 99: False}.items():
        (tmp_path / "v2.json").write_text(json.dumps({"percent": percent}))
        assert abs(share("fileflag:flag") - percent) < 3
        assert flag(context) is unnamed


@pytest.mark.skipif(
    not hasattr(api, "set_provider_and_wait"), reason="openfeature-sdk has it from 0.10 on"
)
def test_readme_flag_of_flagd(load: Load) -> None:
    try:
        load("flagdflag")
        assert 7 < share("flagdflag:flag") < 13
    finally:
        api.clear_providers()
