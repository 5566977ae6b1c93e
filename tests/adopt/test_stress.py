"""Everything at once, for half a minute: a program under ``run`` fares as it did on a living v1."""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.raw_server import RawRequest, RawServer, reply

PROGRAM = Path(__file__).parents[1] / "programs" / "stress.py"
RUN = [str(Path(sys.executable).with_name("revenuebase-compat")), "run", "--strict", "--"]
CALLS = 6_000

#: By the last digit of the job, divided by ten: what the server answers.
ANSWERS = {
    3: reply(429, {}, "Retry-After: 0"),
    4: reply(503, {}),
    5: reply(400, {"message": "already_cancelled"}),
    6: reply(422, {"detail": []}),
    8: reply(200, b"x" * 70_000),
}


def job_of(request: RawRequest) -> int:
    moved = re.search(r"/v2/jobs/(\d+)", request.line)
    return int(moved[1]) if moved else int(json.loads(request.body)["process_id"])


def play(*before: str, **variables: str) -> tuple[list[Any], collections.Counter[int], set[str]]:
    """Outcomes by job, requests by job, and the versions that were asked."""

    def answer(request: RawRequest, number: int) -> bytes | None:
        digit = job_of(request) // 10 % 10
        return None if digit == 7 else ANSWERS.get(digit, reply())

    with RawServer(answer) as server:
        done = subprocess.run(
            [*before, sys.executable, PROGRAM, server.url, str(CALLS)],
            env={"PATH": os.defpath, "REVENUEBASE_BASE_URL": server.url, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""
    found, descriptors = json.loads(done.stdout)
    versions = {request.line.split("/")[1] for request in server.requests}
    return [found, descriptors], collections.Counter(map(job_of, server.requests)), versions


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_run_changes_no_outcome_and_no_number_of_requests() -> None:
    (bare, open_bare), sent_bare, versions = play()
    assert versions == {"v1"}
    (ours, open_ours), sent_ours, versions = play(*RUN, REVENUEBASE_V1_SUNSET="2000-01-01")
    assert versions == {"v2"}
    assert len(bare) == len(ours) == CALLS
    assert [pair for pair in zip(bare, ours, strict=True) if pair[0] != pair[1]] == []
    assert sent_ours == sent_bare
    assert open_ours <= open_bare + 5  # of kept connections some more may be idle
