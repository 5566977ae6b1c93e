"""A clean process for every test: environment, memories, and nothing that waits."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from revenuebase_compat.client.memory import memory

#: Looks like a test key, and is looked for in everything that could show it.
TEST_KEY = "rb_test_sandbox"


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("REVENUEBASE_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    memory.reset()
    yield
    memory.reset()
