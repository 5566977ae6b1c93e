"""Faults of a connection: the answer is lost, has no end, is too much, or is not quite HTTP."""

from __future__ import annotations

import gzip
import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace

from .faults import HEALTHY, OTHER_JOB, End, Exchange, Fault, applied_if, job_body, packed, truth
from .wire import CHUNKED, JSON, as_body, chunk, http_head, http_message

# --- the answer is lost -----------------------------------------------------------------------


def drop(applied: bool = False) -> Fault:
    return applied_if(applied, Fault("connection closed without a byte", end=End.CLOSE))


def reset(applied: bool = False) -> Fault:
    return applied_if(applied, Fault("connection reset", end=End.RESET))


def hang(applied: bool = False) -> Fault:
    return applied_if(applied, Fault("no answer, connection left open", end=End.HANG))


def half_status_line(applied: bool = False) -> Fault:
    fault = Fault("closed within the status line", lambda _: [b"HTTP/1.1 2"], End.CLOSE)
    return applied_if(applied, fault)


def half_headers(applied: bool = False) -> Fault:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Le"
    return applied_if(applied, Fault("closed within the headers", lambda _: [head], End.CLOSE))


def cut_body(applied: bool = False) -> Fault:
    def write(exchange: Exchange) -> Iterator[bytes]:
        yield http_message(exchange.status, exchange.content)[:-20]

    return applied_if(applied, Fault("body shorter than its Content-Length", write, End.CLOSE))


def cut_chunked(applied: bool = False) -> Fault:
    """Every byte of the JSON arrives; only the last, empty chunk is missing."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        yield http_head(exchange.status, CHUNKED) + chunk(as_body(exchange.content))

    return applied_if(applied, Fault("chunked body without its end", write, End.CLOSE))


def hang_in_body(applied: bool = False) -> Fault:
    return applied_if(applied, replace(cut_body(), title="body stops half-way", end=End.HANG))


# --- no end in sight --------------------------------------------------------------------------

_MIB = b" " * 2**20


def trickle_body(applied: bool = False, interval: float = 0.02) -> Fault:
    """The right answer byte by byte, then blanks for ever: a JSON parser would accept it all."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        yield http_head(exchange.status, CHUNKED)
        body = as_body(exchange.content)
        for byte in itertools.chain(body, itertools.repeat(ord(" "))):
            yield chunk(bytes([byte]))

    fault = Fault("body byte by byte without end", write, End.CLOSE, interval=interval)
    return applied_if(applied, fault)


def trickle_headers(applied: bool = False, interval: float = 0.02) -> Fault:
    def write(_: Exchange) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nX-Slow: "
        yield from itertools.repeat(b"a")

    fault = Fault("headers byte by byte without end", write, End.CLOSE, interval=interval)
    return applied_if(applied, fault)


def endless_informational(applied: bool = False, interval: float = 0.01) -> Fault:
    hint = http_head(103, {"Link": "</style.css>; rel=preload"})
    fault = Fault(
        "103 Early Hints without end", lambda _: itertools.repeat(hint), interval=interval
    )
    return applied_if(applied, fault)


def endless_body(applied: bool = False) -> Fault:
    def write(exchange: Exchange) -> Iterator[bytes]:
        yield http_head(exchange.status, CHUNKED) + chunk(as_body(exchange.content))
        yield from itertools.repeat(chunk(_MIB[: 2**16]))

    return applied_if(applied, Fault("right answer, then blanks without end", write, End.CLOSE))


# --- too much of it ---------------------------------------------------------------------------


def huge_body(mib: int = 64) -> Fault:
    def write(exchange: Exchange) -> Iterator[bytes]:
        body = as_body(exchange.content)
        length = str(len(body) + mib * 2**20)
        yield http_head(exchange.status, (JSON, ("Content-Length", length))) + body
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
        length, pieces = _blown_up(as_body(exchange.content), mib, coding)
        for _ in range(layers - 1):
            packed = gzip.compress(b"".join(pieces))
            length, pieces = len(packed), iter([packed])
        codings = ", ".join([coding] + ["gzip"] * (layers - 1))
        headers = (JSON, ("Content-Encoding", codings), ("Content-Length", str(length)))
        yield http_head(exchange.status, headers)
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


# --- not quite HTTP ---------------------------------------------------------------------------


def raw(title: str, sent: bytes, *, end: End = End.CLOSE, applied: bool = False) -> Fault:
    return applied_if(applied, Fault(title, lambda _: [sent], end))


def http_09() -> Fault:
    def write(exchange: Exchange) -> Iterator[bytes]:
        yield as_body(exchange.job)

    return Fault("bare body, as HTTP/0.9 did", write, End.CLOSE, applied=True)


def two_content_lengths() -> Fault:
    def write(exchange: Exchange) -> Iterator[bytes]:
        body = as_body(exchange.content)
        lengths = (("Content-Length", str(len(body))), ("Content-Length", "2"))
        yield http_head(exchange.status, (JSON, *lengths)) + body

    return Fault("two different Content-Lengths", write, applied=True)


def length_and_chunked() -> Fault:
    """Read by its Content-Length it is another answer than read by its chunks."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        body = chunk(as_body(job_body(OTHER_JOB))) + b"0\r\n\r\n"
        yield http_head(200, (*CHUNKED, ("Content-Length", str(len(body))))) + body

    return Fault("Content-Length and chunks at once", write)


def bad_chunk_size() -> Fault:
    sent = http_head(200, CHUNKED) + b"zz\r\n{}\r\n0\r\n\r\n"
    return raw("chunk size that is no number", sent)


def switching_protocols() -> Fault:
    sent = http_head(101, {"Upgrade": "websocket", "Connection": "Upgrade"})
    return raw("101 Switching Protocols", sent, end=End.HANG)


def leftover(other_id: int = OTHER_JOB) -> Fault:
    """Who reuses the connection reads the second answer as that of the next request."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        yield b"".join(truth(exchange)) + http_message(200, job_body(other_id))

    return Fault("right answer, then one nobody asked for", write, applied=True)


def stale_connection() -> Fault:
    title = "right answer, then closed though keep-alive was promised"
    return replace(HEALTHY, title=title, end=End.CLOSE)
