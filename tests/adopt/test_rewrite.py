"""The pure rewrite: what is recognised, what goes up, what comes down."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revenuebase_compat import ApiVersionRetiredError, CancelEvent, RouteReason, Settings
from revenuebase_compat.adopt.rewrite import (
    UNKNOWN,
    Forward,
    MoveSteps,
    move,
    process_id_of,
    recognise,
    to_v1_body,
    to_v1_location,
    to_v1_status,
    to_v2_headers,
    to_v2_target,
)
from revenuebase_compat.core.calls import RETIRED_FOR, CallContext, Notice, NoticeKind
from revenuebase_compat.core.decoding import MAX_BODY, Response
from revenuebase_compat.core.endpoints import (
    BY_V1_CALL,
    CREDITS,
    DOWNLOAD,
    ENDPOINTS,
    ROTATE_KEY,
    START,
    UPLOAD,
    VERIFY,
    Endpoint,
    Request,
    to_v2,
)
from revenuebase_compat.core.endpoints import CANCEL as CANCEL_ENDPOINT
from revenuebase_compat.core.endpoints import STATUS as STATUS_ENDPOINT
from revenuebase_compat.core.routing import EvaluateFlag
from tests.support import AFTER, BEFORE, FakeTime

BASE = "https://api.revenuebase.ai"
HOST = "api.revenuebase.ai"
CANCEL = "/v1/cancel-process"
STATUS = "/v1/batch-process-email-status"


def asked(
    target: str = CANCEL,
    *,
    base: str = BASE,
    method: str = "POST",
    scheme: str = "https",
    host: str = HOST,
    port: int | None = None,
) -> Endpoint | None:
    return recognise(base, method, scheme, host, port, target)


# --- recognising ------------------------------------------------------------------------------


def test_recognise_knows_the_nine_endpoints_and_the_rest_of_v1() -> None:
    for one in ENDPOINTS:
        assert asked(one.path, method=one.method) is one
        assert asked(one.path + "?metadata=true", method=one.method) is one
    assert asked("/v1/credits", method="POST") is UNKNOWN
    assert asked("/v1/whatever/there/is") is UNKNOWN
    for target in ("/", "/v1", "/v2/jobs/42/cancel", "/health", "/v10/cancel-process", "", "*"):
        assert asked(target) is None


@pytest.mark.parametrize(
    "host",
    [HOST, "API.RevenueBase.AI", "api.revenuebase.ai."],
)
@pytest.mark.parametrize("port", [None, 443])
def test_a_host_may_be_spelled_as_clients_do(host: str, port: int | None) -> None:
    assert asked(host=host, port=port) is CANCEL_ENDPOINT


@pytest.mark.parametrize(
    "other",
    [
        {"host": "revenuebase.ai"},
        {"host": "api.revenuebase.ai.example.org"},
        {"host": "xapi.revenuebase.ai"},
        {"host": "example.org"},
        {"host": ""},
        {"port": 8443},
        {"port": 80},
        {"scheme": "http"},
        {"scheme": "http", "port": 443},
        {"scheme": "wss"},
        {"scheme": ""},
    ],
    ids=str,
)
def test_another_host_port_or_scheme_is_none_of_ours(other: dict[str, Any]) -> None:
    assert asked(**other) is None


@pytest.mark.parametrize(
    ("base", "scheme", "host", "port"),
    [
        ("http://[::1]:8042", "http", "::1", 8042),
        ("http://[::1]:8042", "http", "[::1]", 8042),
        ("http://127.0.0.1", "http", "127.0.0.1", 80),
        ("http://localhost:8042", "http", "LOCALHOST", 8042),
    ],
)
def test_addresses_and_ports_of_the_base_url(base: str, scheme: str, host: str, port: int) -> None:
    assert asked(base=base, scheme=scheme, host=host, port=port) is CANCEL_ENDPOINT
    assert asked(base=base, scheme=scheme, host=host, port=port + 1) is None


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("/v1/cancel-process?", CANCEL_ENDPOINT),
        ("/v1/cancel-process?trace=1", CANCEL_ENDPOINT),
        ("/v1/cancel%2Dprocess", CANCEL_ENDPOINT),
        ("/v1/%63ancel-process", CANCEL_ENDPOINT),
        ("/v1%2Fcancel-process", CANCEL_ENDPOINT),
        ("/%76%31/batch-process-email-status", STATUS_ENDPOINT),
        # FastAPI decodes once, tells case apart, and takes these for other paths.
        ("/v1/cancel%252Dprocess", UNKNOWN),
        ("/v1/Cancel-Process", UNKNOWN),
        ("/v1/cancel-process/", UNKNOWN),
        ("/v1//cancel-process", UNKNOWN),
        ("/v1/cancel-process#now", UNKNOWN),
        ("/v1/cancel-process%3Ftrace=1", UNKNOWN),
        ("//v1/cancel-process", None),
        ("/V1/cancel-process", None),
        ("/v1%252Fcancel-process", None),
    ],
)
def test_a_path_is_read_as_the_server_reads_it(target: str, found: Endpoint | None) -> None:
    assert asked(target) is found


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "post", ""])
def test_only_a_post_cancels(method: str) -> None:
    assert asked(CANCEL, method=method) is UNKNOWN
    assert asked(STATUS, method=method) is UNKNOWN


def test_the_path_of_the_base_url_comes_first() -> None:
    base = "https://proxy.example.org/revenue%62ase"
    proxied: dict[str, Any] = {"base": base, "host": "proxy.example.org"}
    assert asked("/revenuebase" + CANCEL, **proxied) is CANCEL_ENDPOINT
    assert asked("/revenuebas%65" + CANCEL, **proxied) is CANCEL_ENDPOINT
    assert asked(CANCEL, **proxied) is None
    assert asked("/other" + CANCEL, **proxied) is None
    request = to_v2(CANCEL_ENDPOINT, 42)
    assert (
        to_v2_target(base, "/revenuebase" + CANCEL, request) == "/revenue%62ase/v2/jobs/42/cancel"
    )


def test_an_absolute_target_says_itself_where_it_goes() -> None:
    base = "http://127.0.0.1:8042"

    def proxied(target: str) -> Endpoint | None:
        return recognise(base, "POST", "http", "proxy.example.org", 3128, target)

    assert proxied(base + CANCEL) is CANCEL_ENDPOINT
    assert proxied(base + CANCEL + "?a=b") is CANCEL_ENDPOINT
    for target in (
        "http://127.0.0.1:8043" + CANCEL,
        "https://127.0.0.1:8042" + CANCEL,
        "http://127.0.0.1:8042@example.org" + CANCEL,
        "http://example.org/?" + base + CANCEL,
        "http://[127.0.0.1:8042" + CANCEL,
        "http://127.0.0.1:port" + CANCEL,
        "127.0.0.1:8042",
    ):
        assert proxied(target) is None
        # Also where the connection itself goes to the API: the server obeys the target.
        assert asked(target, base=base, scheme="http", host="127.0.0.1", port=8042) is None
    moved = to_v2_target(base, base + CANCEL + "?a=b", to_v2(CANCEL_ENDPOINT, 42))
    assert moved == base + "/v2/jobs/42/cancel?a=b"


hosts = st.text("abcdefghijklmnopqrstuvwxyz0123456789-.:[]@%", max_size=40) | st.text(max_size=20)


@given(hosts, st.sampled_from([CANCEL, STATUS, "/v1/credits"]), st.none() | st.integers(0, 65535))
def test_no_other_host_is_ever_recognised(host: str, target: str, port: int | None) -> None:
    if host.lower().strip("[]").rstrip(".") == HOST and port in (None, 0, 443):
        return
    assert asked(target, host=host, port=port) is None


@given(st.text(max_size=60), st.sampled_from(["POST", "GET"]))
def test_no_target_is_too_odd_to_be_asked_about(target: str, method: str) -> None:
    found = asked(target, method=method)
    if found in (CANCEL_ENDPOINT, STATUS_ENDPOINT):
        assert target.startswith(("/", BASE))


@given(st.sampled_from([CANCEL, STATUS]), st.data())
def test_any_letter_may_be_percent_encoded(path: str, data: st.DataObject) -> None:
    encoded = data.draw(st.sets(st.integers(1, len(path) - 1)))
    spelled = "".join(
        f"%{ord(letter):02x}" if index in encoded else letter for index, letter in enumerate(path)
    )
    assert asked(spelled) is BY_V1_CALL["POST", path]
    assert asked(spelled + "?" + quote(path)) is BY_V1_CALL["POST", path]


# --- the job ----------------------------------------------------------------------------------


def body(value: object) -> bytes:
    return json.dumps({"process_id": value}).encode()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (42, 42),
        (42.0, 42),
        ("42", 42),
        ("0042", 42),
        (2**63 - 1, 2**63 - 1),
        # What v1 refuses, or what no job is called: it has its own say.
        (0, None),
        (-42, None),
        (2**63, None),
        (42.5, None),
        (True, None),
        (None, None),
        ("", None),
        (" 42 ", None),
        ("+42", None),
        ("42.0", None),
        ("4_2", None),
        ("\u0664\u0662", None),
        ("x" * 70, None),
        ([42], None),
        ({"id": 42}, None),
    ],
    ids=repr,
)
def test_a_process_id_is_what_v1_would_have_made_of_it(value: object, found: int | None) -> None:
    assert process_id_of([], body(value)) == found


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
def test_a_body_may_be_in_any_encoding_of_unicode(encoding: str) -> None:
    assert process_id_of([], '{"process_id": 42, "note": "\u00fc"}'.encode(encoding)) == 42


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
    ],
)
def test_a_body_may_be_compressed(coding: str, pack: Any) -> None:
    headers = [(b"x-key", b"rb_test_key"), (b"Content-Encoding", coding.encode())]
    assert process_id_of(headers, pack(body(42))) == 42


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"42",
        b"null",
        b"process_id=42",
        b"{'process_id': 42}",
        b'{"process_id": 42',
        b'{"process_id": NaN}',
        b'{"process_id": 1e400}',
        b'{"process_id": ' + b"9" * 5000 + b"}",
        b"[" * 200_000,
        b"\xff\xfe\xff",
        b"\x00",
    ],
    ids=lambda text: text[:30],
)
def test_what_names_no_job_is_left_to_v1(text: bytes) -> None:
    assert process_id_of([], text) is None


def test_the_last_of_two_equal_keys_counts_as_for_v1() -> None:
    assert process_id_of([], b'{"process_id": 1, "process_id": 42}') == 42


def test_neither_a_bomb_nor_an_endless_body_is_read() -> None:
    padded = b'{"process_id": 42}' + b" " * MAX_BODY
    gzipped = [(b"content-encoding", b"gzip")]
    assert process_id_of([], padded) is None
    assert process_id_of(gzipped, gzip.compress(padded)) is None
    assert process_id_of(gzipped, body(42)) is None
    assert process_id_of([(b"content-encoding", b"br")], body(42)) is None


@given(st.binary(max_size=200), st.sampled_from([b"identity", b"gzip", b"deflate", b"zstd"]))
def test_reading_a_body_never_fails(text: bytes, coding: bytes) -> None:
    found = process_id_of([(b"content-encoding", coding)], text)
    assert found is None or 0 < found < 2**63


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(json_values)
def test_a_job_is_found_only_where_it_is_named(value: object) -> None:
    found = process_id_of([], json.dumps({"process_id": value}).encode())
    if found is not None:
        assert not isinstance(value, bool)
        assert isinstance(value, int | float | str)
        assert int(value) == found
    assert process_id_of([], json.dumps(value).encode()) is None or isinstance(value, dict)


# --- up and down ------------------------------------------------------------------------------


def test_what_goes_up() -> None:
    assert to_v2(CANCEL_ENDPOINT, 42) == Request("POST", "/v2/jobs/42/cancel")
    assert to_v2(STATUS_ENDPOINT, 42) == Request("GET", "/v2/jobs/42")
    assert to_v2_target(BASE, CANCEL, to_v2(CANCEL_ENDPOINT, 42)) == "/v2/jobs/42/cancel"
    assert to_v2_target(BASE, CANCEL + "?a=b?c", to_v2(STATUS_ENDPOINT, 42)) == "/v2/jobs/42?a=b?c"


def test_headers_go_up_as_they_are_but_for_those_of_the_body() -> None:
    headers = [
        (b"Host", b"api.revenuebase.ai"),
        (b"x-KEY", b"rb_test_key"),
        (b"Content-Type", b"application/json"),
        (b"content-encoding", b"gzip"),
        (b"Content-Length", b"18"),
        (b"Content-MD5", b"Q2hlY2s="),
        (b"transfer-encoding", b"chunked"),
        (b"Trailer", b"Digest"),
        (b"Expect", b"100-continue"),
        (b"Accept", b"a"),
        (b"Accept", b"b"),
    ]
    kept = [headers[0], headers[1], *headers[-2:]]
    assert to_v2_headers(headers, CANCEL_ENDPOINT) == [
        *kept,
        (b"Content-Length", b"0"),
    ]
    assert to_v2_headers(headers, STATUS_ENDPOINT) == kept
    assert to_v2_headers(headers, DOWNLOAD) == kept


def test_to_v2_headers_leaves_those_of_a_body_that_stays() -> None:
    headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"Content-Length", b"9")]
    for endpoint in (VERIFY, UPLOAD, CREDITS):
        assert to_v2_headers(headers, endpoint) is headers


def test_to_v2_headers_tells_that_a_post_has_no_body() -> None:
    bare = [(b"x-key", b"rb_test_key"), (b"Content-Type", b"application/json")]
    assert to_v2_headers(bare, ROTATE_KEY) == [*bare, (b"Content-Length", b"0")]
    for framed in ((b"content-length", b"2"), (b"Transfer-Encoding", b"chunked")):
        assert to_v2_headers([*bare, framed], ROTATE_KEY) == [*bare, framed]


def test_to_v1_status_has_a_post_that_was_sent_as_get_followed_by_get() -> None:
    turned = {STATUS_ENDPOINT, DOWNLOAD}
    for endpoint in ENDPOINTS:
        for status in (200, 301, 302, 303, 400, 422):
            assert to_v1_status(endpoint, status) == status
        for status in (307, 308):
            assert to_v1_status(endpoint, status) == (303 if endpoint in turned else status)


REFUSED = {
    "detail": [
        {"type": "int_parsing", "loc": ["path", "process_id"], "msg": "Größe?", "input": "x"},
        {"type": "missing", "loc": ["header", "x-key"], "msg": "Field required"},
    ]
}


def test_a_422_speaks_of_the_body_again() -> None:
    raw = json.dumps(REFUSED).encode()
    told = json.loads(to_v1_body(422, [], raw))
    assert told["detail"][0] == {**REFUSED["detail"][0], "loc": ["body", "process_id"]}
    assert told["detail"][1] == REFUSED["detail"][1]


@pytest.mark.parametrize(
    ("coding", "pack", "unpack"),
    [(b"gzip", gzip.compress, gzip.decompress), (b"deflate", zlib.compress, zlib.decompress)],
)
def test_a_compressed_422_stays_compressed(coding: bytes, pack: Any, unpack: Any) -> None:
    packed = to_v1_body(422, [(b"Content-Encoding", coding)], pack(json.dumps(REFUSED).encode()))
    assert json.loads(unpack(packed))["detail"][0]["loc"] == ["body", "process_id"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"Unprocessable",
        b"[]",
        b"null",
        b'{"detail": "words"}',
        b'{"detail": [1, {"loc": ["path", "process_id"]}]}',
        b'{"detail": [{"loc": ["path", "other"]}]}',
        b'{"detail": [{"loc": ["body", "process_id"]}]}',
        b'{"detail": [{"msg": "no place"}]}',
        b"[" * 200_000,
    ],
    ids=lambda text: text[:40],
)
def test_every_other_422_is_the_very_same(text: bytes) -> None:
    assert to_v1_body(422, [], text) is text


@given(st.binary(max_size=100), st.integers(100, 599).filter(lambda status: status != 422))
def test_every_other_answer_is_the_very_same(text: bytes, status: int) -> None:
    assert to_v1_body(status, [], text) is text


@given(st.binary(max_size=100), st.sampled_from([b"identity", b"gzip", b"deflate", b"br"]))
def test_no_422_is_too_odd(text: bytes, coding: bytes) -> None:
    assert to_v1_body(422, [(b"content-encoding", coding)], text) == text


def test_a_redirect_is_made_absolute() -> None:
    url = BASE + "/v2/jobs/42/cancel"
    assert to_v1_location(url, "/v3/jobs/42") == BASE + "/v3/jobs/42"
    assert to_v1_location(url, "cancel/") == BASE + "/v2/jobs/42/cancel/"
    assert to_v1_location(url, "https://example.org/x") == "https://example.org/x"
    assert to_v1_location(url, "http://[broken") == "http://[broken"


def test_endpoints_have_the_published_successors() -> None:
    assert {one.call: one.successor for one in ENDPOINTS} == {
        "POST /v1/cancel-process": "POST /v2/jobs/{process_id}/cancel",
        "POST /v1/batch-process-email-status": "GET /v2/jobs/{process_id}",
        "POST /v1/batch-download": "GET /v2/jobs/{process_id}/download",
        "GET /v1/queued-process": "GET /v2/jobs",
        "GET /v1/credits": "GET /v2/account/balance",
        "GET /v1/new-api-key": "POST /v2/account/api-keys/rotate",
        "POST /v1/process-email": "POST /v2/email/verify",
        "POST /v1/batch-upload": "POST /v2/email/verify/batch",
        "POST /v1/batch-process-email": None,
    }
    assert {one.name for one in ENDPOINTS if one.names_job} == {"cancel", "status", "download"}


# --- the protocol of one request --------------------------------------------------------------


class Room:
    """A context whose notices and events are kept."""

    def __init__(self, now: Any = AFTER, **settings: Any) -> None:
        self.time = FakeTime(now)
        self.told: list[Notice] = []
        self.events: list[CancelEvent] = []
        self.gone: dict[str, float] = {}
        self.context = CallContext(
            Settings(on_event=self.events.append, **settings),
            self.time.clock,
            self.time.monotonic,
            lambda: 0.5,
            self.gone,
            self.told.append,
            self.events.append,
        )

    def move(
        self,
        endpoint: Endpoint = CANCEL_ENDPOINT,
        *,
        strict: bool = False,
        replayable: bool = True,
    ) -> MoveSteps:
        job = 42 if endpoint.names_job else None
        return move(self.context, endpoint, job, replayable=replayable, strict=strict)

    def kinds(self) -> list[NoticeKind]:
        return [notice.kind for notice in self.told]


def finish(steps: MoveSteps, status: int, *headers: tuple[bytes, bytes]) -> None:
    with pytest.raises(StopIteration):
        steps.send(Response(status, headers))


MOVED = Forward(Request("POST", "/v2/jobs/42/cancel"))
AS_IT_IS = Forward(None)


def test_after_the_sunset_a_request_is_moved_without_a_word() -> None:
    room = Room()
    steps = room.move()
    assert next(steps) == MOVED
    room.time.elapsed = 0.25
    finish(steps, 200)
    assert room.told == []
    [event] = room.events
    assert (event.process_id, event.attempts, event.switched) == (42, 1, False)
    assert event.route is not None
    assert event.route.reason is RouteReason.SUNSET
    assert (event.outcome, event.status_code, event.duration) == ("cancelled", 200, 0.25)
    assert not event.outcome_unknown


def test_before_the_sunset_v1_is_used_and_said_to_be() -> None:
    room = Room(BEFORE)
    steps = room.move()
    assert next(steps) == AS_IT_IS
    finish(steps, 400)
    assert room.kinds() == [NoticeKind.USES_V1]
    assert room.events[0].outcome == "http_error"
    assert room.events[0].status_code == 400


def test_a_flag_decides_as_for_the_facade() -> None:
    for opinion, forward in ((True, MOVED), (False, AS_IT_IS), (None, AS_IT_IS)):
        steps = Room(BEFORE, v2_flag=lambda context: None).move()
        ask = next(steps)
        assert isinstance(ask, EvaluateFlag)
        assert ask.context.process_id == 42
        assert steps.send(opinion) == forward


def test_a_410_is_followed_by_one_request_to_v2_and_remembered() -> None:
    room = Room(BEFORE)
    steps = room.move()
    assert next(steps) == AS_IT_IS
    assert steps.send(Response(410)) == MOVED
    finish(steps, 200)
    assert room.kinds() == [NoticeKind.USES_V1, NoticeKind.V1_GONE]
    assert (room.events[0].attempts, room.events[0].switched) == (2, True)
    again = room.move()
    assert next(again) == MOVED
    finish(again, 410)  # no way back
    assert not room.events[1].switched
    room.time.elapsed = RETIRED_FOR
    assert next(room.move()) == AS_IT_IS


@pytest.mark.parametrize("status", [404, 405, 429, 500, 501, 503])
def test_nothing_follows_another_answer_of_v1(status: int) -> None:
    room = Room(BEFORE)
    steps = room.move()
    next(steps)
    finish(steps, status)
    assert room.gone == {}
    assert room.events[0].outcome_unknown == (status in (500, 503))


@pytest.mark.parametrize("status", [404, 405, 410, 500, 501])
def test_there_is_no_way_back_from_v2(status: int) -> None:
    steps = Room(BEFORE, api_version="v2").move()
    assert next(steps) == MOVED
    finish(steps, status)


def test_what_v1_announces_is_passed_on() -> None:
    room = Room(BEFORE)
    steps = room.move()
    next(steps)
    finish(steps, 200, (b"Sunset", b"Wed, 01 Jul 2026 00:00:00 GMT"))
    assert room.kinds() == [NoticeKind.USES_V1, NoticeKind.ANNOUNCED]
    assert room.told[1].sunset is not None


def test_v1_alone_after_the_sunset() -> None:
    migrating = Room(api_version="v1")
    assert next(migrating.move()) == MOVED
    assert migrating.kinds() == [NoticeKind.MIGRATED]

    trying = Room(api_version="v1", after_sunset="try")
    steps = trying.move()
    assert next(steps) == AS_IT_IS
    finish(steps, 410)
    assert trying.kinds() == [NoticeKind.USES_V1]

    raising = Room(api_version="v1", after_sunset="raise")
    steps = raising.move()
    assert next(steps) == AS_IT_IS
    finish(steps, 410)  # the server says it
    assert raising.kinds() == [NoticeKind.FAILED]
    assert raising.events[0].route is None
    with pytest.raises(ApiVersionRetiredError):
        next(raising.move(strict=True))
    assert len(raising.events) == 1  # nothing was sent


def test_a_lost_answer_ends_the_call() -> None:
    room = Room(BEFORE)
    steps = room.move()
    next(steps)
    with pytest.raises(ConnectionResetError):
        steps.throw(ConnectionResetError("by peer"))
    [event] = room.events
    assert event.outcome == "ConnectionResetError"
    assert event.outcome_unknown
    assert event.status_code is None


def test_a_call_that_is_given_up_says_so() -> None:
    room = Room()
    steps = room.move()
    next(steps)
    steps.close()
    assert room.events[0].outcome == "interrupted"
    assert room.events[0].outcome_unknown


def test_a_status_is_moved_in_silence() -> None:
    room = Room(BEFORE)
    steps = room.move(STATUS_ENDPOINT)
    assert next(steps) == AS_IT_IS
    assert steps.send(Response(410)) == Forward(Request("GET", "/v2/jobs/42"))
    finish(steps, 200)
    assert room.told == []
    assert room.events == []
    assert next(Room(BEFORE, api_version="v1").move(STATUS_ENDPOINT)) == AS_IT_IS


# --- requests that name no job ----------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint", [CREDITS, VERIFY, UPLOAD, ROTATE_KEY], ids=lambda one: one.name
)
def test_move_of_a_request_without_a_job_asks_the_flag_and_a_whole_share_alone(
    endpoint: Endpoint,
) -> None:
    moved = Forward(to_v2(endpoint))
    assert next(Room(AFTER).move(endpoint)) == moved
    assert next(Room(BEFORE).move(endpoint)) == AS_IT_IS
    assert next(Room(BEFORE, v2_rollout=99.9).move(endpoint)) == AS_IT_IS
    assert next(Room(BEFORE, v2_rollout=100).move(endpoint)) == moved
    assert next(Room(BEFORE, api_version="v2").move(endpoint)) == moved
    assert next(Room(AFTER, api_version="v1", after_sunset="try").move(endpoint)) == AS_IT_IS
    steps = Room(BEFORE, v2_rollout=100, v2_flag=bool).move(endpoint)
    asked_for = next(steps)
    assert isinstance(asked_for, EvaluateFlag)
    assert asked_for.context.process_id is None
    assert steps.send(False) == AS_IT_IS


@pytest.mark.parametrize("endpoint", [VERIFY, UPLOAD], ids=lambda one: one.name)
def test_move_follows_a_410_only_where_the_body_can_be_sent_again(endpoint: Endpoint) -> None:
    room = Room(BEFORE)
    steps = room.move(endpoint)
    assert next(steps) == AS_IT_IS
    assert steps.send(Response(410)) == Forward(to_v2(endpoint))
    finish(steps, 200)
    streamed = Room(BEFORE)
    steps = streamed.move(endpoint, replayable=False)
    assert next(steps) == AS_IT_IS
    with pytest.raises(StopIteration):
        steps.send(Response(410))
    # The 410 is the answer, and the memory of it moves the next request.
    assert next(streamed.move(endpoint, replayable=False)) == Forward(to_v2(endpoint))
    assert (room.events, streamed.events) == ([], [])  # events are of cancels


def test_start_has_no_successor() -> None:
    assert START.successor is None
