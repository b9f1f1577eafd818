"""Byte-pair merging: joins neighbouring symbols, best rank first, until no pair can be joined.

Owns the one algorithm behind both families of tokenizers: GPT-2's, whose ranks belong to pairs, and
SentencePiece's, whose ranks belong to the joined text. Knows no bytes, spaces or token ids.
Invariant: of equally ranked pairs the leftmost goes first, as in SentencePiece.
Source: Sennrich et al. 2016, arXiv:1508.07909; Kudo & Richardson 2018, arXiv:1808.06226.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise


class Merges:
    """A table of ranks: ``ranks[left + separator + right]``, the lowest is joined first."""

    def __init__(self, ranks: Mapping[str, float], separator: str) -> None:
        self._rank = ranks.get
        self._separator = separator

    def join(self, symbols: list[str]) -> list[str]:
        """Return what is left of `symbols` when nothing more can be joined; O(n log n)."""
        rank, separator = self._rank, self._separator
        symbols = list(symbols)
        end = len(symbols)
        after = list(range(1, end + 1))  # the next living symbol; `end`: none
        before = list(range(-1, end - 1))
        queue: list[tuple[float, int, str, str]] = []

        def offer(at: int, left: str, right: str) -> None:
            found = rank(left + separator + right)
            if found is not None:
                heappush(queue, (found, at, left, right))

        for at, (left, right) in enumerate(pairwise(symbols)):
            found = rank(left + separator + right)
            if found is not None:
                queue.append((found, at, left, right))
        heapify(queue)
        while queue:
            _, at, left, right = heappop(queue)
            other = after[at]
            # Symbols only grow or die, so equal texts mean that the pair is as it was offered.
            if symbols[at] != left or other == end or symbols[other] != right:
                continue
            joined = symbols[at] = left + right
            symbols[other] = ""
            following = after[at] = after[other]
            if following != end:
                before[following] = at
                offer(at, joined, symbols[following])
            if before[at] >= 0:
                offer(before[at], symbols[before[at]], joined)
        return [symbol for symbol in symbols if symbol]


def merges_in_order(merges: Sequence[str]) -> Merges:
    """Return the table of merges that a file lists, ``left right`` each, the first of them joined first."""
    return Merges(dict(zip(merges, range(len(merges)), strict=True)), " ")
