"""The rollout of ``rollout_play``: no job lost, a reason for each decision, a table that holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest

import revenuebase_compat as rc
from revenuebase_compat.core.routing import bucket
from tests.tools import rollout_play
from tests.tools.rollout_play import Chapter, Failure, Play

JOBS = 81 * 30
WHEN = dict(enumerate(rollout_play.moments(), 1))

ROUTES = {
    "share 0 %": {"v1 (DEFAULT)"},
    "share 5 %": {"v1 (DEFAULT)", "v2 (ROLLOUT)"},
    "share 50 %": {"v1 (DEFAULT)", "v2 (ROLLOUT)"},
    "each version loses an answer": {"v1 (DEFAULT)", "v2 (ROLLOUT)"},
    "v2 is out: 503": {"v1 (DEFAULT)", "v2 (ROLLOUT)"},
    "flag says v1; failed jobs again": {"v1 (FLAG)"},
    "v2 is healed; flag withdrawn": {"v1 (DEFAULT)", "v2 (ROLLOUT)"},
    "v1 rehearses its end: 410": {"v2 (V1_GONE)", "v2 (ROLLOUT)"},
    "rehearsal over": {"v1 (DEFAULT)", "v2 (ROLLOUT)", "v2 (V1_GONE)"},
    "v1 has ended": {"v2 (SUNSET)"},
}
SHARES = {"share 0 %": 0, "share 5 %": 5}


@pytest.fixture(scope="module")
def played() -> Play:
    return rollout_play.play()


def chapter(played: Play, title: str) -> Chapter:
    (found,) = [chapter for chapter in played.chapters if chapter.title == title]
    return found


def events(played: Play) -> Iterator[rc.CancelEvent]:
    for chapter in played.chapters:
        yield from chapter.events


def test_rollout_play_loses_no_job(played: Play) -> None:
    assert played.sandbox.jobs.keys() == WHEN.keys()
    assert len(WHEN) == JOBS
    assert {job.status for job in played.sandbox.jobs.values()} == {"CANCELLING"}
    assert played.no_response_from() == []


def test_rollout_play_has_a_reason_for_each_decision(played: Play) -> None:
    found = {
        chapter.title: {str(event.route) for event in chapter.events} for chapter in played.chapters
    }
    assert found == ROUTES
    for title in ROUTES:
        share = SHARES.get(title, 50)
        for event in chapter(played, title).events:
            if str(event.route) in ("v1 (DEFAULT)", "v2 (ROLLOUT)"):
                in_share = bucket("", event.process_id) < share
                assert str(event.route) == ("v2 (ROLLOUT)" if in_share else "v1 (DEFAULT)")


def test_rollout_play_has_an_event_for_each_job_and_counts_each_request(played: Play) -> None:
    told = sorted(event.process_id for event in events(played))
    assert told == sorted([*WHEN, *played.failures])
    requests = played.sandbox.requests
    cancels = [one for one in requests if one.method == "POST" and "status" not in one.path]
    assert len(cancels) == sum(event.attempts for event in events(played))
    # After the sunset nothing asked for v1.
    after = len(chapter(played, "v1 has ended").events)
    assert {request.version for request in requests[-after:]} == {"v2"}
    assert len({request.path for request in requests[-after:]}) == after


def test_rollout_play_finds_out_lost_answers(played: Play) -> None:
    found = chapter(played, "each version loses an answer").events
    again = [event for event in found if event.attempts > 1]
    assert {str(event.route) for event in again} == {"v1 (DEFAULT)", "v2 (ROLLOUT)"}
    assert [(event.outcome, event.attempts) for event in again] == [("cancelled", 2)] * 2
    reads = [
        (request.version, request.status)
        for request in played.sandbox.requests
        if request.method == "GET" or "status" in request.path
    ]
    assert sorted(reads) == [("v1", 200), ("v2", 200)]


def test_rollout_play_answers_the_outage_by_the_flag(played: Play) -> None:
    during = chapter(played, "v2 is out: 503").events
    failed = {event.process_id for event in during if event.outcome != "cancelled"}
    assert failed == {job.process_id for job in during if str(job.route) == "v2 (ROLLOUT)"}
    assert failed == played.failures.keys()
    for error, _, _ in played.failures.values():
        assert isinstance(error, rc.ServerError)
        assert (error.status_code, error.attempts, error.outcome_unknown) == (503, 3, True)

    after = chapter(played, "flag says v1; failed jobs again").events
    assert {event.process_id for event in after[: len(failed)]} == failed
    assert {event.attempts for event in after} == {1}
    # Of an unknown outcome either may come out, and both did.
    again = {process_id: failure.again for process_id, failure in played.failures.items()}
    for process_id, failure in played.failures.items():
        if failure.status == "CANCELLING":
            assert isinstance(again[process_id], rc.AlreadyCancelledError)
        else:
            assert str(again[process_id]) == "v1 (FLAG)"
    assert {failure.status for failure in played.failures.values()} == {"QUEUED", "CANCELLING"}


def test_rollout_play_remembers_a_rehearsal_for_15_minutes(played: Play) -> None:
    rehearsal = chapter(played, "v1 rehearses its end: 410").events
    over = chapter(played, "rehearsal over").events
    last_told = None
    remembered = []
    for event in [*rehearsal, *over]:
        now = WHEN[event.process_id]
        recent = last_told is not None and now - last_told < timedelta(minutes=15)
        assert event.outcome == "cancelled"
        if event.switched:
            assert not recent
            assert event.attempts == 2
            last_told = now
        else:
            assert (str(event.route) == "v2 (V1_GONE)") == recent
            assert event.attempts == 1
            remembered += [event] if recent else []
    assert sum(event.switched for event in rehearsal) > 1
    assert not any(event.switched for event in over)
    assert over[0] in remembered, "v1 is back, but was told to be gone a short while ago"


def test_rollout_play_speaks_of_v1_until_it_ends_and_not_after(played: Play) -> None:
    assert all(chapter.notices for chapter in played.chapters[:-1])
    assert played.chapters[-1].notices == 0
    # Thirty calls a day within six hours: a notice an hour.
    assert chapter(played, "share 0 %").notices == 14 * 6


def test_rollout_play_prints_what_holds(
    played: Play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rollout_play, "play", lambda: played)
    assert rollout_play.main() == 0
    table, failures, total = (part.splitlines() for part in capsys.readouterr().out.split("\n\n"))
    assert len(table) == 1 + len(played.chapters)
    for line, chapter in zip(table[1:], played.chapters, strict=True):
        fields = re.fullmatch(r"(\S+ \S+)  (.{31}) +(\d+) +(\d+) +(\d+) +(\d+)  (.+)", line)
        assert fields, line
        assert fields[1] == f"{chapter.start:%Y-%m-%d %H:%M}"
        assert fields[2].strip() == chapter.title
        calls, errors, retries, notices = map(int, fields.group(3, 4, 5, 6))
        assert calls == len(chapter.events)
        assert errors == len([event for event in chapter.events if event.outcome != "cancelled"])
        switched = len([event for event in chapter.events if event.switched])
        assert retries == sum(event.attempts for event in chapter.events) - calls - switched
        assert notices == chapter.notices
        assert set(re.findall(r"v\d \(\w+\)", fields[7])) == ROUTES[chapter.title]
        assert sum(map(int, re.findall(r"(\d+) v\d \(", fields[7]))) == calls
    assert [int(line.split(":")[0].removeprefix("job ")) for line in failures] == [*played.failures]
    assert total == [
        f"jobs: {JOBS}; cancelled: {JOBS}, {len(played.failures)} of them on the second try; "
        "lost: 0"
    ]


@pytest.mark.parametrize(
    ("status", "unknown", "was"),
    [("QUEUED", True, "QUEUED"), ("CANCELLING", False, "CANCELLING")],
    ids=["never cancelled", "an error that lied"],
)
def test_rollout_play_would_tell_of_a_job_that_is_lost(
    played: Play,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: str,
    unknown: bool,
    was: str,
) -> None:
    monkeypatch.setattr(rollout_play, "play", lambda: played)
    monkeypatch.setattr(played.sandbox.jobs[7], "status", status)
    failure = Failure(rc.ServerError(outcome_unknown=unknown), was)
    monkeypatch.setitem(played.failures, 7, failure)
    assert played.no_response_from() == [7]
    assert rollout_play.main() == 1
    assert capsys.readouterr().out.endswith("lost: 1\n")
