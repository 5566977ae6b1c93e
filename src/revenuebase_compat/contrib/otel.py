"""Events as OpenTelemetry metrics (extra ``otel``): ``Settings(on_event=CancelMetrics())``.

In a process that nobody edits, ``REVENUEBASE_ON_EVENT=revenuebase_compat.contrib.otel:record``.
"""

from __future__ import annotations

from functools import cache

from revenuebase_compat.client.extras import missing_extra
from revenuebase_compat.core.events import CancelEvent

try:
    from opentelemetry.metrics import MeterProvider, get_meter_provider
except ImportError as error:
    raise missing_extra("CancelMetrics", "otel", error) from error

from revenuebase_compat._version import __version__

__all__ = ["CancelMetrics", "record"]

#: Seconds; the semantic conventions' advice for HTTP durations, and what a long wait adds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)


class CancelMetrics:
    """An ``on_event`` that records each call in the histogram ``revenuebase.cancel.duration`` (s).

    Attributes are those of the semantic conventions for HTTP clients where they apply; those that
    begin with ``revenuebase`` are ours. Neither the key nor the process id is recorded: the number
    of series stays small.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        provider = meter_provider or get_meter_provider()
        meter = provider.get_meter("revenuebase_compat", __version__)
        self._duration = meter.create_histogram(
            "revenuebase.cancel.duration",
            unit="s",
            description="Duration of cancel calls, retries and waits included.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self._requests = meter.create_counter(
            "revenuebase.cancel.requests",
            unit="{request}",
            description="Cancel requests that were sent, those without an answer included.",
        )

    def __call__(self, event: CancelEvent) -> None:
        """Record one finished call."""
        attributes: dict[str, str | int | bool] = {
            "revenuebase.outcome": event.outcome,
            "revenuebase.switched": event.switched,
        }
        if event.route is not None:
            attributes["revenuebase.api.version"] = f"v{event.route.version}"
            attributes["revenuebase.route.reason"] = event.route.reason.value
        if event.status_code is not None:
            attributes["http.response.status_code"] = event.status_code
        if event.outcome != "cancelled":
            attributes["error.type"] = event.outcome
        self._duration.record(event.duration, attributes)
        self._requests.add(event.attempts - event.unsent, attributes)


_metrics = cache(CancelMetrics)


def record(event: CancelEvent) -> None:
    """Record one finished call with the meter provider that is set when the first one ends."""
    _metrics()(event)
