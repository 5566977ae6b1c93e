"""What an answer means: envelopes, hints to wait, announcements."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revenuebase_compat.core import responses
from revenuebase_compat.core.decoding import Response
from revenuebase_compat.core.responses import Announcement
from tests.core.test_decoding import bodies, json_values
from tests.support import AFTER, SUNSET

NOW = AFTER
CODES = ("already_cancelled", "not_cancellable")
PROSE = {
    "already_cancelled": [
        "Job is already cancelled.",
        "Job is already canceled",
        "JOB 42 IS ALREADY CANCELLED",
        "This process has already been cancelled.",
        "Job is already being cancelled.",
        "Job is already cancelling",
        "Already cancelled",
    ],
    "not_cancellable": [
        "Job is not cancellable.",
        "Process is not cancelable",
        "A job in state COMPLETED cannot be cancelled.",
        "Job can not be canceled",
        "Job can't be cancelled.",
        "Job can’t be cancelled.",
        "This job can no longer be cancelled.",
    ],
}


def answer(body: object = b"", status: int = 400, **headers: str) -> Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    pairs = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return Response(status, pairs, raw)


def code_of(body: object) -> str | None:
    return responses.read_error(answer(body)).code


# --- the code


def envelopes(code: str, prose: str) -> list[object]:
    return [
        {"detail": code},
        {"detail": {"error": code, "message": prose}},
        {"detail": {"code": code, "message": prose}},
        {"detail": {"code": code}},
        {"error": code, "message": prose},
        {"error": code},
        {"error": {"code": code, "message": prose}},
        {"code": code, "detail": prose},
        {"code": code},
        {"message": code},
        {"detail": prose},
        {"detail": {"message": prose}},
        {"message": prose},
        {"error": prose},
        code,
        prose,
        {"type": code, "title": prose, "status": 400, "detail": prose},
        {"type": f"https://api.example.com/errors/{code}", "title": "x", "status": 400},
        {"type": f"https://api.example.com/errors/{code}/", "title": "x"},
        {"type": f"https://api.example.com/errors#{code.replace('_', '-')}", "title": "x"},
        {"type": f"urn:problem-type:{code.replace('_', '-')}", "title": "x"},
        {"type": f"/problems/{code}", "title": "Bad Request", "detail": "Job 42."},
        {"type": "about:blank", "title": "Bad Request", "status": 400, "detail": prose},
        {"type": "about:blank", "title": prose, "status": 400},
        {"title": prose},
        {"detail": prose, "code": "E1001", "status": "error", "request_id": "abc"},
    ]


@pytest.mark.parametrize("code", CODES)
def test_read_error_reads_every_envelope_alike(code: str) -> None:
    for prose in PROSE[code]:
        for envelope in envelopes(code, prose):
            assert code_of(envelope) == code, envelope


@pytest.mark.parametrize("code", CODES)
def test_read_error_knows_spellings_of_the_code(code: str) -> None:
    american = code.replace("cancelled", "canceled").replace("cancellable", "cancelable")
    for spelling in (code, american):
        for form in (spelling, spelling.upper(), spelling.title(), spelling.replace("_", "-")):
            assert code_of({"detail": form}) == code
            assert code_of({"detail": {"code": form}}) == code


def test_read_error_prefers_a_code_to_prose() -> None:
    body = {"code": "not_cancellable", "detail": "Job is already cancelled."}
    assert code_of(body) == "not_cancellable"


@pytest.mark.parametrize(
    "body",
    [
        {"detail": "Job cannot be cancelled: it is already cancelled."},
        {"detail": "Job is not cancellable or already being cancelled."},
        {"detail": "already_cancelled", "error": "not_cancellable"},
        {"detail": {"code": "already_cancelled"}, "code": "not_cancellable"},
        {"detail": "Invalid process_id"},
        {"detail": "This job is not yours."},
        {"detail": "Job 42 is CANCELLED"},
        {"detail": "Cancelled jobs are kept for 30 days"},
        {"detail": "Job was cancelled already"},
        # That a cancel failed does not say that the job is over: it may not be there at all.
        {"detail": "Could not cancel job 42: no such process"},
        {"detail": "Cannot cancel job: invalid process_id"},
        {"detail": "Unable to cancel process"},
        {"detail": "Job was not cancelled: it is not yours."},
        {"detail": ""},
        {"detail": None},
        {"detail": ["already_cancelled"]},
        {"detail": {"reason": {"code": "already_cancelled"}}},
        {"status": 400},
        [],
        "",
        None,
        b"",
        b"Bad Request",
        b"<h1>already_cancelled</h1>",
        b'{"detail": "already_cancelled"',
        b'{"detail": "x", "detail": "already_cancelled"}',
    ],
)
def test_read_error_finds_no_code_where_none_is_said(body: object) -> None:
    assert code_of(body) is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"code": "quota_exceeded", "detail": "Too much."}, "quota_exceeded"),
        ({"detail": {"error": "E1001", "message": "No."}}, "E1001"),
        ({"error": "Forbidden", "message": "No."}, "Forbidden"),
        ({"type": "https://api.example.com/errors/out-of-credits"}, "out-of-credits"),
        ({"error": "no such thing", "message": "No."}, None),
        ({"detail": "Unauthorized"}, None),
        ({"code": 17, "detail": "No."}, None),
    ],
)
def test_read_error_keeps_other_codes_of_the_server(body: object, code: str | None) -> None:
    assert code_of(body) == code


# --- the words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"detail": "Not authenticated"}, "Not authenticated"),
        ({"detail": {"code": "x_y", "message": "Words."}}, "Words."),
        ({"error": "x_y", "message": "Words."}, "Words."),
        ({"message": "One.", "detail": "Two."}, "Two.; One."),
        ({"detail": "Same.", "message": "Same."}, "Same."),
        ({"error": "x_y"}, "x_y"),
        ({"type": "about:blank", "title": "Bad Request"}, "Bad Request"),
        ("Just a text", "Just a text"),
        (b"Bad   Gateway\r\n", "Bad Gateway"),
        (b"<html>\x00\x1b[31m502</html>", "<html> [31m502</html>"),
        (b"caf\xe9", "caf\ufffd"),
        (b"", ""),
        ({}, ""),
        ([], ""),
    ],
)
def test_read_error_gives_the_servers_own_words(body: object, words: str) -> None:
    assert responses.read_error(answer(body)).words == words


@pytest.mark.parametrize("body", [{"detail": "a" * 5000}, b"a" * 500_000, {"code": "a" * 500_000}])
def test_read_error_keeps_words_and_codes_short(body: object) -> None:
    found = responses.read_error(answer(body))
    assert len(found.words) <= 300
    assert len(found.code or "") <= 300


@given(st.text())
def test_readable_is_one_short_printable_line(text: str) -> None:
    line = responses.readable(text)
    assert len(line) <= 300
    assert line.isprintable()
    assert line == line.strip()


def test_read_error_tells_a_422_field_by_field() -> None:
    errors = [
        {"loc": ["path", "process_id"], "msg": "Input should be an integer", "type": "int"},
        {"loc": ["body", "items", 0], "msg": "Field required", "type": "missing", "ctx": {"a": 1}},
        {"msg": "No place", "type": "x"},
    ]
    found = responses.read_error(answer({"detail": errors}, 422))
    assert found.errors == errors
    assert found.code is None
    assert found.words == (
        "path.process_id: Input should be an integer; body.items.0: Field required; No place"
    )


def test_read_error_leaves_out_odd_items_of_a_422() -> None:
    found = responses.read_error(
        answer({"detail": ["text", None, {"loc": "x", "msg": 5}, []]}, 422)
    )
    assert found.errors == [{"loc": "x", "msg": 5}]
    assert found.words == "5"


names = st.sampled_from(["code", "error", "type", "detail", "message", "title", "msg", "loc"])
texts = st.sampled_from([*CODES, *PROSE["already_cancelled"], *PROSE["not_cancellable"]])
complaints = st.recursive(
    texts | json_values,
    lambda inner: st.dictionaries(names, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=8,
)


@given(bodies | complaints.map(lambda value: json.dumps(value).encode()))
def test_read_error_raises_for_no_body(body: bytes) -> None:
    found = responses.read_error(answer(body))
    assert found.code is None or isinstance(found.code, str)
    assert len(found.words) <= 300
    assert all(isinstance(item, dict) for item in found.errors)


# Around the interpreter's limit too, where reading and showing may differ by a level or two.
@pytest.mark.parametrize("depth", [50, 400, 700, *range(900, 1000, 3), 5_000, 100_000])
def test_read_error_raises_for_no_depth(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    for body in (
        deep,
        b'{"detail":' + deep + b"}",
        b'{"detail":[{"loc":' + deep + b',"msg":' + deep + b"}]}",
        b'{"code":' + b'{"code":' * depth + b"1" + b"}" * depth + b"}",
    ):
        found = responses.read_error(answer(body))
        assert found.code is None
        assert len(found.words) <= 300


# --- whether to retry


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_should_retry_what_passes(status: int) -> None:
    assert responses.should_retry(answer(status=status))
    assert not responses.should_retry(answer(status=status, x_should_retry="false"))
    assert not responses.should_retry(answer(status=status, X_Should_Retry=" False "))
    assert responses.should_retry(answer(status=status, x_should_retry="maybe"))


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 410, 418, 422, 501, 505, 599])
def test_should_retry_nothing_that_stands(status: int) -> None:
    assert not responses.should_retry(answer(status=status))
    assert not responses.should_retry(answer(status=status, x_should_retry="1"))
    assert responses.should_retry(answer(status=status, x_should_retry="true"))


@pytest.mark.parametrize("status", [200, 202, 204, 301, 307, 399])
def test_should_retry_no_answer_that_is_no_error(status: int) -> None:
    assert not responses.should_retry(answer(status=status, x_should_retry="true"))


def test_maybe_applied_by_status() -> None:
    unsure = {
        status for status in range(100, 600) if responses.maybe_applied(answer(status=status))
    }
    assert unsure == set(range(500, 600)) - {501}


# --- how long to wait

DATE = format_datetime(NOW - timedelta(hours=1), usegmt=True)  # their clock is an hour behind
IN_7_S = format_datetime(NOW - timedelta(hours=1) + timedelta(seconds=7), usegmt=True)
RESET = str(int((NOW + timedelta(seconds=30)).timestamp()))


def wait(**headers: str) -> float | None:
    return responses.retry_wait(answer(status=429, **headers), NOW)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7),
        ({"Retry_After": " 7 "}, 7),
        ({"retry_after": "0"}, 0),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after": "86400"}, 86_400),
        ({"retry_after_ms": "1500"}, 1.5),
        ({"retry_after_ms": "0"}, 0),
        ({"retry_after": IN_7_S, "date": DATE}, 7),
        ({"retry_after": format_datetime(NOW + timedelta(seconds=9), usegmt=True)}, 9),
        ({"x_ratelimit_reset": RESET}, 30),
        ({"x_ratelimit_reset": f"{RESET}.5"}, 30.5),
        ({"x_ratelimit_reset": RESET, "date": DATE}, 3630),
    ],
)
def test_retry_wait_reads_hints(headers: dict[str, str], seconds: float | None) -> None:
    assert wait(**headers) == seconds


NONSENSE = [
    *("", " ", "-1", "-0", "+7", "7s", "7 s", "soon", "1e3", "0x7", "7,5", "1_0", "٧", "7;8"),
    *("nan", "inf", "-inf", "None", "true", "1" * 16, "9" * 5000, "99999999"),
    "Sat, 01 Aug 2020 00:00:00 GMT",  # in the past
    "Sat, 01 Aug 9999 00:00:00 GMT",
    "Sat, 99 Aug 2026 00:00:00 GMT",
    "2026-08-01T00:00:07Z",
]


@pytest.mark.parametrize("text", NONSENSE)
def test_retry_wait_ignores_nonsense(text: str) -> None:
    assert wait(retry_after=text) is None
    assert wait(retry_after_ms=text) in (None, 99999.999)
    assert wait(x_ratelimit_reset=text) is None


def test_retry_wait_takes_hints_in_this_order() -> None:
    every = {"retry_after_ms": "1000", "retry_after": "2", "x_ratelimit_reset": RESET}
    assert wait(**every) == 1
    assert wait(**{**every, "retry_after_ms": "-1"}) == 2
    assert wait(**{**every, "retry_after_ms": "", "retry_after": "nonsense"}) == 30
    assert wait(retry_after="nonsense", retry_after_ms="?", x_ratelimit_reset="?") is None


def test_retry_wait_takes_the_reset_on_a_429_only() -> None:
    busy = answer(status=503, x_ratelimit_reset=RESET)
    assert responses.retry_wait(busy, NOW) is None
    busy = answer(status=503, x_ratelimit_reset=RESET, retry_after="2")
    assert responses.retry_wait(busy, NOW) == 2


def test_retry_wait_takes_our_date_where_the_servers_makes_no_sense() -> None:
    assert wait(date="yesterday", x_ratelimit_reset=RESET) == 30


def reset(**headers: str) -> datetime | None:
    return responses.reset_at(answer(status=429, **headers), NOW)


def test_reset_at_is_by_the_servers_clock() -> None:
    assert reset() is None
    assert reset(retry_after="7") == NOW + timedelta(seconds=7)
    assert reset(x_ratelimit_reset=RESET, date=DATE) == NOW + timedelta(seconds=30)
    assert reset(retry_after="7", date=DATE) == NOW - timedelta(hours=1) + timedelta(seconds=7)


def test_retry_wait_overflows_for_no_date() -> None:
    last = "Fri, 31 Dec 9999 23:59:59 GMT"
    found = reset(retry_after="7", date=last)
    assert found is None or found >= NOW
    assert wait(retry_after="7", date=last) == 7


header_values = st.sampled_from(
    [*NONSENSE, DATE, IN_7_S, RESET, "7", "7.5", "Fri, 31 Dec 9999 23:59:59 GMT"]
) | st.text(st.characters(max_codepoint=255))
header_lists = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *(b"retry-after", b"retry-after-ms", b"x-should-retry", b"x-ratelimit-reset"),
                *(b"date", b"sunset", b"deprecation", b"link", b"location", b"content-encoding"),
                *(b"x-ratelimit-limit", b"x-ratelimit-remaining"),
            ]
        ),
        header_values.map(lambda text: text.encode("latin-1", "replace")) | st.binary(),
    ),
    max_size=6,
)


@given(header_lists, st.integers(100, 599), st.datetimes())
def test_retry_wait_raises_for_no_header(
    headers: list[tuple[bytes, bytes]], status: int, moment: datetime
) -> None:
    now = moment.replace(tzinfo=NOW.tzinfo)
    response = Response(status, headers)
    assert responses.should_retry(response) in (True, False)
    seconds = responses.retry_wait(response, now)
    assert seconds is None or 0 <= seconds <= 31 * 86_400
    when = responses.reset_at(response, now)
    assert when is None or when.utcoffset() == timedelta(0)
    said = responses.announcement(response)
    assert said is None or said[0] is None or said[0].utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *((None, None), ("", None), ("60", 60), ("0", 0), ("-1", None), ("60.0", None)),
        *(("1" * 16, None), ("٦", None), ("60, 60", None)),
    ],
)
def test_count_reads_whole_numbers(text: str | None, number: int | None) -> None:
    assert responses.count(text) == number


# --- what is announced

SINCE = datetime(2026, 1, 1, tzinfo=NOW.tzinfo)
SUNSET_TEXT = "Tue, 07 Jul 2026 00:00:00 GMT"


def announced(*headers: tuple[str, str]) -> Announcement | None:
    pairs = [(name.encode(), text.encode()) for name, text in headers]
    return responses.announcement(Response(200, pairs))


def test_announcement_of_an_answer_without_one() -> None:
    assert announced() is None
    assert announced(("date", DATE), ("link", '<https://x.example>; rel="next"')) is None


def test_announcement_of_the_three_headers() -> None:
    assert announced(("Sunset", SUNSET_TEXT)) == (SUNSET, None)
    since = f"@{int(SINCE.timestamp())}"
    assert announced(("Deprecation", since)) == (None, None)
    link = '<https://x.example/v2>; rel="successor-version"'
    found = announced(("Sunset", SUNSET_TEXT), ("Deprecation", since), ("Link", link))
    assert found == (SUNSET, "https://x.example/v2")


@pytest.mark.parametrize(
    "links",
    [
        ['</v2/jobs>; rel="successor-version"'],
        ["</v2/jobs>;rel=successor-version"],
        ['</v2/jobs>; REL="Successor-Version"'],
        ['</v2/jobs>; title="API v2"; rel="successor-version"'],
        ['</v2/jobs>; rel="successor-version"; title="API v2"'],
        ['</sunset>; rel="sunset", </v2/jobs>; rel="successor-version"'],
        ['</v2/jobs>; rel="successor-version", </sunset>; rel="sunset"'],
        # RFC 9110, 5.3: several lines are one list.
        ['</sunset>; rel="sunset"', '</v2/jobs>; rel="successor-version"'],
        # RFC 8288, 3.3: a link may have several relations.
        ['</v2/jobs>; rel="latest-version successor-version"'],
    ],
)
def test_announcement_reads_forms_of_the_link(links: list[str]) -> None:
    found = announced(*(("link", text) for text in links))
    assert found == (None, "/v2/jobs")


@pytest.mark.parametrize(
    "headers",
    [
        ("sunset", "2026-07-07"),
        ("sunset", "soon"),
        ("sunset", "@1783382400"),
        ("deprecation", "true"),
        ("deprecation", "@"),
        ("deprecation", "@-1"),
        ("deprecation", "@soon"),
        ("deprecation", "@" + "9" * 12),
        ("deprecation", "@" + "9" * 5000),
        ("link", '<>; rel="successor-version"'),
        ("link", '</v2>; rel="successor-versions"'),
        ("link", '</v2>; rel="predecessor-version"'),
        ("link", '</v2>; rel="x"; title="successor-version"'),
        ("link", 'rel="successor-version"'),
    ],
)
def test_announcement_of_nonsense_is_none(headers: tuple[str, str]) -> None:
    assert announced(headers) is None


@pytest.mark.parametrize(
    "text", ["<a>" + ";" * 250 + " " * 60_000, "<a" * 30_000, "<a>;" * 15_000, "<" + "a" * 60_000]
)
def test_announcement_reads_a_hostile_link_in_no_time(text: str) -> None:
    started = time.process_time()
    assert announced(("link", text)) is None
    # It takes some milliseconds of the processor; with backtracking it would take minutes.
    assert time.process_time() - started < 10


def test_announcement_successor_is_one_printable_line() -> None:
    found = announced(("link", '<https://x.example/\x1b[31m\x00>; rel="successor-version"'))
    assert found is not None
    assert found[1] is not None
    assert found[1].isprintable()


def test_statuses_are_the_published_numbers() -> None:
    assert responses.GONE == 410
    assert sorted(responses.MISSING) == [404, 405, 501]
    assert sorted(responses.RETRYABLE) == [408, 429, 500, 502, 503, 504]
    assert CODES == (responses.ALREADY_CANCELLED, responses.NOT_CANCELLABLE)
