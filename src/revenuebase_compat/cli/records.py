"""What became of a job: the object that ``--json`` prints, and what derives from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from revenuebase_compat.core.errors import (
    AlreadyCancelledError,
    CancelError,
    JobNotFoundError,
    JobStateError,
)
from revenuebase_compat.core.models import JobOutcome
from revenuebase_compat.core.routes import Route


class JobRecord(NamedTuple):
    """What became of a job, ready to be shown."""

    #: Whether another try cannot change it.
    final: bool
    #: The object that ``--json`` prints.
    row: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the job is cancelled, by this command or before."""
        return bool(self.row["ok"])

    @property
    def name(self) -> str:
        """Its end, in a word or two."""
        error = self.row.get("error", "cancelled")
        return "cancelled before" if self.ok and "error" in self.row else str(error)

    @property
    def cells(self) -> Sequence[str]:
        """Its row of the table."""
        row = {"filename": "", "current_status": self.name, **self.row}
        names = ("process_id", "filename", "current_status", "version", "reason", "attempts")
        return ["" if row[name] is None else str(row[name]) for name in names]


def record(outcome: JobOutcome, route: Route | None) -> JobRecord:
    """What became of a job whose call went to ``route``.

    A job that was cancelled before is ok, as the command is idempotent; ``JobOutcome.ok`` of the
    library is false there.
    """
    error = outcome.error
    if outcome.result is not None:
        found = outcome.result.to_dict()
        first = {key: found[key] for key in ("version", "reason", "attempts")}
        return JobRecord(True, {"process_id": outcome.process_id, "ok": True, **first, **found})
    assert error is not None  # noqa: S101 (an outcome is one or the other)
    known = not error.outcome_unknown
    ok = known and isinstance(error, AlreadyCancelledError)
    final = known and isinstance(error, JobStateError | JobNotFoundError)
    return JobRecord(final, error_row(outcome.process_id, error, route, ok=ok))


def error_row(
    process_id: int | str, error: CancelError, route: Route | None = None, *, ok: bool = False
) -> dict[str, Any]:
    """An error as plain JSON types."""
    return {
        "process_id": process_id,
        "ok": ok,
        "version": f"v{error.api_version}" if error.api_version else None,
        "reason": route.reason.value if route else None,
        "attempts": error.attempts,
        "error": type(error).__name__,
        "code": error.code,
        "message": str(error),
        "outcome_unknown": error.outcome_unknown,
    }


def unfinished_row(process_id: int, *, started: bool) -> dict[str, Any]:
    """A job that was under way, or was not started, when the run was stopped."""
    words = "stopped while it was under way" if started else "stopped before it was sent"
    row = error_row(process_id, CancelError(words, outcome_unknown=started))
    name, attempts = ("interrupted", None) if started else ("not_started", 0)
    return {**row, "attempts": attempts, "error": name}
