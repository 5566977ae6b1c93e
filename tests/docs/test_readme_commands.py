"""The commands of README.md: each is run, and does what the text says of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest
from openfeature import api

from revenuebase_compat.cli.arguments import parse
from revenuebase_compat.testing.sandbox import Sandbox

from .readme import OURS, commands, recipe, write_files

BIN = Path(sys.executable).parent

#: A v1 integration: its account, a cancel, and a start that has no successor.
APP = """\
import json, os
from urllib.request import Request, urlopen

def call(method, path, **body):
    request = Request(os.environ["REVENUEBASE_BASE_URL"] + path, method=method)
    request.add_header("x-key", os.environ["REVENUEBASE_API_KEY"])
    request.add_header("Content-Type", "application/json")
    return json.load(urlopen(request, json.dumps(body).encode() if body else None))

print(call("GET", "/v1/credits")["credits"], "credits")
print(call("POST", "/v1/cancel-process", process_id=7)["current_status"])
"""


def variables(sandbox: Sandbox, given: dict[str, str] | None = None) -> dict[str, str]:
    ours = {"BASE_URL": sandbox.base_url, "API_KEY": sandbox.api_key}
    return {
        "PATH": f"{BIN}:{os.defpath}",
        **(given or {}),
        **{f"REVENUEBASE_{name}": value for name, value in ours.items()},
    }


def execute(
    words: list[str], environ: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        env=environ,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@contextmanager
def gateway(words: list[str], sandbox: Sandbox, folder: Path) -> Iterator[str]:
    """The gateway in front of a sandbox; gives its URL."""
    command = [str(BIN / "revenuebase-compat"), *words, "--port", "0"]
    command += ["--upstream", sandbox.base_url]
    with subprocess.Popen(
        command, env=variables(sandbox), cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip().removeprefix("export REVENUEBASE_BASE_URL=")
        finally:
            process.terminate()


def test_readme_commands_exist() -> None:
    known = {"run", "report", "timeline", "route", "cancel", "sandbox", "gateway"}
    assert {words[0] for _, words in OURS} == known
    for _, words in OURS:
        assert parse(words).command == words[0]
    others = {words[0] for _, words in commands()} - {"revenuebase-compat"}
    assert others == {"python3", "pip"}, "the gate runs these"


def test_readme_commands_do_what_is_said(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "ids.csv").write_text("process_id,file\n5,a.csv\n6,b.csv\n")
    (tmp_path / "app.py").write_text(APP)
    told = {}
    before = datetime(2026, 6, 1, tzinfo=timezone.utc)
    with Sandbox(jobs=range(1, 101), now=before) as sandbox:
        for given, words in OURS:
            if words[0] in ("sandbox", "gateway"):
                continue  # the first is this one; the second has a test of its own
            if "flagdflag:flag" in given.values() and not hasattr(api, "set_provider_and_wait"):
                continue  # openfeature-sdk has it from 0.10 on
            sandbox.add_job(7)  # each run of app.py cancels it
            done = execute(
                [str(BIN / "revenuebase-compat"), *words], variables(sandbox, given), tmp_path
            )
            assert done.returncode == 0, (words, done.stdout, done.stderr)
            told[" ".join(words[:3])] = done.stdout
    assert told["run -- python"] == "1000 credits\nCANCELLING\n"
    assert told["run --report v1.jsonl"] == "1000 credits\nCANCELLING\n"
    report = " ".join(told["report v1.jsonl"].split())
    assert "GET /v1/credits moved 1 app.py:" in report
    assert "POST /v1/cancel-process moved 1 app.py:" in report
    assert len(told["timeline --from 2026-05-01"].splitlines()) == 5
    assert told["route 42 43"].count("v2 (ROLLOUT)") == 1
    assert re.findall(r"(v\d) +([A-Z]+) ", told["cancel 3 4"]) == [
        ("v1", "DEFAULT"),
        ("v2", "ROLLOUT"),
    ]
    assert "(FLAG)" in told["cancel 42"]
    assert "(FLAG)" in told.get("cancel 43", "(FLAG)")
    assert sandbox.jobs[5].status == sandbox.jobs[6].status == "CANCELLING"
    assert (tmp_path / "cancel.journal").exists()


def test_readme_report_holds_a_request_that_is_left(tmp_path: Path) -> None:
    lines = [*APP.splitlines(), 'call("POST", "/v1/batch-process-email", filename="a.csv")']
    (tmp_path / "app.py").write_text("\n".join(lines))
    run, report = ([str(BIN / "revenuebase-compat"), *words] for _, words in OURS[1:3])
    assert (run[1], report[1]) == ("run", "report")
    with Sandbox(jobs=[7]) as sandbox:
        done = execute(run, variables(sandbox), tmp_path)
        assert "410" in done.stderr
        told = execute(report, variables(sandbox), tmp_path)
    assert told.returncode == 1
    assert "POST /v1/batch-process-email" in told.stdout


def test_readme_gateway_and_its_probe(tmp_path: Path) -> None:
    [words] = [words for _, words in OURS if words[0] == "gateway"]
    [command] = [text for text in recipe("Kubernetes probe") if text.startswith("exec:")]
    python, *rest = re.findall(r"\[(\w+), (-c), \"(.*)\"\]", command)[0]
    (tmp_path / "app.py").write_text(APP)
    with Sandbox(jobs=[7]) as sandbox, gateway(words, sandbox, tmp_path) as url:
        probe = [str(BIN / python), *(one.replace("http://127.0.0.1:8089", url) for one in rest)]
        assert probe[-1] != rest[-1]
        ready = execute(probe, variables(sandbox), tmp_path)
        assert ready.returncode == 0, ready.stderr
        environ = {**variables(sandbox), "REVENUEBASE_BASE_URL": url}
        done = execute([sys.executable, "app.py"], environ, tmp_path)
        assert done.stdout == "1000 credits\nCANCELLING\n"
    assert execute(probe, variables(sandbox), tmp_path).returncode != 0
    fates = [json.loads(line) for line in (tmp_path / "v1.jsonl").read_text().splitlines()]
    assert [(one["endpoint"], one["fate"]) for one in fates] == [
        ("GET /v1/credits", "moved"),
        ("POST /v1/cancel-process", "moved"),
    ]


def test_readme_entry_point_of_a_container(tmp_path: Path) -> None:
    [line] = [text for text in recipe("container") if text.startswith("ENTRYPOINT ")]
    entry = json.loads(line.removeprefix("ENTRYPOINT "))
    (tmp_path / "app.py").write_text(APP)
    with Sandbox(jobs=[7]) as sandbox:
        entry[0] = str(BIN / entry[0])
        done = execute([*entry, "python", "app.py"], variables(sandbox), tmp_path)
    assert done.stdout == "1000 credits\nCANCELLING\n"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_readme_systemd_unit(tmp_path: Path) -> None:
    lines = [text for text in recipe("systemd") if "=" in text]
    start = next(line for line in lines if line.startswith("ExecStart="))
    words = shlex.split(start.partition("=")[2])
    assert parse(words[1:]).command == "gateway"
    unit = "\n".join(lines).replace(words[0], str(BIN / Path(words[0]).name))
    (tmp_path / "gateway.service").write_text(f"[Service]\n{unit}\n")
    done = execute(
        ["systemd-analyze", "verify", str(tmp_path / "gateway.service")], dict(os.environ), tmp_path
    )
    assert "gateway.service" not in done.stderr, done.stderr
