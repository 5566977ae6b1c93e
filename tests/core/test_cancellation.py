"""The flow of a cancel: attempts, waits, switches, and what is remembered of a retired v1."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from revenuebase_compat import (
    ApiVersionRetiredError,
    CancelError,
    CancelTimeoutError,
    ConfigurationError,
    EndpointNotFoundError,
    JobStatus,
    RateLimitError,
    ServerError,
)
from revenuebase_compat.core import cancellation
from revenuebase_compat.core.decoding import AttemptOutcome, NoResponse
from revenuebase_compat.core.routes import V1, V2
from tests.core.play import (
    ALREADY,
    BASE,
    BUSY,
    GONE,
    HUNG,
    NO_SUCH_ENDPOINT,
    REFUSED,
    RESET,
    Play,
    Took,
    ok,
    play,
    said,
)
from tests.core.test_decoding import FIELDS, JOB
from tests.support import AFTER, BEFORE, SUNSET

# --- it works


@pytest.mark.parametrize(
    ("now", "settings", "asked", "route"),
    [
        (AFTER, {}, "v2 cancel", "v2 (SUNSET)"),
        (SUNSET, {}, "v2 cancel", "v2 (SUNSET)"),
        (BEFORE, {}, "v1 cancel", "v1 (DEFAULT)"),
        (BEFORE, {"api_version": "v2"}, "v2 cancel", "v2 (PINNED)"),
        (BEFORE, {"v2_rollout": 100}, "v2 cancel", "v2 (ROLLOUT)"),
        (AFTER, {"api_version": "v1", "after_sunset": "try"}, "v1 cancel", "v1 (PINNED)"),
    ],
)
def test_cancel_on_either_version(
    now: datetime, settings: dict[str, Any], asked: str, route: str
) -> None:
    call = play(ok(eta=5), now=now, **settings)
    result = call.run()
    assert call.asked == asked
    assert str(result.route) == route
    assert result.process_id == JOB
    assert (result.filename, result.message) == (FIELDS["filename"], FIELDS["message"])
    assert (result.current_status, result.status) == ("CANCELLING", JobStatus.CANCELLING)
    assert (result.extra, result.attempts) == ({"eta": 5}, 1)
    assert call.pauses == []


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_cancel_every_2xx_that_holds_the_job_is_a_result(status: int) -> None:
    assert play(said(status, FIELDS)).run().current_status == "CANCELLING"


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETED", "QUEUED", "SOMETHING_NEW", ""])
def test_cancel_gives_the_state_that_the_server_says(state: str) -> None:
    assert play(ok(state)).run().current_status == state


@pytest.mark.parametrize(("says", "route"), [(True, "v2 (FLAG)"), (False, "v1 (FLAG)")])
def test_cancel_the_flag_is_asked_first(says: bool, route: str) -> None:
    call = play(ok(), now=BEFORE, says=says, v2_flag="flags:v2")
    assert str(call.run().route) == route
    assert call.steps[0] == "ask"


def test_cancel_without_a_key_nothing_is_sent() -> None:
    call = play(key=None)
    error = call.fails(ConfigurationError)
    assert "REVENUEBASE_API_KEY" in str(error)
    assert [event.outcome for event in call.events] == ["ConfigurationError"]


def test_cancel_refuses_a_clock_without_a_zone() -> None:
    call = play(now=AFTER.replace(tzinfo=None))
    with pytest.raises(ConfigurationError, match="aware"):
        call.run()
    assert call.asked == ""


def test_cancel_with_v1_only_and_raise_sends_nothing_after_the_sunset() -> None:
    call = play(api_version="v1", after_sunset="raise")
    error = call.fails(ApiVersionRetiredError)
    assert (error.api_version, error.status_code, error.outcome_unknown) == (V1, None, False)
    assert call.steps == ["tell failed"]


# --- retries


def test_cancel_waits_grow_to_a_cap_with_full_jitter() -> None:
    def waits(random: float) -> list[float]:
        call = play(*[REFUSED] * 7, ok(), timeout=600, max_attempts=8, random=lambda: random)
        assert call.run().attempts == 8
        return call.pauses

    assert waits(1.0) == [0.5, 1, 2, 4, 8, 8, 8]
    assert waits(0.25) == [0.125, 0.25, 0.5, 1, 2, 2, 2]
    assert waits(0.0) == []


def test_cancel_gives_an_attempt_half_of_what_is_left_and_the_last_all_of_it() -> None:
    call = play(
        Took(30, HUNG), Took(14.75, HUNG), ok(), timeout=60, max_attempts=3, random=lambda: 1.0
    )
    call.run()
    assert [send.timeout for send in call.sends] == [30, 14.75, 13.75]
    assert call.pauses == [0.5, 1.0]
    assert call.time.elapsed < 60


def test_cancel_gives_the_only_attempt_all_the_time() -> None:
    call = play(ok(), max_attempts=1, timeout=7)
    call.run()
    assert [send.timeout for send in call.sends] == [7]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_cancel_tries_again_after_what_passes(status: int) -> None:
    call = play(said(status), said(status), ok(), max_attempts=3)
    assert call.run().attempts == 3
    assert call.steps == ["v2 cancel", "pause", "v2 cancel", "pause", "v2 cancel"]


@pytest.mark.parametrize("lost", [RESET, HUNG, REFUSED])
def test_cancel_a_lost_answer_is_tried_again_on_its_own_version(lost: NoResponse) -> None:
    for now, version in ((AFTER, "v2"), (BEFORE, "v1")):
        call = play(lost, ok(), now=now)
        assert call.run().attempts == 2
        assert call.asked == f"{version} cancel, {version} cancel"


def test_cancel_x_should_retry_has_the_last_word() -> None:
    call = play(said(503, x_should_retry="false"))
    assert call.fails(ServerError).attempts == 1
    call = play(said(401, x_should_retry="true"), ok())
    assert call.run().attempts == 2


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"retry_after": "7"}, 7),
        ({"retry_after_ms": "1500", "retry_after": "7"}, 1.5),
        ({"retry_after": "Sat, 01 Aug 2026 00:00:09 GMT"}, 9),
        (
            {
                "retry_after": "Fri, 31 Jul 2026 12:00:05 GMT",
                "date": "Fri, 31 Jul 2026 12:00:00 GMT",
            },
            5,
        ),
        ({"x_ratelimit_reset": str(int(AFTER.timestamp()) + 20)}, 20),
        ({"retry_after": "-5"}, 0.25),  # our own backoff
        ({"retry_after": "soon"}, 0.25),
        ({"retry_after": "9" * 40}, 0.25),
    ],
)
def test_cancel_obeys_the_servers_hints_and_no_nonsense(
    headers: dict[str, str], pause: float
) -> None:
    call = play(said(429, **headers), ok())
    call.run()
    assert call.pauses == [pause]


def test_cancel_a_hint_of_no_wait_is_no_pause() -> None:
    call = play(said(503, retry_after="0"), ok())
    call.run()
    assert call.steps == ["v2 cancel", "v2 cancel"]


@pytest.mark.parametrize("seconds", [60, 3600])
def test_cancel_a_wait_that_does_not_fit_is_not_begun(seconds: int) -> None:
    call = play(
        said(429, {"detail": "Slow down."}, retry_after=str(seconds), x_ratelimit_limit="60"),
        timeout=60,
    )
    error = call.fails(RateLimitError)
    assert call.pauses == []
    assert error.reset_at == AFTER + timedelta(seconds=seconds)


def test_cancel_a_wait_that_just_fits_is_begun() -> None:
    call = play(said(429, retry_after="59"), ok(), timeout=60)
    call.run()
    assert call.pauses == [59]
    assert call.sends[1].timeout == 0.5


def test_cancel_a_backoff_that_does_not_fit_ends_the_call_too() -> None:
    call = play(Took(29.8, RESET), Took(29.9, BUSY), timeout=60, random=lambda: 1.0)
    error = call.fails(ServerError)
    assert call.pauses == [0.5]
    assert error.attempts == 2


def test_cancel_a_pause_that_overran_the_deadline_ends_the_call() -> None:
    call = play(BUSY, timeout=60)
    steps = cancellation.cancel(call.context(), JOB)
    next(steps)
    assert isinstance(steps.send(BUSY), cancellation.Sleep)
    call.time.elapsed = 61  # the machine slept
    with pytest.raises(ServerError) as caught:
        steps.send(None)
    assert caught.value.attempts == 1


def test_cancel_attempts_are_counted_per_version() -> None:
    call = play(BUSY, BUSY, GONE, BUSY, BUSY, ok(), now=BEFORE, max_attempts=3)
    result = call.run()
    assert result.attempts == 6
    assert call.asked == ", ".join(["v1 cancel"] * 3 + ["v2 cancel"] * 3)


# --- switching


@pytest.mark.parametrize("status", [404, 405, 410, 501])
@pytest.mark.parametrize("settings", [{}, {"api_version": "v1"}, {"after_sunset": "raise"}])
def test_cancel_v1_without_its_endpoint_leads_to_v2(status: int, settings: dict[str, Any]) -> None:
    call = play(said(status), ok(), now=BEFORE, **settings)
    result = call.run()
    assert call.steps == ["tell uses_v1", "v1 cancel", "tell v1_gone", "v2 cancel"]
    assert str(result.route) == "v2 (V1_GONE)"
    assert result.attempts == 2
    assert call.notices[1].status == status


@pytest.mark.parametrize(
    ("status", "kind"),
    [(410, ApiVersionRetiredError), (404, EndpointNotFoundError), (501, EndpointNotFoundError)],
)
@pytest.mark.parametrize("after_sunset", ["raise", "try"])
def test_cancel_v1_only_stays_where_it_may_not_migrate(
    status: int, kind: type[CancelError], after_sunset: str
) -> None:
    call = play(said(status), now=BEFORE, api_version="v1", after_sunset=after_sunset)
    error = call.fails(kind)
    assert (error.api_version, error.status_code) == (V1, status)
    assert error.outcome_unknown is False
    assert call.steps == ["tell uses_v1", "v1 cancel", "tell failed"]


@pytest.mark.parametrize("status", [404, 405, 501])
def test_cancel_v2_without_its_endpoint_leads_to_v1_before_the_sunset(status: int) -> None:
    call = play(said(status), ok(), now=BEFORE, v2_rollout=100)
    result = call.run()
    assert call.steps == ["v2 cancel", "tell v2_missing", "v1 cancel"]
    assert str(result.route) == "v1 (V2_MISSING)"
    assert result.attempts == 2


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize(
    "options",
    [
        {"now": SUNSET},
        {"now": AFTER},
        {"now": BEFORE, "api_version": "v2"},
        {"now": AFTER, "api_version": "v1"},
    ],
)
def test_cancel_v2_without_its_endpoint_leads_nowhere_else(
    status: int, options: dict[str, Any]
) -> None:
    call = play(said(status), **options)
    error = call.fails(EndpointNotFoundError)
    assert (error.api_version, error.status_code) == (V2, status)
    assert call.asked == "v2 cancel"


def test_cancel_a_410_from_v2_leads_nowhere() -> None:
    call = play(GONE, now=BEFORE, v2_rollout=100)
    assert call.fails(ApiVersionRetiredError).api_version == V2


@pytest.mark.parametrize("status", [404, 405, 501])
def test_cancel_never_switches_twice(status: int) -> None:
    call = play(GONE, said(status), now=BEFORE)
    assert call.fails(EndpointNotFoundError).api_version == V2
    assert call.asked == "v1 cancel, v2 cancel"
    call = play(said(status), GONE, now=BEFORE, v2_rollout=100)
    assert call.fails(ApiVersionRetiredError).api_version == V1
    assert call.asked == "v2 cancel, v1 cancel"


@pytest.mark.parametrize(
    "answer",
    [RESET, HUNG, REFUSED, *(said(status) for status in (500, 502, 503, 504, 429, 408, 599))],
)
@pytest.mark.parametrize("options", [{"now": BEFORE}, {"now": BEFORE, "v2_rollout": 100}])
def test_cancel_never_switches_on_an_answer_that_is_not_definite(
    answer: AttemptOutcome, options: dict[str, Any]
) -> None:
    call = play(answer, max_attempts=1, **options)
    with pytest.raises(CancelError):
        call.run()
    assert len(call.sends) == 1


def test_cancel_leaves_a_missing_endpoint_despite_a_hint_to_retry() -> None:
    for status in (404, 405, 410, 501):
        call = play(said(status, x_should_retry="true", retry_after="5"), ok(), now=BEFORE)
        call.run()
        assert call.asked == "v1 cancel, v2 cancel"
        assert call.pauses == []


def test_cancel_has_no_time_left_for_the_other_version() -> None:
    call = play(Took(60, GONE), now=BEFORE, timeout=60)
    error = call.fails(CancelTimeoutError)
    assert error.outcome_unknown is False
    assert call.asked == "v1 cancel"


# --- the memory of a 410


def test_cancel_a_410_is_remembered_for_15_minutes_and_not_longer() -> None:
    gone: dict[str, float] = {}
    first = play(GONE, ok(), now=BEFORE, gone=gone)
    first.run()
    assert gone == {BASE: first.time.monotonic()}

    def later(seconds: float) -> Play:
        call = play(ok(), now=BEFORE, gone=dict(gone))
        call.time.elapsed = seconds
        call.run()
        return call

    assert later(0).asked == "v2 cancel"
    assert later(899.9).asked == "v2 cancel"
    assert later(900).asked == "v1 cancel"
    assert later(-1).asked == "v1 cancel"


def test_cancel_a_410_is_remembered_per_base_url() -> None:
    gone = {"https://other.example": 1000.0}
    assert str(play(ok(), now=BEFORE, gone=gone).run().route) == "v1 (DEFAULT)"


def test_cancel_asks_no_flag_after_a_remembered_410() -> None:
    call = play(ok(), now=BEFORE, gone={BASE: 1000.0}, v2_flag="flags:v2", says=False)
    assert str(call.run().route) == "v2 (V1_GONE)"
    assert "ask" not in call.steps


@pytest.mark.parametrize("status", [404, 405, 501])
def test_cancel_a_missing_endpoint_is_not_remembered(status: int) -> None:
    gone: dict[str, float] = {}
    play(said(status), ok(), now=BEFORE, gone=gone).run()
    assert gone == {}


def test_cancel_a_410_is_remembered_wherever_it_is_heard() -> None:
    gone: dict[str, float] = {}
    play(NO_SUCH_ENDPOINT, GONE, now=BEFORE, v2_rollout=100, gone=gone).fails(
        ApiVersionRetiredError
    )
    assert BASE in gone
    gone.clear()
    play(RESET, ALREADY, GONE, ok(), now=BEFORE, gone=gone).run()
    assert BASE in gone
    gone.clear()
    play(GONE, now=AFTER, gone=gone).fails(ApiVersionRetiredError)  # of v2
    assert gone == {}
