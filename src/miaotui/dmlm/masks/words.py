"""Units of a text in characters, and the tokens that lie in them.

Words of alphabetic scripts by their letters, Chinese words by jieba's segmentation. Knows texts and offsets; no ids.
Invariant: every character is in at most one span, spans ascend, and a token that touches two words makes them one unit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from miaotui.libraries import need
from miaotui.training.noise import Ints

Span: TypeAlias = tuple[int, int]  # first character, and the one after the last

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN_RUN = re.compile(f"[{_HAN}]+")
# letters and digits with what holds words together within them (don't, U.S., 3.5, well-known)
_WORD = re.compile(rf"[{_HAN}]+|(?:(?![{_HAN}])\w)+(?:[.'’-](?:(?![{_HAN}])\w)+)*|[^\w\s]")


def word_spans(text: str) -> list[Span]:
    """Return the words of a text; a mark of punctuation is a word of its own.

    Raises `MissingLibraryError` for Chinese without rjieba.
    """
    spans: list[Span] = []
    for match in _WORD.finditer(text):
        if not _HAN_RUN.match(match[0]):
            spans.append(match.span())
            continue
        start = match.start()
        for word in need("rjieba").cut(match[0]):
            spans.append((start, start + len(word)))
            start += len(word)
    return spans


def unit_numbers(offsets: Sequence[Span], spans: Sequence[Span]) -> Ints:
    """Return the number of each token's unit, ascending, from the tokens' ``offsets`` in characters.

    Tokens between words (blanks) are units of their own. Leading blanks of a token do not count: a tokenizer that puts
    them at a word's beginning has the word in one unit.
    """
    begins = np.array([span[0] for span in spans], np.int64)
    ends = np.array([span[1] for span in spans], np.int64)
    starts = np.array([start for start, _ in offsets], np.int64)
    stops = np.array([end for _, end in offsets], np.int64)
    first = np.searchsorted(ends, starts, side="right")  # the first span that ends after the token begins
    last = np.searchsorted(begins, stops, side="left") - 1  # the last one that begins before it ends
    touches = last >= first
    joined = np.zeros(len(offsets), bool)
    if len(offsets) > 1:
        joined[1:] = touches[1:] & touches[:-1] & (first[1:] <= last[:-1])
    return np.cumsum(~joined)
