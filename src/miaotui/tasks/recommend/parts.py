"""Parts of a recommendation: scores of all items by EASE, neighbours, texts, popularity and recent popularity.

Owns the parts and how their scores become comparable. Knows items as numbers. Invariant: a part that has nothing to
say, such as EASE for an empty history, gives zeros, which change no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.tasks.recommend.collaborative import EaseModel, Floats, ItemNeighbours
from miaotui.tasks.recommend.log import EventLog

PARTS = ("ease", "neighbours", "content", "popular", "recent")
LEAST_TEXTS = 50
RECENT_SHARE = 0.05  # of the log's span of time: half-life of recent popularity


@dataclass(frozen=True)
class History:
    """Items that one user has taken: their numbers, int32 ``[n]``, and weights, float32 ``[n]``."""

    places: NDArray[np.int32]
    weights: Floats

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of items' texts less their mean, of unit length, float32 ``[items, d]``; zeros where there is no text.

    The mean of fewer than `LEAST_TEXTS` texts is not taken off: it would be too much of each.
    """

    values: Floats
    mean: Floats

    @classmethod
    def of(cls, vectors: Floats, known: NDArray[np.bool_]) -> ItemVectors:
        """Return vectors with their mean taken off. ``known``: bool ``[items]``."""
        mean = vectors[known].mean(axis=0) if known.sum() >= LEAST_TEXTS else np.zeros(vectors.shape[1], np.float32)
        return cls(np.where(known[:, None], _unit(vectors - mean), 0).astype(np.float32), mean.astype(np.float32))

    def likeness(self, vector: Floats) -> Floats:
        """Return the cosine of each item's vector and a text's, ``[items]``."""
        found: Floats = self.values @ _unit(vector[None] - self.mean)[0]
        return found

    def scores(self, history: History) -> Floats:
        """Return the likeness of each item to the weighted mean of a history, ``[items]``."""
        found: Floats = self.values @ _unit((history.weights @ self.values[history.places])[None])[0]
        return found


@dataclass(frozen=True)
class Parts:
    """The fitted parts over one numbering of items; ``vectors`` is None without texts."""

    ease: EaseModel
    neighbours: ItemNeighbours
    popular: Floats
    recent: Floats
    vectors: ItemVectors | None = None

    @property
    def items(self) -> int:
        """Return the number of items that the parts were made for."""
        return len(self.popular)

    def raw(self, history: History, weights: Sequence[float] | None = None) -> Floats:
        """Return the scores of each part, float32 ``[parts, items]``, in the order of `PARTS`; zeros for a part whose
        weight is 0.
        """
        used = [True] * len(PARTS) if weights is None else [bool(each) for each in weights]
        found = np.zeros((len(PARTS), self.items), np.float32)
        if len(history):
            if used[0]:
                found[0] = self.ease.scores(history.places, history.weights)
            if used[1]:
                found[1] = self.neighbours.scores(history.places, history.weights)
            if used[2] and self.vectors is not None:
                found[2] = self.vectors.scores(history)
        found[3], found[4] = self.popular, self.recent
        return found

    def scores(self, history: History, weights: Sequence[float] | None = None) -> Floats:
        """Return the standard scores of each part over the items that the history lacks, ``[parts, items]``."""
        return standard(self.raw(history, weights), history.places)

    def with_counts(self, log: EventLog) -> Parts:
        """Return these parts with the popularity of a log that has grown."""
        popular, recent = popularity(log, self.items)
        return replace(self, popular=popular, recent=recent)


def popularity(log: EventLog, items: int) -> tuple[Floats, Floats]:
    """Return the logarithms of how often each item was taken, and of that with a half-life, float32 ``[items]``."""
    counts = np.bincount(log.item, minlength=items)
    span_s = float(log.time_s[-1] - log.time_s[0]) if len(log) else 0.0
    if span_s <= 0:
        recent: Any = counts
    else:
        ages = (log.time_s[-1] - log.time_s) / (RECENT_SHARE * span_s)
        recent = np.bincount(log.item, np.exp2(-ages), items)
    return np.log1p(counts).astype(np.float32), np.log1p(recent).astype(np.float32)


def standard(scores: Floats, left_out: NDArray[np.int32] | Sequence[int]) -> Floats:
    """Return rows of scores with mean 0 and deviation 1 over all but some items; a constant row becomes zeros."""
    counted = np.ones(scores.shape[1], bool)
    counted[left_out] = False
    if not counted.any():
        return np.zeros_like(scores)
    chosen = scores[:, counted]
    mean = chosen.mean(axis=1, keepdims=True)
    chosen -= mean
    spread = np.sqrt(np.einsum("ij,ij->i", chosen, chosen) / chosen.shape[1])[:, None]
    found: Floats = np.where(spread > 1e-9, (scores - mean) / np.maximum(spread, 1e-9), 0)
    return found.astype(np.float32)


def _unit(vectors: Floats) -> Floats:
    found: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return found
