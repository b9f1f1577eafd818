"""Piece of a passage that says an answer whole: a sentence, the parts of an enumeration, a list or its steps.

Owns where such a piece begins and ends. Knows no scores. Invariant: a piece is contiguous text of
its passage, at most `MOST_CHARS` long unless one sentence alone is longer.
"""

from __future__ import annotations

import re

MOST_CHARS = 800
_ITEM = re.compile(
    r"\s*(?:[-*•·+–]\s+|[（(]?(?:\d{1,2}|[一二三四五六七八九十]{1,3}|[a-h])[)）.、．]\s*|第[一二三四五六七八九十\d]+步)"
)
_PARTED = ("；", ";")
_OPENING = (":", "：")

Place = tuple[int, int]


def whole_piece(text: str, sentence: Place, *, is_list: bool) -> Place:
    """Return the place of the piece around a sentence.

    It has the other parts of an enumeration by semicolons, the list that a sentence with a colon at its end opens
    and, with ``is_list``, all items of the list that the sentence lies in.
    """
    start, end = _enumeration(text, *sentence)
    lines = _lines(text)
    first, last = _line_at(lines, start), _line_at(lines, max(start, end - 1))
    if is_list and _is_item(text, lines[first]):
        while first and _is_item(text, lines[first - 1]):
            first -= 1
        opening = first and text[slice(*lines[first - 1])].rstrip().endswith(_OPENING)
        start = lines[first - 1][0] if opening else lines[first][0]
    elif not text[:end].rstrip().endswith(_OPENING):
        return start, end
    while last + 1 < len(lines) and _is_item(text, lines[last + 1]):
        last += 1
    return _bounded(start, max(end, lines[last][1]), sentence, [lines[number] for number in range(first, last + 1)])


def names_item(text: str, sentence: Place, question: str) -> bool:
    """Return whether the sentence is an item of a list whose name, before a colon, the question has."""
    start, end = sentence
    marked = _ITEM.match(text, start, end)
    if marked is None:
        return False
    name = re.split("[:：]", text[marked.end() : end], maxsplit=1)
    return len(name) == 2 and bool(name[0].strip()) and name[0].strip().casefold() in question.casefold()


def _enumeration(text: str, start: int, end: int) -> Place:
    """Return the place of the parts of one line that semicolons separate, around one of them."""
    low = text.rfind("\n", 0, start) + 1
    high = text.find("\n", end)
    high = len(text) if high < 0 else high
    while (before := text[low:start].rstrip()).endswith(_PARTED):
        start = low + max(before.rfind(mark, 0, len(before) - 1) for mark in (*_PARTED, "。", ". ", "？", "！")) + 1
    while text[start:end].rstrip().endswith(_PARTED) and end < high:
        found = [at + 1 for mark in (*_PARTED, "。", ".") if (at := text.find(mark, end, high)) >= 0]
        end = min(found, default=high)
    while start < end and text[start].isspace():
        start += 1
    return start, end


def _bounded(start: int, end: int, sentence: Place, lines: list[Place]) -> Place:
    """Return a place without the last lines that make it too long."""
    for line in reversed(lines):
        if end - start <= MOST_CHARS or line[0] <= sentence[0]:
            break
        end = line[0]
    return (start, end) if end - start <= MOST_CHARS else sentence


def _lines(text: str) -> list[Place]:
    """Return the lines that are not empty."""
    return [(match.start(), match.end()) for match in re.finditer(r"[^\n]*\S[^\n]*", text)]


def _line_at(lines: list[Place], place: int) -> int:
    return max((number for number, (start, _) in enumerate(lines) if start <= place), default=0)


def _is_item(text: str, line: Place) -> bool:
    return _ITEM.match(text, *line) is not None
