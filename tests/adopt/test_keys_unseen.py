"""No key, old or new, is in any log, notice, event, report or metric, whatever is answered."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from revenuebase_compat.testing.sandbox import Sandbox
from tests.adopt import test_sdk_names
from tests.support import AFTER, BEFORE, SUNSET
from tests.support.environments import environment
from tests.support.programs import (
    ALIVE,
    GONE,
    HERE,
    LIBRARIES,
    PROGRAMS,
    Retiring,
    api,
    execute,
    lines,
)

pytestmark = pytest.mark.slow

OLD = "rb_test_old_key"
#: By it begin the keys that the sandbox gives, too.
ANY = "rb_test_"

#: Of the first rotations one fails with 503 and one with 422.
STEPS = [
    *("rotate", "rotate", "credits", "cancel=1", "cancel=1", "cancel=x", "download=8"),
    *("verify=nonsense", "start=none.csv", "upload", "rotate", "credits", "list", "status=2"),
]
LISTENER = """
import os
def hear(event):
    with open(os.environ["EVENTS"], "a") as file:
        file.write(repr(event) + repr(vars(event) if hasattr(event, "__dict__") else ""))
"""


def failing(sandbox: Sandbox) -> None:
    for version in ("v1", "v2"):
        sandbox.fail(version, 503, times=1)
        sandbox.fail(version, 422, times=1)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("when", ["gone", "alive", "in the middle"])
def test_no_key_of_a_program_is_seen(name: str, when: str, tmp_path: Path) -> None:
    (tmp_path / "listener.py").write_text(LISTENER)
    events, report = tmp_path / "events", tmp_path / "report"
    python = environment(*LIBRARIES["recent"], with_library=True)
    script, *arguments = PROGRAMS[name]
    now = AFTER if when == "gone" else BEFORE
    kind = Retiring if when == "in the middle" else Sandbox
    with api(tmp_path, kind, api_key=OLD, now=now) as (sandbox, front):
        if isinstance(sandbox, Retiring):
            sandbox.ends_after = 4
        failing(sandbox)
        done = execute(
            python,
            [f"workflow_{script}", *arguments, *STEPS],
            front,
            under=GONE if when == "gone" else ALIVE,
            options=("--report", str(report)),
            JOBS_KEY=OLD,
            JOBS_DEBUG="1",
            PYTHONWARNINGS="always",
            PYTHONPATH=str(tmp_path),
            REVENUEBASE_ON_EVENT="listener:hear",
            EVENTS=str(events),
        )
        answers = [answer for _, _, *_, answer in lines(done)]
        assert sandbox.api_key != OLD
    # It was there to be seen: a new key was given and used, and all that could show one has spoken.
    assert {"api_key": f"{len(sandbox.api_key)} characters"} in answers
    silent = ("urllib.request", "http.client", "aiohttp")
    assert name in silent or "DEBUG:" in done.stderr
    assert ":revenuebase_compat:" in done.stderr
    assert "process_id=1" in events.read_text()
    assert len(report.read_text().splitlines()) == len(STEPS)
    assert json.loads(report.read_text().splitlines()[0])["endpoint"] == "GET /v1/new-api-key"
    for text in (done.stdout, done.stderr, events.read_text(), report.read_text()):
        assert ANY not in text


@pytest.mark.parametrize("installed", ["0.1.0", "0.2.1", "0.3.0"])
def test_no_key_of_the_sdks_is_seen(installed: str, tmp_path: Path) -> None:
    report = tmp_path / "report"
    with Sandbox(api_key=OLD, jobs=[1, 2], now=AFTER, sunset=SUNSET) as sandbox:
        failing(sandbox)
        done = test_sdk_names.run(
            installed,
            *(
                *test_sdk_names.program("0.1.0"),
                "rotate",
                "rotate",
                "rotate",
                "cancel=1",
                "credits",
            ),
            sandbox=sandbox,
            options=("--report", str(report)),
            REVENUEBASE_API_KEY=OLD,
            JOBS_DEBUG="1",
            PYTHONWARNINGS="always",
        )
        assert done.stdout.count(f"a key of {len(sandbox.api_key)} characters") == 1, done.stderr
    for text in (done.stdout, done.stderr, report.read_text() if report.exists() else ""):
        assert ANY not in text
    assert "DEBUG:" in done.stderr


GATEWAY = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from revenuebase_compat.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_no_key_is_seen_of_the_gateway(tmp_path: Path) -> None:
    python = environment(*LIBRARIES["recent"], with_library=True)
    log = tmp_path / "log"
    with Sandbox(api_key=OLD, jobs=[1, 2, 8], now=AFTER, sunset=SUNSET) as sandbox:
        failing(sandbox)
        command = [sys.executable, "-X", "dev", "-c", GATEWAY, "gateway"]
        command += ["--upstream", sandbox.base_url, "--port", "0"]
        environ = {**os.environ, **GONE, "PYTHONWARNINGS": "always"}
        with (
            log.open("w") as errors,
            subprocess.Popen(
                command, env=environ, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process,
        ):
            try:
                assert process.stdout is not None
                first = process.stdout.readline()
                found = re.search(r"http://127\.0\.0\.1:\d+", first)
                assert found, log.read_text()
                done = subprocess.run(
                    [str(python), str(HERE / "workflow_http_client.py"), *STEPS],
                    env={"PATH": os.defpath, "JOBS_API": found[0], "JOBS_KEY": OLD},
                    capture_output=True,
                    text=True,
                    timeout=60,
                )
                with urlopen(f"{found[0]}/-/metrics", timeout=10) as answer:
                    metrics = answer.read().decode()
            finally:
                process.terminate()
                process.wait(20)
            said = first + process.stdout.read() + log.read_text()
        answers = [answer for _, _, *_, answer in lines(done)]
        assert {"api_key": f"{len(sandbox.api_key)} characters"} in answers
    assert "new-api-key" in said
    assert ANY not in said
    assert ANY not in metrics
