"""What became of each job, as ``--json`` prints it and as a file keeps it over a ``kill -9``."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, NoReturn

from revenuebase_compat.core.errors import AlreadyCancelledError, CancelError, ConfigurationError
from revenuebase_compat.core.many import JobOutcome
from revenuebase_compat.core.models import check_process_id
from revenuebase_compat.core.routes import Route

#: How each line of a journal begins.
_BEGIN = b'{"event": "'


#: Errors that another try would end in as well.
_FINAL = ("AlreadyCancelledError", "NotCancellableError", "JobNotFoundError")


class JobRecord(NamedTuple):
    """What became of a job, as the object that ``--json`` prints."""

    row: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the job is cancelled, by this command or before."""
        return bool(self.row["ok"])

    @property
    def final(self) -> bool:
        """Whether another try cannot change it."""
        return self.ok or (self.row["error"] in _FINAL and not self.row["outcome_unknown"])

    @property
    def name(self) -> str:
        """Its end, in a word or two."""
        error = self.row.get("error", "cancelled")
        return "cancelled before" if self.ok and "error" in self.row else str(error)

    @property
    def cells(self) -> list[str]:
        """Its row of the table."""
        row = {"filename": "", "current_status": self.name, **self.row}
        names = ("process_id", "filename", "current_status", "version", "reason", "attempts")
        return ["" if row[name] is None else str(row[name]) for name in names]


def record(outcome: JobOutcome, route: Route | None) -> JobRecord:
    """The record of a job that finished."""
    if outcome.error is not None:
        return JobRecord(error_row(outcome.process_id, outcome.error, route))
    found = outcome.result.to_dict()
    first = {key: found[key] for key in ("version", "reason", "attempts")}
    return JobRecord({"process_id": outcome.process_id, "ok": True, **first, **found})


def error_row(
    process_id: int | str, error: CancelError, route: Route | None = None
) -> dict[str, Any]:
    """An error as plain JSON types; a job that was cancelled before is as it should be."""
    return {
        "process_id": process_id,
        "ok": isinstance(error, AlreadyCancelledError) and not error.outcome_unknown,
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


class Journal:
    """What was started and what is done, a JSON line each, written and flushed as it goes.

    After a ``kill -9`` at most the jobs under way are *started* and not *done*. They are repeated,
    and found cancelled already they count as done. The first line names the server, whose jobs
    these are; the file is locked as long as it is open.

    Without a path nothing is kept.

    Raises:
        ConfigurationError: the file cannot be used: it is in use, another server's, or no journal.
    """

    def __init__(self, path: str | None, base_url: str) -> None:
        self.done: dict[int, JobRecord] = {}
        self._path = path
        self._file: BinaryIO | None = None
        if path is None:
            return
        number = 1
        try:
            self._file = open(path, "a+b")  # noqa: SIM115 (closed by close)
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                self._refuse("is no regular file")  # a device may be read for ever
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._refuse("another run is using it")
            self._file.seek(0)
            text = self._file.read()
            *lines, torn = text.split(b"\n")
            for number, line in enumerate(lines, 1):
                self._replay(json.loads(line), number, base_url)
            # The last line may have been torn by the end of the process that wrote it.
            if torn[: len(_BEGIN)] != _BEGIN[: len(torn)]:
                raise ValueError
            self._file.truncate(len(text) - len(torn))
        except ConfigurationError:
            self.close()
            raise
        except OSError as error:
            self.close()
            self._refuse(error.strerror or str(error))
        except (ValueError, LookupError, TypeError, RecursionError):
            self.close()
            self._refuse(f"line {number} is not of a journal: give another file, or a new name")
        if not lines:
            self._write({"event": "opened", "base_url": base_url})

    def _replay(self, entry: dict[str, Any], number: int, base_url: str) -> None:
        if number == 1:
            if entry["event"] != "opened":
                raise ValueError
            if entry["base_url"] != base_url:
                words = f"holds jobs of {entry['base_url']}, not of {base_url}: give another file"
                self._refuse(words)
            return
        process_id = check_process_id(entry["process_id"])
        if entry["event"] == "done":
            record = JobRecord(entry["row"])
            record.cells  # noqa: B018 (raises where the row is none)
            if record.final:
                self.done[process_id] = record
        elif entry["event"] != "started":
            raise ValueError

    def started(self, process_id: object) -> None:
        """Write down that a job is about to be sent."""
        self._write({"event": "started", "process_id": process_id})

    def finished(self, record: JobRecord) -> None:
        """Write down what became of a job."""
        process_id, final = record.row["process_id"], record.final
        self._write({"event": "done", "process_id": process_id, "final": final, "row": record.row})

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps(entry).encode() + b"\n")
                self._file.flush()  # what a full disk refuses is tried again with the next line
            except OSError as error:
                self._refuse(error.strerror or str(error))

    def _refuse(self, why: str) -> NoReturn:
        raise ConfigurationError(f"--resume {self._path}: {why}") from None

    def close(self) -> None:
        """Close the file, which unlocks it."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
