"""Dates as people and servers write them (pure)."""

from __future__ import annotations

import re
from datetime import date, datetime, timezone

# dateutil costs half of httpx's import, and default settings need no parsing: it is imported, and
# patterns are compiled, where they are needed.

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# RFC 9110, 5.6.7: IMF-fixdate, the only form of an HTTP-date that may still be sent.
_HTTP_DATE = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d\d) (\w{3}) (\d{4}) (\d\d:\d\d:\d\d) GMT"
# A full date first: isoparse alone would also take a year or a month for its first day.
_ISO = r"(\d{4}-\d{2}-\d{2}|\d{8})([T ].+)?"


def parse_http_date(text: str) -> datetime | None:
    """An HTTP-date (RFC 9110, 5.6.7) as an aware time, or ``None`` for anything else."""
    found = re.fullmatch(_HTTP_DATE, text, re.ASCII)
    if found is None:
        return None
    # Not by dateutil, to which GMT is the machine's own zone where that one is named so; nor by
    # email.utils, which imports socket.
    day, month, year, time = found.groups()
    try:
        return datetime.fromisoformat(f"{year}-{_MONTHS.index(month) + 1:02}-{day}T{time}+00:00")
    except ValueError:
        return None


def parse_date(value: object) -> datetime:
    """An ISO 8601 date or time, an HTTP-date, a ``date`` or a ``datetime``, as an aware time.

    Without a zone it is UTC, and a bare date is its first instant.

    Raises:
        ValueError: for anything else, such as ``07/08/2026``, which could be two dates.
    """
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day)  # noqa: DTZ001 (made aware below)
    elif isinstance(value, str):
        moment = parse_http_date(value.strip()) or _parse_iso(value.strip())
    else:
        raise ValueError("not a date")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


def _parse_iso(text: str) -> datetime:
    if not re.fullmatch(_ISO, text, re.ASCII | re.DOTALL):
        raise ValueError("not a date")
    from dateutil.parser import isoparse

    try:
        return isoparse(text)
    except OverflowError as error:
        raise ValueError(str(error)) from None
