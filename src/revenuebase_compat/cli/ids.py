"""The ids of a file, as people and their spreadsheets write them."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence

from revenuebase_compat.core.errors import ConfigurationError, InvalidProcessIdError, shown
from revenuebase_compat.core.models import check_process_id

NAMED = 20  #: bad lines that are named


def decode(data: bytes, source: str) -> str:
    """UTF-8 or UTF-16, with a byte order mark or without; other bytes are left as escapes."""
    if data.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        raise ConfigurationError(f"{source} is a workbook: have the spreadsheet save it as CSV")
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in data[:2]:
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    return data.decode(encoding, "backslashreplace")


def read_ids(text: str, source: str) -> list[int]:
    """The ids of a file: plain lines, CSV with a ``process_id`` column, or JSON lines.

    A column's name may be in any case, with blanks or hyphens (``Process ID``); ``,``, ``;`` and
    tabs part columns, and what a first line ``sep=`` names. Blank lines are skipped, and lines that
    begin with ``#``. A ``ConfigurationError`` names up to ``NAMED`` bad lines by their numbers.
    """
    # Not splitlines(), which also splits at characters that JSON may hold.
    lines = enumerate(io.StringIO(text, newline=None), 1)
    kept = [pair for pair in lines if pair[1].strip() and not pair[1].lstrip().startswith("#")]
    found: list[int] = []
    bad: list[tuple[int, str, str]] = []
    line = 1
    try:
        for line, value in _column(kept, source):
            try:
                given = json.loads(value)["process_id"] if value.startswith("{") else value
                found.append(check_process_id(given))
            except InvalidProcessIdError as error:
                bad.append((line, value, str(error)))
            except (ValueError, LookupError, RecursionError):
                right = f"give a JSON object with a process_id, not {shown(value, 60)}"
                bad.append((line, value, right))
    except csv.Error as error:
        raise ConfigurationError(f"{source}, after line {line}: {error}") from None
    if len(bad) == 1:
        raise ConfigurationError(f"{source}, line {bad[0][0]}: {bad[0][2]}")
    if bad:
        words = [f"{source}: {len(bad)} lines hold no process_id (a whole number from 1 on):"]
        words += [f"  line {line}: {shown(value, 60)}" for line, value, _ in bad[:NAMED]]
        words += [f"  and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
        raise ConfigurationError("\n".join(words))
    return found


def _column(lines: Sequence[tuple[int, str]], source: str) -> Iterator[tuple[int, str]]:
    """The cells that hold an id, each with the number of its line."""
    first = lines[0][1].strip() if lines else ""
    if first[:4].lower() == "sep=" and len(first) == 5:
        delimiter, lines = first[4], lines[1:]
    else:
        delimiter = max(",;\t", key=first.count)
    rows = csv.reader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True)
    header = [] if first.startswith("{") else next(rows, [])
    names = ["".join(filter(str.isalnum, name)).lower() for name in header]
    if "processid" not in names:
        if len(header) > 1:
            words = f"no column is named process_id, but {shown(first, 60)}"
            raise ConfigurationError(f"{source}, line {lines[0][0]}: {words}")
        yield from ((number, line.strip()) for number, line in lines)
        return
    column, begins = names.index("processid"), rows.line_num
    for row in rows:
        if any(cell.strip() for cell in row):  # spreadsheets keep rows that were emptied
            yield lines[begins][0], row[column].strip() if column < len(row) else ""
        begins = rows.line_num  # a quoted field may span lines
