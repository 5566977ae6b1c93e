"""What a call of ours and somebody else's moved request have in common (pure).

The decision, with the notices that go with it; the memory of a v1 that has answered 410; and the
event at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from . import responses
from .endpoints import CANCEL
from .errors import ApiVersionRetiredError, ConfigurationError
from .events import CancelEvent
from .notices import Notice, NoticeKind
from .routing import EvaluateFlag, decide, may_leave_v1
from .versions import V1

if TYPE_CHECKING:
    from packaging.version import Version

    from .decoding import AttemptOutcome, Response
    from .endpoints import Endpoint
    from .routes import Route
    from .settings import Settings

#: Seconds a 410 from v1 is remembered: vendors rehearse retirements, and roll them back.
RETIRED_FOR = 15 * 60.0


class CallContext(NamedTuple):
    """What a call is given: settings, clocks, chance, memory, and listeners."""

    settings: Settings
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    random: Callable[[], float]
    #: base URL → monotonic time of the last 410 from v1; shared by a process.
    retired_at: dict[str, float]
    notify: Callable[[Notice], None]
    emit: Callable[[CancelEvent], None]


def now_of(context: CallContext) -> datetime:
    """The clock's time, which must know its zone."""
    now = context.clock()
    if now.tzinfo is None:
        raise ConfigurationError(f"clock() gave {now!r}: give an aware datetime, such as UTC")
    return now


def route(
    context: CallContext, process_id: int | None, now: datetime
) -> Generator[EvaluateFlag, bool | None, Route]:
    """Decide, and send nothing."""
    settings = context.settings
    since = context.retired_at.get(settings.base_url)
    retired = since is not None and 0 <= context.monotonic() - since < RETIRED_FOR
    return (yield from decide(settings, process_id, now, v1_retired=retired))


class Call:
    """The facts of one call so far, which its notices and its event state."""

    #: The time of the decision, read first of all.
    now: datetime

    def __init__(self, context: CallContext, process_id: int, endpoint: Endpoint = CANCEL) -> None:
        self.context = context
        self.settings = context.settings
        self.process_id = process_id
        self.endpoint = endpoint
        self.started = context.monotonic()
        self.route: Route | None = None
        self.switched = False
        #: Tries to send the request, and how many of them never connected.
        self.attempts = 0
        self.unsent = 0
        #: A request was sent whose answer was lost or 5xx: it may have been applied.
        self.maybe_applied = False

    @property
    def chosen(self) -> Route:
        assert self.route is not None  # noqa: S101 (asked once it is decided)
        return self.route

    @property
    def version(self) -> Version:
        return self.chosen.version

    def decide(self, process_id: int | None) -> Generator[EvaluateFlag, bool | None, None]:
        """Choose the version, and say so where v1 plays a part.

        Raises:
            ApiVersionRetiredError: as ``routing.decide``.
        """
        self.now = now_of(self.context)
        try:
            self.route = yield from route(self.context, process_id, self.now)
        except ApiVersionRetiredError:
            self.notify(NoticeKind.FAILED)
            raise
        if self.version is V1:
            self.notify(NoticeKind.USES_V1)
        elif not self.settings.admits_v2:
            self.notify(NoticeKind.MIGRATED)

    def hear_v1(self, answer: Response) -> None:
        """Pass on what the headers of v1's answer say of its end."""
        said = responses.announcement(answer)
        if said is not None:
            self.notify(NoticeKind.ANNOUNCED, answer, said.sunset, said.successor)

    def retired(self, answer: Response) -> bool:
        """Whether v1 answered 410, which is remembered, and the call may go to v2."""
        if answer.status != responses.GONE:
            return False
        self.context.retired_at[self.settings.base_url] = self.context.monotonic()
        return may_leave_v1(self.settings)

    def switch(self, to: Route, kind: NoticeKind, answer: AttemptOutcome) -> None:
        """Go on with the other version."""
        self.route, self.switched = to, True
        self.notify(kind, answer)

    def notify(
        self, kind: NoticeKind, answer: AttemptOutcome | None = None, *announced: Any
    ) -> None:
        """Tell of a fact about v1."""
        status = getattr(answer, "status", None)
        at, sunset, successor = self.context.monotonic(), *(announced or (None, None))
        facts = kind, self.route, self.now, at, self.settings, status, sunset, successor
        self.context.notify(Notice(*facts, self.endpoint))

    def event(self, outcome: str, **facts: Any) -> CancelEvent:
        """The event of this call."""
        return CancelEvent(
            self.process_id,
            self.route,
            self.attempts,
            self.switched,
            self.context.monotonic() - self.started,
            outcome,
            facts.get("outcome_unknown", self.maybe_applied and outcome != "cancelled"),
            facts.get("status_code"),
            self.unsent,
        )
