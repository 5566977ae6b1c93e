"""What ``v2_flag`` and ``on_event`` are given (pure data); imported only where one is set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from .routes import Phase, Route


@dataclass(frozen=True, slots=True)
class RouteContext:
    """What a flag is told about the job it decides on.

    ``process_id`` is ``None`` for a moved request that names none. ``now`` is the time of the
    decision, ``sunset`` when v1 ends by the settings (both aware); ``phase``, and the rollout's
    ``share`` in percent, are those at ``now``.
    """

    process_id: int | None
    now: datetime
    sunset: datetime
    phase: Phase
    share: float


@dataclass(frozen=True, slots=True)
class CancelEvent:
    """One finished call, for metrics and logs; it holds neither the key nor a body.

    Attributes:
        process_id: the job.
        route: the decision that counted last; ``None`` where the call ended before one.
        attempts: tries to send a cancel request, those that never connected included.
        switched: whether the call went from one version to the other.
        duration: seconds from the call to its end, waits included.
        outcome: ``"cancelled"``; the class name of the error that ended the call, whoever's it is;
            ``"http_error"`` for the answer to a moved request, which raises nothing; or
            ``"interrupted"``, where the caller was (Ctrl-C, a cancelled task, a gevent or eventlet
            time-out, a closed iterator).
        outcome_unknown: whether a request may have been applied although the call failed.
        status_code: the HTTP status that decided, if there was one.
        unsent: how many of the attempts never connected.
    """

    process_id: int
    route: Route | None
    attempts: int
    switched: bool
    duration: float
    outcome: str
    outcome_unknown: bool = False
    status_code: int | None = None
    unsent: int = 0
