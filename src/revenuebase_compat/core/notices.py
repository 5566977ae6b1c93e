"""Facts about v1 that a person should hear of (pure data); ``client.notices`` has the words."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from .endpoints import CANCEL, Endpoint

if TYPE_CHECKING:
    from datetime import datetime

    from .routes import Route
    from .settings import Settings


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
    ``endpoint`` is what is called: a cancel, or the reading of a status.
    """

    kind: NoticeKind
    route: Route | None
    now: datetime
    at: float
    settings: Settings
    status: int | None = None
    sunset: datetime | None = None
    successor: str | None = None
    endpoint: Endpoint = CANCEL
