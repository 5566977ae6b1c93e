"""What is said where an optional part is not installed."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from revenuebase_compat.client.extras import missing_extra

PROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text()


@pytest.mark.parametrize("extra", ["cli", "gateway", "openfeature", "otel", "sandbox"])
def test_missing_extra_names_the_requirements_and_never_us(extra: str) -> None:
    error = missing_extra("it", extra, ImportError("no", name="missing"))
    named = [Requirement(one) for one in re.findall("'([^']*)'", str(error))]
    listed = re.search(rf"^{extra} = \[(.*)\]$", PROJECT, re.MULTILINE)  # no tomllib on 3.10
    assert listed
    assert named == [Requirement(one) for one in re.findall('"([^"]*)"', listed[1])]
    assert str(error).startswith("it needs what is not installed: pip install '")
    assert "revenuebase" not in str(error)
    assert error.name == "missing"


def test_missing_extra_of_a_copy_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(_: str) -> None:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", requires)
    error = missing_extra("it", "otel", ImportError("no", name="opentelemetry"))
    assert str(error) == "it needs what is not installed: there is no module opentelemetry"
