"""The rewrite of other people's v1 requests (pure): recognise, move up, translate back down.

``move`` is the protocol of one such request, as a generator; ``patches`` drives it.

==========================================  =========================
what arrives                                what leaves
==========================================  =========================
``POST /v1/cancel-process``                 ``POST /v2/jobs/42/cancel``
``POST /v1/batch-process-email-status``     ``GET /v2/jobs/42``
any other ``/v1/`` path of that host        itself, with one notice
everything else                             itself
==========================================  =========================

Which version a recognised request goes to is ``core.cancellation.route``'s to say, as for our own.
A v1 that answers 410 is followed by one request to v2; from v2 there is no way back.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from revenuebase_compat.core import cancellation, responses
from revenuebase_compat.core.decoding import Response, unpack
from revenuebase_compat.core.errors import ApiVersionRetiredError, InvalidProcessIdError
from revenuebase_compat.core.events import CancelEvent
from revenuebase_compat.core.models import check_process_id
from revenuebase_compat.core.notices import Notice, NoticeKind
from revenuebase_compat.core.protocol import WIRES, Request
from revenuebase_compat.core.routes import V1_GONE, Route
from revenuebase_compat.core.routing import EvaluateFlag, may_leave_v1
from revenuebase_compat.core.settings import Settings
from revenuebase_compat.core.versions import V2, Phase, phase

Headers = Sequence[tuple[bytes, bytes]]


class Endpoint(Enum):
    """What of v1 a request asks for."""

    CANCEL = "/v1/cancel-process"
    STATUS = "/v1/batch-process-email-status"
    #: Another path of v1: it passes untouched.
    OTHER = "/v1/"


_MOVED = {("POST", one.value): one for one in (Endpoint.CANCEL, Endpoint.STATUS)}

#: Which call of v2 took the place of which call of v1 (contract/CONTRACT.md: the vendor's SDK).
SUCCESSORS = {
    ("GET", "/v1/credits"): "GET /v2/account/balance",
    ("GET", "/v1/new-api-key"): "POST /v2/account/api-keys/rotate",
    ("POST", "/v1/process-email"): "POST /v2/email/verify",
    ("POST", "/v1/batch-upload"): "POST /v2/email/verify/batch",
    ("POST", "/v1/batch-process-email"): "POST /v2/email/verify/batch (upload the file again)",
    ("POST", "/v1/batch-process-email-status"): "GET /v2/jobs/{process_id}",
    ("GET", "/v1/queued-process"): "GET /v2/jobs",
    ("POST", "/v1/cancel-process"): "POST /v2/jobs/{process_id}/cancel",
    ("POST", "/v1/batch-download"): "GET /v2/jobs/{process_id}/download",
}

#: The words for a request that is moved.
MOVED = {
    one: f"this program's POST {one.value} is sent as {SUCCESSORS['POST', one.value]}"
    for one in (Endpoint.CANCEL, Endpoint.STATUS)
}

_PORTS = {"https": 443, "http": 80}


class Untouched(NamedTuple):
    """What there is to say of a v1 request that passes as it is."""

    successor: str | None
    phase: Phase
    words: str


def untouched(settings: Settings, now: datetime, method: str, path: str) -> Untouched:
    """The words for such a request at ``now``, with the successor that the vendor published."""
    successor = SUCCESSORS.get((method, path.rstrip("/")))
    stage = phase(now, settings.v1_sunset)
    call = f"{method} {path}" if successor else "a call that is not known here"
    words = (
        f"RevenueBase API v1 {'ended' if stage is Phase.RETIRED else 'ends'} on "
        f"{settings.v1_sunset:%Y-%m-%d}, and {call} passes untouched"
        + (f": its successor is {successor}" if successor else "")
    )
    return Untouched(successor, stage, words)


def no_job(endpoint: Endpoint) -> str:
    """The words for a cancel or status request whose body names no job."""
    return (
        f"a request to POST {endpoint.value} names no job as API v2 would have it: it is sent to "
        "v1 as it is, and answered there"
    )


def elsewhere(url: str, base_url: str) -> str:
    """The words for a cancel request to another host than the API's."""
    return (
        f"POST {Endpoint.CANCEL.value} to {url} passes as it is, as base_url is {base_url}: to "
        "move it, set REVENUEBASE_BASE_URL to the one that the program uses"
    )


@lru_cache(maxsize=16)
def _origin(base_url: str) -> tuple[str, str, int, str]:
    parts = urlsplit(base_url)
    host, scheme = parts.hostname or "", parts.scheme.lower()
    return scheme, host.rstrip("."), parts.port or _PORTS[scheme], unquote(parts.path.rstrip("/"))


@lru_cache(maxsize=16)
def recognise(
    base_url: str, method: str, scheme: str, host: str, port: int | None, target: str
) -> Endpoint | None:
    """What of v1 a request asks for, if it goes to the host and port of ``base_url`` at all.

    Args:
        base_url: the API's, as ``Settings.base_url`` holds it; may have a path of its own.
        method, scheme: as they are sent.
        host: a name or an address; IPv6 with or without brackets.
        port: ``None`` for the scheme's default.
        target: the request target, with its query: ``/path?query``, or absolute as to a proxy.
    """
    own_scheme, own_host, own_port, _ = _origin(base_url)
    if target[:1] != "/":
        scheme, host, port, target = _absolute(target) or ("", "", None, "")
    if host != own_host and host.lower().strip("[]").rstrip(".") != own_host:
        return None
    scheme = scheme.lower()
    if scheme != own_scheme or (port or _PORTS[scheme]) != own_port:
        return None
    path = v1_path(base_url, target)
    if path is None:
        return None
    return _MOVED.get((method, path), Endpoint.OTHER)


def v1_path(base_url: str, target: str) -> str | None:
    """The target's path below ``base_url``, as a server reads it, if it is one of v1."""
    if target[:1] != "/":
        target = (_absolute(target) or ("", "", None, ""))[3]
    prefix = _origin(base_url)[3]
    # Decoded once, as FastAPI does. Doubled and trailing slashes are other paths to it.
    path = unquote(target.partition("?")[0])
    if not path.startswith(prefix + Endpoint.OTHER.value):
        return None
    return path[len(prefix) :]


def _absolute(target: str) -> tuple[str, str, int | None, str] | None:
    """Scheme, host, port and target of an absolute URL."""
    try:
        parts = urlsplit(target)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not host:
        return None
    return parts.scheme, host, port, (parts.path or "/") + ("?" + parts.query) * bool(parts.query)


def process_id_of(headers: Headers, body: bytes) -> int | None:
    """The job a v1 body names, or ``None`` where the server shall have its own say.

    It is what v1 itself makes of it: JSON in any Unicode encoding, compressed or not, with an
    ``int``, an integral float or a string of digits under ``process_id``. Reads at most 1 MiB.
    The content type is not looked at: which of them v1 takes depends on its framework's release.
    """
    request = unpack(0, headers, body)
    if request.problem:
        return None
    try:
        data = json.loads(request.body)
    except (ValueError, RecursionError):
        return None
    value = data.get("process_id") if isinstance(data, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return check_process_id(value)
    except InvalidProcessIdError:
        return None


def to_v2_request(endpoint: Endpoint, process_id: int) -> Request:
    """The request of v2 that asks for the same."""
    wire = WIRES[V2]
    return (wire.status if endpoint is Endpoint.STATUS else wire.cancel)(process_id)


def to_v2_target(base_url: str, target: str, request: Request) -> str:
    """The target of that request: ``base_url``'s path before it, the caller's query after it."""
    authority = "" if target[:1] == "/" else "/".join(target.split("/", 3)[:3])
    _, mark, query = target.partition("?")
    return authority + urlsplit(base_url).path + request.path + mark + query


def to_v2_headers(headers: Headers, request: Request) -> list[tuple[bytes, bytes]]:
    """The caller's headers, the key among them, without those that described the v1 body."""
    kept = [(name, value) for name, value in headers if not describes_body(name.lower())]
    if request.method == "POST":
        kept.append((b"Content-Length", b"0"))
    return kept


def describes_body(name: bytes) -> bool:
    """Whether a header of that (lower-case) name speaks of a body."""
    return name.startswith(b"content-") or name in (b"transfer-encoding", b"trailer", b"expect")


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
        return body
    if not errors:
        return body
    for item in errors:
        item["loc"][0] = "body"
    translated = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    return translated if response.body is body else _pack(response, translated)


def _pack(response: Response, body: bytes) -> bytes:
    import zlib

    gzip = "gzip" in (response.header(b"content-encoding") or "")
    packer = zlib.compressobj(wbits=31 if gzip else 15)
    return packer.compress(body) + packer.flush()


def to_v1_location(url: str, location: str) -> str:
    """A redirect of v2 made absolute: the caller would resolve it against the URL of v1."""
    try:
        return urljoin(url, location)
    except ValueError:
        return location


class Forward(NamedTuple):
    """An command: send this, or the caller's own request where it is ``None``.

    What is sent back is the ``Response``, of which status and headers suffice.
    """

    request: Request | None


MoveSteps = Generator[EvaluateFlag | Forward, Any, None]


def move(
    context: cancellation.CallContext, endpoint: Endpoint, process_id: int, *, strict: bool = False
) -> MoveSteps:
    """Decide on one recognised request, send it, and follow a v1 that answers 410.

    A call that failed is thrown in. Until the first ``Forward`` nothing has been sent.

    Raises:
        ApiVersionRetiredError: as ``cancel_job``, but only if ``strict``; v1 says so itself.
    """
    settings, started, now = context.settings, context.monotonic(), cancellation.now_of(context)
    cancels = endpoint is Endpoint.CANCEL
    chosen: Route | None = None
    attempts, outcome, status, unknown = 0, "interrupted", None, False

    def tell(kind: NoticeKind, answer: Response | None = None, *facts: Any) -> None:
        if cancels:
            code = answer.status if answer else None
            context.tell(Notice(kind, chosen, now, context.monotonic(), settings, code, *facts))

    try:
        try:
            chosen = yield from cancellation.route(context, process_id, now)
        except ApiVersionRetiredError:
            tell(NoticeKind.FAILED)
            if strict:
                raise
        moved = chosen is not None and chosen.version is V2
        if not moved and chosen is not None:
            tell(NoticeKind.USES_V1)
        elif moved and not settings.admits_v2:
            tell(NoticeKind.MIGRATED)
        attempts, unknown = 1, True
        answer = yield Forward(to_v2_request(endpoint, process_id) if moved else None)
        if not moved:
            said = responses.announcement(answer)
            if said is not None:
                tell(NoticeKind.ANNOUNCED, answer, said.sunset, said.successor)
            if answer.status == responses.GONE:
                context.gone[settings.base_url] = context.monotonic()
                if may_leave_v1(settings):
                    chosen, attempts = V1_GONE, 2
                    tell(NoticeKind.V1_GONE, answer)
                    answer = yield Forward(to_v2_request(endpoint, process_id))
        status, unknown = answer.status, responses.maybe_applied(answer)
        outcome = "cancelled" if 200 <= answer.status < 300 else f"HTTP {answer.status}"
    except Exception as error:
        outcome = type(error).__name__
        raise
    finally:
        if cancels and attempts and settings.on_event is not None:
            took = context.monotonic() - started
            switched = chosen is V1_GONE and attempts == 2
            context.emit(
                CancelEvent(process_id, chosen, attempts, switched, took, outcome, unknown, status)
            )
