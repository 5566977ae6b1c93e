"""Every error of this library (pure); all can be pickled, and none holds the API key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from packaging.version import Version


def shown(value: object, limit: int = 80) -> str:
    """``repr`` of a refused value for a message: never long, and never raising."""
    try:
        text = repr(value)
    except Exception:  # such as an int of more digits than Python prints
        text = f"of type {type(value).__name__}"
    return text if len(text) <= limit else text[:limit] + "…"


class CancelError(Exception):
    """Base of all errors: a job could not be cancelled, or nobody can tell whether it was.

    Attributes:
        process_id: the job, where it is known.
        api_version: the API version the last request was sent to, if any was.
        status_code: the HTTP status of the answer that decided, if there was one.
        code: the server's own code, such as ``"already_cancelled"``.
        body: the answer's body as text, at most 8 KiB of it.
        attempts: tries to send the request, on both versions together, also those that never
            connected; the message of a ``TransportError`` tells them apart.
        outcome_unknown: a request may have been applied although its answer was lost or
            unusable; read the job's status before you draw a conclusion.
    """

    process_id: int | None = None
    api_version: Version | None = None
    status_code: int | None = None
    code: str | None = None
    body: str | None = None
    attempts: int = 0
    outcome_unknown: bool = False

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        for name, value in facts.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no attribute {name!r}")
            setattr(self, name, value)


class ConfigurationError(CancelError, ValueError):
    """A setting is missing or wrong; the message names it and what would be right."""


class InvalidProcessIdError(CancelError, ValueError):
    """Not a process id (an ``int`` ≥ 1 or a string of digits); nothing was sent."""


class ApiVersionRetiredError(CancelError):
    """The version asked for is gone: 410, or v1 only with ``after_sunset="raise"``."""


class JobStateError(CancelError):
    """The job's state does not admit a cancel."""


class AlreadyCancelledError(JobStateError):
    """400 ``already_cancelled``: the job was ``CANCELLING`` or ``CANCELLED`` before."""


class NotCancellableError(JobStateError):
    """400 ``not_cancellable``: the job is ``COMPLETED`` or ended in ``ERROR``."""


class JobNotFoundError(CancelError):
    """400: there is no such job, or it is not yours."""


class AuthenticationError(CancelError):
    """401: the key is missing or wrong."""


class InsufficientCreditsError(CancelError):
    """402: not enough credits."""


class PermissionDeniedError(CancelError):
    """403: the key is valid, but not for this endpoint."""


class EndpointNotFoundError(CancelError):
    """404, 405 or 501: the service does not have this endpoint (a missing job is a 400)."""


class RequestValidationError(CancelError):
    """422: the request's fields were refused; ``errors`` holds the server's list of them."""

    def __init__(self, message: str = "", **facts: Any) -> None:
        self.errors: list[dict[str, Any]] = facts.pop("errors", None) or []
        super().__init__(message, **facts)


class RateLimitError(CancelError):
    """429: too many requests.

    Attributes:
        reset_at: when the server takes requests again, by its own clock (aware), if it said so.
        retry_after: the same as seconds from its answer on.
        limit: requests a window, from ``X-RateLimit-Limit``.
        remaining: requests left in it, from ``X-RateLimit-Remaining``.
    """

    reset_at: datetime | None = None
    retry_after: float | None = None
    limit: int | None = None
    remaining: int | None = None


class ServerError(CancelError):
    """5xx: the service failed."""


class UnexpectedResponseError(CancelError):
    """An answer that nobody published, or that cannot be used; the message says why."""


class TransportError(CancelError):
    """No answer: the connection failed, or was lost on the way."""


class CancelTimeoutError(TransportError, TimeoutError):
    """No answer within ``timeout`` seconds, which the message names."""


#: After one of these ``cancel_jobs`` starts no further job: the key would be as wrong for all.
STOP_ON: tuple[type[CancelError], ...] = (AuthenticationError, PermissionDeniedError)
