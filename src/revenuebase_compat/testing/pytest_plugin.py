"""Fixtures that play both sides of the sunset of API v1, without a network (a pytest plugin).

pytest finds it by its entry point ``pytest11``, so it imports nothing until a fixture is used.
Those need the extra ``sandbox``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .sandbox import Sandbox


class Clock:
    """The time of the sandbox, and of every client that was given no clock of its own.

    It is the real time until it is moved, and runs on from there.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    @property
    def now(self) -> datetime:
        """The time (aware)."""
        return self._sandbox.now

    def move_to(self, when: str | date | datetime) -> None:
        """Set the time: ISO 8601, an HTTP-date, a ``date``; UTC unless it says otherwise.

        ``ValueError``: that is no date, or could be two, as ``07/08/2026`` could.
        """
        from revenuebase_compat.client.memory import memory
        from revenuebase_compat.core.dates import parse_date

        moment = parse_date(when)
        # Memories are measured on a clock that nobody can set, so they are aged instead.
        memory.shift((moment - self.now).total_seconds())
        self._sandbox.now = moment

    def advance(self, **units: float) -> None:
        """Move on by these units of a ``timedelta``: ``advance(days=1)``."""
        self.move_to(self.now + timedelta(**units))


@pytest.fixture(scope="session")
def _revenuebase_server() -> Iterator[Sandbox]:
    try:
        from .sandbox import Sandbox
    except ImportError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    # One for all tests, as a server takes longer to stop than most tests to run.
    with Sandbox() as server:
        yield server


@pytest.fixture
def revenuebase_sandbox(
    _revenuebase_server: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """The RevenueBase API on loopback: 1,000 credits, no jobs yet, no faults, and the real date.

    ``REVENUEBASE_BASE_URL`` and ``REVENUEBASE_API_KEY`` lead ``cancel_job()`` and the vendor's SDK
    to it. What this process remembers of v1, and its default client, are put aside for the test.
    """
    from revenuebase_compat.client.memory import memory

    sandbox = _revenuebase_server
    type(sandbox).__init__(sandbox)  # everything anew but its port
    monkeypatch.setenv("REVENUEBASE_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("REVENUEBASE_API_KEY", sandbox.api_key)
    # Other people's clients would ask a proxy for loopback, too.
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", f"127.0.0.1,{direct}")
    with memory.put_aside():
        yield sandbox


@pytest.fixture
def revenuebase_clock(revenuebase_sandbox: Sandbox) -> Clock:
    """The time of ``revenuebase_sandbox`` and of the clients: ``.move_to("2026-06-01")``."""
    from revenuebase_compat.client.memory import memory

    memory.clock = lambda: revenuebase_sandbox.now
    return Clock(revenuebase_sandbox)
