"""The flow: the whole protocol of one call, as one generator that yields commands (pure).

Retries, deadlines and switches are decided, and errors are worded, here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from packaging.version import Version

from . import errors, responses
from .calls import Call, CallContext, NoticeKind, now_of
from .decoding import AttemptOutcome, NoResponse, Response, Unusable, cut_short, read_job
from .endpoints import CANCEL, REQUESTS, STATUS, Endpoint, Request
from .models import CancelResult, Job, JobStatus
from .responses import ALREADY_CANCELLED, GONE, MISSING, NOT_CANCELLABLE
from .routes import V1, V1_GONE, V2_MISSING, Route
from .routing import EvaluateFlag, may_leave_v1, may_return_to_v1
from .settings import check_already_cancelled

if TYPE_CHECKING:
    from .events import CancelEvent

#: Seconds before a second attempt, at most, doubled with each further one up to the cap.
BACKOFF_BASE, BACKOFF_CAP = 0.5, 8.0

#: Seconds between two looks at a job that is being waited for: at first, and at most.
POLL_FIRST, POLL_MOST = 0.5, 10.0
#: Seconds that the last look may take, when the time to wait is over.
LAST_LOOK = 5.0


class SendRequest(NamedTuple):
    """A command: one request, answered by the ``Response`` or ``NoResponse``."""

    request: Request
    #: Seconds that bound all of it, but the wait for a free connection.
    timeout: float
    #: Seconds until the call's deadline, which bound that wait as well.
    left: float


class Sleep(NamedTuple):
    """A command: wait."""

    seconds: float


Command = EvaluateFlag | SendRequest | Sleep
T = TypeVar("T")
Steps = Generator[Command, Any, T]
Flow = Steps[CancelResult]


def cancel(
    context: CallContext,
    process_id: int,
    wait: float | None = None,
    on_status: Callable[[Job], object] | None = None,
    *,
    already_cancelled: str | None = None,
    on_end: Callable[[CancelEvent], object] | None = None,
) -> Flow:
    """Cancel one job; ``process_id`` and ``wait`` are checked.

    For ``wait`` seconds, beside ``timeout``, its status is read until it has ended, even if it was
    cancelled before; ``on_status`` hears each reading. ``on_end`` hears the event of this call.
    """
    if already_cancelled is None:
        already_cancelled = context.settings.already_cancelled
    returned = check_already_cancelled(already_cancelled) == "return"
    call = _Call(context, process_id)
    outcome, facts = "interrupted", {}
    try:
        answer = yield from call.send()
        try:
            result = yield from call.result_or_raise(answer, returned)
        except errors.AlreadyCancelledError as error:
            if wait is not None and not error.outcome_unknown:
                before = call.result(Job(process_id, "", JobStatus.CANCELLING.value, ""))
                yield from call.wait(before, wait, on_status)
            raise
        if wait is not None:
            result = yield from call.wait(result, wait, on_status)
        outcome = "cancelled"
        return result
    except Exception as error:
        outcome = type(error).__name__
        if isinstance(error, errors.CancelError):
            facts = {"outcome_unknown": error.outcome_unknown, "status_code": error.status_code}
        raise
    finally:
        # Also when the driver closes us, as the caller was interrupted or cancelled.
        listener = None if context.settings.on_event is None else context.emit
        for hear in filter(None, (on_end, listener)):
            hear(call.event(outcome, **facts))


def get_job(context: CallContext, process_id: int) -> Steps[Job]:
    """Read one job's status, routed and retried as a cancel is; ``process_id`` is checked."""
    call = _Call(context, process_id, STATUS)
    return call.job_or_raise((yield from call.send()))


_ENDED = (JobStatus.CANCELLED, JobStatus.COMPLETED, JobStatus.ERROR)

_ERRORS: dict[int, type[errors.CancelError]] = {
    400: errors.JobNotFoundError,  # to a look at the job: of a cancel it says more
    401: errors.AuthenticationError,
    402: errors.InsufficientCreditsError,
    403: errors.PermissionDeniedError,
    **dict.fromkeys(MISSING, errors.EndpointNotFoundError),
    GONE: errors.ApiVersionRetiredError,
    422: errors.RequestValidationError,
    429: errors.RateLimitError,
}


class _Call(Call):
    """The state of one call, and the steps that read and change it."""

    def send(self) -> Steps[AttemptOutcome]:
        """Decide on the version, and send; what a definite answer asks for, on the other too."""
        if self.settings.api_key is None:
            words = "api_key (REVENUEBASE_API_KEY) is missing: set the variable, or give "
            words += "Settings(api_key=…)"
            raise errors.ConfigurationError(words, process_id=self.process_id)
        self.key = self.settings.api_key
        yield from self.decide(self.process_id)
        answer = yield from self.send_with_retries(self.version, self.endpoint)
        other = self.fallback_route(answer)
        if other is not None:
            self.switch(other, NoticeKind[other.reason.name], answer)
            answer = yield from self.send_with_retries(self.version, self.endpoint)
            self.fallback_route(answer)  # only for what it remembers
        return answer

    def send_with_retries(self, version: Version, endpoint: Endpoint) -> Steps[AttemptOutcome]:
        """Send until an answer stands, attempts are used up, or a wait would not fit."""
        monotonic, request = self.context.monotonic, REQUESTS[version](endpoint, self.process_id)
        # The call's own attempts, and not a look at the job in between.
        counted, applies = endpoint is self.endpoint, endpoint is CANCEL
        answer: AttemptOutcome = NoResponse("no time was left to send", sent=False, timeout=True)
        for attempt in range(1, self.settings.max_attempts + 1):
            left = self.deadline - monotonic()
            if left <= 0:
                break
            last = attempt == self.settings.max_attempts
            self.attempts += counted
            before = self.maybe_applied
            # Until the answer is here: whoever interrupts this leaves it open.
            self.maybe_applied |= applies
            try:
                answer = yield SendRequest(request, left if last else left / 2, left)
            except errors.ConfigurationError:  # raised before anything was sent
                self.attempts -= counted
                self.maybe_applied = before
                raise
            answer = answer.without(self.key)  # should the server have echoed it
            if isinstance(answer, Response) and cut_short(answer):
                answer = NoResponse("the answer was cut short", sent=True)
            if isinstance(answer, NoResponse):
                again, applied = True, answer.sent
                self.unsent += counted and not answer.sent
            else:
                again = responses.should_retry(answer) and not _is_missing(version, answer)
                applied = responses.maybe_applied(answer)
                if version is V1 and counted:
                    self.hear_v1(answer)
            self.maybe_applied = before or (applied and applies)
            if last or not again:
                break
            wait = None
            if isinstance(answer, Response):
                wait = responses.retry_wait(answer, now_of(self.context))
            if wait is None:  # full jitter
                wait = self.context.random() * min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** (attempt - 1))
            if wait >= self.deadline - monotonic():
                break
            if wait > 0:
                yield Sleep(wait)
        return answer

    def fallback_route(self, answer: AttemptOutcome) -> Route | None:
        """Where a definite answer about the endpoint sends the call, if anywhere."""
        if isinstance(answer, NoResponse) or not _is_missing(self.version, answer):
            return None
        if self.version is V1:
            self.retired(answer)
            return V1_GONE if may_leave_v1(self.settings) else None
        return V2_MISSING if may_return_to_v1(self.settings, self.now) else None

    def job_or_raise(self, answer: AttemptOutcome) -> Job:
        if isinstance(answer, NoResponse) or not 200 <= answer.status < 300:
            raise self.failure(answer)
        try:
            return read_job(answer, self.process_id)
        except Unusable as unusable:
            words = f"answered {answer.status}, but the body {unusable}"
        # The server says yes, but not to what: nobody knows whether it was cancelled.
        unknown = self.endpoint is CANCEL
        raise self.error(errors.UnexpectedResponseError, words, answer, outcome_unknown=unknown)

    def result_or_raise(self, answer: AttemptOutcome, returned: bool) -> Flow:
        """What a cancel came to: a 400 says so plainly, or is settled by the job's status."""
        if isinstance(answer, NoResponse) or answer.status != 400:
            return self.result(self.job_or_raise(answer))
        code = responses.read_error(answer).code
        already, ended = errors.AlreadyCancelledError, errors.NotCancellableError
        expected = self.maybe_applied or returned
        if code == NOT_CANCELLABLE:
            raise self.refusal(ended, answer, outcome_unknown=False)
        if code == ALREADY_CANCELLED and not expected:
            raise self.refusal(already, answer)
        found = yield from self.read_status()
        state, status = "could not be read", None
        if isinstance(found, Job):
            state, status = f"is {responses.readable(found.current_status)}", found.status
            if status in (JobStatus.CANCELLING, JobStatus.CANCELLED):
                if expected:
                    return self.result(found)
                raise self.refusal(already, answer, code=ALREADY_CANCELLED)
        if code == ALREADY_CANCELLED:
            raise self.refusal(already, answer, f", but its status {state}", outcome_unknown=True)
        if status in (JobStatus.COMPLETED, JobStatus.ERROR):
            raise self.refusal(ended, answer, code=NOT_CANCELLABLE, outcome_unknown=False)
        if isinstance(found, Response) and found.status == 400:
            raise self.refusal(errors.JobNotFoundError, answer, outcome_unknown=False)
        remark = f"; it names no code, and {'its status' if status is None else 'the job'} {state}"
        raise self.refusal(errors.UnexpectedResponseError, answer, remark)

    def read_status(self) -> Steps[Job | AttemptOutcome]:
        """The job as the version at hand describes it, or the other if that one is gone."""
        answer = yield from self.send_with_retries(self.version, STATUS)
        other = None if self.switched else self.fallback_route(answer)
        if other is not None:
            answer = yield from self.send_with_retries(other.version, STATUS)
        if isinstance(answer, Response) and 200 <= answer.status < 300:
            with suppress(Unusable):
                return read_job(answer, self.process_id)
        return answer

    def wait(
        self, result: CancelResult, seconds: float, on_status: Callable[[Job], object] | None
    ) -> Flow:
        """Look at the job, ever more rarely, until it has ended or the time is up."""
        ends, pause = self.context.monotonic() + seconds, POLL_FIRST
        while result.status not in _ENDED and (left := ends - self.context.monotonic()) > 0:
            yield Sleep(min(pause, left))
            pause = min(pause * 1.5, POLL_MOST)
            self.deadline = min(self.context.monotonic() + self.settings.timeout, ends + LAST_LOOK)
            found = yield from self.read_status()
            if isinstance(found, Job):
                result = self.result(found)
                if on_status is not None:
                    on_status(found)
        if result.status in (JobStatus.COMPLETED, JobStatus.ERROR):
            raise self.error(
                errors.NotCancellableError,
                f"took the cancel, but the job is {result.current_status}: it ended before it "
                "could be cancelled",
                code=NOT_CANCELLABLE,
                outcome_unknown=False,
            )
        return result

    def result(self, job: Job) -> CancelResult:
        self.maybe_applied = True  # and has been: what comes after may still fail
        read = job.process_id, job.filename, job.current_status, job.message, job.extra
        return CancelResult(*read, route=self.chosen, attempts=self.attempts)

    def failure(self, answer: AttemptOutcome) -> errors.CancelError:
        """The error for an answer that is not 2xx, or for none."""
        if isinstance(answer, NoResponse):
            within = f" within {self.settings.timeout:g} s" if answer.timeout else ""
            unknown = "; it may have been cancelled all the same" if self.maybe_applied else ""
            why = responses.readable(answer.reason)
            return self.error(
                errors.CancelTimeoutError if answer.timeout else errors.TransportError,
                f"gave no answer{within} at {self.settings.base_url}: {why} (attempts: "
                f"{self.attempts}, requests sent: {self.attempts - self.unsent}){unknown}",
            )
        if self.version is V1 and _is_missing(V1, answer):
            self.notify(NoticeKind.FAILED, answer)
        status, remark, facts = answer.status, "", dict[str, Any]()
        kind = _ERRORS.get(status)
        if status == 401:
            remark = "; look at api_key (REVENUEBASE_API_KEY)"
        elif status == 422:
            facts = {"errors": responses.read_error(answer).errors}
        elif status == 429:
            now = now_of(self.context)
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
        return self.refusal(kind or other, answer, remark, **facts)

    def refusal(
        self, kind: type[errors.CancelError], answer: Response, remark: str = "", **facts: Any
    ) -> errors.CancelError:
        """An error that names the status and the server's own words."""
        said = responses.read_error(answer)
        code = facts.setdefault("code", said.code)
        unknown = facts.setdefault("outcome_unknown", self.maybe_applied)
        words = f"answered {answer.status}"
        if code and code not in said.words:
            words += f" {code}"
        if said.words:
            words += f": {said.words}"
        words += remark
        if unknown:
            words += "; the cancel may have been applied all the same"
        return self.error(kind, words, answer, **facts)

    def error(
        self, kind: type[errors.CancelError], words: str, answer: Response | None = None, **own: Any
    ) -> errors.CancelError:
        """An error that names the job and the version; its ``own`` facts win."""
        facts = {
            "process_id": self.process_id,
            "api_version": self.version,
            "attempts": self.attempts,
            "outcome_unknown": self.maybe_applied,
            "status_code": None if answer is None else answer.status,
            "body": None if answer is None else answer.body[:8192].decode("utf-8", "replace"),
            **own,
        }
        return kind(f"job {self.process_id}: API v{self.version} {words}", **facts)


def _is_missing(version: Version, answer: Response) -> bool:
    """Whether the answer speaks of the endpoint, and not of the job."""
    return answer.status in MISSING or (answer.status == GONE and version is V1)
