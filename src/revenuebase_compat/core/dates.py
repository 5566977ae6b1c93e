"""Dates as people and servers write them (pure)."""

from __future__ import annotations

import re
from datetime import date, datetime, timezone

# dateutil is imported where it is needed: it costs half of httpx's import, and the default
# settings need no parsing at all.

# RFC 9110, 5.6.7: IMF-fixdate, the only form of an HTTP-date that may still be sent.
_HTTP_DATE = re.compile(
    r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{2} (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
    r" \d{4} \d{2}:\d{2}:\d{2} GMT",
)
# A full date first: isoparse alone would also take a year or a month for its first day.
_ISO = re.compile(r"(\d{4}-\d{2}-\d{2}|\d{8})([T ].+)?", re.ASCII | re.DOTALL)


def parse_http_date(text: str) -> datetime | None:
    """An HTTP-date (RFC 9110, 5.6.7) as an aware time, or ``None`` for anything else."""
    if not _HTTP_DATE.fullmatch(text):
        return None
    from dateutil.parser import parse

    try:
        return parse(text)
    except (ValueError, OverflowError):
        return None


def parse_date(value: object) -> datetime:
    """An ISO 8601 date or time, an HTTP-date, a ``date`` or a ``datetime``, as an aware time.

    Where no zone is given it is UTC, and a bare date is its first instant.

    Raises:
        ValueError: for anything else, such as ``07/08/2026``, which could be two dates.
    """
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day)  # noqa: DTZ001 (made aware below)
    elif isinstance(value, str):
        moment = _parse_text(value.strip())
    else:
        raise ValueError("not a date")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


def _parse_text(text: str) -> datetime:
    found = parse_http_date(text)
    if found is not None:
        return found
    if not _ISO.fullmatch(text):
        raise ValueError("not a date")
    from dateutil.parser import isoparse

    try:
        return isoparse(text)
    except OverflowError as error:
        raise ValueError(str(error)) from None
