"""Lines of one connection in one order: JSON objects, numbered in each direction.

Owns the numbers. Knows neither calls nor streams. Invariant: a line that comes twice is taken once; after one that was
lost or came too early nothing more is taken, so the connection ends and what it carried goes on elsewhere.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

LINE_BYTES = 1 << 26  # of one message
LINE = "line"  # the key of a line's number


class LineNumbers:
    """The numbers of both directions of one connection, at one of its ends."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._wanted = 0

    def written(self, message: Mapping[str, Any]) -> bytes:
        """Return a message as the next line that goes out."""
        return line_of({LINE: next(self._numbers), **message})

    def read(self, line: bytes) -> dict[str, Any] | None:
        """Return the message of a line that came in; None for one that came before.

        Lines without a number are taken as they come: another version says what it is before it is refused. Raises
        `ValueError` for a line that is no message, and for one before which others were lost.
        """
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError(f"expected a JSON object, not {type(message).__name__}")
        number = message.get(LINE)
        if number is None:
            return message
        if not isinstance(number, int) or number > self._wanted:
            raise ValueError(f"line {self._wanted} was lost: line {number!r} came")
        if number < self._wanted:
            return None
        self._wanted += 1
        return message


def line_of(message: Mapping[str, Any]) -> bytes:
    """Return a message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
