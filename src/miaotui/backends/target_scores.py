"""Log-probabilities of the next token of several targets, as a pass leaves them: the best few, or all.

Owns both forms: logits alone, or logits with a list of each row's best tokens that the pass has made. Knows no search.
Invariant: equals come in ascending order of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]


class Best(NamedTuple):
    """Tokens, best first, and their log-probabilities, float32."""

    tokens: Tokens
    scores: Floats


class Listed(NamedTuple):
    """Each row's best tokens ``[n, most]`` with their logits, how many there are, and the log of the logits' total."""

    tokens: Tokens
    logits: Floats
    counts: list[int]
    totals: Floats


class TargetScores:
    """Scores of rows; views of memory that the next pass overwrites.

    ``logits``: ``[n, vocab]``. ``listed``: what the pass has found already; a row that asks for more is sorted here.
    ``places``: each row's place in both, -1 for a row without scores; None: all rows in order.
    """

    def __init__(self, logits: Floats, listed: Listed | None = None, places: Sequence[int] | None = None) -> None:
        self._logits, self._listed = logits, listed
        self._places = range(len(logits)) if places is None else places

    def __len__(self) -> int:
        return len(self._places)

    def part(self, first: int, last: int) -> TargetScores:
        """Return the scores of some rows."""
        return TargetScores(self._logits, self._listed, self._places[first:last])

    def best(self, row: int, count: int) -> Best:
        """Return the ``count`` best tokens of a row; fewer where scores are not numbers."""
        at, listed = self._places[row], self._listed
        if listed is not None and 0 < count <= listed.counts[at]:
            return Best(listed.tokens[at, :count], listed.logits[at, :count] - listed.totals[at])
        scores = self.all(row)
        places = best_places(scores, min(count, scores.size))
        return Best(places, scores[places])

    def logits(self, row: int) -> Floats:
        """Return a row's logits of all tokens: a view of memory that the next pass overwrites."""
        found: Floats = self._logits[self._places[row]]
        return found

    def all(self, row: int) -> Floats:
        """Return a row's log-probabilities of all tokens."""
        return log_softmax(self._logits[self._places[row]].astype(np.float32))


def log_softmax(logits: Floats) -> Floats:
    """Return log-probabilities over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    scores: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return scores


def best_places(scores: Floats, count: int) -> Tokens:
    """Return the places of the ``count`` highest scores, highest first; of equals the lowest place first."""
    if count < 1:
        return np.zeros(0, np.int64)
    if count < scores.size:
        least = np.partition(scores, scores.size - count)[scores.size - count]
        chosen = np.flatnonzero(scores > least)
        equals = np.flatnonzero(scores == least)[: count - len(chosen)]
        chosen = np.concatenate([chosen, equals])
    else:
        chosen = np.arange(scores.size)
    order = np.lexsort((chosen, -scores[chosen]))
    found: Tokens = chosen[order].astype(np.int64)
    return found
