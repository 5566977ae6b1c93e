"""What the tests of ``adopt`` share."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator

import pytest

from tests.support.environments import CACHE


@pytest.fixture
def served_alone() -> Iterator[None]:
    """One test at a time: the programs' one environment has our .pth file for some of them."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "served.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
