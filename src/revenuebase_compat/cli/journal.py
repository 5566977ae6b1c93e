"""What was started and what is done of many jobs, in a file that outlives a ``kill -9``."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import suppress
from typing import Any, BinaryIO, NoReturn

from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.models import check_process_id

from .records import JobRecord

#: How each line of a journal begins.
_BEGIN = b'{"event": "'


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
            if not stat.S_ISREG(
                os.fstat(self._file.fileno()).st_mode
            ):  # a device may be read for ever
                self._refuse("is no regular file")
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
            record = JobRecord(entry["final"], entry["row"])
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
        facts = {"process_id": record.row["process_id"], "final": record.final}
        self._write({"event": "done", **facts, "row": record.row})

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
