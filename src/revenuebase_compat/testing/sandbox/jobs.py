"""A job of the sandbox, and its file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

ACTIVE = ("QUEUED", "PROCESSING")
ENDED = ("COMPLETED", "ERROR")
CANCELLED = ("CANCELLING", "CANCELLED")
STATES = (*ACTIVE, *ENDED, *CANCELLED)

#: Of the files that can be uploaded, and what one holds whose job was made up.
MEDIA_TYPES = {".csv": "text/csv", ".json": "application/json"}
SAMPLES = {".csv": b"email\nada@example.com\n", ".json": b'["ada@example.com"]'}

NEVER = datetime.max.replace(tzinfo=timezone.utc)

#: Characters of a .json file, as it is read whole; the job of a larger one ends in ERROR.
MAX_JSON = 64 * 1024 * 1024

#: What verifying an address finds out: the columns that a result has beside the address.
Verdict = dict[str, Any]
Judge = Callable[[str, bool], Verdict]


@dataclass
class Job:
    """A job; ``status`` may be set to whatever a test needs."""

    process_id: int
    filename: str
    status: str
    content: bytes | Path = field(default=b"", compare=False, repr=False)
    metadata: bool = field(default=False, compare=False, repr=False)
    #: Credits that its rows will cost; ``None``: the file cannot be read, so it ends in ERROR.
    cost: int | None = field(default=0, compare=False, repr=False)
    #: When its status changed last.
    since: datetime = field(default=NEVER, compare=False, repr=False)


def extension(filename: str) -> str:
    """``.csv`` or ``.json``; empty for any other."""
    return next((one for one in MEDIA_TYPES if filename.lower().endswith(one)), "")


def cost_of(job: Job, judge: Judge) -> int | None:
    """A credit for each row that is Valid or Invalid; ``None`` where the file cannot be read."""
    try:
        return sum(found["status"] in ("Valid", "Invalid") for _, found in _rows(job, judge))
    except (ValueError, csv.Error, RecursionError):
        return None


def result_file(job: Job, judge: Judge) -> Iterator[bytes]:
    """A job's file in pieces, each row with its verdict; those of a cancelled job are empty."""
    rows = _rows(job, judge)
    if extension(job.filename) == ".json":
        yield json.dumps([row | verdict for row, verdict in rows]).encode()
        return
    while page := [[*row, *verdict.values()] for row, verdict in islice(rows, 1000)]:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(page)
        yield text.getvalue().encode()


def _rows(job: Job, judge: Judge) -> Iterator[tuple[Any, Verdict]]:
    """Rows, each with the verdict on the first address in it, or in a CSV's header its names."""

    def judged(address: str) -> Verdict:
        verdict = judge(address, job.metadata)
        return dict.fromkeys(verdict, "") if job.status == "CANCELLED" else verdict

    raw = io.BytesIO(job.content) if isinstance(job.content, bytes) else job.content.open("rb")
    with io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
        if extension(job.filename) == ".json":
            items = json.loads(text.read(MAX_JSON))
            if not isinstance(items, list):
                raise ValueError("no JSON array")
            for item in items:
                row = item if isinstance(item, dict) else {"email": item}
                yield row, judged(_address(row.values()))
            return
        for number, cells in enumerate(csv.reader(text)):
            address = _address(cells)
            verdict = judged(address)
            if number == 0 and not address:  # the header
                verdict = {name: name for name in verdict}
            if cells:
                yield cells, verdict


def _address(values: Iterable[object]) -> str:
    return next((str(value).strip() for value in values if "@" in str(value)), "")
