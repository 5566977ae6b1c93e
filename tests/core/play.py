"""A flow by hand: answers go in with ``send()``, commands come out, and nothing waits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pytest

from revenuebase_compat import CancelError, CancelEvent, CancelResult, ConfigurationError, Settings
from revenuebase_compat.core import calls, cancellation
from revenuebase_compat.core.calls import Notice
from revenuebase_compat.core.decoding import AttemptOutcome, NoResponse, Response
from revenuebase_compat.core.models import Job
from revenuebase_compat.core.routing import EvaluateFlag
from tests.conftest import TEST_KEY
from tests.core.test_decoding import FIELDS, JOB
from tests.support import AFTER, FakeTime

BASE = "https://api.revenuebase.ai"
STEPS = {
    ("POST", "/v1/cancel-process"): "v1 cancel",
    ("POST", "/v1/batch-process-email-status"): "v1 status",
    ("POST", f"/v2/jobs/{JOB}/cancel"): "v2 cancel",
    ("GET", f"/v2/jobs/{JOB}"): "v2 status",
}

RESET = NoResponse("ReadError: connection reset", sent=True)
HUNG = NoResponse("no answer within 30 s", sent=True, timeout=True)
REFUSED = NoResponse("ConnectError: connection refused", sent=False)


def said(status: int, body: object = b"", **headers: str) -> Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    pairs = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return Response(status, [*pairs, (b"content-length", b"%d" % len(raw))], raw)


def ok(state: str = "CANCELLING", **changes: Any) -> Response:
    return said(200, {**FIELDS, "current_status": state, **changes})


ALREADY = said(400, {"detail": "already_cancelled"})
NOT_CANCELLABLE = said(400, {"detail": {"code": "not_cancellable", "message": "Job is over."}})
UNCLEAR = said(400, {"detail": "Bad Request"})
GONE = said(410, {"detail": "API v1 was retired."})
NO_SUCH_ENDPOINT = said(404, {"detail": "Not Found"})
BUSY = said(503, b"<html>Service Unavailable</html>")


class Took(NamedTuple):
    """An answer, and how long it was in coming."""

    seconds: float
    answer: AttemptOutcome


class Play:
    """One call: its effects and what it told, in order; time moves only when told."""

    def __init__(
        self,
        script: Sequence[AttemptOutcome | Took],
        *,
        now: datetime = AFTER,
        says: bool | None = None,
        gone: dict[str, float] | None = None,
        random: Callable[[], float] = lambda: 0.5,
        key: str | None = TEST_KEY,
        **settings: Any,
    ) -> None:
        self.script = list(script)
        self.time = FakeTime(now)
        self.says = says
        self.gone = {} if gone is None else gone
        self.steps: list[str] = []
        self.sends: list[cancellation.SendRequest] = []
        self.pauses: list[float] = []
        self.notices: list[Notice] = []
        self.events: list[CancelEvent] = []
        self.seen: list[Job] = []
        self.settings = Settings(key, on_event=self.events.append, **settings)
        self.random = random

    def context(self) -> calls.CallContext:
        return calls.CallContext(
            self.settings,
            self.time.clock,
            self.time.monotonic,
            self.random,
            self.gone,
            self.notices_seen,
            self.events.append,
        )

    def notices_seen(self, notice: Notice) -> None:
        self.steps.append(f"tell {notice.kind.value}")
        self.notices.append(notice)

    def run(self, *, drain: bool = True, wait: float | None = None) -> CancelResult:
        """The result; with ``drain``, every answer must have been asked for."""
        steps = cancellation.cancel(self.context(), JOB, wait, self.seen.append)
        answer: Any = None
        try:
            while True:
                answer = self.react(steps.send(answer))
        except StopIteration as stop:
            result = stop.value
        assert not (drain and self.script), "answers were left over"
        assert isinstance(result, CancelResult)
        return result

    def react(self, command: cancellation.Command) -> Any:
        if isinstance(command, EvaluateFlag):
            self.steps.append("ask")
            return self.says
        if isinstance(command, cancellation.Sleep):
            self.pauses.append(command.seconds)
            self.steps.append("pause")
            return self.time.sleep(command.seconds)
        self.sends.append(command)
        self.steps.append(STEPS[command.request.method, command.request.path])
        answer = self.script.pop(0)
        if isinstance(answer, Took):
            self.time.elapsed += answer.seconds
            return answer.answer
        return answer

    def fails(self, kind: type[CancelError]) -> Any:
        with pytest.raises(CancelError) as caught:
            self.run()
        assert type(caught.value) is kind
        assert not self.script, "answers were left over"
        error = caught.value
        assert error.process_id == JOB
        assert f"job {JOB}" in str(error) or kind is ConfigurationError
        assert error.attempts == self.asked.count("cancel")
        return error

    @property
    def requests(self) -> list[str]:
        return [step for step in self.steps if step in STEPS.values()]

    @property
    def asked(self) -> str:
        return ", ".join(self.requests)


def play(*script: AttemptOutcome | Took, **options: Any) -> Play:
    return Play(script, **options)
