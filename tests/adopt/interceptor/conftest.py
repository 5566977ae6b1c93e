"""A server, a sandbox, and every patch taken off after a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from revenuebase_compat import adopt
from revenuebase_compat.testing.sandbox import Sandbox
from tests.adopt.interceptor.support import KEY, POINTS
from tests.support import AFTER, SUNSET
from tests.support.fault_server import FaultServer


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = {(owner, name): vars(owner)[name] for owner, name in POINTS}
    yield
    adopt.uninstall()
    for (owner, name), original in before.items():
        assert vars(owner)[name] is original


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(api_key=KEY, jobs=[42, 43], now=AFTER, sunset=SUNSET) as running:
        yield running


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running
