"""Sentences of a text, by their places.

Owns where a sentence ends, in English and Chinese. Knows neither words nor scores. Invariant: places are characters
of the given text, in order, without overlap; every character that is not white space lies in one sentence.
"""

from __future__ import annotations

import re

_WRAPPED_CHARS = 40  # of a line, at least, if the next one is to go on with its sentence
_END = re.compile(r"(?<=[。！？!?；;])|(?<=[.][\s\"”’)])|(?<=\n)")
_ABBREVIATED = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|cf|ca|No|Inc|Ltd|Co|U\.S|U\.K|e\.g|i\.e)"
    r"|\.[A-Za-z])\.\s$"
)


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the sentences as (start, end), without the white space around them."""
    found, start = [], 0
    for match in _END.finditer(text):
        if _ABBREVIATED.search(text, max(start, match.start() - 12), match.start()):
            continue
        found.append((start, match.start()))
        start = match.start()
    found.append((start, len(text)))
    trimmed = []
    for first, last in found:
        part = text[first:last]
        if part.strip():
            trimmed.append((first + len(part) - len(part.lstrip()), first + len(part.rstrip())))
    return trimmed


def stretches(text: str, longest: int) -> list[tuple[int, int]]:
    """Return the sentences as (start, end), those of more than ``longest`` characters cut, at a blank if there is
    one. Lines that were only wrapped are one sentence.
    """
    cut: list[tuple[int, int]] = []
    for first, last in _unwrapped(text, sentences(text)):
        start = first
        while last - start > longest:
            blank = text.rfind(" ", start + longest // 2, start + longest)
            end = blank if blank > 0 else start + longest
            cut.append((start, end))
            start = end + (blank > 0)
        if text[start:last].strip():
            cut.append((start, last))
    return cut


def _unwrapped(text: str, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join the lines of sentences that were wrapped at a width: a long line, and the next one begins in lower case."""
    joined: list[tuple[int, int]] = []
    for start, end in places:
        if joined and _is_wrapped(text, joined[-1][1], start):
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined


def _is_wrapped(text: str, end: int, start: int) -> bool:
    """Return whether a line that ends at ``end`` goes on at ``start``."""
    line_chars = end - (text.rfind("\n", 0, end) + 1)
    return text.count("\n", end, start) == 1 and line_chars >= _WRAPPED_CHARS and text[start].islower()
