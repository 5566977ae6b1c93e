"""Dates as people and servers write them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revenuebase_compat.core.dates import parse_date, parse_http_date
from tests.support import UTC

MIDNIGHT = datetime(2026, 7, 7, tzinfo=UTC)

offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-07-07", MIDNIGHT),
        ("20260707", MIDNIGHT),
        ("  2026-07-07\n", MIDNIGHT),
        ("2026-07-07T00:00:00Z", MIDNIGHT),
        ("2026-07-07T00:00:00+00:00", MIDNIGHT),
        ("2026-07-07T00:00:00-00:00", MIDNIGHT),
        ("2026-07-07 00:00:00", MIDNIGHT),
        ("2026-07-07T00:00", MIDNIGHT),
        ("20260707T000000Z", MIDNIGHT),
        ("2026-07-07T02:00:00+02:00", MIDNIGHT),
        ("2026-07-07T02:00:00+0200", MIDNIGHT),
        ("2026-07-06T19:00:00-05", MIDNIGHT),
        ("2026-07-07T05:45:00+05:45", MIDNIGHT),
        ("2026-07-06T24:00:00Z", MIDNIGHT),
        ("2026-07-06T23:59:59.999999Z", MIDNIGHT - timedelta(microseconds=1)),
        ("Tue, 07 Jul 2026 00:00:00 GMT", MIDNIGHT),
        (date(2026, 7, 7), MIDNIGHT),
        (datetime(2026, 7, 7), MIDNIGHT),  # noqa: DTZ001 (a naive one is the case)
        (MIDNIGHT, MIDNIGHT),
        (datetime(2026, 7, 7, 5), MIDNIGHT + timedelta(hours=5)),  # noqa: DTZ001
        (datetime(2026, 7, 7, 2, tzinfo=timezone(timedelta(hours=2))), MIDNIGHT),
    ],
)
def test_parse_date_takes_what_a_person_may_write(value: object, moment: datetime) -> None:
    found = parse_date(value)
    assert found == moment
    assert found.utcoffset() is not None


@pytest.mark.parametrize(
    "value",
    [
        "07/08/2026",
        "7.8.2026",
        "08-07-2026",
        "7 July 2026",
        "July 7, 2026",
        "2026",
        "2026-07",
        "202607",
        "2026-W28-2",
        "2026-188",
        "2026-7-7",
        "26-07-07",
        "2026-02-30",
        "2026-13-01",
        "2026-07-07T",
        "2026-07-07T25:00",
        "2026-07-07T00:00:00+25:00",
        "2026-07-07T00:00:00 Europe/Berlin",
        "9999-12-31T24:00",
        "Tue, 07 Jul 2026 00:00:00",
        "Tue, 07 Jul 2026 00:00:00 UTC",
        "Tue, 07 Jul 2026 00:00:00 +0200",
        "Tue, 07 Jul 2026 24:00:00 GMT",
        "Tue, 32 Jul 2026 00:00:00 GMT",
        "Tue, ٠٧ Jul 2026 00:00:00 GMT",
        "٢٠٢٦-07-07",
        "tomorrow",
        "1783382400",
        "",
        1783382400,
        1783382400.0,
        True,
        None,
        b"2026-07-07",
        (2026, 7, 7),
    ],
)
def test_parse_date_refuses(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_date(value)


@given(st.text() | st.from_regex(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}([T ].*)?", fullmatch=True))
def test_parse_date_of_any_text_is_an_aware_time_or_a_value_error(text: str) -> None:
    try:
        found = parse_date(text)
    except ValueError:
        return
    assert found.utcoffset() is not None


@given(st.datetimes(timezones=offsets))
def test_parse_date_of_iso_keeps_the_instant(moment: datetime) -> None:
    assert parse_date(moment.isoformat()) == moment


@given(st.datetimes(timezones=st.just(UTC)))
def test_parse_http_date_keeps_the_instant(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    assert parse_http_date(format_datetime(moment, usegmt=True)) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-07-07",
        "Tuesday, 07-Jul-26 00:00:00 GMT",  # RFC 850, obsolete
        "Tue Jul  7 00:00:00 2026",  # asctime, obsolete
        "Tue, 7 Jul 2026 00:00:00 GMT",
        "tue, 07 jul 2026 00:00:00 gmt",
        "Tue, 07 Jul 2026 00:00:00 GMT+2",
        "Tue, 07 Jul 2026 00:00:00 EST",
        "Tue, 07 Jul 2026 00:60:00 GMT",
        "x Tue, 07 Jul 2026 00:00:00 GMT",
        "Tue, 07 Jul 2026 00:00:00 GMT\n",
    ],
)
def test_parse_http_date_takes_only_the_one_form(text: str) -> None:
    assert parse_http_date(text) is None


@pytest.fixture(params=["UTC", "Europe/London", "America/New_York", "GMT+5", "GMT-3"])
def local_zone(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process cannot be changed")
@pytest.mark.parametrize("month", [1, 7])
def test_parse_http_date_takes_gmt_not_for_the_zone_of_this_machine(
    local_zone: str, month: int
) -> None:
    # "GMT" is also a name of local time, in London's winter and wherever TZ says so.
    moment = datetime(2026, month, 7, 12, tzinfo=UTC)
    found = parse_http_date(format_datetime(moment, usegmt=True))
    assert found == moment
    # Half a year on stays half a year, whatever the local clocks do in between.
    assert found is not None
    assert found + timedelta(days=182) == moment + timedelta(days=182)
