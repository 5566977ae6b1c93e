"""``doctor``: every line of its report, and that none of them holds the key."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from revenuebase_compat.cli import doctor
from revenuebase_compat.cli.doctor import Finding
from revenuebase_compat.cli.main import main
from tests.conftest import TEST_KEY
from tests.support import AFTER, BEFORE
from tests.support.environments import environment

DEFAULTS = {
    "api_key": "missing",
    "base_url": "https://api.revenuebase.ai",
    "api_version": "auto",
    "v1_sunset": "2026-07-07T00:00:00+00:00",
    "after_sunset": "migrate",
    "v2_rollout": "0 %",
    "rollout_salt": "none",
    "v2_flag": "none",
    "timeout": "60",
    "max_attempts": "3",
    "on_event": "none",
}


def report(about: str, now: datetime = AFTER, **environ: str) -> dict[str, Finding]:
    given = {f"REVENUEBASE_{name.upper()}": value for name, value in environ.items()}
    return {item.name: item for item in doctor.report(given, now) if item.about == about}


def test_the_settings_and_where_they_come_from() -> None:
    found = report("setting")
    assert {name: item.value for name, item in found.items()} == DEFAULTS
    assert {item.note for name, item in found.items() if name != "api_key"} == {"default"}

    found = report("setting", timeout=" 5 ", v2_rollout="2026-06-01=5,2026-06-15=50", v1_sunset="")
    assert (found["timeout"].value, found["timeout"].note) == ("5", "REVENUEBASE_TIMEOUT")
    assert found["v2_rollout"].value == (
        "5 % from 2026-06-01T00:00:00+00:00, 50 % from 2026-06-15T00:00:00+00:00"
    )
    assert found["v1_sunset"].note == "default"
    assert {item.severity for name, item in found.items() if name != "api_key"} == {"ok"}


@pytest.mark.parametrize(
    ("key", "severity", "value"),
    [
        ("", "note", "missing"),
        (TEST_KEY, "ok", "present"),
        (f" {TEST_KEY}\n", "note", "present"),
        (f"{TEST_KEY} {TEST_KEY}", "problem", "unusable"),
        (f"{TEST_KEY}é", "problem", "unusable"),
    ],
)
def test_the_key_is_judged_and_not_shown(key: str, severity: str, value: str) -> None:
    found = report("setting", api_key=key)

    assert (found["api_key"].severity, found["api_key"].value) == (severity, value)
    assert TEST_KEY not in repr(found)


def test_a_misspelt_setting_is_noted() -> None:
    found = report("setting", timeot="5", compat_run="0")
    assert set(found) - set(DEFAULTS) == {"REVENUEBASE_TIMEOT"}
    misspelt = found["REVENUEBASE_TIMEOT"]
    assert misspelt.note == "there is no such setting; was REVENUEBASE_TIMEOUT meant?"
    assert misspelt.severity == "note"


def test_a_base_url_with_a_password_is_refused_and_not_shown() -> None:
    found = report("setting", base_url="https://me:hunter2@api.revenuebase.ai")

    assert (found["base_url"].severity, found["base_url"].value) == ("problem", "unusable")
    assert "hunter2" not in repr(found)


def test_another_base_url_is_noted() -> None:
    found = report("setting", base_url="http://127.0.0.1:8042")["base_url"]

    assert (found.severity, found.value) == ("note", "http://127.0.0.1:8042")


def test_every_wrong_setting_is_seen_at_once() -> None:
    found = report("setting", timeout="soon", v1_sunset="07/08/2026", api_version="v3")
    wrong = [name for name, item in found.items() if item.severity == "problem"]

    assert sorted(wrong) == ["api_version", "timeout", "v1_sunset"]
    assert found["timeout"].note.startswith("REVENUEBASE_TIMEOUT 'soon': give seconds")
    assert report("route", timeout="soon") == {}


@pytest.mark.parametrize(
    ("now", "environ", "severity", "value", "reason"),
    [
        (AFTER, {}, "ok", "v2 (SUNSET)", "ended on 2026-07-07"),
        (AFTER, {"api_version": "v1"}, "ok", "v2 (SUNSET)", "ended on 2026-07-07"),
        (
            AFTER,
            {"api_version": "v1", "after_sunset": "raise"},
            "problem",
            "refused",
            "after_sunset is 'raise'",
        ),
        (
            AFTER,
            {"api_version": "v1", "after_sunset": "try"},
            "problem",
            "v1 (PINNED)",
            "api_version is 'v1'",
        ),
        (BEFORE, {}, "note", "v1 (DEFAULT)", "lives until 2026-07-07"),
        (BEFORE, {"api_version": "v2"}, "ok", "v2 (PINNED)", "api_version is 'v2'"),
        (BEFORE, {"v2_rollout": "100"}, "ok", "v2 (ROLLOUT)", "rollout's share"),
        (
            BEFORE,
            {"v2_rollout": "2026-05-01=5"},
            "note",
            "v2 (ROLLOUT) for 5 % of the jobs, else v1 (DEFAULT)",
            "lives until",
        ),
        (
            BEFORE,
            {"v2_flag": "os:getpid", "v2_rollout": "5"},
            "note",
            "v1 or v2 (FLAG)",
            "5 % of the jobs go to v2",
        ),
    ],
)
def test_where_the_settings_lead_today(
    now: datetime, environ: dict[str, str], severity: str, value: str, reason: str
) -> None:
    found = report("route", now, **environ)["today"]

    assert (found.severity, found.value) == (severity, value)
    assert reason in found.note


def test_a_flag_that_is_not_found_here_is_a_problem() -> None:
    assert report("setting", v2_flag="os:getpid")["v2_flag"].severity == "ok"
    found = report("setting", v2_flag="no.such:flag")["v2_flag"]

    assert (found.severity, found.value) == ("problem", "no.such:flag")
    assert found.note.startswith(
        "REVENUEBASE_V2_FLAG; in this directory, 'no.such:flag' does not resolve (Mod"
    )


def test_the_libraries_within_reach() -> None:
    found = report("patch")
    assert found["urllib3"].value == metadata.version("urllib3")
    assert {found[name].severity for name in ("urllib3", "httpcore", "aiohttp")} == {"ok"}
    assert found["REVENUEBASE_COMPAT_RUN"].value == "unset"
    assert found[".pth"].note.endswith("revenuebase-compat.pth")


def test_a_flag_without_effect_is_a_problem() -> None:
    # This process was not started by the runner, whatever the variable says.
    found = report("patch", compat_run="1")["REVENUEBASE_COMPAT_RUN"]

    assert (found.severity, found.value) == ("problem", "1")


@pytest.mark.parametrize(
    ("environ", "code"),
    [
        ({}, 0),
        ({"REVENUEBASE_API_KEY": TEST_KEY}, 0),
        ({"REVENUEBASE_COMPAT_RUN": "1"}, 1),
        ({"REVENUEBASE_COMPAT_RUN": "1", "REVENUEBASE_TIMEOUT": "soon"}, 2),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_lines_and_exit_code(
    environ: dict[str, str],
    code: int,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"REVENUEBASE_V1_SUNSET": "2000-01-01", **environ}.items():
        monkeypatch.setenv(name, value)

    assert main(["doctor", *["--json"] * as_json]) == code
    out, err = capsys.readouterr()
    assert err == ""
    assert TEST_KEY not in out
    if as_json:
        lines = [json.loads(line) for line in out.splitlines()]
        assert {tuple(line) for line in lines} == {("severity", "about", "name", "value", "note")}
        assert lines[1]["name"] == "base_url"
    else:
        base_url = "ok       setting  base_url: https://api.revenuebase.ai (default)"
        assert out.splitlines()[1] == base_url


def in_environment(python: Path, *before: str, **more: str) -> list[dict[str, Any]]:
    """The doctor's findings in another environment."""
    command = [*before, str(python.with_name("revenuebase-compat")), "doctor", "--json"]
    environ = {"PATH": str(python.parent), "REVENUEBASE_V1_SUNSET": "2000-01-01", **more}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("version", "severity"), [("0.2.1", "note"), ("0.3.0", "ok")])
def test_the_vendors_sdk(version: str, severity: str) -> None:
    python = environment(f"revenuebase-sdk=={version}", with_library=True)
    [found] = [item for item in in_environment(python) if item["about"] == "package"]

    assert (found["name"], found["value"]) == ("revenuebase-sdk", version)
    assert found["severity"] == severity
    assert ("speaks v1" in found["note"]) == (version == "0.2.1")
    assert re.search(
        r"\b(11|21) names of older releases are gone: under run \d+ work again", found["note"]
    )


@pytest.mark.slow
def test_under_run_the_process_is_patched() -> None:
    python = environment("revenuebase-sdk==0.2.1", with_library=True)
    run = [str(python.with_name("revenuebase-compat")), "run", "--"]
    found = {item["name"]: item for item in in_environment(python, *run)}

    assert found["REVENUEBASE_COMPAT_RUN"]["severity"] == "ok"
    assert found["REVENUEBASE_COMPAT_RUN"]["value"] == "1"
    assert found["revenuebase-sdk"]["severity"] == "note"


def test_a_library_beyond_its_supported_versions_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        try:
            return {"urllib3": "3.1", "httpcore": "1.0.9"}[name]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(metadata, "version", version)
    found = report("patch")
    assert (found["urllib3"].severity, found["httpcore"].severity) == ("note", "ok")
    assert "run is tested with >=1.26,<3" in found["urllib3"].note
