"""Collocations of a corpus: word sequences that occur together far more often than their parts would by chance.

Counts n-grams of 2 to 5 words and ranks each length by ``PMI_n``: the least pointwise mutual information over all ways
to cut the n-gram into parts (Levine et al., "PMI-Masking", 2021, equation 4). Knows words; no ids of a tokenizer.
Invariant: an n-gram that only contains a collocation ("New York is") ranks low, since one of its cuts explains it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from miaotui.dmlm.masks.words import Span
from miaotui.errors import RequestError
from miaotui.training.noise import Ints

LONGEST = 5  # words
LEAST_COUNT = 10  # occurrences
MOST_WORDS = 1 << 24  # of a corpus that is counted: 128 MB for each array

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class Collocations:
    """N-grams of words that are masked as one unit."""

    ngrams: frozenset[Ngram]

    @cached_property
    def longest(self) -> int:
        """Return the words of the longest one."""
        return max(map(len, self.ngrams), default=1)

    def merged(self, text: str, words: Sequence[Span]) -> list[Span]:
        """Join the words of each collocation in ``text``: from left to right, the longest first."""
        written = [text[start:end].lower() for start, end in words]
        merged: list[Span] = []
        at = 0
        while at < len(words):
            longest = min(self.longest, len(words) - at)
            size = next((n for n in range(longest, 1, -1) if tuple(written[at : at + n]) in self.ngrams), 1)
            merged.append((words[at][0], words[at + size - 1][1]))
            at += size
        return merged


def find_collocations(
    texts: Iterable[Sequence[str]], *, least_count: int = LEAST_COUNT, share: float = 0.5
) -> Collocations:
    """Find the collocations of texts, each given as its words.

    Of the n-grams of each length that occur ``least_count`` times, the ``share`` with the highest ``PMI_n`` are taken,
    of those in which it is positive. Raises `RequestError` for more than 16 million words.
    """
    numbers: dict[str, int] = {}
    sequences: list[Ints] = []
    for text in texts:
        ids = [numbers.setdefault(word.lower(), len(numbers)) for word in text]
        sequences += [np.array(ids, np.int64), np.array([-1])]  # no n-gram reaches over the end of a text
    if sum(map(len, sequences)) > MOST_WORDS:
        raise RequestError(f"collocations are counted in at most {MOST_WORDS:,} words: give a sample of the texts")
    if not numbers:
        return Collocations(frozenset())
    counts = count_ngrams(np.concatenate(sequences), len(numbers), least_count)
    total = sum(count for ngram, count in counts.items() if len(ngram) == 1)
    spelled = list(numbers)
    found: set[Ngram] = set()
    scores = scores_of(counts, total)
    for n in range(2, LONGEST + 1):
        ranked = sorted((-score, ngram) for ngram, score in scores.items() if len(ngram) == n and score > 0)
        found.update(tuple(spelled[word] for word in ngram) for _, ngram in ranked[: math.ceil(share * len(ranked))])
    return Collocations(frozenset(found))


def count_ngrams(words: Ints, vocabulary: int, least_count: int) -> dict[tuple[int, ...], int]:
    """Count the n-grams of 1 to 5 words; those of several words only from ``least_count`` occurrences on.

    ``words`` are numbers below ``vocabulary``; -1 separates texts. An n-gram is only counted where its beginning was
    frequent enough, so that memory stays in proportion to the corpus.
    """
    present = words[words >= 0]
    counts: dict[tuple[int, ...], int] = {
        (int(w),): int(c) for w, c in zip(*np.unique(present, return_counts=True), strict=True)
    }
    spelled: list[tuple[int, ...]] = [(w,) for w in range(vocabulary)]
    ids = words.copy()  # at each position, the number of the (n-1)-gram that begins there; -1: none
    for n in range(2, LONGEST + 1):
        if len(words) < n:
            break
        following = words[n - 1 :]
        ids = ids[: len(following)]
        valid = (ids >= 0) & (following >= 0)
        keys = ids[valid] * vocabulary + following[valid]
        found, inverse, numbers = np.unique(keys, return_inverse=True, return_counts=True)
        kept = numbers >= least_count
        renumbered = np.where(kept, np.cumsum(kept) - 1, -1)
        before = spelled
        spelled = [(*before[key // vocabulary], int(key % vocabulary)) for key in found[kept].tolist()]
        counts.update(zip(spelled, numbers[kept].tolist(), strict=True))
        ids = np.full(len(following), -1, np.int64)
        ids[valid] = renumbered[inverse]
    return counts


def scores_of(counts: Mapping[tuple[int, ...], int], total: int) -> dict[tuple[int, ...], float]:
    """Return ``PMI_n`` in nats of each n-gram of several words; ``total`` is the number of words."""
    chances = Counter({ngram: math.log(count / total) for ngram, count in counts.items()})
    best: dict[tuple[int, ...], float] = {}  # the likeliest way to make an n-gram of parts, itself among them
    scores: dict[tuple[int, ...], float] = {}
    for ngram in sorted(counts, key=len):
        parts = max((best[ngram[:cut]] + best[ngram[cut:]] for cut in range(1, len(ngram))), default=-math.inf)
        if len(ngram) > 1:
            scores[ngram] = chances[ngram] - parts
        best[ngram] = max(chances[ngram], parts)
    return scores
