"""Lists in an option: names with commas between, ASCII or Chinese.

Owns how they are split. Knows no option. Invariant: a Chinese comma or 、 divides only a text without an ASCII comma,
so that a description may hold them.
"""

from __future__ import annotations

import re

_HAN_MARKS = re.compile("[，、]")


def listed(text: str | None) -> list[str]:
    """Return the parts of a list, without their margins; an empty part stays, so that it can be reported."""
    if text is None:
        return []
    return [each.strip() for each in (text.split(",") if "," in text else _HAN_MARKS.split(text))]
