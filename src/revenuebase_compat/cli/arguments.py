"""Types of arguments: each makes a value of a text, or says what would be right."""

from __future__ import annotations

from argparse import ArgumentTypeError, HelpFormatter
from collections.abc import Callable
from datetime import datetime

from revenuebase_compat.core.dates import parse_date
from revenuebase_compat.core.errors import InvalidProcessIdError
from revenuebase_compat.core.models import check_process_id


class WrappedLines(HelpFormatter):
    """Keeps the lines of a description, and wraps those that the terminal is too narrow for."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        from textwrap import fill  # as argparse does it

        indents = {True: " " * 4, False: ""}
        return "\n".join(
            fill(line, width, subsequent_indent=indents[line[:1] == " "], break_on_hyphens=False)
            for line in text.splitlines()
        )


def process_id(text: str) -> int:
    try:
        return check_process_id(text)
    except InvalidProcessIdError as error:
        raise ArgumentTypeError(str(error)) from None


def file_name(text: str) -> str:
    if text.isdigit():  # no option may swallow an id
        raise ArgumentTypeError(f"{text!r} looks like an id: give ./{text} for a file")
    return text


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 86_400:
        raise ArgumentTypeError(f"{text!r}: give seconds from 0 to 86400")
    return number


def _whole(what: str, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most):
            raise ArgumentTypeError(f"{text!r} is no {what}: give a number from 0 to {most}")
        return int(text)

    return number


count, port = _whole("count", 999_999_999), _whole("port", 65_535)


def date(text: str) -> datetime:
    try:
        return parse_date(text)
    except ValueError:
        right = "give ISO 8601, such as 2026-07-07 or 2026-07-07T12:00:00Z"
        raise ArgumentTypeError(f"{text!r} is no date: {right}") from None
