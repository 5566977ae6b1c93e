"""A text that is never shown (pure)."""

from __future__ import annotations

import re
from functools import cached_property
from typing import NoReturn


class Secret:
    """A text that is never shown: not printed, not logged, not pickled."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._bytes = text.encode("utf-8", "replace")

    def reveal(self) -> str:
        """The text itself; for the header it belongs into."""
        return self._text

    def hide(self, data: bytes) -> bytes:
        """``data`` without the text, however JSON may have escaped it.

        Left as it is for less than eight characters: no key is that short, and a replacement of
        such a text would spoil answers that do not hold it.
        """
        if len(self._bytes) < 8 or not (self._bytes in data or b"\\" in data):
            return data
        return self._pattern.sub(b"***", data)

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        forms = (
            f"(?:\\\\?{re.escape(char)}|\\\\u00{ord(char):02x}|\\\\u00{ord(char):02X})"
            for char in self._text
        )
        return re.compile("".join(forms).encode())

    def __repr__(self) -> str:
        return "Secret('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")
