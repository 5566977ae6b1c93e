"""A decision and its reason, and what a flag is told (pure data)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from .versions import V1, V2, Phase

if TYPE_CHECKING:
    from datetime import datetime

    from packaging.version import Version


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


@dataclass(frozen=True, slots=True)
class RouteContext:
    """What a flag is told about the job it decides on.

    Attributes:
        process_id: the job; ``None`` for somebody else's request that names none.
        now: the time of the decision (aware).
        sunset: when v1 ends, by the settings (aware).
        phase: where v1 stands in its life at ``now``.
        share: the rollout's share at ``now``, in percent.
    """

    process_id: int | None
    now: datetime
    sunset: datetime
    phase: Phase
    share: float


V1_GONE = Route(V2, RouteReason.V1_GONE)
V2_MISSING = Route(V1, RouteReason.V2_MISSING)
