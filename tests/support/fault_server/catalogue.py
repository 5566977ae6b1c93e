"""Every fault by name, in families; each family has its rule in ``tests.support.scenarios``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from .connection_faults import (
    bad_chunk_size,
    cut_body,
    cut_chunked,
    deflate_bomb,
    drop,
    endless_body,
    endless_informational,
    gzip_bomb,
    half_headers,
    half_status_line,
    hang,
    hang_in_body,
    header_bomb,
    http_09,
    huge_body,
    leftover,
    length_and_chunked,
    long_header,
    raw,
    reset,
    stale_connection,
    switching_protocols,
    trickle_body,
    trickle_headers,
    two_content_lengths,
)
from .content_faults import (
    SENT_AT,
    SENT_AT_UNIX,
    ambiguous,
    broken_gzip,
    brotli_garbage,
    cut_gzip,
    deep_nesting,
    deflate_ok,
    echo_key,
    gone,
    gzip_ok,
    huge_int,
    missing,
    not_json,
    plain_as_gzip,
    redirect,
    text_in,
    too_many,
    with_value,
    wrong_job,
)
from .faults import (
    HEALTHY,
    End,
    Exchange,
    Fault,
    altered,
    applied_then,
    early,
    job_body,
    packed,
    respond,
    truth,
)
from .wire import (
    CHUNKED,
    JSON,
    as_body,
    chunk,
    http_head,
    phrase,
)


def _odd_but_right() -> dict[str, Fault]:
    def chunked(exchange: Exchange) -> Iterator[bytes]:
        body = as_body(exchange.content)
        chunks = chunk(body[:9]) + chunk(body[9:]) + b"0\r\n\r\n"
        yield http_head(exchange.status, CHUNKED) + chunks

    def unbounded(exchange: Exchange) -> Iterator[bytes]:
        yield http_head(exchange.status, [JSON]) + as_body(exchange.content)

    def hinted(exchange: Exchange) -> Iterator[bytes]:
        yield http_head(103, {"Link": "</style.css>; rel=preload"})
        yield from truth(exchange)

    def bytewise(exchange: Exchange) -> Iterator[bytes]:
        for byte in b"".join(truth(exchange)):
            yield bytes([byte])

    text = {"Content-Type": "text/plain"}
    return {
        "healthy": HEALTHY,
        "chunked": Fault("right answer, chunked", chunked, applied=True),
        "close_delimited": Fault(
            "right answer, ended by closing", unbounded, End.CLOSE, applied=True
        ),
        "one_informational": Fault("103 Early Hints, then the right answer", hinted, applied=True),
        "slow_bytes": Fault(
            "right answer byte by byte, soon done", bytewise, applied=True, interval=0.0002
        ),
        "gzip_ok": gzip_ok(),
        "deflate_ok": deflate_ok(),
        "digits": with_value("process_id", str, applied=True),
        "unknown_status": with_value("current_status", "PAUSED", applied=True),
        "extra_member": with_value("queue", "eu-west", applied=True),
        "control_characters": with_value("message", "ok\r\n\x1b[31mERROR", applied=True),
        "text_plain": packed("right answer said to be text/plain", headers=text),
        "stale_connection": stale_connection(),
        "leftover": leftover(),
        "echo_key": echo_key(),
    }


def _lost() -> dict[str, Fault]:
    makers: tuple[Callable[[bool], Fault], ...] = (
        drop,
        reset,
        hang,
        half_status_line,
        half_headers,
        cut_body,
        cut_chunked,
        hang_in_body,
    )
    plain = {make.__name__: make(False) for make in makers}
    return plain | {f"applied_{name}": applied_then(fault) for name, fault in plain.items()}


def _endless() -> dict[str, Fault]:
    return {
        "trickle_body": trickle_body(),
        "trickle_headers": trickle_headers(),
        "endless_informational": endless_informational(),
        "endless_body": endless_body(),
        "applied_trickle_body": trickle_body(applied=True),
    }


def _too_much() -> dict[str, Fault]:
    return {
        "huge_body": huge_body(),
        "gzip_bomb": gzip_bomb(),
        "gzip_bomb_in_gzip": gzip_bomb(256, layers=2),
        "deflate_bomb": deflate_bomb(),
        "header_bomb": header_bomb(),
        "long_header": long_header(),
    }


def _not_http() -> dict[str, Fault]:
    strange = {"X-Strange": "a\x00b"}
    return {
        "junk_status_line": raw("junk for a status line", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        "junk_bytes": raw("binary junk", b"\x15\x03\x01\x00\x02\x02\x46" * 20),
        "bad_status_code": raw("status code that is no number", b"HTTP/1.1 OK fine\r\n\r\n"),
        "http_09": http_09(),
        "two_content_lengths": two_content_lengths(),
        "negative_length": respond(200, b"{}", headers={"Content-Length": "-2"}),
        "length_and_chunked": length_and_chunked(),
        "bad_chunk_size": bad_chunk_size(),
        "zero_in_header": packed("NUL in a header", headers=strange),
        "switching_protocols": switching_protocols(),
        "early": early(respond(503)),
    }


def _encodings() -> dict[str, Fault]:
    surrogate = "message with half a surrogate pair"
    return {
        "broken_gzip": broken_gzip(),
        "cut_gzip": cut_gzip(),
        "plain_as_gzip": plain_as_gzip(),
        "brotli_garbage": brotli_garbage(),
        "latin_1": altered("JSON in Latin-1", lambda job: text_in(job, "latin-1")),
        "utf_16": altered("JSON in UTF-16", lambda job: text_in(job, "utf-16"), applied=True),
        "bom": altered("JSON after a BOM", lambda job: text_in(job, "utf-8-sig"), applied=True),
        "surrogate": altered(surrogate, lambda job: job | {"message": "a\ud800b"}, applied=True),
    }


def _bodies() -> dict[str, Fault]:
    members = tuple(job_body(1))
    return {
        "wrong_job": wrong_job(),
        "ambiguous_id": ambiguous(),
        "ambiguous_status": ambiguous("current_status", "COMPLETED"),
        "not_json": not_json(),
        "empty_200": respond(200, b"", title="200 without a body"),
        "blank_200": respond(200, b" \r\n", title="200 with blanks"),
        "no_content": respond(204),
        "half_json": altered("half of the JSON", lambda job: as_body(job)[:40]),
        "two_documents": altered("two documents", lambda job: as_body(job) + as_body(job)),
        "list": altered("JSON list", lambda job: [job]),
        "string": altered("JSON string", lambda job: json.dumps(job)),
        "null": respond(200, b"null", title="JSON null"),
        "error_in_200": respond(200, {"detail": "already_cancelled"}, title="error under a 200"),
        **{f"no_{member}": missing(member) for member in members},
        **{f"null_{member}": with_value(member, None) for member in members},
        "float_id": with_value("process_id", float),
        "bool_id": with_value("process_id", True),
        "negative_id": with_value("process_id", -1),
        "words_for_id": with_value("process_id", "forty-two"),
        "nan_id": with_value("process_id", float("nan")),
        "nan_extra": with_value("score", float("nan")),
        "infinity_extra": with_value("score", float("inf")),
        "number_for_status": with_value("current_status", 3),
        "list_for_filename": with_value("filename", ["a.csv"]),
        "object_for_message": with_value("message", {"text": "ok"}),
        "raw_newline": altered(
            "line break inside a string", lambda job: as_body(job).replace(b" is ", b" is\n", 1)
        ),
        "deep_nesting": deep_nesting(),
        "huge_int": huge_int(),
    }


def _statuses() -> dict[str, Fault]:
    invalid = [{"loc": ["path", "process_id"], "msg": "Input should be valid", "type": "int_type"}]
    details: dict[int, object] = {
        400: "Bad request",
        401: "Not authenticated",
        402: "Not enough credits",
        403: "Endpoint not allowed for this key",
        422: invalid,
    }
    codes = (400, 401, 402, 403, 404, 405, 408, 409, 418, 422, 500, 501, 502, 503, 504, 599)
    plain = {
        f"status_{code}": respond(code, {"detail": details.get(code, phrase(code))})
        for code in codes
    }
    page = respond(
        502,
        b"<html><h1>502 Bad Gateway</h1></html>",
        headers={"Content-Type": "text/html"},
        title="502 with a web page",
    )
    return plain | {
        "gone": gone(),
        "gone_announced": gone(announced=True),
        "bad_gateway_page": page,
        "applied_500": respond(500, applied=True),
        "applied_502": applied_then(page),
        "applied_503": respond(503, applied=True),
        "applied_504": respond(504, applied=True),
        "retry_now": too_many(Retry_After="0"),
        "retry_after": too_many(Retry_After="1"),
        "retry_after_ms": too_many(retry_after_ms="250"),
        "retry_after_hour": too_many(Retry_After="3600"),
        "retry_after_negative": too_many(Retry_After="-5"),
        "retry_after_words": too_many(Retry_After="soon"),
        "retry_after_nan": too_many(Retry_After="nan"),
        "retry_after_huge": too_many(Retry_After="9" * 400),
        "retry_after_date": too_many(Date=SENT_AT, Retry_After=SENT_AT.replace(":00 ", ":02 ")),
        "retry_after_past": too_many(Date=SENT_AT, Retry_After="Thu, 01 Jan 1970 00:00:00 GMT"),
        "reset_soon": too_many(Date=SENT_AT, X_RateLimit_Reset=str(SENT_AT_UNIX + 2)),
        "reset_past": too_many(Date=SENT_AT, X_RateLimit_Reset=str(SENT_AT_UNIX - 60)),
        "reset_words": too_many(Date=SENT_AT, X_RateLimit_Reset="tomorrow"),
        "no_hint": too_many(),
        "do_not_retry": respond(503, headers={"x-should-retry": "false"}),
        "do_retry": respond(409, headers={"x-should-retry": "true"}),
        **{f"redirect_{code}": redirect(code) for code in (301, 302, 303, 307, 308)},
        "redirect_nowhere": respond(307, b"", title="307 without a Location"),
        "echo_key_403": echo_key(403),
        "accepted": altered("202 with the right body", lambda job: job, status=202, applied=True),
    }


FAMILIES: Mapping[str, Mapping[str, Fault]] = {
    "odd but right": _odd_but_right(),
    "lost": _lost(),
    "endless": _endless(),
    "too much": _too_much(),
    "not HTTP": _not_http(),
    "encoding": _encodings(),
    "body": _bodies(),
    "status": _statuses(),
}
CATALOGUE: Mapping[str, Fault] = {
    name: fault for family in FAMILIES.values() for name, fault in family.items()
}
