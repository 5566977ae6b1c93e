"""Faults of a whole answer: its encoding, its body, its status."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator

from .faults import OTHER_JOB, Exchange, Fault, Job, altered, job_body, packed, respond
from .wire import as_body, http_message

# --- encodings --------------------------------------------------------------------------------


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


# --- bodies -----------------------------------------------------------------------------------


def wrong_job(other_id: int = OTHER_JOB) -> Fault:
    return altered("200 for another job", lambda _: job_body(other_id))


def ambiguous(member: str = "process_id", value: object = OTHER_JOB) -> Fault:
    """The right value stands last, where most parsers take it from."""

    def change(job: Job) -> bytes:
        return f"{{{json.dumps(member)}: {json.dumps(value)}, ".encode() + as_body(job)[1:]

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
        lambda job: as_body(job | {"process_id": 0}).replace(b": 0", b": " + b"9" * digits, 1),
    )


def _spliced(job: Job, member: bytes) -> bytes:
    return as_body(job)[:-1] + b", " + member + b"}"


def text_in(job: Job, coding: str) -> bytes:
    return json.dumps(job | {"filename": "été.csv"}, ensure_ascii=False).encode(coding)


# --- statuses ---------------------------------------------------------------------------------

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
        yield http_message(status, b"", {"Location": elsewhere if location is None else location})

    return Fault(f"{status} to {location or 'another host'}", write)


def echo_key(status: int = 200) -> Fault:
    """The key comes back in the body, in a header and in the reason phrase."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        words = f"Your key is {exchange.seen.key}"
        body = as_body(exchange.job | {"message": words} if status == 200 else {"detail": words})
        head = f"HTTP/1.1 {status} {words}\r\nX-Key: {exchange.seen.key}\r\n"
        yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body

    return Fault(f"{status} that repeats the key", write, applied=status == 200)
