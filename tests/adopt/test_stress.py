"""Threads, forks, signals and asyncio at once: under ``run`` as bare on a v1 that lives."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import Any

import pytest

from tests.programs.senders import CANCEL, SENDERS
from tests.support.children import ALIVE, GONE, program
from tests.support.raw_server import RawRequest, RawServer, reply

#: How long one run of the long test takes its libraries to task.
SECONDS = float(os.environ.get("REVENUEBASE_COMPAT_TEST_STRESS", "6"))

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc"),
    pytest.mark.timeout(4 * (SECONDS + 60)),
]


def job_of(request: RawRequest) -> int:
    if request.line.startswith(("POST /v2", "GET /v2")):
        return int(request.line.split("/")[3])
    return int(json.loads(request.body)["process_id"])


def fate(job: int) -> int:
    """The status that a job's requests are answered with."""
    return {0: 429, 1: 400, 2: 503}.get(job % 10, 200)


def answer(request: RawRequest, number: int) -> bytes:
    if request.line == "POST /warm":
        return reply()
    return reply(fate(job_of(request)), {"process_id": job_of(request)}, "Retry-After: 0")


def stressed(way: str, seconds: float, seed: int, **variables: str) -> tuple[Any, Counter[str]]:
    """What the program told, and the versions that it reached; each call was sent once."""
    with RawServer(answer) as server:
        words = ("stress.py", server.url, str(seconds), str(seed))
        done = program(way, *words, base_url=server.url, timeout=seconds + 120, **variables)
        assert done.returncode == 0, done.stderr[-6000:]
        told = json.loads(done.stdout)
        requests = [one for one in server.requests if one.line != "POST /warm"]
    assert told["failures"] == []
    assert {job: status for job, _, _, status in told["calls"]} == {
        job: fate(job) for job, *_ in told["calls"]
    }
    sent = Counter(job_of(request) for request in requests)
    assert sent == Counter(job for job, *_ in told["calls"])
    asked = Counter((job, path == CANCEL) for job, path, *_ in told["calls"])
    assert asked == Counter((job_of(one), "cancel" in one.line) for one in requests)
    assert {library for _, _, library, _ in told["calls"]} == {*SENDERS}
    return told, Counter("v1" if "/v1/" in one.line else "v2" for one in requests)


@pytest.mark.slow
def test_a_stress_is_as_bare() -> None:
    seed = 2
    bare, versions = stressed("bare", SECONDS, seed)
    assert set(versions) == {"v1"}
    for way in ("run", "pth"):
        ours, versions = stressed(way, SECONDS, seed, **GONE)
        assert set(versions) == {"v2"}
        assert ours["after"] - ours["before"] <= max(0, bare["after"] - bare["before"])
    _, versions = stressed("run", SECONDS, seed, **ALIVE, REVENUEBASE_V2_ROLLOUT="50")
    assert set(versions) == {"v1", "v2"}
