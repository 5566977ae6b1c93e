"""The API versions, when they end, and what follows them (pure data).

A new date is an edit to this file, a new endpoint one to ``endpoints``.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from enum import Enum

from packaging.version import Version

V1 = Version("1")
V2 = Version("2")


# The vendor's v1 pages say "Sunset: Tue, 07 Jul 2026", without an hour or a zone: midnight UTC is
# the earliest.
V1_SUNSET = datetime(2026, 7, 7, tzinfo=timezone.utc)

#: From this long before its sunset on, using a version is worth a WARNING.
FINAL_STRETCH = timedelta(days=90)


class Phase(str, Enum):
    """Where a version stands in its life."""

    DEPRECATED = "deprecated"
    SUNSETTING = "sunsetting"
    RETIRED = "retired"


def phase(now: datetime, sunset: datetime) -> Phase:
    """The phase at ``now`` of a version that ends at ``sunset``; both are aware."""
    if now >= sunset:
        return Phase.RETIRED
    return Phase.SUNSETTING if sunset - now <= FINAL_STRETCH else Phase.DEPRECATED
