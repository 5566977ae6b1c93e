"""The errors that a call may end in, built of what is known of it (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import errors, responses
from .calls import Call
from .decoding import AttemptOutcome, NoResponse, Response
from .responses import GONE, MISSING

if TYPE_CHECKING:
    from datetime import datetime


_BY_STATUS: dict[int, type[errors.CancelError]] = {
    401: errors.AuthenticationError,
    402: errors.InsufficientCreditsError,
    403: errors.PermissionDeniedError,
    **dict.fromkeys(MISSING, errors.EndpointNotFoundError),
    GONE: errors.ApiVersionRetiredError,
    422: errors.RequestValidationError,
    429: errors.RateLimitError,
}


class FailingCall(Call):
    """A call, and the errors it may end in."""

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
