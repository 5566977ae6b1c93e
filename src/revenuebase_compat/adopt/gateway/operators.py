"""What operators see of a gateway: metrics, readiness, and the log of requests."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from revenuebase_compat.adopt.report import FATES
from revenuebase_compat.core.endpoints import ENDPOINTS

from .messages import Incoming
from .pool import UPSTREAM_ERRORS, Pool

#: Seconds for which ``/-/readyz`` does not look again.
READY_FOR = 10.0

_ACCESS = logging.getLogger("revenuebase_compat.access")


class Operators:
    """Counts of one gateway, in a registry of their own, and whether its upstream is reached.

    ``requests`` counts by v1 endpoint and fate: ``moved`` to v2, ``followed`` to v2 after v1 had
    answered 410, ``left`` to v1; requests for anything else are ``other`` and ``passed``.
    """

    def __init__(self, pool: Pool, *, access_log: bool = False) -> None:
        self._pool, self._access_log = pool, access_log
        self._registry = here = CollectorRegistry()
        name = "revenuebase_compat_gateway_{}".format
        words = "Requests by v1 endpoint and fate."
        requests = Counter(name("requests"), words, ["endpoint", "fate"], registry=here)
        pairs = [(one.name, fate) for one in ENDPOINTS for fate in FATES]
        pairs += [("unknown", "left"), ("other", "passed")]
        self._requests = {pair: requests.labels(*pair) for pair in pairs}
        self._answers = Counter(name("answers"), "Answers by status.", ["status"], registry=here)
        words = "Of requests that were passed on: from their head to the end of their answer."
        self._seconds = Histogram(name("request_seconds"), words, registry=here)
        self.in_flight = Gauge(name("in_flight"), "Requests under way.", registry=here)
        self._checked = float("-inf")
        self._why_not = ""
        self._checking = asyncio.Lock()

    def metrics(self) -> bytes:
        """All counts, in the text format of Prometheus."""
        return generate_latest(self._registry)

    def finished(
        self, incoming: Incoming, kind: str, fate: str | None, status: int, seconds: float
    ) -> None:
        """A request has ended; ``status`` 0: its client left before there was an answer.

        ``kind`` is the endpoint's name, or ``other``. The access log never holds query, headers
        or body.
        """
        if fate is not None:
            self._requests[kind, fate].inc()
            self._seconds.observe(seconds)
        if status:
            self._answers.labels(status).inc()
        if self._access_log:
            own = incoming.path.startswith("/-/") and status != 403
            what = incoming.method, incoming.path, fate or ("answered" if own else "refused")
            _ACCESS.info("%s %s %s %d %.3f s", *what, status, seconds)

    async def why_not_ready(self) -> str:
        """Why the upstream cannot be reached; empty where TCP and TLS succeed. Sends no request."""
        async with self._checking:
            if monotonic() - self._checked >= READY_FOR:
                self._why_not = ""
                try:
                    self._pool.release(await self._pool.connect())
                except UPSTREAM_ERRORS as error:
                    self._why_not = f"{type(error).__name__}: {error}"
                self._checked = monotonic()
            return self._why_not
