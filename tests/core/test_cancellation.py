"""The flow by hand: answers go in with ``send()``, effects come out, and nothing waits."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revenuebase_compat import (
    AlreadyCancelledError,
    ApiDeprecationWarning,
    ApiVersionRetiredError,
    AuthenticationError,
    CancelError,
    CancelEvent,
    CancelResult,
    CancelTimeoutError,
    ConfigurationError,
    EndpointNotFoundError,
    InsufficientCreditsError,
    JobNotFoundError,
    JobStatus,
    NotCancellableError,
    PermissionDeniedError,
    RateLimitError,
    RequestValidationError,
    ServerError,
    Settings,
    TransportError,
    UnexpectedResponseError,
)
from revenuebase_compat.core import cancellation
from revenuebase_compat.core.decoding import AttemptOutcome, NoResponse, Response
from revenuebase_compat.core.models import Job
from revenuebase_compat.core.notices import Notice, NoticeKind
from revenuebase_compat.core.routing import EvaluateFlag
from revenuebase_compat.core.versions import V1, V2
from tests.conftest import TEST_KEY
from tests.core.test_decoding import FIELDS, JOB, bodies, json_values
from tests.core.test_errors import everything_shown
from tests.core.test_responses import header_lists
from tests.support import AFTER, BEFORE, SUNSET, FakeTime

BASE = "https://api.revenuebase.ai"
STEPS = {
    ("POST", "/v1/cancel-process"): "v1 cancel",
    ("POST", "/v1/batch-process-email-status"): "v1 status",
    ("POST", f"/v2/jobs/{JOB}/cancel"): "v2 cancel",
    ("GET", f"/v2/jobs/{JOB}"): "v2 status",
}

RESET = NoResponse("ReadError: connection reset", sent=True)
HUNG = NoResponse("no answer within 30 s", sent=True, timeout=True)
REFUSED = NoResponse("ConnectError: connection refused", sent=False)


def said(status: int, body: object = b"", **headers: str) -> Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    pairs = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return Response(status, [*pairs, (b"content-length", b"%d" % len(raw))], raw)


def ok(state: str = "CANCELLING", **changes: Any) -> Response:
    return said(200, {**FIELDS, "current_status": state, **changes})


ALREADY = said(400, {"detail": "already_cancelled"})
NOT_CANCELLABLE = said(400, {"detail": {"code": "not_cancellable", "message": "Job is over."}})
UNCLEAR = said(400, {"detail": "Bad Request"})
GONE = said(410, {"detail": "API v1 was retired."})
NO_SUCH_ENDPOINT = said(404, {"detail": "Not Found"})
BUSY = said(503, b"<html>Service Unavailable</html>")


class Took(NamedTuple):
    """An answer, and how long it was in coming."""

    seconds: float
    answer: AttemptOutcome


class Play:
    """One call: its effects and what it told, in order; time moves only when told."""

    def __init__(
        self,
        script: Sequence[AttemptOutcome | Took],
        *,
        now: datetime = AFTER,
        says: bool | None = None,
        gone: dict[str, float] | None = None,
        random: Callable[[], float] = lambda: 0.5,
        key: str | None = TEST_KEY,
        **settings: Any,
    ) -> None:
        self.script = list(script)
        self.time = FakeTime(now)
        self.says = says
        self.gone = {} if gone is None else gone
        self.steps: list[str] = []
        self.sends: list[cancellation.SendRequest] = []
        self.pauses: list[float] = []
        self.notices: list[Notice] = []
        self.events: list[CancelEvent] = []
        self.seen: list[Job] = []
        self.settings = Settings(key, on_event=self.events.append, **settings)
        self.random = random

    def context(self) -> cancellation.CallContext:
        return cancellation.CallContext(
            self.settings,
            self.time.clock,
            self.time.monotonic,
            self.random,
            self.gone,
            self.notices_seen,
            self.events.append,
        )

    def notices_seen(self, notice: Notice) -> None:
        self.steps.append(f"tell {notice.kind.value}")
        self.notices.append(notice)

    def run(self, *, drain: bool = True, wait: float | None = None) -> CancelResult:
        """The result; with ``drain``, every answer must have been asked for."""
        steps = cancellation.cancel(self.context(), JOB, wait, self.seen.append)
        answer: Any = None
        try:
            while True:
                answer = self.react(steps.send(answer))
        except StopIteration as stop:
            result = stop.value
        assert not (drain and self.script), "answers were left over"
        assert isinstance(result, CancelResult)
        return result

    def react(self, command: cancellation.Command) -> Any:
        if isinstance(command, EvaluateFlag):
            self.steps.append("ask")
            return self.says
        if isinstance(command, cancellation.Sleep):
            self.pauses.append(command.seconds)
            self.steps.append("pause")
            return self.time.sleep(command.seconds)
        self.sends.append(command)
        self.steps.append(STEPS[command.request.method, command.request.path])
        answer = self.script.pop(0)
        if isinstance(answer, Took):
            self.time.elapsed += answer.seconds
            return answer.answer
        return answer

    def fails(self, kind: type[CancelError]) -> Any:
        with pytest.raises(CancelError) as caught:
            self.run()
        assert type(caught.value) is kind
        assert not self.script, "answers were left over"
        error = caught.value
        assert error.process_id == JOB
        assert f"job {JOB}" in str(error) or kind is ConfigurationError
        assert error.attempts == self.asked.count("cancel")
        return error

    @property
    def requests(self) -> list[str]:
        return [step for step in self.steps if step in STEPS.values()]

    @property
    def asked(self) -> str:
        return ", ".join(self.requests)


def play(*script: AttemptOutcome | Took, **options: Any) -> Play:
    return Play(script, **options)


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


# --- the lost answer


@pytest.mark.parametrize("unsure", [RESET, HUNG, said(500), said(502), BUSY, said(504)])
@pytest.mark.parametrize("state", ["CANCELLING", "CANCELLED"])
def test_cancel_already_cancelled_after_a_lost_answer_is_success(
    unsure: AttemptOutcome, state: str
) -> None:
    for now, version in ((AFTER, "v2"), (BEFORE, "v1")):
        call = play(unsure, ALREADY, ok(state, message="as read"), now=now)
        result = call.run()
        assert call.asked == f"{version} cancel, {version} cancel, {version} status"
        assert (result.current_status, result.message) == (state, "as read")
        assert result.attempts == 2
        assert [event.outcome for event in call.events] == ["cancelled"]


def test_cancel_already_cancelled_after_an_attempt_that_was_never_sent_is_an_error() -> None:
    call = play(REFUSED, ALREADY)
    error = call.fails(AlreadyCancelledError)
    assert error.outcome_unknown is False
    assert call.asked == "v2 cancel, v2 cancel"


@pytest.mark.parametrize("answer", [said(429), said(408)])
def test_cancel_already_cancelled_after_a_refusal_is_an_error(answer: Response) -> None:
    error = play(answer, ALREADY).fails(AlreadyCancelledError)
    assert error.outcome_unknown is False


def test_cancel_what_may_have_been_applied_is_remembered_across_a_switch() -> None:
    call = play(RESET, GONE, ALREADY, ok("CANCELLED"), now=BEFORE)
    result = call.run()
    assert call.asked == "v1 cancel, v1 cancel, v2 cancel, v2 status"
    assert str(result.route) == "v2 (V1_GONE)"
    assert result.attempts == 3


@pytest.mark.parametrize("code", ["already_cancelled", "Bad Request"])
def test_cancel_an_unclear_400_after_a_lost_answer_is_settled_by_the_status(code: str) -> None:
    call = play(RESET, said(400, {"detail": code}), ok("CANCELLED"))
    assert call.run().current_status == "CANCELLED"


@pytest.mark.parametrize(
    "status_answers",
    [
        [ok("COMPLETED")],
        [ok("PROCESSING")],
        [ok("SOMETHING_NEW")],
        [UNCLEAR],
        [said(401)],
        [said(200, {"process_id": 43})],
        [said(200, {**FIELDS, "process_id": 43})],
        [said(302, location="https://evil.example")],
        [BUSY, RESET, said(500)],
        [HUNG, HUNG, HUNG],
    ],
)
@pytest.mark.parametrize("options", [{}, {"already_cancelled": "return"}])
def test_cancel_status_that_does_not_confirm_leaves_the_outcome_unknown(
    status_answers: list[AttemptOutcome], options: dict[str, Any]
) -> None:
    call = play(RESET, ALREADY, *status_answers, **options)
    error = call.fails(AlreadyCancelledError)
    assert error.outcome_unknown is True
    assert (error.code, error.status_code, error.attempts) == ("already_cancelled", 400, 2)


def test_cancel_status_is_read_on_the_other_version_if_that_one_is_gone() -> None:
    call = play(RESET, ALREADY, said(404), ok("CANCELLED"), now=BEFORE)
    assert call.run().current_status == "CANCELLED"
    assert call.asked == "v1 cancel, v1 cancel, v1 status, v2 status"
    call = play(RESET, ALREADY, said(405), ok("CANCELLED"), now=BEFORE, v2_rollout=100)
    assert call.run().current_status == "CANCELLED"
    assert call.asked == "v2 cancel, v2 cancel, v2 status, v1 status"


def test_cancel_status_is_not_read_on_a_version_that_is_not_admitted() -> None:
    call = play(RESET, ALREADY, said(404), now=BEFORE, api_version="v2")
    assert call.fails(AlreadyCancelledError).outcome_unknown is True
    call = play(RESET, ALREADY, said(404))  # after the sunset
    assert call.fails(AlreadyCancelledError).outcome_unknown is True


def test_cancel_status_reads_are_retried_within_the_deadline_and_are_no_attempts() -> None:
    call = play(Took(20, HUNG), ALREADY, Took(10, BUSY), Took(5, BUSY), ok("CANCELLED"), timeout=60)
    assert call.run().attempts == 2
    assert [round(send.timeout, 3) for send in call.sends] == [30, 19.875, 19.875, 14.75, 24.0]
    assert call.asked == "v2 cancel, v2 cancel, v2 status, v2 status, v2 status"


def test_cancel_status_has_no_time_left_to_be_read() -> None:
    call = play(Took(20, RESET), Took(39.9, ALREADY), timeout=60)
    assert call.fails(AlreadyCancelledError).outcome_unknown is True


# --- what stands for an outcome


def test_cancel_already_cancelled_is_an_error_at_once() -> None:
    call = play(ALREADY)
    error = call.fails(AlreadyCancelledError)
    assert (error.code, error.status_code, error.attempts) == ("already_cancelled", 400, 1)
    assert error.outcome_unknown is False
    assert call.asked == "v2 cancel"


@pytest.mark.parametrize("state", ["CANCELLING", "CANCELLED"])
def test_cancel_already_cancelled_may_be_a_result(state: str) -> None:
    call = play(ALREADY, ok(state), already_cancelled="return")
    result = call.run()
    assert (result.current_status, result.attempts) == (state, 1)
    assert call.asked == "v2 cancel, v2 status"


@pytest.mark.parametrize("options", [{}, {"already_cancelled": "return"}])
@pytest.mark.parametrize("before", [[], [RESET], [BUSY]])
def test_cancel_not_cancellable_needs_no_status(
    before: list[AttemptOutcome], options: dict[str, Any]
) -> None:
    call = play(*before, NOT_CANCELLABLE, **options)
    error = call.fails(NotCancellableError)
    assert (error.code, error.status_code) == ("not_cancellable", 400)
    assert error.outcome_unknown is False
    assert "Job is over." in str(error)


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (ok("CANCELLED"), AlreadyCancelledError, "already_cancelled"),
        (ok("CANCELLING"), AlreadyCancelledError, "already_cancelled"),
        (ok("COMPLETED"), NotCancellableError, "not_cancellable"),
        (ok("ERROR"), NotCancellableError, "not_cancellable"),
        (UNCLEAR, JobNotFoundError, None),
        (ALREADY, JobNotFoundError, "already_cancelled"),
        (ok("PROCESSING"), UnexpectedResponseError, None),
        (ok("SOMETHING_NEW"), UnexpectedResponseError, None),
        (said(401), UnexpectedResponseError, None),
        (said(200, b"no json"), UnexpectedResponseError, None),
    ],
)
def test_cancel_a_400_that_says_nothing_is_settled_by_the_status(
    status: Response, kind: type[CancelError], code: str | None
) -> None:
    call = play(UNCLEAR, status)
    error = call.fails(kind)
    assert call.asked == "v2 cancel, v2 status"
    assert (error.status_code, error.attempts) == (400, 1)
    assert error.outcome_unknown is False
    assert kind is JobNotFoundError or error.code == code


def test_cancel_error_says_where_an_earlier_attempt_may_have_been_applied() -> None:
    for last in (said(401), said(402), said(403), said(422), said(302), said(418), REFUSED):
        error = play(RESET, last, max_attempts=2)
        with pytest.raises(CancelError) as caught:
            error.run()
        assert caught.value.outcome_unknown is True
        assert "may have been" in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "kind", "unknown"),
    [
        (RESET, TransportError, True),
        (HUNG, CancelTimeoutError, True),
        (REFUSED, TransportError, False),
        (
            NoResponse("no answer within 30 s to connect", False, timeout=True),
            CancelTimeoutError,
            False,
        ),
        (said(500), ServerError, True),
        (said(502), ServerError, True),
        (said(599), ServerError, True),
        (said(429), RateLimitError, False),
        (said(408), UnexpectedResponseError, False),
    ],
)
def test_cancel_error_that_ends_a_retried_call(
    answer: AttemptOutcome, kind: type[CancelError], unknown: bool
) -> None:
    error = play(answer, max_attempts=1).fails(kind)
    assert error.outcome_unknown is unknown
    assert ("may have been" in str(error)) is unknown
    assert error.status_code == (answer.status if isinstance(answer, Response) else None)


def test_cancel_error_describes_a_lost_answer() -> None:
    error = play(RESET, HUNG, RESET).fails(TransportError)
    assert "API v2 gave no answer: ReadError: connection reset" in str(error)
    assert "(attempts: 3, requests sent: 3)" in str(error)
    assert error.api_version == V2
    assert error.body is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (said(401, {"detail": "Not authenticated"}), AuthenticationError),
        (said(402, {"detail": "Not enough credits"}), InsufficientCreditsError),
        (said(403, {"detail": "Not allowed"}), PermissionDeniedError),
        (said(404, {"detail": "Not Found"}), EndpointNotFoundError),
        (said(405, {"detail": "Method Not Allowed"}), EndpointNotFoundError),
        (said(410, {"detail": "Retired"}), ApiVersionRetiredError),
        (said(422, {"detail": "Wrong"}), RequestValidationError),
        (said(429, {"detail": "Too fast"}), RateLimitError),
        (said(500, {"detail": "Broken"}), ServerError),
        (said(501, {"detail": "Not here"}), EndpointNotFoundError),
        (said(503, {"detail": "Busy"}), ServerError),
        (said(409, {"detail": "Conflict"}), UnexpectedResponseError),
        (said(418, {"detail": "Teapot"}), UnexpectedResponseError),
        (said(304, {"detail": "The same"}), UnexpectedResponseError),
        (said(199, {"detail": "Wait"}), UnexpectedResponseError),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_cancel_error_every_status_has_its_class(answer: Response, kind: type[CancelError]) -> None:
    error = play(answer, max_attempts=1).fails(kind)
    words = json.loads(answer.body)["detail"]
    assert f"API v2 answered {answer.status}" in str(error)
    assert words in str(error)
    assert (error.status_code, error.api_version, error.attempts) == (answer.status, V2, 1)
    assert error.body == answer.body.decode()
    assert error.code is None


def test_cancel_error_keeps_the_servers_own_code() -> None:
    body = {"detail": "Credits are used up.", "code": "out_of_credits"}
    error = play(said(402, body)).fails(InsufficientCreditsError)
    assert error.code == "out_of_credits"
    assert "402 out_of_credits: Credits are used up." in str(error)


def test_cancel_error_a_422_holds_the_servers_list() -> None:
    errors = [{"loc": ["path", "process_id"], "msg": "too large", "type": "x", "input": "42"}]
    error = play(said(422, {"detail": errors})).fails(RequestValidationError)
    assert error.errors == errors
    assert "path.process_id: too large" in str(error)


def test_cancel_error_a_429_holds_the_limits() -> None:
    reset = AFTER + timedelta(seconds=90)
    answer = said(
        429,
        {"detail": "Rate limit exceeded"},
        x_ratelimit_limit="60",
        x_ratelimit_remaining="0",
        x_ratelimit_reset=str(int(reset.timestamp())),
    )
    error = play(answer).fails(RateLimitError)
    assert (error.reset_at, error.limit, error.remaining) == (reset, 60, 0)
    error = play(said(429, x_ratelimit_limit="many"), max_attempts=1).fails(RateLimitError)
    assert (error.reset_at, error.limit, error.remaining) == (None, None, None)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_cancel_error_tells_of_a_redirect_that_is_not_followed(status: int) -> None:
    call = play(said(status, location="https://evil.example/\x1b[31m"))
    error = call.fails(UnexpectedResponseError)
    assert "a redirect to https://evil.example/ [31m is not followed" in str(error)
    assert error.outcome_unknown is False


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the body is empty"),
        (b"OK", "the body is not JSON"),
        (b"[]", "the body is a list, not an object"),
        (json.dumps({**FIELDS, "process_id": 43}).encode(), "the body is about another job, 43"),
        (b'{"process_id": 42}', "the body lacks filename, current_status, message"),
    ],
)
@pytest.mark.parametrize("status", [200, 204])
def test_cancel_error_names_an_unusable_body_and_leaves_the_outcome_unknown(
    body: bytes, why: str, status: int
) -> None:
    call = play(said(status, body))
    error = call.fails(UnexpectedResponseError)
    assert f"API v2 answered {status}, but {why}" in str(error)
    assert (error.outcome_unknown, error.attempts) == (True, 1)
    assert error.body == body.decode()


@pytest.mark.parametrize("body", [b"", b'{"process_id": 42, "file', b'{"process_id"'])
def test_cancel_takes_an_answer_cut_short_for_a_lost_one(body: bytes) -> None:
    cut = Response(200, [(b"connection", b"close")], body)
    assert play(cut, ok()).run().attempts == 2
    assert play(cut, ALREADY, ok("CANCELLED")).run().attempts == 2
    assert play(cut, max_attempts=1).fails(TransportError).outcome_unknown is True


@pytest.mark.parametrize("body", [json.dumps(FIELDS).encode(), json.dumps(FIELDS).encode() + b"\n"])
def test_cancel_takes_an_answer_that_ends_with_its_connection_for_whole(body: bytes) -> None:
    assert play(Response(200, [(b"connection", b"close")], body)).run().attempts == 1
    html = Response(200, [(b"connection", b"close")], b"<p>OK")
    assert "is not JSON" in str(play(html).fails(UnexpectedResponseError))


@pytest.mark.parametrize(
    "problem", ["is larger than 1 MiB", "has a content-encoding that was not asked for"]
)
def test_cancel_takes_a_body_that_was_not_read_for_no_lost_answer(problem: str) -> None:
    unread = Response(200, [(b"connection", b"close")], problem=problem)
    error = play(unread).fails(UnexpectedResponseError)
    assert f"the body {problem}" in str(error)
    assert error.outcome_unknown is True


def test_cancel_error_keeps_only_the_beginning_of_a_body() -> None:
    error = play(said(401, b"x" * 100_000)).fails(AuthenticationError)
    assert error.body == "x" * 8192
    assert len(str(error)) < 500


@pytest.mark.parametrize("status", [400, 401, 422, 500])
def test_cancel_error_messages_are_short_whatever_the_server_says(status: int) -> None:
    for body in ({"code": "a" * 100_000}, {"detail": "a b" * 50_000}, b"\x1b" * 100_000):
        call = play(said(status, body), *[said(400)] * (status == 400), max_attempts=1)
        with pytest.raises(CancelError) as caught:
            call.run()
        assert len(str(caught.value)) < 800
        assert str(caught.value).isprintable()


# --- waiting for the end


def test_cancel_without_a_wait_does_not_look_at_the_job() -> None:
    call = play(ok("CANCELLING"))
    assert call.run().current_status == "CANCELLING"
    assert call.asked == "v2 cancel"


@pytest.mark.parametrize(("now", "version"), [(AFTER, "v2"), (BEFORE, "v1")])
def test_cancel_wait_looks_until_the_job_has_ended(now: datetime, version: str) -> None:
    call = play(ok(), ok(), BUSY, ok(message="nearly"), ok("CANCELLED", eta=0), now=now)
    result = call.run(wait=60)
    assert (result.current_status, result.extra, result.attempts) == ("CANCELLED", {"eta": 0}, 1)
    assert call.asked == ", ".join([f"{version} cancel"] + [f"{version} status"] * 4)
    assert [job.current_status for job in call.seen] == ["CANCELLING", "CANCELLING", "CANCELLED"]
    assert [event.outcome for event in call.events] == ["cancelled"]


@pytest.mark.parametrize("state", ["CANCELLED", "cancelled "])
def test_cancel_wait_a_job_that_has_ended_is_not_waited_for(state: str) -> None:
    call = play(ok(state))
    assert call.run(wait=60).current_status == state
    assert call.seen == []


def test_cancel_wait_looks_ever_more_rarely_up_to_10_s_and_at_the_end() -> None:
    call = play(ok("PROCESSING"), *[ok("PROCESSING")] * 12)
    assert call.run(wait=60).current_status == "PROCESSING"
    growing = [0.5 * 1.5**step for step in range(8)]
    assert call.pauses[:8] == growing
    assert call.pauses[8:11] == [10, 10, 10]
    assert sum(call.pauses) == pytest.approx(60)
    assert call.pauses[11] < 10
    assert call.time.elapsed == pytest.approx(60)


def test_cancel_wait_of_nothing_looks_at_nothing() -> None:
    assert play(ok()).run(wait=0).current_status == "CANCELLING"


@pytest.mark.parametrize("state", ["COMPLETED", "ERROR"])
def test_cancel_wait_tells_of_a_job_that_completed_all_the_same(state: str) -> None:
    call = play(ok(), ok(), ok(state))
    with pytest.raises(NotCancellableError, match=f"job 42: .* is {state}: it ended before") as e:
        call.run(wait=60)
    error = e.value
    assert (error.code, error.outcome_unknown, error.attempts) == ("not_cancellable", False, 1)
    assert error.api_version == V2
    assert call.seen[-1].current_status == state
    assert [event.outcome for event in call.events] == ["NotCancellableError"]


def test_cancel_wait_looks_that_fail_are_no_end() -> None:
    lost = [RESET, HUNG, REFUSED]
    call = play(ok(), said(401), said(200, b"?"), UNCLEAR, *lost, said(302), ok("CANCELLED"))
    assert call.run(wait=60).current_status == "CANCELLED"
    assert len(call.seen) == 1


def test_cancel_wait_gives_the_last_look_a_short_while_only() -> None:
    call = play(Took(59, ok()), ok("CANCELLED"), timeout=60)
    call.run(wait=5)
    assert call.sends[1].timeout == (5 - 0.5 + cancellation.LAST_LOOK) / 2


def test_cancel_wait_follows_a_job_to_the_version_that_answers() -> None:
    call = play(ok(), said(410), ok(), said(410), ok("CANCELLED"), now=BEFORE)
    assert call.run(wait=60).current_status == "CANCELLED"
    assert call.asked == "v1 cancel, v1 status, v2 status, v1 status, v2 status"


# --- events


def test_cancel_event_one_event_per_call() -> None:
    call = play(Took(2, BUSY), ok())
    call.run()
    (event,) = call.events
    assert event == CancelEvent(
        JOB, call.events[0].route, 2, False, 2.25, "cancelled", outcome_unknown=False
    )
    assert str(event.route) == "v2 (SUNSET)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.attempts = 3  # type: ignore[misc]


def test_cancel_event_of_a_call_that_switched_and_failed() -> None:
    call = play(RESET, GONE, said(403), now=BEFORE)
    call.fails(PermissionDeniedError)
    (event,) = call.events
    assert (event.outcome, event.status_code, event.attempts) == ("PermissionDeniedError", 403, 3)
    assert (event.switched, event.outcome_unknown) == (True, True)
    assert str(event.route) == "v2 (V1_GONE)"


def test_cancel_event_of_a_call_that_was_never_routed() -> None:
    call = play(api_version="v1", after_sunset="raise")
    call.fails(ApiVersionRetiredError)
    (event,) = call.events
    assert (event.route, event.attempts, event.outcome) == (None, 0, "ApiVersionRetiredError")


def test_cancel_event_is_not_made_without_a_listener() -> None:
    call = play(ok())
    call.settings = dataclasses.replace(call.settings, on_event=None)
    call.run()
    assert call.events == []


def interrupted(answers: list[AttemptOutcome], **options: Any) -> CancelEvent:
    call = play(**options)
    steps = cancellation.cancel(call.context(), JOB)
    next(steps)
    for answer in answers:
        steps.send(answer)
    steps.close()
    (event,) = call.events
    assert event.outcome == "interrupted"
    assert event.status_code is None
    return event


def test_cancel_event_of_a_call_that_is_closed() -> None:
    event = interrupted([REFUSED])  # closed while it pauses
    assert (event.attempts, event.outcome_unknown) == (1, False)
    event = interrupted([], v2_flag="flags:v2", now=BEFORE)  # while it asks
    assert (event.attempts, event.outcome_unknown, event.route) == (0, False, None)


def test_cancel_event_of_an_interrupted_call_says_that_it_may_have_been_applied() -> None:
    assert interrupted([]).outcome_unknown is True  # closed while it sends
    assert interrupted([RESET]).outcome_unknown is True
    assert interrupted([ALREADY], already_cancelled="return").outcome_unknown is False


def test_cancel_event_is_not_made_for_a_call_that_never_began() -> None:
    call = play()
    cancellation.cancel(call.context(), JOB).close()
    assert call.events == []


def test_cancel_notice_that_is_an_error_comes_before_anything_is_sent() -> None:
    call = play(now=BEFORE)

    def refuse(notice: Notice) -> None:
        raise ApiDeprecationWarning(notice.kind.value)

    steps = cancellation.cancel(call.context()._replace(notify=refuse), JOB)
    with pytest.raises(ApiDeprecationWarning, match="uses_v1"):
        next(steps)
    (event,) = call.events
    assert (event.outcome, event.attempts) == ("ApiDeprecationWarning", 0)


# --- notices


@pytest.mark.parametrize(
    ("script", "options", "steps"),
    [
        ([ok()], {}, ["v2 cancel"]),
        ([ok()], {"now": BEFORE, "v2_rollout": 100}, ["v2 cancel"]),
        ([ok()], {"now": BEFORE, "gone": {BASE: 1000.0}}, ["v2 cancel"]),
        ([ok()], {"now": BEFORE}, ["tell uses_v1", "v1 cancel"]),
        (
            [ok()],
            {"api_version": "v1", "after_sunset": "try"},
            ["tell uses_v1", "v1 cancel"],
        ),
        ([ok()], {"api_version": "v1"}, ["tell migrated", "v2 cancel"]),
        (
            [ok()],
            {"now": BEFORE, "api_version": "v1", "gone": {BASE: 1000.0}},
            ["tell migrated", "v2 cancel"],
        ),
    ],
)
def test_cancel_notices_what_is_told_and_when(
    script: list[AttemptOutcome], options: dict[str, Any], steps: list[str]
) -> None:
    call = play(*script, **options)
    call.run()
    assert call.steps == steps
    for notice in call.notices:
        assert notice.now == call.time.now
        assert notice.settings is call.settings
        assert notice.status is None


def test_cancel_notices_what_the_server_announces_after_its_answer() -> None:
    answer = said(
        200,
        FIELDS,
        sunset="Wed, 01 Jul 2026 00:00:00 GMT",
        link='<https://x.example/v2>; rel="successor-version"',
    )
    call = play(answer, now=BEFORE)
    call.run()
    assert call.steps == ["tell uses_v1", "v1 cancel", "tell announced"]
    notice = call.notices[1]
    assert notice.kind is NoticeKind.ANNOUNCED
    assert notice.sunset == datetime(2026, 7, 1, tzinfo=SUNSET.tzinfo)
    assert notice.successor == "https://x.example/v2"
    assert notice.status == 200


def test_cancel_notices_what_is_announced_with_a_410() -> None:
    call = play(said(410, sunset="Wed, 01 Jul 2026 00:00:00 GMT"), ok(), now=BEFORE)
    call.run()
    assert call.steps == [
        *("tell uses_v1", "v1 cancel", "tell announced", "tell v1_gone", "v2 cancel")
    ]


def test_cancel_notices_nothing_of_what_v2_announces() -> None:
    call = play(said(200, FIELDS, sunset="Wed, 01 Jul 2026 00:00:00 GMT", deprecation="@1"))
    call.run()
    assert call.steps == ["v2 cancel"]


# --- the key

SECRET = "rb_test_do_not_show_me_0123456789"


def failure(call: Play) -> CancelError:
    with pytest.raises(CancelError) as caught:
        call.run()
    assert not call.script
    return caught.value


ECHOES: dict[str, list[AttemptOutcome]] = {
    "detail": [said(401, {"detail": f"Key {SECRET} is unknown"})],
    "text": [said(401, f"Key {SECRET} is unknown".encode())],
    "json escape": [said(401, json.dumps({"detail": SECRET}).replace("_", "\\u005f").encode())],
    "code": [said(402, {"code": SECRET, "detail": "no"})],
    "code of a 400": [said(400, {"code": SECRET}), said(400, {"code": SECRET})],
    "type": [said(403, {"type": f"https://x.example/{SECRET}", "title": SECRET})],
    "errors": [
        said(
            422,
            {"detail": [{"loc": ["header", SECRET], "msg": SECRET, "ctx": {SECRET: [SECRET]}}]},
        )
    ],
    "redirect": [said(307, location=f"https://evil.example/?key={SECRET}")],
    "server error": [said(500, {"detail": f"Traceback: x-key={SECRET}"})] * 3,
    "rate limit": [said(429, {"detail": SECRET}, retry_after="3600")],
    "unusable": [said(200, {"process_id": SECRET, "filename": SECRET})],
    "no json": [said(200, f"<{SECRET}>".encode())],
    "lost": [NoResponse(f"LocalProtocolError: Illegal header value {SECRET!r}", sent=False)] * 3,
    "state": [UNCLEAR, ok(SECRET, filename=SECRET, message=SECRET, other=SECRET)],
    "status completed": [UNCLEAR, ok("COMPLETED", filename=SECRET, message=SECRET)],
    "status unusable": [UNCLEAR, said(200, {"message": SECRET})],
    "status lost": [RESET, ALREADY, *[NoResponse(SECRET, sent=True)] * 3],
    "gone": [said(410, {"detail": SECRET}, link=f'<{SECRET}>; rel="successor-version"')],
}


@pytest.mark.parametrize("name", ECHOES)
@pytest.mark.parametrize("options", [{}, {"now": BEFORE, "api_version": "v1"}])
def test_cancel_shows_a_key_that_the_server_echoes_nowhere(
    name: str, options: dict[str, Any]
) -> None:
    call = play(*ECHOES[name], key=SECRET, after_sunset="raise" if options else "try", **options)
    error = failure(call)
    assert SECRET not in everything_shown(error)
    assert SECRET not in repr(call.events)
    assert SECRET not in repr(call.notices)


@pytest.mark.parametrize("key", ['rb"test\\key/1', "rb+test&<key>'=", "rb_test_%s{0}"])
def test_cancel_shows_no_key_of_odd_characters_either(key: str) -> None:
    for answer in (
        said(401, {"detail": f"Key {key} is unknown", "code": key}),
        said(401, f"Key {key} is unknown".encode()),
        said(422, {"detail": [{"loc": [key], "msg": key, "input": {key: key}}]}),
        said(302, location=f"/?{key}"),
    ):
        error = failure(play(answer, key=key))
        for text in (str(error), str(error.code), json.dumps(vars(error), default=str)):
            assert key not in text
            assert json.dumps(key)[1:-1] not in text
        assert key not in str(getattr(error, "errors", ""))


@pytest.mark.parametrize("end", [290, 300, 310, 1000, 8180, 8192, 8200])
def test_cancel_shows_no_part_of_a_key_where_a_text_is_cut(end: int) -> None:
    for start in range(end - len(SECRET), end):
        for body in ("x" * start + SECRET, "x " * (start // 2) + SECRET):
            for answer in (said(401, {"detail": body}), said(401, body.encode())):
                error = failure(play(answer, key=SECRET))
                assert SECRET[:12] not in everything_shown(error)


def test_cancel_result_does_not_hold_the_key_either() -> None:
    body = {**FIELDS, "message": f"by {SECRET}", "by": [SECRET], SECRET: 1}
    result = play(said(200, body), key=SECRET).run()
    assert SECRET not in repr(result)
    assert result.message == "by ***"


# Frameworks differ in what they escape: .NET and PHP quotation marks, Go angle brackets.
@pytest.mark.parametrize(
    "quote", ["\\u0022", "\\u005C", "\\u003c", "\\/", '\\"', "\\u00e9", "\\\\u0041"]
)
@pytest.mark.parametrize("key", [SECRET, SECRET.replace("_", "\\u005f"), "\\u0072" + SECRET[1:]])
def test_cancel_reads_what_stands_beside_a_key_as_it_is(quote: str, key: str) -> None:
    text = f'{{"code":"already_cancelled","detail":"{quote}{key}{quote}"}}'
    error = play(said(400, text.encode()), key=SECRET).fails(AlreadyCancelledError)
    assert error.code == "already_cancelled"
    beside = json.loads(f'"{quote}"')
    assert f"{beside}***{beside}" in str(error)
    assert SECRET not in everything_shown(error)


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=4)
    | st.sampled_from(["42", "loc", "true", '":', "[", "],", "null", "\\"]),
    st.dictionaries(st.text(max_size=4) | st.just("loc"), json_values, max_size=3),
)
def test_cancel_reads_an_error_whatever_the_key_is(key: str, item: dict[str, Any]) -> None:
    item = {**item, "msg": f"{key} is wrong", "input": 42}
    error = play(said(422, {"detail": [item]}), key=key)
    assert isinstance(failure(error), RequestValidationError)


# --- whatever comes

any_answers = st.one_of(
    st.builds(NoResponse, st.text(), st.booleans(), st.booleans()),
    st.builds(
        Response,
        st.sampled_from([200, 200, 200, 302, 400, 400, 404, 410, 422, 429, 500, 503])
        | st.integers(100, 599),
        header_lists,
        bodies,
        st.sampled_from(["", "", "", "is larger than 1 MiB"]),
    ).map(lambda answer: Response(answer.status, answer.headers) if answer.problem else answer),
    st.sampled_from([ok(), ok("CANCELLED"), ALREADY, NOT_CANCELLABLE, UNCLEAR, GONE, RESET, BUSY]),
)
any_settings = st.fixed_dictionaries(
    {
        "now": st.sampled_from([BEFORE, SUNSET, AFTER]),
        "api_version": st.sampled_from(["auto", "v1", "v2"]),
        "after_sunset": st.sampled_from(["migrate", "raise", "try"]),
        "v2_rollout": st.sampled_from([0, 100]),
        "already_cancelled": st.sampled_from(["raise", "return"]),
        "max_attempts": st.integers(1, 3),
        "timeout": st.sampled_from([0.5, 60, 600]),
    }
)


@given(
    st.lists(st.builds(Took, st.floats(0, 30), any_answers), min_size=12, max_size=12), any_settings
)
def test_cancel_gives_a_true_result_or_a_cancel_error_whatever_comes(
    script: list[Took], options: dict[str, Any]
) -> None:
    given_ = [took.answer for took in script]
    call = Play(script, **options)
    outcome: object
    try:
        outcome = call.run(drain=False)
    except CancelError as error:
        outcome = error
    heard = list(zip(call.requests, given_, strict=False))

    check_protocol(call, options)
    if isinstance(outcome, CancelResult):
        answer = given_[len(call.sends) - 1]
        assert isinstance(answer, Response)
        assert 200 <= answer.status < 300
        meant = json.loads(answer.body.decode("utf-8-sig"))
        assert int(meant["process_id"]) == outcome.process_id == JOB
        assert outcome.current_status == meant["current_status"]
        return
    assert isinstance(outcome, CancelError)
    assert pickle.loads(pickle.dumps(outcome)).args == outcome.args  # noqa: S301 (our own)
    unsure = any(
        (
            answer.sent
            if isinstance(answer, NoResponse)
            else answer.status >= 500 and answer.status != 501
        )
        for step, answer in heard
        if step.endswith("cancel")
    )
    if unsure and not isinstance(outcome, NotCancellableError | JobNotFoundError):
        assert outcome.outcome_unknown is True
    assert outcome.attempts == call.asked.count("cancel")


def check_protocol(call: Play, options: dict[str, Any]) -> None:
    (event,) = call.events
    cancels = [step for step in call.requests if step.endswith("cancel")]
    assert event.attempts == len(cancels)
    assert re.fullmatch(r"(v1)*(v2)*|(v2)*(v1)*", "".join(step[:2] for step in cancels))
    for version in ("v1", "v2"):
        assert cancels.count(f"{version} cancel") <= options["max_attempts"]
    assert all(send.timeout > 0 for send in call.sends)
    assert sum(call.pauses) < options["timeout"]
    assert all(pause > 0 for pause in call.pauses)
    if options["api_version"] == "v2" or (options["now"] >= SUNSET and event.route is not None):
        allowed = "v1" if (options["api_version"], options["after_sunset"]) == ("v1", "try") else ""
        assert "v1 cancel" not in cancels or allowed


@pytest.mark.parametrize("depth", [50, 400, 800, 970, 5_000])
def test_cancel_survives_absurd_depth(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    for answer in (
        said(422, b'{"detail":[{"loc":["x"],"msg":"no","ctx":' + deep + b"}]}"),
        said(401, b'{"detail":' + deep + b"}"),
        said(200, json.dumps(FIELDS).encode()[:-1] + b',"more":' + deep + b"}"),
    ):
        outcome: Any
        try:
            outcome = play(answer).run()
        except CancelError as error:
            outcome = error
        twin = pickle.loads(pickle.dumps(outcome))  # noqa: S301 (our own)
        assert type(copy.deepcopy(twin)) is type(outcome)
