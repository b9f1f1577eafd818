"""Text from documents and people, made safe for a terminal.

Owns that one function. Knows nothing of where the text comes from. Invariant: no control character of it reaches the
terminal.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def printable(text: str, kept: tuple[str, str] = ("", "")) -> str:
    """Return ``text`` with blanks in place of control characters; the marks ``kept``, which are ours, stay."""
    marks = "|".join(re.escape(mark) for mark in kept if mark)
    parts = re.split(f"({marks})", text) if marks else [text]
    return "".join(part if part in kept else _CONTROL.sub(" ", part) for part in parts)
