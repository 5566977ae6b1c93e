"""``revenuebase-compat report FILE``: which v1 requests were made, from where, and what became."""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from collections import Counter
from typing import Any

from .output import printer

STYLES = {"moved": "green", "followed": "yellow", "left": "red"}


def add_arguments(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report", help="what run --report FILE wrote: who still speaks v1"
    )
    parser.add_argument("file", metavar="FILE")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Print the table of a report; 1 if something was left to v1, else 0.

    Raises:
        ConfigurationError: there is no such file, or it is no report.
    """
    from revenuebase_compat.adopt.report import FATES, read

    counts, unreadable = read(arguments.file)
    say = printer(sys.stdout.isatty())
    # On a terminal a site gives way, in its middle; a file or a pipe gets it whole.
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10**6
    width = len(str(max(counts.values(), default=0)))
    fates: Counter[str] = Counter()
    for endpoint in sorted({endpoint for endpoint, _, _ in counts}):
        say(_cut(endpoint, columns), "bold")
        rows = [(FATES.index(key[1]), key[2], n) for key, n in counts.items() if key[0] == endpoint]
        for fate, site, number in sorted(rows):
            left = f"  {FATES[fate]:<8}  {number:>{width}}  "
            say(left + _cut(site, columns - len(left)), STYLES[FATES[fate]])
            fates[FATES[fate]] += number
    told = ", ".join(f"{fates[fate]} {fate}" for fate in FATES if fates[fate])
    say(f"in all: {told or 'none'}", "bold")
    if fates["left"]:
        say(f"{fates['left']} would fail in a rehearsal", "red")
    if unreadable:
        say(f"lines that could not be read: {unreadable}", "red")
    return 1 if fates["left"] else 0


def _cut(text: str, width: int) -> str:
    text = "".join(char if char.isprintable() else "?" for char in text)
    half = max(4, width - 1) // 2
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"
