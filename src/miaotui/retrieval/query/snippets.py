"""The stretch of a passage that shows best why it was found.

Owns the choice of the window and its marking. Knows terms, not queries. Invariant: the result is
safe as HTML: everything but its own ``<b>`` marks is escaped.
"""

from __future__ import annotations

from collections.abc import Set
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miaotui.retrieval.query.analysis import Analyzer

WIDTH_CHARS = 200
_READ_CHARS = 20_000


def snippet(body: str, terms: Set[str], analyzer: Analyzer, width: int = WIDTH_CHARS) -> str:
    """Return at most about ``width`` characters of ``body`` around most of ``terms``, marked, as HTML."""
    text = body[:_READ_CHARS]
    found = [span for span in analyzer.spans(text) if span[2] in terms] if terms else []
    first = _best_start(found, width)
    start = _word_start(text, max(0, first - width // 5)) if first > width // 2 else 0
    end = min(len(text), start + width)
    if end < len(text):
        space = text.rfind(" ", start + width // 2, end)
        end = space if space > 0 else end
    parts, place = ["… " if start else ""], start
    for low, high, _ in found:
        if low >= place and high <= end:
            parts += [escape(text[place:low]), f"<b>{escape(text[low:high])}</b>"]
            place = high
    parts += [escape(text[place:end]), " …" if end < len(body) else ""]
    return " ".join("".join(parts).split())


def _best_start(found: list[tuple[int, int, str]], width: int) -> int:
    """Return where the window begins that holds the most different terms, then the most words."""
    best, chosen, last = (0, 0), 0, 0
    for first in range(len(found)):
        last = max(last, first)
        while last < len(found) and found[last][1] <= found[first][0] + width * 4 // 5:
            last += 1
        inside = found[first:last]
        worth = (len({term for _, _, term in inside}), len(inside))
        if worth > best:
            best, chosen = worth, found[first][0]
    return chosen


def _word_start(text: str, place: int) -> int:
    space = text.rfind(" ", max(0, place - 30), place + 1)
    return space + 1 if space >= 0 else place
