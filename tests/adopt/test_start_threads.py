"""Forks and signals at any moment of a process's first v1 request, and threads that import."""

from __future__ import annotations

import pytest

from tests.programs.senders import CANCEL, SENDERS
from tests.support.children import ALIVE, GONE, program
from tests.support.raw_server import RawServer, reply

OUTER, INNER = "POST /v2/jobs/1/cancel", "POST /v2/jobs/7/cancel"


def struck(action: str, library: str, at_most: int, way: str = "run", **more: str) -> list[str]:
    """The request lines of all moments; each comes to the two requests it should."""
    with RawServer(lambda request, number: reply()) as server:
        words = ("moments.py", action, library, server.url, str(at_most))
        done = program(way, *words, base_url=server.url, timeout=200, **more)
        assert done.returncode == 0, done.stderr[-4000:]
        moments = int(done.stdout)
        assert (moments > 0) == (way != "bare")
        lines = [line for line in server.lines if line != "POST /warm"]
    assert len(lines) == 1 + 2 * moments
    return sorted(set(lines))


@pytest.mark.parametrize("library", ["requests", "httpx async"])
@pytest.mark.parametrize("action", ["fork", "signal"])
def test_a_first_request_struck_at_some_moments(action: str, library: str) -> None:
    assert struck(action, library, 12, **GONE) == [OUTER, INNER]


@pytest.mark.slow
@pytest.mark.parametrize("library", SENDERS)
@pytest.mark.parametrize("action", ["fork", "signal"])
def test_a_first_request_struck_at_many_moments(action: str, library: str) -> None:
    assert struck(action, library, 100, **GONE) == [OUTER, INNER]


@pytest.mark.slow
@pytest.mark.parametrize("library", ["requests", "httpx", "aiohttp"])
@pytest.mark.parametrize("action", ["fork", "signal"])
def test_a_first_request_left_to_v1_struck_at_some_moments(action: str, library: str) -> None:
    assert struck(action, library, 6, **ALIVE) == [f"POST {CANCEL}"]


@pytest.mark.parametrize("library", SENDERS)
def test_bare_there_is_nothing_to_strike(library: str) -> None:
    """The yardstick: the program itself works, and none of its lines are ours."""
    with RawServer(lambda request, number: reply()) as server:
        done = program("bare", "moments.py", "fork", library, server.url, "1")
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    assert server.lines[-1] == f"POST {CANCEL}"
