"""A job of the sandbox, its file, and what verifying an address finds out."""

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


def verify(address: str, metadata: bool, mx_record_checked: object, now: datetime) -> Verdict:
    """``invalid…@`` and ``@….invalid`` are Invalid, ``unknown…@`` is Unknown, others are Valid.

    Metadata without a value is ``""`` where it is no bool: the vendor's SDK 0.2.1 expects that.
    """
    local, _, domain = address.lower().partition("@")
    invalid = not domain or local.startswith("invalid") or domain.endswith(".invalid")
    unknown = not invalid and local.startswith("unknown")
    verdict = {"status": "Invalid" if invalid else "Unknown" if unknown else "Valid"}
    if not metadata:
        return verdict
    return verdict | {
        "domain": domain,
        "timestamp": now.astimezone(timezone.utc).isoformat(timespec="seconds"),
        "mx_record_present": None if unknown else not invalid,
        "mx_record_checked": mx_record_checked,
        "email_provider": "",
        "security_gateway": "",
        "reason": "no such mailbox" if invalid else "no answer" if unknown else "",
    }


def cost_of(job: Job, judge: Callable[[str], Verdict]) -> int | None:
    """A credit for each row that is Valid or Invalid; ``None`` where the file cannot be read."""
    try:
        return sum(found["status"] in ("Valid", "Invalid") for _, found in _rows(job, judge))
    except (ValueError, csv.Error, RecursionError):
        return None


def result_file(job: Job, judge: Callable[[str], Verdict]) -> Iterator[bytes]:
    """A job's file, each row with its verdict."""
    rows = _rows(job, judge)
    if extension(job.filename) == ".json":
        yield json.dumps([row | verdict for row, verdict in rows]).encode()
        return
    while page := [[*row, *verdict.values()] for row, verdict in islice(rows, 1000)]:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(page)
        yield text.getvalue().encode()


def _rows(job: Job, judge: Callable[[str], Verdict]) -> Iterator[tuple[Any, Verdict]]:
    """Rows, each with the verdict on the first address in it, or in a CSV's header its names."""
    raw = io.BytesIO(job.content) if isinstance(job.content, bytes) else job.content.open("rb")
    with io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
        if extension(job.filename) == ".json":
            items = json.loads(text.read(MAX_JSON))
            if not isinstance(items, list):
                raise ValueError("no JSON array")
            for item in items:
                row = item if isinstance(item, dict) else {"email": item}
                yield row, judge(_address(row.values()))
            return
        for number, cells in enumerate(csv.reader(text)):
            verdict = judge(_address(cells))
            header = number == 0 and not _address(cells)
            if cells:
                yield cells, dict(zip(verdict, verdict, strict=True)) if header else verdict


def _address(values: Iterable[object]) -> str:
    return next((str(value).strip() for value in values if "@" in str(value)), "")
