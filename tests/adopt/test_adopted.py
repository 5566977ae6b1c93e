"""The table of unmodified programs in tests/README.md is what a run of them produces."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.tools.adopted import table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("node"), reason="a row of it is JavaScript"),
]

BEGIN, END = "<!-- adopted programs -->", "<!-- /adopted programs -->"


def test_the_page_shows_this_table() -> None:
    page = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    shown = page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    if sys.version_info < (3, 11):  # which httpx2 needs
        shown = [line for line in shown if "httpx2" not in line]
    assert shown == list(table()), "put there what `python -m tests.tools.adopted` prints"
