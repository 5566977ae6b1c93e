"""The rewrite of other people's v1 requests (pure): recognise, to v2, and the answer back to v1.

``move`` is the protocol of one such request; ``interceptor`` and ``gateway`` drive it. What moves
stands in ``core.endpoints``, the version is ``core.routing``'s choice. A v1 that answers 410 is
followed by one request to v2; from v2 there is no way back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from revenuebase_compat.core import responses
from revenuebase_compat.core.calls import Call, CallContext, NoticeKind
from revenuebase_compat.core.decoding import unpack
from revenuebase_compat.core.endpoints import BY_V1_CALL, CANCEL, START, Endpoint, Request, to_v2
from revenuebase_compat.core.errors import ApiVersionRetiredError
from revenuebase_compat.core.models import check_process_id
from revenuebase_compat.core.routes import V1_GONE, V2, Phase, phase
from revenuebase_compat.core.routing import EvaluateFlag
from revenuebase_compat.core.settings import Settings

Headers = Sequence[tuple[bytes, bytes]]

#: Another path of v1, which the vendor's documents do not hold: it passes as it is.
UNKNOWN = Endpoint("unknown", "", "/v1/", None, None)

_PORTS = {"https": 443, "http": 80}

#: What to do instead of ``START``.
NO_FILE = (
    ": API v2 takes no file by its name; send the file itself with POST /v1/batch-upload (moved) "
    "or POST /v2/email/verify/batch"
)


def pass_through(
    settings: Settings, now: datetime, endpoint: Endpoint, call: str
) -> tuple[str, str | None, Phase, str]:
    """What there is to say at ``now`` of a request left to v1: call, successor, phase and words."""
    stage = phase(now, settings.v1_sunset)
    words = (
        f"RevenueBase API v1 {'ended' if stage is Phase.RETIRED else 'ends'} on "
        f"{settings.v1_sunset:%Y-%m-%d}, and {call} is left to it"
    )
    if endpoint.successor:
        words += f": its successor is {endpoint.successor}"
    elif endpoint is START:
        words += NO_FILE
    return call, endpoint.successor, stage, words


def no_job_words(endpoint: Endpoint) -> str:
    """The words for a request that should name a job, and does not."""
    return (
        f"a request to {endpoint.call} names no job as API v2 would have it: it is sent to "
        "v1 as it is, and answered there"
    )


@lru_cache(maxsize=16)
def origin(base_url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path of a checked base URL."""
    parts = urlsplit(base_url)
    host, scheme = parts.hostname or "", parts.scheme.lower()
    return scheme, host.rstrip("."), parts.port or _PORTS[scheme], unquote(parts.path.rstrip("/"))


@lru_cache(maxsize=64)
def recognise(
    base_url: str, method: str, scheme: str, host: str, port: int | None, target: str
) -> Endpoint | None:
    """Which endpoint of v1 a request asks for, if it goes to the host and port of ``base_url``.

    Args:
        host: a name or an address; IPv6 with or without brackets.
        port: ``None`` for the scheme's default.
        target: the request target, with its query: ``/path?query``, or absolute as to a proxy.
    """
    own_scheme, own_host, own_port, prefix = origin(base_url)
    target = target.partition("?")[0]
    if target[:1] != "/":
        try:
            parts = urlsplit(target)
            scheme, host, port, target = parts.scheme, parts.hostname or "", parts.port, parts.path
        except ValueError:
            return None
    if host != own_host and host.lower().strip("[]").rstrip(".") != own_host:
        return None
    scheme = scheme.lower()
    if scheme != own_scheme or (port or _PORTS[scheme]) != own_port:
        return None
    # Decoded once, as FastAPI does. Doubled and trailing slashes are other paths to it.
    path = unquote(target)
    if not path.startswith(prefix + UNKNOWN.path):
        return None
    return BY_V1_CALL.get((method, path.removeprefix(prefix)), UNKNOWN)


def process_id_of(headers: Headers, body: bytes) -> int | None:
    """The job a v1 body names, or ``None`` where the server shall have its own say.

    As v1 itself: JSON in any Unicode encoding, compressed or not, with an ``int``, an integral
    float or a string of digits under ``process_id``. Reads at most 1 MiB. Of the headers
    Content-Encoding alone counts: which content types v1 takes depends on its framework's release.
    """
    try:
        value = json.loads(unpack(0, headers, body).body)["process_id"]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return check_process_id(value)
    except (ValueError, RecursionError, LookupError, TypeError):
        return None


def to_v2_target(base_url: str, target: str, request: Request) -> str:
    """The target of that request: ``base_url``'s path before it, the caller's query after it."""
    authority = "" if target[:1] == "/" else "/".join(target.split("/", 3)[:3])
    _, slash, prefix = base_url.partition("://")[2].partition("/")
    _, mark, query = target.partition("?")
    return authority + slash + prefix + request.path + mark + query


def to_v2_headers(headers: Headers, endpoint: Endpoint) -> Headers:
    """The caller's headers, without those that described a body which is dropped.

    A POST without a body says so (RFC 9110, 8.6).
    """
    if endpoint.names_job:
        kept, framed = [pair for pair in headers if not describes_body(pair[0])], False
    elif endpoint.v2_method == endpoint.method:
        return headers
    else:
        kept = [*headers]
        framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in kept)
    if endpoint.v2_method == "POST" and not framed:
        kept.append((b"Content-Length", b"0"))
    return kept


@lru_cache(maxsize=128)
def describes_body(name: bytes) -> bool:
    """Whether a header of that name speaks of a body."""
    text = name.lower()
    return text.startswith(b"content-") or text in (b"transfer-encoding", b"trailer", b"expect")


def to_v1_status(endpoint: Endpoint, status: int) -> int:
    """The status that the caller's library sees.

    Where a redirect keeps the method (RFC 9110, 15.4.8 and 15.4.9), a library that believes it has
    sent a POST would repeat it; 303 has it follow with the GET that was sent.
    """
    turned = endpoint.v2_method == "GET" and endpoint.method == "POST"
    return 303 if turned and status in (307, 308) else status


def to_v1_body(status: int, headers: Headers, body: bytes) -> bytes:
    """The body of v2's answer, in v1's words: a 422 blames the body's field, not the path's.

    Every other body is the very object that came in; one that was compressed is so again.
    """
    if status != 422:
        return body
    response = unpack(status, headers, body)
    try:
        data: Any = json.loads(response.body)
        errors = [item for item in data["detail"] if item["loc"] == ["path", "process_id"]]
    except (ValueError, RecursionError, LookupError, TypeError):
        errors = []
    if not errors:
        return body
    for item in errors:
        item["loc"][0] = "body"
    translated = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    if response.body is body:
        return translated
    import zlib

    gzip = "gzip" in (response.header(b"content-encoding") or "")
    packer = zlib.compressobj(wbits=31 if gzip else 15)
    return packer.compress(translated) + packer.flush()


def to_v1_location(url: str, location: str) -> str:
    """A redirect of v2 made absolute: the caller would resolve it against the URL of v1."""
    try:
        return urljoin(url, location)
    except ValueError:
        return location


class Forward(NamedTuple):
    """Send this, or the caller's own request where it is ``None``; give back status and headers."""

    request: Request | None


MoveSteps = Generator[EvaluateFlag | Forward, Any, None]


def move(
    context: CallContext,
    endpoint: Endpoint,
    process_id: int | None = None,
    *,
    replayable: bool = True,
    strict: bool = False,
    leave: Callable[[Endpoint], object] = lambda endpoint: None,
    unsent: Callable[[Exception], bool] = lambda error: False,
) -> MoveSteps:
    """Decide on one recognised request, send it, and follow a v1 that answers 410.

    A call that failed is thrown in. Until the first ``Forward`` nothing has been sent.

    Args:
        endpoint: one that has a successor.
        process_id: the job, where the endpoint names one.
        replayable: whether the body can be sent a second time, should v1 answer 410; where it
            cannot, the 410 is the answer, and the memory of it moves the next request.
        strict: raise what v1 itself would otherwise say.
        leave: called before a request is left to v1, which it may refuse by raising.
        unsent: whether an exception thrown in says that nothing was sent.

    Raises:
        ApiVersionRetiredError: as ``cancel_job``, but only if ``strict``.
    """
    call = Call(context, process_id or 0, endpoint)
    call.quiet = endpoint is not CANCEL  # the drivers say themselves what is left to v1
    outcome, status = "interrupted", None
    try:
        try:
            yield from call.decide(process_id)
        except ApiVersionRetiredError:
            if strict:
                raise
        moved = call.route is not None and call.route.version is V2
        if not moved:
            leave(endpoint)
        call.attempts, call.maybe_applied = 1, True
        answer = yield Forward(to_v2(endpoint, process_id) if moved else None)
        if not moved:
            call.hear_v1(answer)
            if call.retired(answer) and (replayable or endpoint.names_job):
                call.attempts = 2
                call.switch(V1_GONE, NoticeKind.V1_GONE, answer)
                answer = yield Forward(to_v2(endpoint, process_id))
        status, call.maybe_applied = answer.status, responses.maybe_applied(answer)
        outcome = "cancelled" if 200 <= answer.status < 300 else "http_error"
    except Exception as error:
        outcome = type(error).__name__
        if call.attempts and unsent(error):
            call.unsent, call.maybe_applied = 1, False
        raise
    finally:
        if endpoint is CANCEL and call.attempts and call.settings.on_event is not None:
            with suppress(ImportError):  # of the event, where the interpreter ends
                context.emit(call.event(outcome, status_code=status))
