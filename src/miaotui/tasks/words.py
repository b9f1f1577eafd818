"""Words of a text with their places, in scripts with spaces and in Chinese.

Owns the cutting. Knows no language but whether a run of characters is Chinese. Invariant: words are in order, do not
overlap, and hold no white space.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from miaotui.libraries import need

_RUN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]+|[^\W_]+(?:['’\-][^\W_]+)*")


class PlacedWord(NamedTuple):
    """A word, ``text[start:end]``."""

    text: str
    start: int
    end: int


def placed_words(text: str) -> list[PlacedWord]:
    """Return the words of a text. Raises `MissingLibraryError` for Chinese without rjieba."""
    found: list[PlacedWord] = []
    for run in _RUN.finditer(text):
        if "\u3400" <= run[0][0] <= "\uffff":
            place = run.start()
            for word in need("rjieba").cut(run[0]):
                found.append(PlacedWord(word, place, place + len(word)))
                place += len(word)
        else:
            found.append(PlacedWord(run[0], run.start(), run.end()))
    return found
