"""What is told of a finished call (pure data)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from .routing import Route
    from .settings import Settings


@dataclass(frozen=True, slots=True)
class CancelEvent:
    """One finished call, for metrics and logs; it holds neither the key nor a body.

    Attributes:
        process_id: the job.
        route: the decision; the one that counted last, where the call switched. ``None`` where
            the call ended before a decision.
        attempts: cancel requests that were sent.
        switched: whether the call went from one version to the other.
        duration: seconds from the call to its end, waits included.
        outcome: ``"cancelled"``, or the name of the exception's class.
        outcome_unknown: whether a request may have been applied although the call failed.
        status_code: the HTTP status that decided, if there was one.
    """

    process_id: int
    route: Route | None
    attempts: int
    switched: bool
    duration: float
    outcome: str
    outcome_unknown: bool = False
    status_code: int | None = None


class NoticeKind(str, Enum):
    """What there is to say about v1."""

    USES_V1 = "uses_v1"
    MIGRATED = "migrated"
    V1_GONE = "v1_gone"
    V2_MISSING = "v2_missing"
    FAILED = "failed"
    ANNOUNCED = "announced"


class Notice(NamedTuple):
    """A fact about v1 that a person should hear of; ``notices`` finds the words.

    ``at`` is monotonic. ``sunset`` and ``successor`` are what the server's headers say.
    """

    kind: NoticeKind
    route: Route | None
    now: datetime
    at: float
    settings: Settings
    status: int | None = None
    sunset: datetime | None = None
    successor: str | None = None
