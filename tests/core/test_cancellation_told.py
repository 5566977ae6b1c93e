"""What a cancel tells: the status that is waited for, events, notices, and never the key."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revenuebase_compat import (
    AlreadyCancelledError,
    ApiDeprecationWarning,
    ApiVersionRetiredError,
    CancelError,
    CancelEvent,
    NotCancellableError,
    PermissionDeniedError,
    RequestValidationError,
)
from revenuebase_compat.core import cancellation
from revenuebase_compat.core.calls import Notice, NoticeKind
from revenuebase_compat.core.decoding import AttemptOutcome, NoResponse
from revenuebase_compat.core.routes import V2
from tests.core.play import (
    ALREADY,
    BASE,
    BUSY,
    GONE,
    HUNG,
    REFUSED,
    RESET,
    UNCLEAR,
    Play,
    Took,
    ok,
    play,
    said,
)
from tests.core.test_decoding import FIELDS, JOB, json_values
from tests.core.test_errors import everything_shown
from tests.support import AFTER, BEFORE, SUNSET

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
