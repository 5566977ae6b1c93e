"""How the bytes of an answer are put together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus

Headers = Mapping[str, str] | Sequence[tuple[str, str]]

JSON = ("Content-Type", "application/json")
CHUNKED = (JSON, ("Transfer-Encoding", "chunked"))


def phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unheard Of"


def pairs(headers: Headers) -> list[tuple[str, str]]:
    return list(headers.items() if isinstance(headers, Mapping) else headers)


def http_head(status: int, headers: Headers = ()) -> bytes:
    lines = [f"HTTP/1.1 {status} {phrase(status)}"]
    lines += [f"{name}: {value}" for name, value in pairs(headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def as_body(content: object) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def http_message(status: int, content: object, headers: Headers = ()) -> bytes:
    """A whole answer: bytes go out as they are, anything else as JSON."""
    given = pairs(headers)
    if status < 200 or status in (204, 304):
        return http_head(status, given)
    body = as_body(content)
    names = {name.lower() for name, _ in given}
    usual = [JSON, ("Content-Length", str(len(body)))]
    missing = [pair for pair in usual if pair[0].lower() not in names]
    return http_head(status, [*given, *missing]) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
