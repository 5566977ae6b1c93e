"""What a call of ours and a moved request share: decision, notices, memory, event (pure)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from packaging.version import Version

from . import responses
from .decoding import AttemptOutcome, Response
from .endpoints import CANCEL, Endpoint
from .errors import ApiVersionRetiredError, ConfigurationError
from .routes import V1, Route
from .routing import Decision, EvaluateFlag, decide, may_leave_v1

if TYPE_CHECKING:
    from .events import CancelEvent
    from .settings import Settings

#: Seconds a 410 from v1 is remembered: vendors rehearse retirements, and roll them back.
RETIRED_FOR = 15 * 60.0


class NoticeKind(str, Enum):
    """What there is to say about v1."""

    USES_V1 = "uses_v1"
    MIGRATED = "migrated"
    V1_GONE = "v1_gone"
    V2_MISSING = "v2_missing"
    FAILED = "failed"
    ANNOUNCED = "announced"


class Notice(NamedTuple):
    """A fact about v1 that a person should hear of."""

    kind: NoticeKind
    route: Route | None
    now: datetime
    #: Monotonic seconds.
    at: float
    settings: Settings
    endpoint: Endpoint
    status: int | None = None
    #: What the server's headers say.
    sunset: datetime | None = None
    successor: str | None = None


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


def route(context: CallContext, process_id: int | None, now: datetime) -> Decision:
    """Decide, and send nothing."""
    since = context.retired_at.get(context.settings.base_url)
    retired = since is not None and 0 <= context.monotonic() - since < RETIRED_FOR
    return decide(context.settings, process_id, now, v1_retired=retired)


class Call:
    """The facts of one call so far, which its notices and its event state."""

    #: The time of the decision, and the decision.
    now: datetime
    route: Route | None = None
    switched = False
    #: Tries to send the request, and how many of them never connected.
    attempts = unsent = 0
    #: A request was sent whose answer was lost or 5xx: it may have been applied.
    maybe_applied = False
    #: Whether nothing is said of it.
    quiet = False

    def __init__(self, context: CallContext, process_id: int, endpoint: Endpoint = CANCEL) -> None:
        self.context = context
        self.settings = context.settings
        self.process_id = process_id
        self.endpoint = endpoint
        self.started = context.monotonic()
        self.deadline = self.started + self.settings.timeout

    @property
    def chosen(self) -> Route:
        assert self.route is not None  # noqa: S101 (asked once it is decided)
        return self.route

    @property
    def version(self) -> Version:
        return self.chosen.version

    def decide(self, process_id: int | None) -> Generator[EvaluateFlag, bool | None, None]:
        """Choose the version, and say so where v1 plays a part; raises as ``routing.decide``."""
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
            self.notify(NoticeKind.ANNOUNCED, answer, *said)

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

    def notify(self, kind: NoticeKind, answer: AttemptOutcome | None = None, *said: Any) -> None:
        if self.quiet:
            return
        facts = kind, self.route, self.now, self.context.monotonic(), self.settings, self.endpoint
        self.context.notify(Notice(*facts, getattr(answer, "status", None), *said))

    def event(self, outcome: str, **facts: Any) -> CancelEvent:
        from .events import CancelEvent

        facts.setdefault("outcome_unknown", self.maybe_applied and outcome != "cancelled")
        duration = self.context.monotonic() - self.started
        happened = self.process_id, self.route, self.attempts, self.switched, duration, outcome
        return CancelEvent(*happened, unsent=self.unsent, **facts)
