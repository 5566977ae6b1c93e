"""One table of scenarios: what a caller gets when the first answer to a cancel is a fault.

The faults are those of ``fault_server.CATALOGUE``. After the fault the server is truthful, so
most calls end well; ``test_scenarios`` runs each through both drivers and both versions.
"""

from __future__ import annotations

from dataclasses import dataclass

import revenuebase_compat as rc
from tests.support import fault_server


@dataclass(frozen=True)
class Outcome:
    """What a call comes to: a result (``error`` is ``None``), or an error and its facts."""

    error: type[rc.CancelError] | None = None
    requests: tuple[str, ...] = ("cancel",)
    words: str = ""
    unknown: bool = False
    #: Waits between attempts, in seconds; the tests' jitter is 0.5, so the first backoff is 0.25.
    slept: tuple[float, ...] = ()


RIGHT = Outcome()
RETRIED = Outcome(requests=("cancel", "cancel"), slept=(0.25,))
READ_BACK = Outcome(requests=("cancel", "cancel", "status"), slept=(0.25,))


def unusable(words: str) -> Outcome:
    """A yes that cannot be trusted: whether the job was cancelled is unknown."""
    return Outcome(rc.UnexpectedResponseError, words=words, unknown=True)


def refused(error: type[rc.CancelError], words: str) -> Outcome:
    return Outcome(error, words=words)


def waited(seconds: float) -> Outcome:
    """Retried when the server asked for it."""
    return Outcome(requests=("cancel", "cancel"), slept=(seconds,) if seconds else ())


TOO_LARGE = unusable("the body is larger than 1 MiB")
NOT_FOLLOWED = refused(rc.UnexpectedResponseError, "is not followed")

#: Where no entry stands here, the family's rule below holds.
OUTCOMES: dict[str, Outcome] = {
    "endless_body": TOO_LARGE,
    "trickle_body": RETRIED,
    "trickle_headers": RETRIED,
    "endless_informational": RETRIED,
    "applied_trickle_body": READ_BACK,
    "huge_body": TOO_LARGE,
    "gzip_bomb": TOO_LARGE,
    "deflate_bomb": TOO_LARGE,
    "gzip_bomb_in_gzip": unusable("has a content-encoding that was not asked for"),
    "header_bomb": READ_BACK,
    "long_header": READ_BACK,
    "http_09": READ_BACK,
    "two_content_lengths": READ_BACK,
    "zero_in_header": READ_BACK,
    "length_and_chunked": unusable("is about another job, 999983"),
    "bom": RIGHT,
    "brotli_garbage": unusable("has a content-encoding that was not asked for"),
    "broken_gzip": unusable("is not what its content-encoding says"),
    "cut_gzip": unusable("is not what its content-encoding says"),
    "plain_as_gzip": unusable("is not what its content-encoding says"),
    "latin_1": unusable("is not UTF-8"),
    "utf_16": unusable("is not UTF-8"),
    "surrogate": unusable("holds half a surrogate pair"),
    "wrong_job": unusable("is about another job, 999983"),
    "negative_id": unusable("is about another job, -1"),
    "ambiguous_id": unusable("is ambiguous"),
    "ambiguous_status": unusable("is ambiguous"),
    "empty_200": unusable("is empty"),
    "blank_200": unusable("is empty"),
    "no_content": unusable("answered 204, but the body is empty"),
    "list": unusable("is a list, not an object"),
    "string": unusable("is a text, not an object"),
    "null": unusable("is null, not an object"),
    "error_in_200": unusable("lacks process_id, filename, current_status, message"),
    "float_id": unusable("gives process_id as a fraction"),
    "bool_id": unusable("gives process_id as a boolean"),
    "words_for_id": unusable("gives process_id as a text"),
    "nan_id": unusable("holds NaN"),
    "nan_extra": unusable("holds NaN"),
    "infinity_extra": unusable("holds Infinity"),
    "number_for_status": unusable("gives current_status as an integer"),
    "list_for_filename": unusable("gives filename as a list"),
    "object_for_message": unusable("gives message as an object"),
    "deep_nesting": unusable("is nested too deeply"),
    "huge_int": unusable("holds a number of absurd length"),
    **{f"no_{name}": unusable(f"lacks {name}") for name in fault_server.job_body(1)},
    **{f"null_{name}": unusable(f"gives {name} as null") for name in fault_server.job_body(1)},
    "status_400": Outcome(
        rc.UnexpectedResponseError, ("cancel", "status"), "names no code, and the job is QUEUED"
    ),
    "status_401": refused(rc.AuthenticationError, "answered 401: Not authenticated"),
    "status_402": refused(rc.InsufficientCreditsError, "answered 402: Not enough credits"),
    "status_403": refused(rc.PermissionDeniedError, "answered 403: Endpoint not allowed"),
    "status_404": refused(rc.EndpointNotFoundError, "answered 404: Not Found"),
    "status_405": refused(rc.EndpointNotFoundError, "answered 405: Method Not Allowed"),
    "status_501": refused(rc.EndpointNotFoundError, "answered 501: Not Implemented"),
    "gone": refused(rc.ApiVersionRetiredError, "answered 410: API v1 was retired"),
    "gone_announced": refused(rc.ApiVersionRetiredError, "answered 410: API v1 was retired"),
    "status_409": refused(rc.UnexpectedResponseError, "answered 409: Conflict; nobody published"),
    "status_418": refused(rc.UnexpectedResponseError, "nobody published that status"),
    "status_422": refused(rc.RequestValidationError, "path.process_id: Input should be valid"),
    "status_599": Outcome(rc.ServerError, words="answered 599", unknown=True),
    "do_not_retry": Outcome(rc.ServerError, words="answered 503", unknown=True),
    "retry_now": waited(0),
    "retry_after": waited(1),
    "retry_after_hour": refused(rc.RateLimitError, "answered 429: Rate limit exceeded"),
    "retry_after_date": waited(2),
    "reset_soon": waited(2),
    **{f"redirect_{code}": NOT_FOLLOWED for code in (301, 302, 303, 307, 308, "nowhere")},
    "echo_key_403": refused(rc.PermissionDeniedError, "answered 403: Your key is ***"),
    "accepted": RIGHT,
    **{f"applied_{status}": READ_BACK for status in (500, 502, 503, 504)},
}

#: Before the sunset these faults of v1 send the call to v2.
LEAVE_V1 = {"status_404", "status_405", "status_501", "gone", "gone_announced"}

_FAMILY_RULES = {
    "odd but right": RIGHT,
    "not HTTP": RETRIED,
    "body": unusable("is not JSON"),
    "status": RETRIED,
}


def outcome_of(family: str, name: str) -> Outcome:
    if name in OUTCOMES:
        return OUTCOMES[name]
    if family == "lost":
        return READ_BACK if name.startswith("applied_") else RETRIED
    return _FAMILY_RULES[family]
