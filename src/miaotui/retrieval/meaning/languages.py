"""Languages as far as retrieval by meaning tells them apart.

Owns the two questions: is a text Chinese, and is it English. Knows no models. Invariant: no text is both.
"""

from __future__ import annotations

import re

from miaotui.retrieval.document import Document

_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_MOST_FOREIGN = 0.03  # of the letters of an English text: names, signs


def is_chinese(text: str) -> bool:
    """Return whether it has a Chinese character."""
    return _HAN.search(text) is not None


def is_english(text: str) -> bool:
    """Return whether its letters are those of English, all but a few."""
    letters = [letter for letter in text if letter.isalpha()]
    foreign = sum(not letter.isascii() for letter in letters)
    return bool(letters) and foreign <= _MOST_FOREIGN * len(letters)


def is_english_passage(passage: Document) -> bool:
    """Return whether a passage is English, by its letters and the language that was noted."""
    return passage.language in ("", "en") and is_english(passage.body or passage.title)
