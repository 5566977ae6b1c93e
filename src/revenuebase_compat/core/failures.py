"""What is known of one call, and the errors that are built of it (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import errors, responses
from .decoding import AttemptOutcome, NoResponse, Response
from .events import CancelEvent
from .responses import GONE, MISSING

if TYPE_CHECKING:
    from datetime import datetime

    from packaging.version import Version

    from .routes import Route
    from .settings import Settings

_BY_STATUS: dict[int, type[errors.CancelError]] = {
    401: errors.AuthenticationError,
    402: errors.InsufficientCreditsError,
    403: errors.PermissionDeniedError,
    **dict.fromkeys(MISSING, errors.EndpointNotFoundError),
    GONE: errors.ApiVersionRetiredError,
    422: errors.RequestValidationError,
    429: errors.RateLimitError,
}


class CallRecord:
    """The facts of one call so far, which its errors and its event state."""

    route: Route | None = None
    switched = False
    #: Tries to send the request, and how many of them never connected.
    attempts = unsent = 0
    #: A request was sent whose answer was lost or 5xx: it may have been applied.
    maybe_applied = False

    def __init__(self, settings: Settings, process_id: int) -> None:
        self.settings = settings
        self.process_id = process_id

    @property
    def chosen(self) -> Route:
        assert self.route is not None  # noqa: S101 (asked once it is decided)
        return self.route

    @property
    def version(self) -> Version:
        return self.chosen.version

    def failure(self, answer: AttemptOutcome, now: datetime) -> errors.CancelError:
        """The error for an answer that is neither 2xx nor 400, or for none; ``now`` is aware."""
        if isinstance(answer, NoResponse):
            return self._no_answer(answer)
        status, remark, facts = answer.status, "", dict[str, Any]()
        kind = _BY_STATUS.get(status)
        if status == 422:
            facts = {"errors": responses.read_error(answer).errors}
        elif status == 429:
            facts = {
                "reset_at": responses.reset_at(answer, now),
                "retry_after": responses.retry_wait(answer, now),
                "limit": responses.count(answer.header(b"x-ratelimit-limit")),
                "remaining": responses.count(answer.header(b"x-ratelimit-remaining")),
            }
        elif 300 <= status < 400:
            where = responses.readable(answer.header(b"location") or "nowhere")
            remark = f"; a redirect to {where} is not followed"
        elif status < 500 and kind is None:
            remark = "; nobody published that status"
        other = errors.ServerError if status >= 500 else errors.UnexpectedResponseError
        return self.error(kind or other, answer, remark, **facts)

    def _no_answer(self, answer: NoResponse) -> errors.CancelError:
        within = f" within {self.settings.timeout:g} s" if answer.timeout else ""
        unknown = "; it may have been cancelled all the same" if self.maybe_applied else ""
        return (errors.CancelTimeoutError if answer.timeout else errors.TransportError)(
            f"job {self.process_id}: API v{self.version} gave no answer{within}: "
            f"{responses.readable(answer.reason)} (attempts: {self.attempts}, "
            f"requests sent: {self.attempts - self.unsent}){unknown}",
            **self.facts(),
        )

    def error(
        self, kind: type[errors.CancelError], answer: Response, remark: str = "", **facts: Any
    ) -> errors.CancelError:
        """An error that names the job, the version, the status and the server's own words."""
        said = responses.read_error(answer)
        facts = self.facts(answer, **{"code": said.code, **facts})
        code = facts["code"]
        shown = f" {code}" if code and code not in said.words else ""
        message = f"job {self.process_id}: API v{self.version} answered {answer.status}{shown}"
        if said.words:
            message += f": {said.words}"
        message += remark
        if facts["outcome_unknown"]:
            message += "; the cancel may have been applied all the same"
        return kind(message, **facts)

    def facts(self, answer: Response | None = None, **more: Any) -> dict[str, Any]:
        """What every error states; ``more`` wins."""
        return {
            "process_id": self.process_id,
            "api_version": self.version,
            "attempts": self.attempts,
            "outcome_unknown": self.maybe_applied,
            "status_code": None if answer is None else answer.status,
            "body": None if answer is None else answer.body[:8192].decode("utf-8", "replace"),
            **more,
        }

    def clean(self, answer: AttemptOutcome) -> AttemptOutcome:
        """The answer without the key, should the server have echoed it."""
        key = self.settings.api_key
        return answer if key is None else answer.without(key)

    def event(self, outcome: str, duration: float, **facts: Any) -> CancelEvent:
        """The event of this call; ``duration`` in seconds."""
        return CancelEvent(
            self.process_id,
            self.route,
            self.attempts,
            self.switched,
            duration,
            outcome,
            facts.get("outcome_unknown", self.maybe_applied and outcome != "cancelled"),
            facts.get("status_code"),
            self.unsent,
        )
