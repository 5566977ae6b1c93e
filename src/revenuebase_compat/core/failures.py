"""The errors that a call may end in, built of what is known of it (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import responses
from .calls import Call
from .decoding import AttemptOutcome, NoResponse, Response
from .errors import (
    ApiVersionRetiredError,
    AuthenticationError,
    CancelError,
    CancelTimeoutError,
    EndpointNotFoundError,
    InsufficientCreditsError,
    PermissionDeniedError,
    RateLimitError,
    RequestValidationError,
    ServerError,
    TransportError,
    UnexpectedResponseError,
)
from .responses import GONE, MISSING

if TYPE_CHECKING:
    from datetime import datetime


_BODY_SHOWN = 8 * 1024

_BY_STATUS: dict[int, type[CancelError]] = {
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: PermissionDeniedError,
    **dict.fromkeys(MISSING, EndpointNotFoundError),
    GONE: ApiVersionRetiredError,
}


class FailingCall(Call):
    """A call, and the errors it may end in."""

    def failure(self, answer: AttemptOutcome, now: datetime) -> CancelError:
        """The error for an answer that is neither 2xx nor 400, or for none; ``now`` is aware."""
        if isinstance(answer, NoResponse):
            return self._no_answer(answer)
        status = answer.status
        if status == 422:
            errors = responses.read_error(answer).errors
            return self.error(RequestValidationError, answer, errors=errors)
        if status == 429:
            return self.error(
                RateLimitError,
                answer,
                reset_at=responses.reset_at(answer, now),
                retry_after=responses.retry_wait(answer, now),
                limit=responses.count(answer.header(b"x-ratelimit-limit")),
                remaining=responses.count(answer.header(b"x-ratelimit-remaining")),
            )
        if status in _BY_STATUS:
            return self.error(_BY_STATUS[status], answer)
        if status >= 500:
            return self.error(ServerError, answer)
        if 300 <= status < 400:
            where = responses.readable(answer.header(b"location") or "nowhere")
            remark = f"; a redirect to {where} is not followed"
            return self.error(UnexpectedResponseError, answer, remark)
        return self.error(UnexpectedResponseError, answer, "; nobody published that status")

    def _no_answer(self, answer: NoResponse) -> CancelError:
        within = f" within {self.settings.timeout:g} s" if answer.timeout else ""
        unknown = "; it may have been cancelled all the same" if self.maybe_applied else ""
        return (CancelTimeoutError if answer.timeout else TransportError)(
            f"job {self.process_id}: API v{self.version} gave no answer{within}: "
            f"{responses.readable(answer.reason)} (attempts: {self.attempts}, "
            f"requests sent: {self.attempts - self.unsent}){unknown}",
            **self.facts(),
        )

    def error(
        self, kind: type[CancelError], answer: Response, remark: str = "", **facts: Any
    ) -> CancelError:
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
        found: dict[str, Any] = {
            "process_id": self.process_id,
            "api_version": self.version,
            "attempts": self.attempts,
            "outcome_unknown": self.maybe_applied,
        }
        if answer is not None:
            found["status_code"] = answer.status
            found["body"] = answer.body[:_BODY_SHOWN].decode("utf-8", "replace")
        return {**found, **more}

    def clean(self, answer: AttemptOutcome) -> AttemptOutcome:
        """The answer without the key, should the server have echoed it."""
        key = self.settings.api_key
        return answer if key is None else answer.without(key)
