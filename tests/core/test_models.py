"""Process ids as they come in, results as they go out."""

from __future__ import annotations

import copy
import dataclasses
import enum
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revenuebase_compat import (
    CancelResult,
    InvalidProcessIdError,
    JobCancelled,
    JobFailed,
    JobOutcome,
    JobStatus,
)
from revenuebase_compat.core.models import Job, check_process_id
from revenuebase_compat.core.routes import V2, V2_MISSING, Route, RouteReason

PUBLISHED = ("QUEUED", "PROCESSING", "COMPLETED", "ERROR", "CANCELLING", "CANCELLED")


class Numbered(enum.IntEnum):
    JOB = 42


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1),
        (42, 42),
        ("42", 42),
        ("0042", 42),
        (2**63 - 1, 2**63 - 1),
        (str(2**63 - 1), 2**63 - 1),
        ("0" * 62 + "42", 42),
        (Numbered.JOB, 42),
    ],
)
def test_check_process_id_takes_an_int_or_digits(value: object, number: int) -> None:
    found = check_process_id(value)
    assert found == number
    assert type(found) is int


@pytest.mark.parametrize(
    "value",
    [
        *(True, False, 0, -1, -42, 2**63, 2**64, -(2**63), 10**5000, -(10**5000)),
        *(42.0, 42.5, float("nan"), float("inf"), 42j),
        *("", " ", "0", "000", " 42", "42 ", "4 2", "42\n", "\t42", "+42", "-42", "4_2", "4,2"),
        *("42.0", "4e1", "0x2a", "0b1", "None", "42/cancel", "../42", "42?x=1", "42#", "42%20"),
        *("٤٢", "४२", "４２", "²", "④", "42\u200b", "42\x00", "\u00a042"),
        *(str(2**63), "9" * 64, "9" * 5000, "0" * 63 + "42", "0" * 5000 + "42", "x" * 5000),
        *(None, b"42", bytearray(b"42"), [42], (42,), {42}, {"process_id": 42}, [10**5000]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_check_process_id_refuses_anything_else_in_few_words(value: object) -> None:
    with pytest.raises(InvalidProcessIdError, match=r"give an int from 1 to 2\*\*63 - 1") as caught:
        check_process_id(value)
    message = str(caught.value)
    assert "process_id" in message
    assert len(message) < 200
    assert "\n" not in message
    assert caught.value.attempts == 0


@pytest.mark.parametrize("value", [0, -1, True, "4_2", 42.5, None, 2**63])
def test_check_process_id_shows_what_was_given(value: object) -> None:
    with pytest.raises(InvalidProcessIdError, match="process_id") as caught:
        check_process_id(value)
    assert repr(value) in str(caught.value)


@given(st.integers() | st.text() | st.text("0123456789", max_size=25) | st.floats() | st.binary())
def test_check_process_id_gives_a_number_in_range_or_refuses_whatever_comes(value: object) -> None:
    try:
        number = check_process_id(value)
    except InvalidProcessIdError:
        assert not (isinstance(value, int) and 0 < value < 2**63)
        return
    assert 0 < number < 2**63
    # What is put into a path is nothing but the digits that were given.
    assert str(number) == (value.lstrip("0") if isinstance(value, str) else str(value))


@pytest.mark.parametrize("text", PUBLISHED)
def test_job_status_knows_the_published_states(text: str) -> None:
    assert JobStatus.of(text).value == text
    assert JobStatus.of(f" {text.lower()} ") is JobStatus(text)


@pytest.mark.parametrize("text", ["", "PAUSED", "CANCELED", "CANCELLED.", "ſTATE", "UNKNOWN"])
def test_job_status_of_another_state_is_unknown(text: str) -> None:
    assert JobStatus.of(text) is JobStatus.UNKNOWN


def test_job_status_holds_no_other_states() -> None:
    assert {state.value for state in JobStatus} == {*PUBLISHED, "UNKNOWN"}


@given(st.text())
def test_job_status_raises_for_no_text(text: str) -> None:
    assert isinstance(JobStatus.of(text), JobStatus)


def result(**changes: Any) -> CancelResult:
    values = {
        "process_id": 42,
        "filename": "leads.csv",
        "current_status": "CANCELLING",
        "message": "Cancel requested.",
        "route": Route(V2, RouteReason.SUNSET),
        "attempts": 2,
        **changes,
    }
    return CancelResult(**values)


def test_cancel_result_has_the_vendors_names_and_ours() -> None:
    found = result()
    assert found.status is JobStatus.CANCELLING
    assert found.route.version == V2
    assert str(found.route) == "v2 (SUNSET)"
    assert isinstance(found, Job)
    assert found.extra == {}


def test_cancel_result_keeps_the_text_of_an_unknown_state() -> None:
    found = result(current_status="pausing…")
    assert found.status is JobStatus.UNKNOWN
    assert found.current_status == "pausing…"


def test_cancel_result_to_dict_is_plain_json() -> None:
    row = result().to_dict()
    assert row == {
        "process_id": 42,
        "filename": "leads.csv",
        "current_status": "CANCELLING",
        "message": "Cancel requested.",
        "version": "v2",
        "reason": "SUNSET",
        "attempts": 2,
    }
    assert json.loads(json.dumps(row)) == row
    assert all(type(value) in (int, str) for value in row.values())
    assert result(route=V2_MISSING).to_dict()["version"] == "v1"


def test_cancel_result_to_dict_holds_unknown_fields_where_there_are_any() -> None:
    assert result(extra={"eta": None}).to_dict()["extra"] == {"eta": None}


@pytest.mark.parametrize("name", ["process_id", "current_status", "route", "attempts"])
def test_cancel_result_is_frozen(name: str) -> None:
    found = result()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(found, name, None)
    with pytest.raises((AttributeError, TypeError)):  # slots
        setattr(found, "another", None)  # noqa: B010 (mypy knows better)


def test_job_outcome_is_a_result_or_an_error() -> None:
    done, failed = JobCancelled(42, result()), JobFailed("x", InvalidProcessIdError("no"))
    assert (done.ok, done.error) == (True, None)
    assert (failed.ok, failed.result) == (False, None)
    assert isinstance(done, JobOutcome)
    assert isinstance(failed, JobOutcome)
    with pytest.raises(dataclasses.FrozenInstanceError):
        done.result = result()  # type: ignore[misc]


def test_cancel_result_pickles_copies_compares_and_hashes() -> None:
    found = result(extra={"eta": [1, 2]})
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(found, protocol)) == found  # noqa: S301 (our own)
    assert copy.copy(found) == found
    assert copy.deepcopy(found) == found
    assert len({found, result(extra={"eta": [1, 2]}), result(process_id=43)}) == 2
    assert found != result(attempts=1)
