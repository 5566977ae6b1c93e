"""What a cancel gives back, and checks of what is given for it (pure)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex

from .errors import ConfigurationError, InvalidProcessIdError, shown

if TYPE_CHECKING:
    from .routes import Route

#: What names a job: an integer of any kind, numpy's too, or a string of digits.
JobId = SupportsIndex | str

#: Ids from here on do not fit the 64-bit integer that the API holds them in.
PROCESS_ID_LIMIT = 2**63

#: The fields of a job, all required, on either version (the vendor's OpenAPI documents).
FIELDS = ("process_id", "filename", "current_status", "message")


class JobStatus(str, Enum):
    """The published states of a job; any other text is ``UNKNOWN``."""

    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    ERROR = "ERROR"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"

    @classmethod
    def of(cls, text: str) -> JobStatus:
        """The state named by the server's text; never raises."""
        return cls.__members__.get(text.strip().upper(), cls.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the server describes it; ``extra`` holds fields beyond the published four."""

    process_id: int
    filename: str
    current_status: str
    message: str
    extra: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def status(self) -> JobStatus:
        """``current_status`` as a ``JobStatus``."""
        return JobStatus.of(self.current_status)


@dataclass(frozen=True, slots=True)
class CancelResult(Job):
    """A job that this call cancelled by ``route``, in ``attempts`` on both versions together."""

    route: Route = field(kw_only=True)
    attempts: int = field(kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON types; ``extra`` only where there is any."""
        return {
            **{name: getattr(self, name) for name in FIELDS},
            "version": f"v{self.route.version}",
            "reason": self.route.reason.value,
            "attempts": self.attempts,
            **({"extra": self.extra} if self.extra else {}),
        }


def check_process_id(value: object) -> int:
    """The integer (of any type with ``__index__`` but ``bool``) or ASCII digits as an ``int``.

    Raises:
        InvalidProcessIdError: for anything else, and beyond 1 to 2**63 - 1.
    """
    number = 0
    if isinstance(value, str):
        # The length is checked first: int() of a long text is slow, and refused from 4,300 on.
        if value.isascii() and value.isdigit() and len(value) <= 64:
            number = int(value)
    elif type(value) is int:
        number = value
    elif not isinstance(value, bool):
        with suppress(Exception):  # it has no __index__, or one that fails
            number = index(value)  # type: ignore[arg-type]
    if not 0 < number < PROCESS_ID_LIMIT:
        raise InvalidProcessIdError(
            f"process_id {shown(value, 60)} is no process id: give an int from 1 to 2**63 - 1, "
            "or a string of digits"
        )
    return number


def check_wait(wait: object) -> float | None:
    """Seconds to wait for a job's end, checked; ``None`` for not at all."""
    if wait is None:
        return None
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= 86_400:
        raise ConfigurationError(f"wait {wait!r}: give seconds from 0 to 86400, or None")
    return float(wait)
