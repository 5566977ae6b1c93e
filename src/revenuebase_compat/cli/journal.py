"""What ``revenuebase-compat cancel`` reads and keeps of many jobs: their ids, and a journal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from revenuebase_compat.core.errors import (
    AlreadyCancelledError,
    ConfigurationError,
    InvalidProcessIdError,
    JobNotFoundError,
    JobStateError,
)
from revenuebase_compat.core.models import JobOutcome, check_process_id


def read_ids(text: str, source: str) -> Iterator[int]:
    """The ids of a file: plain lines, CSV with a ``process_id`` column, or JSON lines.

    Blank lines are skipped, and lines that begin with ``#``.

    Raises:
        ConfigurationError: names the first bad line by its number.
    """
    # Not splitlines(), which also splits at characters that JSON may hold.
    lines = enumerate(io.StringIO(text, newline=None), 1)
    kept = [pair for pair in lines if pair[1].strip() and not pair[1].lstrip().startswith("#")]
    line, value = 1, ""
    try:
        for line, value in _column(kept):  # noqa: B007 (the handlers name it)
            found = json.loads(value)["process_id"] if value.startswith("{") else value
            yield check_process_id(found)
    except InvalidProcessIdError as error:
        raise ConfigurationError(f"{source}, line {line}: {error}") from None
    except csv.Error as error:
        raise ConfigurationError(f"{source}, after line {line}: {error}") from None
    except (ValueError, LookupError, RecursionError):
        right = f"give a JSON object with a process_id, not {value[:60]!r}"
        raise ConfigurationError(f"{source}, line {line}: {right}") from None


def _column(lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The cells that hold an id, each with the number of its line."""
    first = lines[0][1] if lines else ""
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True)
    names = [] if first.startswith("{") else [name.strip() for name in next(rows, [])]
    if "process_id" not in names:
        yield from ((number, line.strip()) for number, line in lines)
        return
    column, begins = names.index("process_id"), rows.line_num
    for row in rows:
        yield lines[begins][0], row[column].strip() if column < len(row) else ""
        begins = rows.line_num  # a quoted field may span lines


class JobRecord(NamedTuple):
    """What became of a job, ready to be shown."""

    ok: bool
    #: Whether another try cannot change it.
    final: bool
    #: The object that ``--json`` prints.
    row: dict[str, Any]
    #: Its cells in the table.
    cells: Sequence[str]


#: How each line of a journal begins.
_BEGIN = b'{"event": "'


class Journal:
    """What was started and what is done, a JSON line each, written and flushed as it goes.

    After a ``kill -9`` at most the jobs under way are *started* and not *done*. They are repeated,
    and found cancelled already they count as done.

    Raises:
        ConfigurationError: the file cannot be used, or is none of ours.
    """

    def __init__(self, path: Path | None) -> None:
        self.done: dict[int, JobRecord] = {}
        self._in_doubt: set[int] = set()
        self._path = path
        self._file: BinaryIO | None = None
        if path is None:
            return
        try:
            self._file = path.open("a+b")
            self._file.seek(0)
            text = self._file.read()
            *lines, torn = text.split(b"\n")
            number = 1
            for number, line in enumerate(lines, 1):  # noqa: B007 (the handlers name it)
                self._replay(json.loads(line))
            # The last line may have been torn by the end of the process that wrote it.
            if torn[: len(_BEGIN)] != _BEGIN[: len(torn)]:
                raise ValueError
            self._file.truncate(len(text) - len(torn))
        except OSError as error:
            self._refuse(error.strerror)
        except (ValueError, LookupError, TypeError, RecursionError):
            self.close()
            self._refuse(f"line {number} is not of a journal: give another file, or a new name")

    def _replay(self, entry: dict[str, Any]) -> None:
        process_id = check_process_id(entry["process_id"])
        if entry["event"] == "started":
            self._in_doubt.add(process_id)
        elif entry["event"] != "done":
            raise ValueError
        elif entry["final"]:
            self.done[process_id] = JobRecord(
                entry["row"]["ok"], True, entry["row"], entry["cells"]
            )
        elif not entry["row"]["outcome_unknown"]:
            self._in_doubt.discard(process_id)

    def started(self, process_id: object) -> None:
        """Write down that a job is about to be sent."""
        self._write({"event": "started", "process_id": process_id})

    def settle(self, outcome: JobOutcome) -> JobRecord:
        """What became of a job, written down."""
        error = outcome.error
        known = error is None or not error.outcome_unknown
        ok = error is None or (
            isinstance(error, AlreadyCancelledError)
            and known
            and outcome.process_id in self._in_doubt
        )
        final = known and (ok or isinstance(error, JobStateError | JobNotFoundError))
        fate = JobRecord(ok, final, row(outcome, ok), _cells(outcome, ok))
        entry = {"event": "done", "process_id": outcome.process_id, "final": final}
        self._write({**entry, "row": fate.row, "cells": fate.cells})
        return fate

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps(entry).encode() + b"\n")
                self._file.flush()
            except OSError as error:
                self._refuse(error.strerror)

    def _refuse(self, why: str | None) -> NoReturn:
        raise ConfigurationError(f"--resume {self._path}: {why}") from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def row(outcome: JobOutcome, ok: bool) -> dict[str, Any]:
    """One job's fate as plain JSON types."""
    if outcome.result is not None:
        return {"process_id": outcome.process_id, "ok": True, **outcome.result.to_dict()}
    error = outcome.error
    assert error is not None  # noqa: S101 (an outcome is one or the other)
    return {
        "process_id": outcome.process_id,
        "ok": ok,
        "error": type(error).__name__,
        "code": error.code,
        "message": str(error),
        "outcome_unknown": error.outcome_unknown,
    }


def _cells(outcome: JobOutcome, ok: bool) -> tuple[str, ...]:
    result, error = outcome.result, outcome.error
    if result is not None:
        version, reason = f"v{result.route.version}", result.route.reason.value
        shown = (result.filename, result.current_status, version, reason, str(result.attempts))
        return (str(outcome.process_id), *shown)
    assert error is not None  # noqa: S101 (an outcome is one or the other)
    name = "cancelled before" if ok else type(error).__name__
    version = f"v{error.api_version}" if error.api_version else ""
    shown = ("", name, version, error.code or "", str(error.attempts))
    return (str(outcome.process_id), *shown)
