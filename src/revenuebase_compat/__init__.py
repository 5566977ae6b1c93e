"""``cancel_job()`` for RevenueBase, across the retirement of its API v1.

.. code-block:: python

    from revenuebase_compat import cancel_job

    result = cancel_job(42)  # the key comes from REVENUEBASE_API_KEY
    print(result.current_status, "by API", result.route)

The call goes to ``POST /v1/cancel-process`` or ``POST /v2/jobs/{process_id}/cancel``, by
configuration and by the sunset of v1 on 2026-07-07; both answers become one ``CancelResult``,
and whatever goes wrong is a ``CancelError``. Optional parts, such as
``revenuebase_compat.testing.sandbox``, are never imported from here.

(PYTEST_DONT_REWRITE: under ``run`` we are imported before pytest, which has a plugin of ours.)
"""

from __future__ import annotations

from ._version import __version__

TYPE_CHECKING = False  # typing's own would cost every start under `run` 8 ms
if TYPE_CHECKING:
    from .client.facade import AsyncClient, Client, cancel_job
    from .client.notices import ApiDeprecationWarning
    from .core.errors import (
        AlreadyCancelledError,
        ApiVersionRetiredError,
        AuthenticationError,
        CancelError,
        CancelTimeoutError,
        ConfigurationError,
        EndpointNotFoundError,
        InsufficientCreditsError,
        InvalidProcessIdError,
        JobNotFoundError,
        JobStateError,
        NotCancellableError,
        PermissionDeniedError,
        RateLimitError,
        RequestValidationError,
        ServerError,
        TransportError,
        UnexpectedResponseError,
    )
    from .core.events import CancelEvent, RouteContext
    from .core.many import JobCancelled, JobFailed, JobOutcome
    from .core.models import CancelResult, Job, JobStatus
    from .core.routes import Route, RouteReason
    from .core.settings import Settings

# Imported on first use, so that ``import revenuebase_compat`` costs next to nothing; what stands
# in none of these is an error's class.
_HOMES = {
    "client.facade": ("cancel_job", "Client", "AsyncClient"),
    "client.notices": ("ApiDeprecationWarning",),
    "core.events": ("CancelEvent", "RouteContext"),
    "core.many": ("JobOutcome", "JobCancelled", "JobFailed"),
    "core.models": ("CancelResult", "Job", "JobStatus"),
    "core.routes": ("Route", "RouteReason"),
    "core.settings": ("Settings",),
}

__all__ = [  # noqa: RUF022 (the story's order)
    "cancel_job",
    "Client",
    "AsyncClient",
    "Settings",
    "CancelResult",
    "Job",
    "JobOutcome",
    "JobCancelled",
    "JobFailed",
    "JobStatus",
    "Route",
    "RouteContext",
    "RouteReason",
    "CancelEvent",
    "ApiDeprecationWarning",
    "CancelError",
    "ConfigurationError",
    "InvalidProcessIdError",
    "ApiVersionRetiredError",
    "JobStateError",
    "AlreadyCancelledError",
    "NotCancellableError",
    "JobNotFoundError",
    "AuthenticationError",
    "InsufficientCreditsError",
    "PermissionDeniedError",
    "EndpointNotFoundError",
    "RequestValidationError",
    "RateLimitError",
    "ServerError",
    "UnexpectedResponseError",
    "TransportError",
    "CancelTimeoutError",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        from importlib import import_module

        home = next((home for home, names in _HOMES.items() if name in names), "core.errors")
        value: object = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
