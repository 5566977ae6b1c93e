"""What comes back: a response or none, its body as strict JSON, the job in it (pure)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from .models import FIELDS, PROCESS_ID_LIMIT, Job
from .settings import Secret

#: No published answer comes near it; more is not read (bytes, before and after decompression).
MAX_BODY = 1024 * 1024

#: Deeper JSON is refused: no published answer has more than four levels, and pickle recurses.
MAX_DEPTH = 32

_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a fraction",
    str: "a text",
    list: "a list",
    dict: "an object",
}


class Response(NamedTuple):
    """An answer that arrived whole; ``problem`` says why the body, empty then, could not be had.

    The ``repr`` shows no body, as a server may have echoed the key.
    """

    status: int
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    problem: str = ""

    def header(self, name: bytes) -> str | None:
        """The header of that (lower-case) name; several lines are one list (RFC 9110, 5.3)."""
        found = [value.strip() for key, value in self.headers if key.lower() == name]
        return b", ".join(found).decode("latin-1") if found else None

    def without(self, secret: Secret) -> Response:
        """This answer, with a secret that it repeats taken out."""
        everything = b"\n".join([self.body, *[value for _, value in self.headers]])
        if secret.hide(everything) is everything:
            return self
        headers = [(name, secret.hide(value)) for name, value in self.headers]
        return self._replace(headers=headers, body=secret.hide(self.body))

    def __repr__(self) -> str:
        return f"<Response {self.status}, {len(self.body)} bytes>"


class NoResponse(NamedTuple):
    """No answer, or not all of it: why, whether the request may have been sent, or time ran out."""

    reason: str
    sent: bool
    timeout: bool = False

    def without(self, secret: Secret) -> NoResponse:
        """The same, with a secret that its reason quotes taken out."""
        return self._replace(reason=secret.hide(self.reason.encode("utf-8", "replace")).decode())

    def __repr__(self) -> str:
        # Not the reason, which may quote what the server sent.
        return f"<NoResponse, sent={self.sent}, timeout={self.timeout}>"


AttemptOutcome = Response | NoResponse


class Unusable(Exception):
    """A body that no result can be built from; the text completes "the body …"."""


def read_job(response: Response, process_id: int) -> Job:
    """The job an answer describes, unknown fields kept; raises ``Unusable`` if it is another."""
    data = load_json(response)
    if not isinstance(data, dict):
        raise Unusable(f"is {_KINDS[type(data)]}, not an object")
    missing = [name for name in FIELDS if name not in data]
    if missing:
        raise Unusable(f"lacks {', '.join(missing)}")
    found = data["process_id"]
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) <= 64:
        found = int(found)
    if type(found) is not int:
        raise Unusable(f"gives process_id as {_KINDS[type(found)]}")
    if found != process_id:
        other = found if abs(found) < PROCESS_ID_LIMIT else "a number out of range"
        raise Unusable(f"is about another job, {other}")
    for name in FIELDS[1:]:
        if not isinstance(data[name], str):
            raise Unusable(f"gives {name} as {_KINDS[type(data[name])]}")
    extra = {name: value for name, value in data.items() if name not in FIELDS}
    return Job(process_id, data["filename"], data["current_status"], data["message"], extra)


def load_json(response: Response) -> Any:
    """The body as strict JSON (RFC 8259, and no key twice); raises ``Unusable`` if it is none."""
    if response.problem:
        raise Unusable(response.problem)
    if not response.body.strip():
        raise Unusable("is empty")
    try:
        # A BOM may be ignored (RFC 8259, 8.1); the codec that does it is slow.
        text = response.body.decode("utf-8-sig" if response.body[:1] == b"\xef" else "utf-8")
        data = _DECODER.decode(text)
        if text.count("[") + text.count("{") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
            raise RecursionError
        if "\\u" in text:  # only an escape can bring in half a surrogate pair
            json.dumps(data, ensure_ascii=False).encode()
        return data
    except UnicodeDecodeError:
        why = "is not UTF-8"
    except UnicodeEncodeError:
        why = "holds half a surrogate pair"
    except RecursionError:
        why = "is nested too deeply"
    except ValueError:
        why = "is not JSON"
    raise Unusable(why)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unusable("is ambiguous: it holds a key twice")
    return found


def _constant(name: str) -> Any:
    raise Unusable(f"holds {name}, which is not JSON")


def _int(text: str) -> int:
    if len(text) > 400:  # int() takes quadratic time
        raise Unusable("holds a number of absurd length")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Unusable("holds a number out of range")
    return number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_int, parse_float=_float
)


def _depth(data: Any) -> int:
    inner = data.values() if isinstance(data, dict) else data
    return 1 + max(map(_depth, inner), default=0) if isinstance(data, dict | list) else 0


def cut_short(response: Response) -> bool:
    """Whether a body that ends where the connection does (RFC 9112, 6.3) ends too early.

    Where a length or chunks frame the body, httpx notices by itself.
    """
    body = response.body.strip()
    half = not body or (body.startswith(b"{") and not body.endswith(b"}"))
    if not half or response.status != 200 or response.problem:
        return False
    return not (response.header(b"content-length") or response.header(b"transfer-encoding"))


def unpack(status: int, headers: Sequence[tuple[bytes, bytes]], raw: bytes) -> Response:
    """A response from what came over the wire; decompresses, but never beyond ``MAX_BODY``."""
    response = Response(status, headers, raw)
    if len(raw) > MAX_BODY:
        return Response(status, headers, problem="is larger than 1 MiB")
    encoding = (response.header(b"content-encoding") or "identity").lower()
    if encoding == "identity" or not raw:
        return response
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return Response(status, headers, problem="has a content-encoding that was not asked for")
    import zlib

    # 47: gzip or zlib, by their header; some servers send "deflate" without one (-15).
    for wbits in (47, -15):
        decoder = zlib.decompressobj(wbits)
        try:
            body = decoder.decompress(raw, MAX_BODY + 1)
        except zlib.error:
            continue
        if len(body) > MAX_BODY:
            return Response(status, headers, problem="is larger than 1 MiB once decompressed")
        if decoder.eof and not decoder.unused_data:
            return Response(status, headers, body)
    return Response(status, headers, problem="is not what its content-encoding says")
