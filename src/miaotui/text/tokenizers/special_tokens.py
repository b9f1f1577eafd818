"""Finds special tokens written in text: ``<|im_start|>``, ``<bos>``, runs of spaces.

Owns the search, leftmost first and longest at each place, as the `tokenizers` library does it.
Does not know which tokens are special, nor what they mean. Invariant: the texts of the parts that
`split` yields, joined, are the text, but for whitespace that certain tokens swallow.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set


class SpecialTokens:
    """A set of texts to look for. `swallowing`: ids that swallow the whitespace behind them."""

    def __init__(self, ids: Mapping[str, int], swallowing: Set[int] = frozenset()) -> None:
        self._ids = {text: token for text, token in ids.items() if text}
        self._swallowing = swallowing
        lengths: dict[str, set[int]] = defaultdict(set)
        for text in self._ids:
            lengths[text[:2]].add(len(text))
        for start, found in lengths.items():
            if start[0] in self._ids:  # a token of one character is a candidate wherever it starts
                found.add(1)
        # Thousands of tokens share few beginnings: look for those, then try whole lengths.
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        starts = sorted(lengths, key=len, reverse=True)
        self._start = re.compile("|".join(map(re.escape, starts))) if starts else None

    def split(self, text: str, spaces: str = "") -> Iterator[str | int]:
        """Yield the text between special tokens (never empty) and their ids, in order.

        `spaces` are characters that count as whitespace besides the usual ones.
        """
        begin = at = 0
        while self._start and (found := self._start.search(text, at)):
            at = found.start()
            match = self._longest(text, at, found.group())
            if not match:
                at += 1
                continue
            if at > begin:
                yield text[begin:at]
            token = self._ids[match]
            yield token
            at += len(match)
            if token in self._swallowing:
                while at < len(text) and (text[at].isspace() or text[at] in spaces):
                    at += 1
            begin = at
        if begin < len(text):
            yield text[begin:]

    def _longest(self, text: str, at: int, start: str) -> str:
        candidates = (text[at : at + length] for length in self._lengths[start])
        return next((candidate for candidate in candidates if candidate in self._ids), "")
