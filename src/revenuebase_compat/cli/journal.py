"""What became of each job, as ``--json`` prints it and as a file keeps it over a ``kill -9``."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from typing import Any, BinaryIO, NoReturn

from revenuebase_compat.core.errors import AlreadyCancelledError, CancelError, ConfigurationError
from revenuebase_compat.core.many import JobOutcome
from revenuebase_compat.core.models import check_process_id
from revenuebase_compat.core.routes import Route

_BEGIN = b'{"event": "'  # of each line of a journal


class JobRecord(dict[str, Any]):
    """What became of a job, as the object that ``--json`` prints."""

    @property
    def ok(self) -> bool:
        """Whether the job is cancelled, by this command or before."""
        return bool(self["ok"])

    @property
    def final(self) -> bool:
        """Whether another try cannot change it."""
        lasts = self.get("error") in ("NotCancellableError", "JobNotFoundError")
        return self.ok or (lasts and not self["outcome_unknown"])

    @property
    def name(self) -> str:
        """Its end, in a word or two."""
        ended = "cancelled" if "current_status" in self else "cancelled before"
        return ended if self.ok else str(self["error"])

    @property
    def cells(self) -> list[str]:
        """Its row of the table."""
        row = {"filename": "", "current_status": self.name, **self}
        names = ("process_id", "filename", "current_status", "version", "reason", "attempts")
        return ["" if row[name] is None else str(row[name]) for name in names]


def finished(outcome: JobOutcome, route: Route | None) -> JobRecord:
    """The record of a job that finished."""
    if outcome.error is not None:
        return failed(outcome.process_id, outcome.error, route)
    first = dict.fromkeys(("process_id", "ok", "version", "reason", "attempts"))
    return JobRecord({**first, **outcome.result.to_dict(), "ok": True})


def failed(process_id: int | str, error: CancelError, route: Route | None = None) -> JobRecord:
    """The record of an error; a job that was cancelled before is as it should be."""
    unknown = error.outcome_unknown
    ok = isinstance(error, AlreadyCancelledError) and not unknown
    wrong = {"error": type(error).__name__, "code": error.code, "outcome_unknown": unknown}
    return JobRecord(
        process_id=process_id,
        ok=ok,
        version=f"v{error.api_version}" if error.api_version else None,
        reason=route.reason.value if route else None,
        attempts=error.attempts,
        message=str(error),
        **({"already_cancelled": True} if ok else wrong),
    )


def unfinished(process_id: int, *, started: bool) -> JobRecord:
    """The record of a job that was under way, or not started, when the run was stopped."""
    words = "stopped while it was under way" if started else "stopped before it was sent"
    record = failed(process_id, CancelError(words, outcome_unknown=started))
    record["error"], record["attempts"] = ("interrupted", None) if started else ("not_started", 0)
    return record


class Journal:
    """What was started and what is done, a JSON line each, flushed as it goes; locked while open.

    After a ``kill -9`` at most the jobs under way are *started* and not *done*. They are repeated,
    and found cancelled already they count as done. Without a path nothing is kept.

    Raises:
        ConfigurationError: the file is in use, of another server, or no journal.
    """

    def __init__(self, path: str | None, base_url: str) -> None:
        self.done: dict[int, JobRecord] = {}
        self._path, self._base_url = path, base_url
        self._file: BinaryIO | None = None
        if path is None:
            return
        try:
            self._file = open(path, "a+b")  # noqa: SIM115 (closed by close)
            self._read(self._file)
        except (OSError, ConfigurationError) as error:
            self.close()
            if isinstance(error, OSError):
                self._refuse(error.strerror or str(error))
            raise

    def _read(self, file: BinaryIO) -> None:
        if not os.path.isfile(file.fileno()):
            self._refuse("is no regular file")  # a device may be read for ever
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._refuse("another run is using it")
        file.seek(0)
        text = file.read()
        *lines, torn = text.split(b"\n")
        number = 1
        try:
            for number, line in enumerate(lines, 1):
                self._replay(json.loads(line), number)
            # The last line may have been torn by the end of the process that wrote it.
            if torn[: len(_BEGIN)] != _BEGIN[: len(torn)]:
                raise ValueError
        except ConfigurationError:
            raise
        except (ValueError, LookupError, TypeError, RecursionError):
            self._refuse(f"line {number} is not of a journal: give another file, or a new name")
        file.truncate(len(text) - len(torn))
        if not lines:
            self.write("opened", base_url=self._base_url)

    def _replay(self, entry: dict[str, Any], number: int) -> None:
        event = entry["event"]
        if number == 1 and event == "opened":
            if (its := entry["base_url"]) != self._base_url:
                self._refuse(f"holds jobs of {its}, not of {self._base_url}: give another file")
        elif number > 1 and event in ("started", "done"):
            process_id = check_process_id(entry["process_id"])
            if event == "done":
                record = JobRecord(entry["row"])
                record.cells  # noqa: B018 (raises where the row is none)
                if record.final:
                    self.done[process_id] = record
        else:
            raise ValueError

    def write(self, event: str, **facts: object) -> None:
        """Note that a job is about to be sent (``started``), or what became of it (``done``)."""
        if self._file is not None:
            try:
                self._file.write(json.dumps({"event": event, **facts}).encode() + b"\n")
                self._file.flush()  # what a full disk refuses is tried again with the next line
            except OSError as error:
                self._refuse(error.strerror or str(error))

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _refuse(self, why: str) -> NoReturn:
        raise ConfigurationError(f"--resume {self._path}: {why}") from None
