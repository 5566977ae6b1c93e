"""What is written where: results on stdout, notices on stderr, both as printable lines.

No encoding, no closed or full stream, and no reader who leaves ends in a traceback.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from textwrap import TextWrapper
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from .journal import JobRecord

#: Exit codes: wrong usage or settings; Ctrl-C, or a reader who left.
WRONG, STOPPED = 2, 130

COLUMNS = ("job", "file", "status", "version", "reason", "attempts")
OPTIONAL = ("attempts", "file", "reason", "version")  #: left out in this order, for want of room


class OutputLost(Exception):
    """stdout takes no more; the text says why, and is empty where its reader left."""


def set_up() -> None:
    """Make the standard streams take everything: called once, first of all."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: the next file or socket would get its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (as long as the process)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def finish() -> None:
    """Flush, so that Python finds nothing left that could fail, which would be exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OutputLost), writing(stream):
            pass


def printable(text: str, kept: str = "") -> str:
    """What moves no cursor, but for ``kept``, with escapes for what the encoding does not have."""
    shown = "".join(char if char.isprintable() or char in kept else " " for char in text)
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def shortened(text: str, width: int) -> str:
    """A text that is longer than ``width`` without its middle."""
    width = max(width, 5)
    half = width // 2
    return text if len(text) <= width else f"{text[:half]}…{text[half + 1 - width :]}"


def columns() -> int:
    """The width of the terminal; a file or a pipe takes any."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


@contextmanager
def writing(stream: TextIO) -> Iterator[None]:
    """What writes there. Raises ``OutputLost`` where that fails, and drops what comes after."""
    try:
        yield
        stream.flush()
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        why = f"stdout: {getattr(error, 'strerror', None) or error}"
        raise OutputLost("" if isinstance(error, BrokenPipeError) else why) from None


def show(what: str | dict[str, Any], style: str = "", indent: int | None = None) -> None:
    """Lines of the result; in a style, where stdout is a terminal and rich is installed.

    With an ``indent`` a line is wrapped that the terminal is too narrow for, and its rest indented.
    A ``dict`` is one line of JSON, and never wrapped.
    """
    text = printable(what if isinstance(what, str) else json.dumps(what), kept="\n")
    if indent is not None and isinstance(what, str):
        room = columns()
        wrap = TextWrapper(room, "", " " * min(indent, room // 3), break_on_hyphens=False)
        text = "\n".join(map(wrap.fill, text.split("\n")))
    with writing(sys.stdout):
        rich = console(sys.stdout) if style else None
        if rich is None:
            print(text)
        else:
            rich.print(text, style=style, soft_wrap=True)


@lru_cache(2)
def console(stream: TextIO) -> Any:
    """rich's, for stdout or stderr; ``None`` where that is no terminal, or rich is missing."""
    if stream.isatty():
        with suppress(ImportError):
            from rich.console import Console

            return Console(file=stream, highlight=False, markup=False, emoji=False)
    return None


def note(text: str) -> None:
    """Lines on stderr, where there is one; in one piece, as threads write, too."""
    with suppress(OutputLost), writing(sys.stderr):
        sys.stderr.write(printable(text + "\n", kept="\n"))


def complain(text: str, who: str = "revenuebase-compat") -> None:
    """Say on stderr what is wrong."""
    note(f"{who}: {text}")


def table(records: Iterable[JobRecord]) -> None:
    """``show`` all jobs, those not cancelled last; on a terminal as wide as that, in colour.

    File names are shortened in their middle, then columns are left out; the rest stays whole.
    """
    chosen = sorted(records, key=lambda record: not record.ok)
    rows = [COLUMNS, *(map(printable, record.cells) for record in chosen)]
    cells = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    widths = {name: max(map(len, texts)) for name, texts in cells.items()}
    beyond = sum(widths.values()) + 2 * (len(widths) - 1) - columns()
    spared = min(max(beyond, 0), max(widths["file"] - 8, 0))
    widths["file"] -= spared
    beyond -= spared
    for name in OPTIONAL:
        if beyond > 0:
            beyond -= widths.pop(name) + 2
    aligned = []
    for name, width in widths.items():
        align = str.rjust if name in ("job", "attempts") else str.ljust
        aligned.append([align(shortened(text, width), width) for text in cells[name]])
    styles = ["bold", *("green" if record.ok else "red" for record in chosen)]
    for style, *row in zip(styles, *aligned, strict=True):
        show("  ".join(row), style)
