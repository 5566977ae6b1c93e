"""What a cancel comes to: lost answers, errors, and whatever else a server may send."""

from __future__ import annotations

import copy
import json
import pickle
import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revenuebase_compat import (
    AlreadyCancelledError,
    ApiVersionRetiredError,
    AuthenticationError,
    CancelError,
    CancelResult,
    CancelTimeoutError,
    EndpointNotFoundError,
    InsufficientCreditsError,
    JobNotFoundError,
    NotCancellableError,
    PermissionDeniedError,
    RateLimitError,
    RequestValidationError,
    ServerError,
    TransportError,
    UnexpectedResponseError,
)
from revenuebase_compat.core.decoding import AttemptOutcome, NoResponse, Response
from revenuebase_compat.core.routes import V2
from tests.core.play import (
    ALREADY,
    BUSY,
    GONE,
    HUNG,
    NOT_CANCELLABLE,
    REFUSED,
    RESET,
    UNCLEAR,
    Play,
    Took,
    ok,
    play,
    said,
)
from tests.core.test_decoding import FIELDS, JOB, bodies
from tests.core.test_responses import header_lists
from tests.support import AFTER, BEFORE, SUNSET

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
    assert (
        "API v2 gave no answer at https://api.revenuebase.ai: ReadError: connection reset"
        in str(error)
    )
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
