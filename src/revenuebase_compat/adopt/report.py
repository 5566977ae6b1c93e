"""A report of who still speaks v1: one JSON line per v1 request, by every process of a command.

``{"endpoint": "POST /v1/cancel-process", "fate": "moved", "site": "app.py:12", "pid": 4711,
"at": "2026-07-07T12:00:00Z"}``
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any, Literal, get_args

from revenuebase_compat.client.process import from_handler
from revenuebase_compat.core.errors import ConfigurationError

#: Names the file, by its absolute path; empty and unset are none.
VARIABLE = "REVENUEBASE_COMPAT_REPORT"

#: ``moved`` to v2; ``followed`` to v2 after v1 had answered 410; ``left`` to v1.
Fate = Literal["moved", "followed", "left"]
FATES: tuple[str, ...] = get_args(Fate)

_FIRST = b'{"endpoint": "'
# O_BINARY is Windows'; a symlink could lead the lines into a file that somebody else chose.
_FLAGS = os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class Report:
    """Appends to one file; safe in signal handlers, threads and forks, as it takes no lock."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = -1
        self._opened: os.stat_result
        self._root = os.sep
        with suppress(OSError):  # record() tries again
            # Sites are told from here, wherever the program changes to.
            self._root = os.path.join(os.getcwd(), "")
            self._descriptor()

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Report | None:
        """The report that ``run --report FILE`` asked for, or ``None``."""
        path = environ.get(VARIABLE)
        return cls(path) if path else None

    def site(self, filename: str, line: int) -> str:
        """``app.py:12``: relative where the file lies below the directory we started in."""
        return f"{filename.removeprefix(self._root)}:{line}"

    def record(self, endpoint: str, fate: Fate, site: str) -> None:
        """Append one line in one write; what goes wrong is never the caller's to know."""
        try:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            found = {"endpoint": endpoint, "fate": fate, "site": site, "pid": os.getpid(), "at": at}
            os.write(self._descriptor(), json.dumps(found).encode() + b"\n")
        except Exception as error:
            if from_handler(error):
                raise

    def _descriptor(self) -> int:
        # A program that makes itself a daemon closes descriptors, and their numbers are used anew.
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._file), self._opened):
                return self._file
        file = os.open(self.path, os.O_WRONLY | _FLAGS, 0o600)
        if file < 3:  # where stderr is closed, what is written to it would land here
            import fcntl

            low, file = file, fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 3)
            os.close(low)
        self._file, self._opened = file, os.fstat(file)
        return file


def prepare(path: str) -> str:
    """Make sure that lines can be appended to ``path``; returns its absolute form.

    A new file can be read by its owner only; an older report is added to.

    Raises:
        ConfigurationError: it is no regular file, cannot be written, or holds something else.
    """
    try:
        absolute = os.path.abspath(path)  # of a current directory that may be gone
        if os.path.islink(absolute) or (os.path.exists(absolute) and not os.path.isfile(absolute)):
            raise OSError("a folder, a symlink or a device")
        with os.fdopen(os.open(absolute, os.O_RDWR | _FLAGS, 0o600), "rb") as lines:
            if not _is_report(lines):
                raise OSError("holds something else")
    except (OSError, ValueError) as error:
        why = f"{_reason(error)}; give a file of its own"
        raise ConfigurationError(f"report {path!r}: {why}") from None
    return absolute


def read(path: str) -> tuple[Counter[tuple[str, str, str]], int]:
    """Requests by endpoint, fate and site, and the number of lines that could not be read.

    The file may be written to meanwhile: a last line that is not finished yet is left out.

    Raises:
        ConfigurationError: there is no such file, or it is no report.
    """
    try:
        with open(path, "rb") as lines:
            if not _is_report(lines):
                raise OSError("no report of `run --report FILE`")
            lines.seek(0)
            keys: Counter[Any] = Counter(_parsed(line) for line in lines if line.endswith(b"\n"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"report {path!r}: {_reason(error)}") from None
    unreadable = keys.pop(None, 0)
    return keys, unreadable


def _is_report(lines: IO[bytes]) -> bool:
    return _FIRST.startswith(lines.read(len(_FIRST)))


def _parsed(line: bytes) -> tuple[str, str, str] | None:
    # Behind a line that was cut short, by a full disk say, stands the next one whole.
    try:
        found = json.loads(line[max(0, line.rfind(_FIRST)) :])
        key = found["endpoint"], found["fate"], found["site"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return key if key[1] in FATES and all(isinstance(text, str) for text in key) else None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
