"""A request that is interrupted at any line of ours ends as it would without us."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.adopt.test_start import RUN
from tests.support.raw_server import RawServer, reply

PROGRAM = Path(__file__).parents[1] / "programs" / "every_line.py"
FLAG = "def flag(context):\n    return True\n\ndef heard(event):\n    pass\n"

SLOW = [
    pytest.param(library, what, sunset, marks=pytest.mark.slow)
    for library in ("requests", "httpx", "http_client", "aiohttp")
    for what in ("raise", "thread")
    for sunset in ("2000-01-01", "2999-01-01")
]


@pytest.mark.parametrize(
    ("library", "what", "sunset"),
    [("requests", "raise", "2999-01-01"), ("http_client", "thread", "2999-01-01"), *SLOW],
)
def test_at_every_line_of_ours(tmp_path: Path, library: str, what: str, sunset: str) -> None:
    (tmp_path / "flags.py").write_text(FLAG, "utf-8")
    with RawServer(lambda request, number: reply()) as server:
        done = subprocess.run(
            [*RUN, sys.executable, str(PROGRAM), library, what, server.url + "/v1/cancel-process"],
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": str(tmp_path),
                "REVENUEBASE_BASE_URL": server.url,
                "REVENUEBASE_V1_SUNSET": sunset,
                "REVENUEBASE_ON_EVENT": "flags:heard",
                "REVENUEBASE_COMPAT_REPORT": str(tmp_path / "report"),
                **({"REVENUEBASE_V2_FLAG": "flags:flag"} if what == "raise" else {}),
            },
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["lines"] > 150
    assert told["failures"] == []
