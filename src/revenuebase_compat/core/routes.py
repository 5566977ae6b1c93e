"""The API versions, when v1 ends, and a decision for one of them with its reason (pure data)."""

from __future__ import annotations

from dataclasses import dataclass
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


class RouteReason(str, Enum):
    """Why a version was chosen."""

    PINNED = "PINNED"
    SUNSET = "SUNSET"
    V1_GONE = "V1_GONE"
    FLAG = "FLAG"
    ROLLOUT = "ROLLOUT"
    DEFAULT = "DEFAULT"
    V2_MISSING = "V2_MISSING"


@dataclass(frozen=True, slots=True)
class Route:
    """A decision: the version, and the reason for it."""

    version: Version
    reason: RouteReason

    def __str__(self) -> str:
        return f"v{self.version} ({self.reason.value})"


PINNED_V1 = Route(V1, RouteReason.PINNED)
PINNED_V2 = Route(V2, RouteReason.PINNED)
SUNSET = Route(V2, RouteReason.SUNSET)
V1_GONE = Route(V2, RouteReason.V1_GONE)
FLAG_V1 = Route(V1, RouteReason.FLAG)
FLAG_V2 = Route(V2, RouteReason.FLAG)
ROLLOUT = Route(V2, RouteReason.ROLLOUT)
DEFAULT = Route(V1, RouteReason.DEFAULT)
V2_MISSING = Route(V1, RouteReason.V2_MISSING)
