"""Which version, and why: the README's table, whose first row that applies wins (pure).

``decide`` is the only place where a version is chosen.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, NamedTuple

from . import routes
from .errors import ApiVersionRetiredError
from .routes import V1, Route, RouteReason, phase

if TYPE_CHECKING:
    from datetime import datetime

    from .events import RouteContext
    from .settings import Settings


class EvaluateFlag(NamedTuple):
    """A command: ask the flag, and send back its opinion (true for v2, ``None`` for none)."""

    context: RouteContext


Decision = Generator[EvaluateFlag, bool | None, Route]


def decide(
    settings: Settings, process_id: int | None, now: datetime, *, v1_retired: bool
) -> Decision:
    """Choose the version for one job at ``now`` (aware).

    A ``process_id`` of ``None`` stands for a request that names no job: of shares, only 100 moves
    it. ``v1_retired``: v1 answered 410 a short while ago.

    Raises:
        ApiVersionRetiredError: only v1 is admitted, it is gone, and ``after_sunset="raise"``.
    """
    if not settings.admits_v1:
        return routes.PINNED_V2
    if now >= settings.v1_sunset:
        if may_leave_v1(settings):
            return routes.SUNSET
        if settings.after_sunset == "raise":
            job = "" if process_id is None else f"job {process_id}: "
            raise ApiVersionRetiredError(
                f"{job}API v1 was retired on {settings.v1_sunset.isoformat()} and "
                f"api_version={settings.api_version!r} admits nothing else; set "
                'api_version="auto" (REVENUEBASE_API_VERSION=auto)',
                process_id=process_id,
                api_version=V1,
            )
        return routes.PINNED_V1
    if v1_retired and may_leave_v1(settings):
        return routes.V1_GONE
    if not settings.admits_v2:
        return routes.PINNED_V1
    share = settings.v2_rollout.share(now)
    if settings.v2_flag is not None:
        from .events import RouteContext

        sunset = settings.v1_sunset
        context = RouteContext(process_id, now, sunset, phase(now, sunset), share)
        opinion = yield EvaluateFlag(context)
        if opinion is not None:
            return routes.FLAG_V2 if opinion else routes.FLAG_V1
    if process_id is None:
        moved = share >= 100
    else:
        moved = share > 0 and bucket(settings.rollout_salt, process_id) < share
    return routes.ROLLOUT if moved else routes.DEFAULT


def bucket(salt: str, process_id: int) -> float:
    """Where a job stands in [0, 100): the same on every machine, in every process, for ever."""
    from hashlib import blake2b  # here, as few processes use a share, and it loads OpenSSL

    # A salt of the environment may hold bytes that are no text: Python makes surrogates of them.
    named = f"{salt}:{process_id}".encode("utf-8", "surrogatepass")
    digest = blake2b(named, digest_size=6).digest()
    # 48 bits, so that the quotient is exact and can never round up to 100.
    return int.from_bytes(digest, "big") * 100 / 2**48


def may_leave_v1(settings: Settings) -> bool:
    """Whether a call that finds v1 gone may go to v2."""
    return settings.admits_v2 or settings.after_sunset == "migrate"


def may_return_to_v1(settings: Settings, now: datetime) -> bool:
    """Whether a call that finds v2 missing may go to v1."""
    return settings.admits_v1 and now < settings.v1_sunset


def explain(route: Route, settings: Settings) -> str:
    """The reason in words."""
    day = settings.v1_sunset.strftime("%Y-%m-%d")
    return {
        RouteReason.PINNED: f"api_version is {settings.api_version!r}",
        RouteReason.SUNSET: f"API v1 ended on {day}",
        RouteReason.V1_GONE: "API v1 is gone already",
        RouteReason.FLAG: "the flag says so",
        RouteReason.ROLLOUT: "the job is in the rollout's share",
        RouteReason.DEFAULT: f"API v1 lives until {day}",
        RouteReason.V2_MISSING: "API v2 was missing",
    }[route.reason]
