"""What an answer means: the code of a 400, the server's words, whether and when to retry (pure).

Sources: the vendor's pages and SDK tests for envelopes and rate limits; RFC 9110 (``Retry-After``,
``Date``), RFC 8594 (``Sunset``), RFC 9745 (``Deprecation``), RFC 8288 (``Link``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, NamedTuple

from .dates import parse_http_date
from .decoding import Response, Unusable, load_json

ALREADY_CANCELLED = "already_cancelled"
NOT_CANCELLABLE = "not_cancellable"

#: The endpoint itself is missing: a missing job is a 400.
MISSING = frozenset({404, 405, 501})
GONE = 410
RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})

#: A hint to wait longer than this is nonsense: the longest published window is a day.
LONGEST_HINT = timedelta(days=31).total_seconds()

# Compiled on first use, as most processes never need them.
_SUCCESSOR = r'(?i)<([^<>]{1,500})>[^<>,]{0,200};\s*rel="?[^"<>,;]{0,100}\bsuccessor-version\b'
_CODE = r"(?=.{1,64}$)[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*"
_PROSE = {
    ALREADY_CANCELLED: r"(?i)\balready (been |being )?cancell?(ed|ing)\b",
    NOT_CANCELLABLE: r"(?i)\b(not|non|un)[ -]?cancell?able|"
    r"\b(cannot|can not|can.t|can no longer) be cancell?ed\b",
}
_SPELLINGS = {
    "already_cancelled": ALREADY_CANCELLED,
    "already_canceled": ALREADY_CANCELLED,
    "not_cancellable": NOT_CANCELLABLE,
    "not_cancelable": NOT_CANCELLABLE,
}


def maybe_applied(response: Response) -> bool:
    """Whether a failed answer leaves open that the cancel was applied (5xx but 501)."""
    return response.status >= 500 and response.status != 501


def should_retry(response: Response) -> bool:
    """Whether the answer is worth another attempt; ``x-should-retry`` has the last word."""
    if response.status < 400:
        return False
    hint = (response.header(b"x-should-retry") or "").lower()
    return {"true": True, "false": False}.get(hint, response.status in RETRYABLE)


def retry_wait(response: Response, now: datetime) -> float | None:
    """Seconds the server asks to wait, by its own ``Date``; ``None`` without a sensible hint."""
    after, in_ms = response.header(b"retry-after"), _number(response.header(b"retry-after-ms"))
    hints = (
        None if in_ms is None else in_ms / 1000,
        _number(after),
        _until(parse_http_date(after or ""), response, now),
        rate_limit_wait(response, now) if response.status == 429 else None,
    )
    return next((wait for wait in hints if wait is not None and 0 <= wait <= LONGEST_HINT), None)


def reset_at(response: Response, now: datetime) -> datetime | None:
    """When the server takes requests again, by its own clock."""
    wait = retry_wait(response, now)
    try:
        return None if wait is None else _date(response, now) + timedelta(seconds=wait)
    except OverflowError:
        return None


def rate_limit_wait(response: Response, now: datetime) -> float | None:
    """Seconds until ``X-RateLimit-Reset`` (Unix time), by the server's own ``Date``."""
    return _until(_moment(response.header(b"x-ratelimit-reset")), response, now)


def count(text: str | None) -> int | None:
    """A header that is a whole number, as an ``int``."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else None


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,9})?", text) else None


def _until(moment: datetime | None, response: Response, now: datetime) -> float | None:
    wait = -1.0 if moment is None else (moment - _date(response, now)).total_seconds()
    return wait if 0 <= wait <= LONGEST_HINT else None


def _date(response: Response, now: datetime) -> datetime:
    return parse_http_date(response.header(b"date") or "") or now


def _moment(text: str | None) -> datetime | None:
    seconds = _number(text)
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None


#: When the server's version ends, and the successor that it names.
Announcement = tuple[datetime | None, str | None]


def announcement(response: Response) -> Announcement | None:
    """What ``Sunset``, ``Deprecation: @unix`` and a ``Link`` to a successor say, if sent."""
    names = (b"sunset", b"deprecation", b"link")
    said = [response.header(name) or "" for name in names]
    return _announced(*said) if any(said) else None


@lru_cache(16)  # a server says the same in each answer
def _announced(sunset: str, deprecation: str, link: str) -> Announcement | None:
    ends = parse_http_date(sunset)
    deprecated = _moment(deprecation[1:]) if deprecation.startswith("@") else None
    successor = re.search(_SUCCESSOR, link)
    if not (ends or deprecated or successor):
        return None
    return ends, readable(successor[1]) if successor else None


class ErrorBody(NamedTuple):
    """What an error's body says: machine code, words for people, the 422 list."""

    code: str | None
    words: str
    errors: list[dict[str, Any]]


def read_error(response: Response) -> ErrorBody:
    """Read an error's body, in any envelope that was seen or is plausible; never raises.

    ``code`` is ``already_cancelled`` or ``not_cancellable`` where the body means one of the two,
    else the server's own code, else ``None``.
    """
    try:
        data = load_json(response)
    except Unusable as unusable:
        text = response.body.decode("utf-8", "replace").strip()
        empty = not text and not response.problem
        return ErrorBody(None, "" if empty else readable(text) or f"the body {unusable}", [])
    texts = list(_texts(data))
    codes = [text for _, text in texts if re.fullmatch(_CODE, text)]
    spelled = [code.lower().replace("-", "_") for code in codes]
    known = {_SPELLINGS[code] for code in spelled if code in _SPELLINGS}
    if not known:
        prose = "\n".join(text for _, text in texts)
        known = {code for code, pattern in _PROSE.items() if re.search(pattern, prose)}
    own = [text for name, text in texts if name in ("code", "error", "type") and text in codes]
    code = next(iter(known or own), None) if len(known) < 2 else None
    detail = data.get("detail") if isinstance(data, dict) else None
    errors = [item for item in detail if isinstance(item, dict)] if isinstance(detail, list) else []
    words = (
        [_validation(item) for item in errors]
        or [text for name, text in texts if name in ("detail", "message", "msg")]
        or [text for _, text in texts]
    )
    return ErrorBody(code, readable("; ".join(dict.fromkeys(words))), errors)


def _texts(data: Any, name: str = "detail", depth: int = 2) -> Iterator[tuple[str, str]]:
    """The texts an envelope may speak through, with their names, codes first."""
    if isinstance(data, dict) and depth:
        for inner in ("code", "error", "type", "detail", "message", "title", "msg"):
            yield from _texts(data.get(inner), inner, depth - 1)
    elif isinstance(data, str) and data != "about:blank":
        # RFC 9457: the problem's type is a URI, and its last segment names the problem.
        yield name, re.split(r"[/#:]", data.rstrip("/"))[-1] if name == "type" else data


def _validation(item: dict[str, Any]) -> str:
    where = item.get("loc")
    path = ".".join(map(str, where)) if isinstance(where, list) else ""
    return f"{path}: {item.get('msg')}" if path else str(item.get("msg"))


def readable(text: str) -> str:
    """A server's text as one printable line of at most 300 characters."""
    line = "".join(char if char.isprintable() else " " for char in text[:1000])
    line = " ".join(line.split())
    return line if len(line) <= 300 else line[:299] + "…"
