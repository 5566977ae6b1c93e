"""The wire: requests byte by byte, and the reading of every body a server can think of."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revenuebase_compat.core.decoding import (
    MAX_BODY,
    MAX_DEPTH,
    Response,
    Unusable,
    load_json,
    read_job,
    unpack,
)
from revenuebase_compat.core.endpoints import CANCEL, REQUESTS, STATUS, Request
from revenuebase_compat.core.models import Job, JobStatus
from revenuebase_compat.core.routes import V1, V2

JOB = 42
FIELDS: dict[str, Any] = {
    "process_id": JOB,
    "filename": "leads.csv",
    "current_status": "CANCELLING",
    "message": "Cancel requested.",
}
TEXT_FIELDS = ("filename", "current_status", "message")


def answer(body: bytes | str | object, status: int = 200) -> Response:
    if isinstance(body, str):
        body = body.encode()
    return Response(status, (), body if isinstance(body, bytes) else json.dumps(body).encode())


def why_not(body: bytes | str | object) -> str:
    return refusal(read_job, answer(body), JOB)


def refusal(read: Callable[..., object], *args: object) -> str:
    """Why a body cannot be used."""
    with pytest.raises(Unusable) as caught:
        read(*args)
    return str(caught.value)


# --- up


def test_wires_send_the_published_requests() -> None:
    body = b'{"process_id":42}'
    assert REQUESTS[V1](CANCEL, JOB) == Request("POST", "/v1/cancel-process", body)
    assert REQUESTS[V1](STATUS, JOB) == Request("POST", "/v1/batch-process-email-status", body)
    assert REQUESTS[V2](CANCEL, JOB) == Request("POST", "/v2/jobs/42/cancel", b"")
    assert REQUESTS[V2](STATUS, JOB) == Request("GET", "/v2/jobs/42", b"")


@given(st.integers(1, 2**63 - 1))
def test_wires_send_every_id_as_itself(process_id: int) -> None:
    assert json.loads(REQUESTS[V1](CANCEL, process_id).body) == {"process_id": process_id}
    assert REQUESTS[V2](CANCEL, process_id).path == f"/v2/jobs/{process_id}/cancel"
    assert REQUESTS[V2](STATUS, process_id).path == f"/v2/jobs/{process_id}"


# --- down


def test_read_job_from_the_four_fields() -> None:
    found = read_job(answer(FIELDS), JOB)
    assert found == Job(JOB, "leads.csv", "CANCELLING", "Cancel requested.", {})
    assert isinstance(found, Job)
    assert found.status is JobStatus.CANCELLING


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + json.dumps(FIELDS).encode(),
        b" \r\n\t" + json.dumps(FIELDS).encode() + b"\n",
        json.dumps({**FIELDS, "process_id": "42"}),
        json.dumps({**FIELDS, "process_id": "0" * 62 + "42"}),
        json.dumps(dict(reversed(FIELDS.items()))),
        json.dumps(FIELDS).replace("leads", "\\u006ceads"),
    ],
)
def test_read_job_harmless_variants_mean_the_same(body: bytes | str) -> None:
    assert read_job(answer(body), JOB) == Job(JOB, *(FIELDS[name] for name in TEXT_FIELDS))


def test_read_job_unknown_fields_and_states_are_kept() -> None:
    more = {"eta": None, "progress": {"done": [1, 2.5, True]}, "note": "déjà vu 🎈"}
    found = read_job(answer({**FIELDS, "current_status": "PAUSED", **more}), JOB)
    assert isinstance(found, Job)
    assert found.extra == more
    assert (found.current_status, found.status) == ("PAUSED", JobStatus.UNKNOWN)


@pytest.mark.parametrize("text", ["", " ", "déjà vu.csv", "🎈", "a\nb", "\x00"])
@pytest.mark.parametrize("name", TEXT_FIELDS)
def test_read_job_texts_are_not_touched(name: str, text: str) -> None:
    found = read_job(answer({**FIELDS, name: text}), JOB)
    assert getattr(found, name) == text


@pytest.mark.parametrize("name", FIELDS)
def test_read_job_a_missing_field_is_named(name: str) -> None:
    body = {key: value for key, value in FIELDS.items() if key != name}
    assert why_not(body) == f"lacks {name}"
    assert why_not({}) == "lacks process_id, filename, current_status, message"


@pytest.mark.parametrize("name", TEXT_FIELDS)
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        (True, "a boolean"),
        (7, "an integer"),
        (7.5, "a fraction"),
        (["x"], "a list"),
        ({"x": "y"}, "an object"),
    ],
)
def test_read_job_a_field_of_another_type_is_named(name: str, value: object, kind: str) -> None:
    assert why_not({**FIELDS, name: value}) == f"gives {name} as {kind}"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("null", "gives process_id as null"),
        ("true", "gives process_id as a boolean"),
        ("42.0", "gives process_id as a fraction"),
        ("4.2e1", "gives process_id as a fraction"),
        ("[42]", "gives process_id as a list"),
        ("{}", "gives process_id as an object"),
        ('""', "gives process_id as a text"),
        ('" 42"', "gives process_id as a text"),
        ('"+42"', "gives process_id as a text"),
        ('"4_2"', "gives process_id as a text"),
        ('"42.0"', "gives process_id as a text"),
        ('"٤٢"', "gives process_id as a text"),
        (json.dumps("0" * 63 + "42"), "gives process_id as a text"),
        ("43", "is about another job, 43"),
        ("-42", "is about another job, -42"),
        ("0", "is about another job, 0"),
        ('"43"', "is about another job, 43"),
        ("1" * 300, "is about another job, a number out of range"),
        ("-" + "1" * 300, "is about another job, a number out of range"),
        ("042", "is not JSON"),
        ("0x2a", "is not JSON"),
        ("1" * 400, "is about another job, a number out of range"),
        ("1" * 401, "holds a number of absurd length"),
        ("9" * 100_000, "holds a number of absurd length"),
    ],
    ids=lambda value: value[:40],
)
def test_read_job_another_process_id_is_no_result(value: str, why: str) -> None:
    body = json.dumps({**FIELDS, "process_id": "?"}).replace('"?"', value)
    assert why_not(body) == why


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "is empty"),
        (b" \r\n\t", "is empty"),
        (b"\xef\xbb\xbf", "is not JSON"),
        (b"null", "is null, not an object"),
        (b"true", "is a boolean, not an object"),
        (b"42", "is an integer, not an object"),
        (b"4.2", "is a fraction, not an object"),
        (b'"CANCELLING"', "is a text, not an object"),
        (json.dumps([FIELDS]).encode(), "is a list, not an object"),
        (b"OK", "is not JSON"),
        (b"<html>502</html>", "is not JSON"),
        (b"{'process_id': 42}", "is not JSON"),
        (b'{"process_id": 42', "is not JSON"),
        (b'{"process_id": 42,}', "is not JSON"),
        (b'{"process_id": 42}{"process_id": 42}', "is not JSON"),
        (b'{"process_id": 42} // yes', "is not JSON"),
        (b'{"message": "a\nb"}', "is not JSON"),
        (b'{"process_id": 42}\x00', "is not JSON"),
        (b'{"process_id": NaN}', "holds NaN, which is not JSON"),
        (b'{"x": Infinity}', "holds Infinity, which is not JSON"),
        (b'{"x": -Infinity}', "holds -Infinity, which is not JSON"),
        (b'{"x": 1e999}', "holds a number out of range"),
        (b'{"x": -1e999}', "holds a number out of range"),
        (b"\xff\xfe{\x00}\x00", "is not UTF-8"),
        (b'{"message": "\xe9"}', "is not UTF-8"),
        (b'{"message": "\xed\xa0\x80"}', "is not UTF-8"),
        (b'{"message": "\xc0\xaf"}', "is not UTF-8"),
        (json.dumps(FIELDS).encode("utf-16"), "is not UTF-8"),
        (json.dumps(FIELDS).encode("utf-16-le"), "is not JSON"),
        (b'{"message": "\\ud800"}', "holds half a surrogate pair"),
        (b'{"\\udfff": 1}', "holds half a surrogate pair"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is nested too deeply"),
        (b'{"process_id": 42, "process_id": 42}', "is ambiguous: it holds a key twice"),
        (b'{"process_id": 43, "process_\\u0069d": 42}', "is ambiguous: it holds a key twice"),
        (b'{"x": [{"y": 1, "y": 1}]}', "is ambiguous: it holds a key twice"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_read_job_what_is_no_job_is_named(body: bytes, why: str) -> None:
    assert why_not(body) == why


def test_read_job_a_pair_of_surrogates_is_one_character() -> None:
    assert load_json(answer('["\\ud83c\\udf88"]')) == ["🎈"]


def test_read_job_reads_what_people_nest_and_not_what_nobody_nests() -> None:
    def nested(depth: int) -> bytes:
        return b"[" * depth + b"]" * depth

    assert load_json(answer(nested(MAX_DEPTH))) == json.loads(nested(MAX_DEPTH))
    assert refusal(load_json, answer(nested(MAX_DEPTH + 1))) == "is nested too deeply"
    deep_object = b'{"a":' * (MAX_DEPTH + 1) + b"{}" + b"}" * (MAX_DEPTH + 1)
    assert refusal(load_json, answer(deep_object)) == "is nested too deeply"
    # Neither width nor brackets in a text are depth.
    wide = [[[1]]] * 1000 + ["[{" * 1000]
    assert load_json(answer(wide)) == wide


def test_read_job_says_why_a_body_could_not_be_had() -> None:
    response = Response(200, problem="is larger than 1 MiB")
    assert refusal(read_job, response, JOB) == "is larger than 1 MiB"
    assert refusal(load_json, response) == "is larger than 1 MiB"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
mutated_jobs = st.builds(
    lambda changes, dropped: {
        key: value for key, value in {**FIELDS, **changes}.items() if key not in dropped
    },
    st.dictionaries(
        st.sampled_from(sorted(FIELDS)) | st.text(),
        json_values | st.just("42") | st.integers(41, 43) | st.text("0123456789"),
        max_size=3,
    ),
    st.sets(st.sampled_from(sorted(FIELDS)), max_size=1),
)
json_bodies = st.builds(
    lambda value, ascii_only: json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace"),
    json_values | mutated_jobs,
    st.booleans(),
)


def torn(body: bytes, at: int, junk: bytes) -> bytes:
    at %= len(body) + 1
    return body[:at] + junk + body[at + len(junk) :]


bodies = st.binary() | json_bodies | st.builds(torn, json_bodies, st.integers(0), st.binary())


@given(bodies)
def test_read_job_gives_that_very_job_or_unusable_whatever_comes(body: bytes) -> None:
    try:
        found = read_job(answer(body), JOB)
    except Unusable:
        assert 0 < len(refusal(read_job, answer(body), JOB)) < 100
        return
    meant = json.loads(body.decode("utf-8-sig"))
    assert int(meant["process_id"]) == found.process_id == JOB
    assert type(meant["process_id"]) in (int, str)
    assert {name: meant[name] for name in TEXT_FIELDS} == {
        name: getattr(found, name) for name in TEXT_FIELDS
    }
    assert found.extra == {key: value for key, value in meant.items() if key not in FIELDS}


@given(json_bodies)
def test_load_json_reads_strict_json_as_everybody_does(body: bytes) -> None:
    with suppress(Unusable):
        assert load_json(answer(body)) == json.loads(body)


# --- compressed

PLAIN = json.dumps(FIELDS).encode()


def raw_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return coder.compress(data) + coder.flush()


def packed(encoding: str, raw: bytes) -> Response:
    return unpack(200, [(b"Content-Encoding", encoding.encode())], raw)


@pytest.mark.parametrize(
    ("encoding", "raw"),
    [
        ("identity", PLAIN),
        ("", PLAIN),
        ("Identity", PLAIN),
        # By the time, each worker would know the test by another name.
        ("gzip", gzip.compress(PLAIN, mtime=0)),
        ("GZip", gzip.compress(PLAIN, mtime=0)),
        ("x-gzip", gzip.compress(PLAIN, mtime=0)),
        ("deflate", zlib.compress(PLAIN)),
        ("deflate", raw_deflate(PLAIN)),
    ],
)
def test_unpack_encodings_that_servers_send_unasked_are_undone(encoding: str, raw: bytes) -> None:
    response = packed(encoding, raw)
    assert (response.status, response.body, response.problem) == (200, PLAIN, "")
    assert isinstance(read_job(response, JOB), Job)


def test_unpack_no_encoding_is_no_encoding() -> None:
    response = unpack(400, [(b"date", b"today")], PLAIN)
    assert (response.status, response.body) == (400, PLAIN)
    assert response.header(b"date") == "today"


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "gzip, br", "\xff"])
def test_unpack_other_encodings_are_not_guessed_at(encoding: str) -> None:
    response = unpack(200, [(b"content-encoding", encoding.encode("latin-1"))], PLAIN)
    assert response.problem == "has a content-encoding that was not asked for"
    assert response.body == b""
    refusal(read_job, response, JOB)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_unpack_an_empty_body_needs_no_decoding(encoding: str) -> None:
    assert packed(encoding, b"").problem == ""
    assert refusal(read_job, packed(encoding, b""), JOB) == "is empty"


BROKEN = {
    "plain": PLAIN,
    "cut": gzip.compress(PLAIN)[:-1],
    "half": gzip.compress(PLAIN)[:30],
    "head": gzip.compress(PLAIN)[:9],
    "checksum": gzip.compress(PLAIN)[:-5] + b"\x00" + gzip.compress(PLAIN)[-4:],
    "cut zlib": zlib.compress(PLAIN)[:-1],
    "cut deflate": raw_deflate(PLAIN)[:-1],
    "noise": bytes(range(256)),
    # Two members: the first alone would be another text than the one that was sent.
    "two members": gzip.compress(PLAIN) + gzip.compress(b" and more"),
    "trailing": gzip.compress(PLAIN) + PLAIN,
}


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("name", BROKEN)
def test_unpack_what_cannot_be_decoded_whole_is_not_used(name: str, encoding: str) -> None:
    response = packed(encoding, BROKEN[name])
    assert response.problem == "is not what its content-encoding says"
    assert response.body == b""


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
def test_unpack_a_bomb_is_not_decompressed(pack: Any) -> None:
    bomb = pack(bytes(64 * MAX_BODY))
    assert len(bomb) < MAX_BODY
    tracemalloc.start()
    try:
        response = packed("gzip" if pack is gzip.compress else "deflate", bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert response.problem == "is larger than 1 MiB once decompressed"
    assert response.body == b""
    assert peak < 8 * MAX_BODY


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
def test_unpack_the_limit_is_exact(pack: Any) -> None:
    assert MAX_BODY == 2**20
    encoding = "gzip" if pack is gzip.compress else "deflate"
    assert len(packed(encoding, pack(bytes(MAX_BODY))).body) == MAX_BODY
    assert packed(encoding, pack(bytes(MAX_BODY + 1))).problem.startswith("is larger than 1 MiB")


def test_unpack_a_large_body_is_not_kept() -> None:
    assert len(unpack(200, (), bytes(MAX_BODY)).body) == MAX_BODY
    response = unpack(200, (), bytes(MAX_BODY + 1))
    assert (response.body, response.problem) == (b"", "is larger than 1 MiB")
    noise = random.Random(1).randbytes(MAX_BODY + 1)  # noqa: S311 (no secret)
    assert packed("gzip", gzip.compress(noise)).problem == "is larger than 1 MiB"


@pytest.mark.parametrize("body", [b"[" * MAX_BODY, b"[]," * (MAX_BODY // 12), b"1" * MAX_BODY])
def test_unpack_takes_bounded_memory(body: bytes) -> None:
    if body.startswith(b"[]"):
        body = b"[" + body[:-1] + b"]"
    tracemalloc.start()
    try:
        with suppress(Unusable):
            read_job(answer(body), JOB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * MAX_BODY


@given(
    st.sampled_from(["gzip", "deflate", "identity", "br", "", "gzip,deflate"]),
    st.binary() | bodies.map(gzip.compress) | bodies.map(zlib.compress) | bodies.map(raw_deflate),
)
def test_unpack_never_raises(encoding: str, raw: bytes) -> None:
    response = packed(encoding, raw)
    assert len(response.body) <= MAX_BODY
    assert not (response.problem and response.body)
    with suppress(Unusable):
        assert isinstance(read_job(response, JOB), Job)


# --- headers


def test_response_header_is_found_whatever_its_case() -> None:
    response = Response(200, [(b"X-One", b" a "), (b"x-one", b"b"), (b"X-Two", b"\xe9")])
    assert response.header(b"x-one") == "a, b"
    assert response.header(b"x-two") == "é"
    assert response.header(b"x-three") is None


def test_response_repr_shows_no_body() -> None:
    response = Response(200, [(b"x-key", b"rb_test_echo")], b"rb_test_echo")
    assert "rb_test_echo" not in repr(response)
    assert "200" in repr(response)
