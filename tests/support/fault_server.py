"""The RevenueBase cancel API on a raw socket: truthful by default, misbehaving on demand.

    with FaultServer() as server:
        server.script(drop(applied=True), respond(503))  # the first two requests, in order
        ...                                              # from the third on: HEALTHY
        assert server.applied == [42]

A fault is plain data: whether the cancel is applied first, which bytes go out, how fast, and
what becomes of the connection then. A fault that sends a complete and right answer also applies
the cancel; one that sends a wrong answer, or none, does not unless it is told to.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from io import BufferedReader
from random import Random
from types import TracebackType
from typing import Literal

RouteName = Literal["cancel", "status"]
VersionName = Literal["v1", "v2"]
Headers = Mapping[str, str] | Sequence[tuple[str, str]]
Job = dict[str, object]

HOST = "127.0.0.1"
OTHER_JOB = 999_983


@dataclass(frozen=True)
class Seen:
    """One request as it arrived, and the title of the fault that answered it."""

    method: str = ""
    path: str = ""
    version: str = ""  # of the API: "v1", "v2" or ""
    route: str = ""  # "cancel", "status" or ""
    process_id: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    key: str | None = None
    connection: int = 0  # counted from 1
    fault: str = ""


@dataclass(frozen=True)
class Exchange:
    """What a fault may draw upon: the request, and the answer a healthy server would give."""

    seen: Seen
    status: int
    content: object
    job: Job  # the four fields, also where `content` is an error
    port: int


class End(Enum):
    """What becomes of the connection once a fault's bytes are out."""

    KEEP = "kept alive"
    CLOSE = "closed"
    RESET = "reset"
    HANG = "left open, nothing more is sent"


@dataclass(frozen=True)
class Fault:
    title: str
    write: Callable[[Exchange], Iterable[bytes]] = field(default=lambda _: (), repr=False)
    end: End = End.KEEP
    applied: bool = False
    interval: float = 0.0  # seconds between two pieces
    delay: float = 0.0  # seconds before the first
    early: bool = False  # sent before a byte of the request is read


# --- how bytes are put together ---------------------------------------------------------------


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unheard Of"


def _pairs(headers: Headers) -> list[tuple[str, str]]:
    return list(headers.items() if isinstance(headers, Mapping) else headers)


def _head(status: int, headers: Headers = ()) -> bytes:
    lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
    lines += [f"{name}: {value}" for name, value in _pairs(headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _encode(content: object) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def _message(status: int, content: object, headers: Headers = ()) -> bytes:
    """A whole answer: bytes go out as they are, anything else as JSON."""
    pairs = _pairs(headers)
    if status < 200 or status in (204, 304):
        return _head(status, pairs)
    body = _encode(content)
    given = {name.lower() for name, _ in pairs}
    usual = (("Content-Type", "application/json"), ("Content-Length", str(len(body))))
    return _head(status, pairs + [pair for pair in usual if pair[0].lower() not in given]) + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def job_body(process_id: int, status: str = "CANCELLING") -> Job:
    return {
        "process_id": process_id,
        "filename": f"{process_id}.csv",
        "current_status": status,
        "message": f"Job {process_id} is {status.lower()}.",
    }


# Where the code of a 400 stands is not published, so the server can put it anywhere plausible.
ENVELOPES: Mapping[str, Callable[[str, str], dict[str, object]]] = {
    "detail": lambda code, prose: {"detail": code},
    "detail.error": lambda code, prose: {"detail": {"error": code, "message": prose}},
    "detail.code": lambda code, prose: {"detail": {"code": code, "message": prose}},
    "error": lambda code, prose: {"error": code, "message": prose},
    "code": lambda code, prose: {"detail": prose, "code": code},
    "prose": lambda code, prose: {"detail": prose},
    "problem": lambda code, prose: {
        "type": f"https://api.revenuebase.ai/problems/{code}",
        "title": "The job was left as it is",
        "status": 400,
        "detail": prose,
    },
}


# --- faults: the frame they are made of -------------------------------------------------------


def applied_then(fault: Fault) -> Fault:
    return replace(fault, applied=True, title=f"cancel applied, then {fault.title}")


def late(seconds: float, fault: Fault | None = None) -> Fault:
    """The cancel itself is not late, only its answer."""
    fault = fault or HEALTHY
    return replace(fault, delay=seconds, title=f"{fault.title}, {seconds:g} s late")


def early(fault: Fault) -> Fault:
    """Only where `server.script` without filters holds it: nothing is known of the request yet."""
    return replace(fault, early=True, title=f"{fault.title}, before the request was read")


def _maybe(applied: bool, fault: Fault) -> Fault:
    return applied_then(fault) if applied else fault


def _truth(exchange: Exchange) -> Iterator[bytes]:
    headers = {
        "Date": formatdate(usegmt=True),
        "X-RateLimit-Limit": "60",
        "X-RateLimit-Remaining": "59",
        "X-RateLimit-Reset": str(int(time.time()) + 60),
    }
    content = exchange.content
    if isinstance(content, dict) and "title" in content:
        headers["Content-Type"] = "application/problem+json"
    yield _message(exchange.status, content, headers)


HEALTHY = Fault("a healthy answer", _truth, applied=True)


def respond(
    status: int,
    body: object = None,
    *,
    headers: Headers = (),
    applied: bool = False,
    title: str = "",
) -> Fault:
    """Any answer. Body: bytes as they are, `None` for `{"detail": <phrase>}`, else as JSON."""
    content = {"detail": _phrase(status)} if body is None else body
    if not title:
        notes = ", ".join(f"{name}: {value[:40]}" for name, value in _pairs(headers))
        title = f"{status} {_phrase(status)}" + (f" with {notes}" if notes else "")
    return _maybe(applied, Fault(title, lambda _: [_message(status, content, headers)]))


def altered(
    title: str,
    change: Callable[[Job], object],
    *,
    status: int = 200,
    headers: Headers = (),
    applied: bool = False,
) -> Fault:
    """An answer whose body is made from the right one; bytes from `change` go out as they are."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        yield _message(status, change(dict(exchange.job)), headers)

    return Fault(title, write, applied=applied)


def packed(
    title: str,
    pack: Callable[[bytes], bytes] = bytes,
    *,
    headers: Headers = (),
    applied: bool = True,
) -> Fault:
    """The right answer, whatever its status, with its body in another form."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        yield _message(exchange.status, pack(_encode(exchange.content)), headers)

    return Fault(title, write, applied=applied)


# --- faults: the answer is lost ---------------------------------------------------------------


def drop(applied: bool = False) -> Fault:
    return _maybe(applied, Fault("connection closed without a byte", end=End.CLOSE))


def reset(applied: bool = False) -> Fault:
    return _maybe(applied, Fault("connection reset", end=End.RESET))


def hang(applied: bool = False) -> Fault:
    return _maybe(applied, Fault("no answer, connection left open", end=End.HANG))


def half_status_line(applied: bool = False) -> Fault:
    fault = Fault("closed within the status line", lambda _: [b"HTTP/1.1 2"], End.CLOSE)
    return _maybe(applied, fault)


def half_headers(applied: bool = False) -> Fault:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Le"
    return _maybe(applied, Fault("closed within the headers", lambda _: [head], End.CLOSE))


def cut_body(applied: bool = False) -> Fault:
    def write(exchange: Exchange) -> Iterator[bytes]:
        yield _message(exchange.status, exchange.content)[:-20]

    return _maybe(applied, Fault("body shorter than its Content-Length", write, End.CLOSE))


def cut_chunked(applied: bool = False) -> Fault:
    """Every byte of the JSON arrives; only the last, empty chunk is missing."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        yield _head(exchange.status, _CHUNKED) + _chunk(_encode(exchange.content))

    return _maybe(applied, Fault("chunked body without its end", write, End.CLOSE))


def hang_in_body(applied: bool = False) -> Fault:
    return _maybe(applied, replace(cut_body(), title="body stops half-way", end=End.HANG))


# --- faults: no end in sight ------------------------------------------------------------------

_JSON = ("Content-Type", "application/json")
_CHUNKED = (_JSON, ("Transfer-Encoding", "chunked"))
_MIB = b" " * 2**20


def trickle_body(applied: bool = False, interval: float = 0.02) -> Fault:
    """The right answer byte by byte, then blanks for ever: a JSON parser would accept it all."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        yield _head(exchange.status, _CHUNKED)
        body = _encode(exchange.content)
        for byte in itertools.chain(body, itertools.repeat(ord(" "))):
            yield _chunk(bytes([byte]))

    fault = Fault("body byte by byte without end", write, End.CLOSE, interval=interval)
    return _maybe(applied, fault)


def trickle_headers(applied: bool = False, interval: float = 0.02) -> Fault:
    def write(_: Exchange) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nX-Slow: "
        yield from itertools.repeat(b"a")

    fault = Fault("headers byte by byte without end", write, End.CLOSE, interval=interval)
    return _maybe(applied, fault)


def endless_informational(applied: bool = False, interval: float = 0.01) -> Fault:
    hint = _head(103, {"Link": "</style.css>; rel=preload"})
    fault = Fault(
        "103 Early Hints without end", lambda _: itertools.repeat(hint), interval=interval
    )
    return _maybe(applied, fault)


def endless_body(applied: bool = False) -> Fault:
    def write(exchange: Exchange) -> Iterator[bytes]:
        yield _head(exchange.status, _CHUNKED) + _chunk(_encode(exchange.content))
        yield from itertools.repeat(_chunk(_MIB[: 2**16]))

    return _maybe(applied, Fault("right answer, then blanks without end", write, End.CLOSE))


# --- faults: too much of it -------------------------------------------------------------------


def huge_body(mib: int = 64) -> Fault:
    def write(exchange: Exchange) -> Iterator[bytes]:
        body = _encode(exchange.content)
        length = str(len(body) + mib * 2**20)
        yield _head(exchange.status, (_JSON, ("Content-Length", length))) + body
        yield from itertools.repeat(_MIB, mib)

    return Fault(f"right answer, then {mib} MiB of blanks", write, applied=True)


def _deflated(data: bytes) -> bytes:
    """A raw deflate piece that refers to nothing before it, so it may be repeated at will."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)


def _blown_up(body: bytes, mib: int, coding: str) -> tuple[int, Iterator[bytes]]:
    """Length and pieces of a valid stream that expands to body and then mib MiB of blanks."""
    zipped = coding == "gzip"
    start = (b"\x1f\x8b\x08\0\0\0\0\0\0\xff" if zipped else b"\x78\x9c") + _deflated(body)
    blanks, last = _deflated(_MIB), b"\x03\0"
    length = len(start) + mib * len(blanks) + len(last) + (8 if zipped else 4)

    def pieces() -> Iterator[bytes]:
        yield start
        yield from itertools.repeat(blanks, mib)
        summed = zlib.crc32 if zipped else zlib.adler32
        check = summed(body)
        for _ in range(mib):
            check = summed(_MIB, check)
            yield b""  # this takes its time, and sending nothing still notices a client gone
        size = (len(body) + mib * 2**20) % 2**32
        yield last + (struct.pack("<II", check, size) if zipped else struct.pack(">I", check))

    return length, pieces()


def gzip_bomb(mib: int = 1024, *, layers: int = 1, coding: str = "gzip") -> Fault:
    """With two layers a few kilobytes stand for it all."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        length, pieces = _blown_up(_encode(exchange.content), mib, coding)
        for _ in range(layers - 1):
            packed = gzip.compress(b"".join(pieces))
            length, pieces = len(packed), iter([packed])
        codings = ", ".join([coding] + ["gzip"] * (layers - 1))
        headers = (_JSON, ("Content-Encoding", codings), ("Content-Length", str(length)))
        yield _head(exchange.status, headers)
        yield from pieces

    depth = f", {layers} layers deep" if layers > 1 else ""
    return Fault(f"{coding} bomb that expands to {mib} MiB{depth}", write, applied=True)


def deflate_bomb(mib: int = 1024) -> Fault:
    return gzip_bomb(mib, coding="deflate")


def header_bomb(kib: int = 200) -> Fault:
    padding = [(f"X-Padding-{n}", "a" * 1000) for n in range(kib)]
    return packed(f"{kib} KiB of headers", headers=padding)


def long_header(kib: int = 200) -> Fault:
    padding = {"X-Padding": "a" * kib * 1024}
    return packed(f"one header of {kib} KiB", headers=padding)


# --- faults: not quite HTTP -------------------------------------------------------------------


def raw(title: str, sent: bytes, *, end: End = End.CLOSE, applied: bool = False) -> Fault:
    return _maybe(applied, Fault(title, lambda _: [sent], end))


def http_09() -> Fault:
    def write(exchange: Exchange) -> Iterator[bytes]:
        yield _encode(exchange.job)

    return Fault("bare body, as HTTP/0.9 did", write, End.CLOSE, applied=True)


def two_content_lengths() -> Fault:
    def write(exchange: Exchange) -> Iterator[bytes]:
        body = _encode(exchange.content)
        lengths = (("Content-Length", str(len(body))), ("Content-Length", "2"))
        yield _head(exchange.status, (_JSON, *lengths)) + body

    return Fault("two different Content-Lengths", write, applied=True)


def length_and_chunked() -> Fault:
    """Read by its Content-Length it is another answer than read by its chunks."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        body = _chunk(_encode(job_body(OTHER_JOB))) + b"0\r\n\r\n"
        yield _head(200, (*_CHUNKED, ("Content-Length", str(len(body))))) + body

    return Fault("Content-Length and chunks at once", write)


def bad_chunk_size() -> Fault:
    sent = _head(200, _CHUNKED) + b"zz\r\n{}\r\n0\r\n\r\n"
    return raw("chunk size that is no number", sent)


def switching_protocols() -> Fault:
    sent = _head(101, {"Upgrade": "websocket", "Connection": "Upgrade"})
    return raw("101 Switching Protocols", sent, end=End.HANG)


def leftover(other_id: int = OTHER_JOB) -> Fault:
    """Who reuses the connection reads the second answer as that of the next request."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        yield b"".join(_truth(exchange)) + _message(200, job_body(other_id))

    return Fault("right answer, then one nobody asked for", write, applied=True)


def stale_connection() -> Fault:
    title = "right answer, then closed though keep-alive was promised"
    return replace(HEALTHY, title=title, end=End.CLOSE)


# --- faults: encodings ------------------------------------------------------------------------


def encoded(
    title: str, coding: str, pack: Callable[[bytes], bytes], *, applied: bool = False
) -> Fault:
    return packed(title, pack, headers={"Content-Encoding": coding}, applied=applied)


def gzip_ok() -> Fault:
    return encoded("right answer, gzipped", "gzip", gzip.compress, applied=True)


def deflate_ok() -> Fault:
    return encoded("right answer, deflated", "deflate", zlib.compress, applied=True)


def broken_gzip() -> Fault:
    def garbled(body: bytes) -> bytes:
        return gzip.compress(body)[:24] + b"\xff" * 60

    return encoded("gzip that breaks off into garbage", "gzip", garbled)


def cut_gzip() -> Fault:
    return encoded("gzip without its second half", "gzip", lambda body: gzip.compress(body)[:40])


def plain_as_gzip() -> Fault:
    return encoded("plain JSON said to be gzip", "gzip", bytes)


def brotli_garbage() -> Fault:
    return encoded("garbage said to be brotli", "br", lambda _: bytes(range(255, 155, -1)))


# --- faults: bodies ---------------------------------------------------------------------------


def wrong_job(other_id: int = OTHER_JOB) -> Fault:
    return altered("200 for another job", lambda _: job_body(other_id))


def ambiguous(member: str = "process_id", value: object = OTHER_JOB) -> Fault:
    """The right value stands last, where most parsers take it from."""

    def change(job: Job) -> bytes:
        return f"{{{json.dumps(member)}: {json.dumps(value)}, ".encode() + _encode(job)[1:]

    return altered(f"{member} twice, with two values", change)


def missing(member: str) -> Fault:
    return altered(
        f"{member} missing", lambda job: {name: job[name] for name in job if name != member}
    )


def with_value(member: str, value: object, *, applied: bool = False) -> Fault:
    """`value` is sent as JSON; a callable is given the right value first."""

    def change(job: Job) -> Job:
        return job | {member: value(job.get(member)) if callable(value) else value}

    shown = f"a {getattr(value, '__name__', '?')}" if callable(value) else json.dumps(value)
    return altered(f"{member} is {shown}", change, applied=applied)


def not_json() -> Fault:
    page = b"<!DOCTYPE html><html><body><h1>We will be back soon</h1></body></html>"
    return respond(200, page, headers={"Content-Type": "text/html"}, title="200 with a web page")


def deep_nesting(depth: int = 200_000) -> Fault:
    nested = b"[" * depth + b"]" * depth
    return altered(
        f"{depth} lists within each other", lambda job: _spliced(job, b'"extra": ' + nested)
    )


def huge_int(digits: int = 5000) -> Fault:
    return altered(
        f"process_id of {digits} digits",
        lambda job: _encode(job | {"process_id": 0}).replace(b": 0", b": " + b"9" * digits, 1),
    )


def _spliced(job: Job, member: bytes) -> bytes:
    return _encode(job)[:-1] + b", " + member + b"}"


def _text(job: Job, coding: str) -> bytes:
    return json.dumps(job | {"filename": "été.csv"}, ensure_ascii=False).encode(coding)


# --- faults: statuses -------------------------------------------------------------------------

SENT_AT = "Mon, 01 Jun 2026 12:00:00 GMT"
SENT_AT_UNIX = 1_780_315_200


def too_many(**headers: str) -> Fault:
    """A 429; underscores in the names of headers become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return respond(429, {"detail": "Rate limit exceeded"}, headers=named)


def gone(*, announced: bool = False) -> Fault:
    headers = {
        "Deprecation": "@1767225600",
        "Sunset": "Tue, 07 Jul 2026 00:00:00 GMT",
        "Link": '</v2/jobs>; rel="successor-version"',
    }
    return respond(
        410,
        {"detail": "API v1 was retired. Use /v2."},
        headers=headers if announced else (),
        title="410 Gone with Sunset and Link" if announced else "410 Gone",
    )


def redirect(status: int = 307, location: str | None = None) -> Fault:
    """Without a location: the same path on this server under another host name."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        elsewhere = f"http://localhost:{exchange.port}{exchange.seen.path}"
        yield _message(status, b"", {"Location": elsewhere if location is None else location})

    return Fault(f"{status} to {location or 'another host'}", write)


def echo_key(status: int = 200) -> Fault:
    """The key comes back in the body, in a header and in the reason phrase."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        words = f"Your key is {exchange.seen.key}"
        body = _encode(exchange.job | {"message": words} if status == 200 else {"detail": words})
        head = f"HTTP/1.1 {status} {words}\r\nX-Key: {exchange.seen.key}\r\n"
        yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body

    return Fault(f"{status} that repeats the key", write, applied=status == 200)


# --- the catalogue ----------------------------------------------------------------------------


def _odd_but_right() -> dict[str, Fault]:
    def chunked(exchange: Exchange) -> Iterator[bytes]:
        body = _encode(exchange.content)
        chunks = _chunk(body[:9]) + _chunk(body[9:]) + b"0\r\n\r\n"
        yield _head(exchange.status, _CHUNKED) + chunks

    def unbounded(exchange: Exchange) -> Iterator[bytes]:
        yield _head(exchange.status, [_JSON]) + _encode(exchange.content)

    def hinted(exchange: Exchange) -> Iterator[bytes]:
        yield _head(103, {"Link": "</style.css>; rel=preload"})
        yield from _truth(exchange)

    def bytewise(exchange: Exchange) -> Iterator[bytes]:
        for byte in b"".join(_truth(exchange)):
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
        "latin_1": altered("JSON in Latin-1", lambda job: _text(job, "latin-1")),
        "utf_16": altered("JSON in UTF-16", lambda job: _text(job, "utf-16"), applied=True),
        "bom": altered("JSON after a BOM", lambda job: _text(job, "utf-8-sig"), applied=True),
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
        "half_json": altered("half of the JSON", lambda job: _encode(job)[:40]),
        "two_documents": altered("two documents", lambda job: _encode(job) + _encode(job)),
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
            "line break inside a string", lambda job: _encode(job).replace(b" is ", b" is\n", 1)
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
        f"status_{code}": respond(code, {"detail": details.get(code, _phrase(code))})
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


# --- the server -------------------------------------------------------------------------------

_ROUTES: tuple[tuple[str, VersionName, RouteName, str], ...] = (
    ("POST", "v1", "cancel", r"/v1/cancel-process"),
    ("POST", "v1", "status", r"/v1/batch-process-email-status"),
    ("POST", "v2", "cancel", r"/v2/jobs/([^/]+)/cancel"),
    ("GET", "v2", "status", r"/v2/jobs/([^/]+)"),
)


def _asked_for(path: str, body: bytes) -> tuple[str, str, int | None, str]:
    """API version, route, process id and the one method allowed there."""
    for method, version, route, pattern in _ROUTES:
        if match := re.fullmatch(pattern, path.partition("?")[0]):
            if version == "v1":
                return version, route, _id_in(body), method
            text = match[1]
            known = text.isascii() and text.isdigit()
            return version, route, int(text) if known else None, method
    return "", "", None, ""


def _id_in(body: bytes) -> int | None:
    try:
        process_id = json.loads(body)["process_id"]
    except (ValueError, LookupError, TypeError):
        return None
    return process_id if type(process_id) is int else None


@dataclass(frozen=True)
class _For:
    route: RouteName | None = None
    version: VersionName | None = None

    def fits(self, seen: Seen) -> bool:
        return self.route in (None, seen.route) and self.version in (None, seen.version)


class FaultServer:
    def __init__(self) -> None:
        self.jobs: dict[int, str] = {}  # a job not named here is QUEUED
        self.missing: set[int] = set()  # no such job, or not yours
        self.envelope = "detail.error"  # how a 400 is worded: a key of ENVELOPES
        self.applied: list[int] = []
        self.seen: list[Seen] = []
        self.connections = 0
        self.port = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._scripts: dict[int | None, list[tuple[_For, deque[Fault]]]] = {}
        self._always: list[tuple[_For, Fault]] = []
        self._chance: tuple[_For, float, tuple[Fault, ...], Random] | None = None

    # --- what it shall do ---

    def script(
        self,
        *faults: Fault,
        route: RouteName | None = None,
        version: VersionName | None = None,
    ) -> None:
        """The next requests that fit get these faults, one each, in order of arrival."""
        self._queue(None, faults, _For(route, version))

    def script_for(
        self,
        process_id: int,
        *faults: Fault,
        route: RouteName | None = None,
        version: VersionName | None = None,
    ) -> None:
        """The same for the requests of one job; it goes before every other script."""
        self._queue(process_id, faults, _For(route, version))

    def always(
        self,
        fault: Fault,
        *,
        route: RouteName | None = None,
        version: VersionName | None = None,
    ) -> None:
        """From now on, once no script fits; the latest that fits wins."""
        with self._lock:
            self._always.insert(0, (_For(route, version), fault))

    def chance(
        self,
        probability: float,
        faults: Sequence[Fault],
        seed: int,
        *,
        route: RouteName | None = None,
        version: VersionName | None = None,
    ) -> None:
        """Where nothing else fits: one of these faults now and then."""
        with self._lock:
            random = Random(seed)  # noqa: S311
            self._chance = (_For(route, version), probability, tuple(faults), random)

    def heal(self) -> None:
        """Forget every fault."""
        with self._lock:
            self._scripts.clear()
            self._always.clear()
            self._chance = None

    def _queue(self, process_id: int | None, faults: Sequence[Fault], which: _For) -> None:
        with self._lock:
            self._scripts.setdefault(process_id, []).append((which, deque(faults)))

    # --- its life ---

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def open_connections(self) -> int:
        with self._lock:
            return len(self._open)

    def __enter__(self) -> FaultServer:
        self._listener = socket.create_server((HOST, 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close everything and wait for every thread; a second call does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        with suppress(OSError):  # closing a listener does not wake its accept() everywhere
            socket.create_connection((HOST, self.port), timeout=1).close()
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=10)
            if thread.is_alive():
                raise RuntimeError("a connection of the fault server outlives it")

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._stopping.is_set():
                sock.close()
                return
            with self._lock:
                self.connections += 1
                self._open.add(sock)
                number = self.connections
            thread = threading.Thread(target=self._serve, args=(sock, number), daemon=True)
            self._threads = [old for old in self._threads if old.is_alive()]
            self._threads.append(thread)
            thread.start()

    # --- one connection ---

    def _serve(self, sock: socket.socket, number: int) -> None:
        reader = sock.makefile("rb")
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (end := self._turn(sock, reader, number)) is End.KEEP:
                pass
            if end is End.HANG:
                while reader.read1(2**16):
                    pass
            elif end is End.RESET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                # A plain close would say nothing while a forked child holds a copy.
                sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client has gone, or stop() was called
        finally:
            with self._lock:
                self._open.discard(sock)
                reader.close()
                sock.close()

    def _turn(self, sock: socket.socket, reader: BufferedReader, number: int) -> End:
        if not reader.peek(1):
            return End.CLOSE
        fault = self._pick_early()
        if fault:
            self._send(sock, fault, self._exchange(Seen(), apply=False))
            if fault.end is not End.KEEP:
                return fault.end
        seen = _read_request(reader, number)
        if seen is None:
            return End.CLOSE
        with self._lock:
            chosen = fault or self._pick(seen)
            self.seen.append(replace(seen, fault=chosen.title))
        exchange = self._exchange(seen, apply=chosen.applied)
        if not fault:
            self._send(sock, chosen, exchange)
        asked_to_close = seen.headers.get("connection", "").lower() == "close"
        return End.CLOSE if asked_to_close and chosen.end is End.KEEP else chosen.end

    def _send(self, sock: socket.socket, fault: Fault, exchange: Exchange) -> None:
        if fault.delay and self._stopping.wait(fault.delay):
            raise ConnectionAbortedError
        for piece in fault.write(exchange):
            sock.sendall(piece)
            if fault.interval and self._stopping.wait(fault.interval):
                raise ConnectionAbortedError

    def _pick_early(self) -> Fault | None:
        with self._lock:
            for which, faults in self._scripts.get(None, ()):
                if faults:
                    first = which == _For() and faults[0].early
                    return faults.popleft() if first else None
        return None

    def _pick(self, seen: Seen) -> Fault:
        for key in (seen.process_id, None):
            for which, faults in self._scripts.get(key, ()):
                if faults and which.fits(seen):
                    return faults.popleft()
        for which, fault in self._always:
            if which.fits(seen):
                return fault
        if self._chance:
            which, probability, choices, random = self._chance
            if which.fits(seen) and random.random() < probability:
                return random.choice(choices)
        return HEALTHY

    # --- the API itself ---

    def _exchange(self, seen: Seen, *, apply: bool) -> Exchange:
        with self._lock:
            status, content = self._answer(seen, apply=apply)
            process_id = seen.process_id or 0
            current = self.jobs.get(process_id, "QUEUED")
        if isinstance(content, dict) and "process_id" in content:
            job = content
        else:
            job = job_body(process_id, current)
        return Exchange(seen, status, content, job, self.port)

    def _answer(self, seen: Seen, *, apply: bool) -> tuple[int, object]:
        process_id = seen.process_id
        *_, method = _asked_for(seen.path, seen.body)
        if not seen.route:
            return 404, {"detail": "Not Found"}
        if seen.method != method:
            return 405, {"detail": "Method Not Allowed"}
        if not (seen.key or "").strip():
            return 401, {"detail": "Not authenticated"}
        if process_id is None:
            where = ["body" if seen.version == "v1" else "path", "process_id"]
            message = "Input should be a valid integer"
            return 422, {"detail": [{"loc": where, "msg": message, "type": "int_parsing"}]}
        if process_id < 1 or process_id in self.missing:
            return 400, {"detail": "Invalid process_id"}
        current = self.jobs.setdefault(process_id, "QUEUED")
        if seen.route == "status":
            return 200, job_body(process_id, current)
        refuse = ENVELOPES[self.envelope]
        if current in ("CANCELLING", "CANCELLED"):
            return 400, refuse("already_cancelled", "Job is already cancelled.")
        if current in ("COMPLETED", "ERROR"):
            return 400, refuse("not_cancellable", f"A job that is {current} is not cancellable.")
        if apply:
            self.jobs[process_id] = "CANCELLING"
            self.applied.append(process_id)
        return 200, job_body(process_id)


def _read_request(reader: BufferedReader, number: int) -> Seen | None:
    """None where the client hung up, or does not speak HTTP."""
    words = reader.readline().decode("latin-1").split()
    if len(words) != 3:
        return None
    headers: dict[str, str] = {}
    while (line := reader.readline().decode("latin-1")) not in ("\r\n", ""):
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip("\r\n \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    length = headers.get("content-length", "0")
    if not line or not length.isdigit():
        return None
    body = reader.read(int(length))
    if len(body) < int(length):
        return None
    version, route, process_id, _ = _asked_for(words[1], body)
    return Seen(
        method=words[0],
        path=words[1],
        version=version,
        route=route,
        process_id=process_id,
        headers=headers,
        body=body,
        key=headers.get("x-key"),
        connection=number,
    )


# --- places where there is no server ----------------------------------------------------------


@contextmanager
def refusing() -> Iterator[str]:
    """A base URL that refuses every connection; the port stays ours meanwhile."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        yield f"http://{HOST}:{sock.getsockname()[1]}"


@contextmanager
def unreachable() -> Iterator[str]:
    """A base URL where connecting takes for ever: its queue is full (Linux)."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind((HOST, 0))
        listener.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(listener.getsockname())
        yield f"http://{HOST}:{listener.getsockname()[1]}"
