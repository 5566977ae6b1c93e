"""The table of faults in tests/README.md is what a run produces, and all of our cells are right."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.tools.reliability import REPOSITORY, Cell, Severity, markdown, table

# Installs the vendor's SDK on first use, and waits for those that never end.
pytestmark = pytest.mark.slow

BEGIN, END = "<!-- reliability table -->", "<!-- /reliability table -->"


@pytest.fixture(scope="module")
def cells() -> Mapping[str, Mapping[str, Cell]]:
    return table()


def test_table_of_what_we_tell_is_right(cells: Mapping[str, Mapping[str, Cell]]) -> None:
    wrong = {
        f"{title} ({contender})": str(of[contender])
        for title, of in cells.items()
        for contender in ("ours", "ours_async")
        if of[contender].severity is not Severity.RIGHT
    }
    assert wrong == {}


def test_table_tells_the_same_of_sync_and_async(cells: Mapping[str, Mapping[str, Cell]]) -> None:
    assert {title: of["ours"] for title, of in cells.items()} == {
        title: of["ours_async"] for title, of in cells.items()
    }


def test_table_finds_fault_with_others(cells: Mapping[str, Mapping[str, Cell]]) -> None:
    assert {of[name].severity for of in cells.values() for name in ("httpx", "sdk")} == set(
        Severity
    )


def test_table_is_the_one_that_the_page_shows(cells: Mapping[str, Mapping[str, Cell]]) -> None:
    page = (REPOSITORY / "tests/README.md").read_text("utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    shown = page.partition(BEGIN)[2].partition(END)[0]
    assert shown.strip().splitlines() == markdown(cells).splitlines(), (
        "put there what `python -m tests.tools.reliability` prints"
    )
