"""Ranking of items: the sum of weighted parts, an intent, popularity as asked, and diversity.

Owns how scores become a list. Knows items as numbers. Diversity: maximal marginal relevance (Carbonell and Goldstein,
1998) over the candidates that score best. Invariant: with no intent, popularity 0 and diversity 0 the order is that of
the weighted parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import FieldError
from miaotui.tasks.recommend.collaborative import Floats
from miaotui.tasks.recommend.fusion import top_of
from miaotui.tasks.recommend.parts import PARTS, History, Parts, standard

MAX_ITEMS = 1_000  # of one answer
INTENT_WEIGHT = 2.0  # of standard scores, beside a history
_POOL = 10  # candidates of each place, for diversity
_LEAST_POOL = 100


@dataclass(frozen=True)
class RankOptions:
    """Options of a ranking.

    ``n``: items at most. ``popularity``, -1 to 1: weight that is added to popularity (negative: rarer items).
    ``diversity``, 0 to 1: weight of unlikeness to items placed before. ``seen``: items of the history may come again.
    """

    n: int = 10
    popularity: float = 0.0
    diversity: float = 0.0
    seen: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or not 1 <= self.n <= MAX_ITEMS:
            raise FieldError("n", f"must be a whole number from 1 to {MAX_ITEMS:,}, not {self.n!r}")
        if not -1 <= self.popularity <= 1:
            raise FieldError("popularity", f"must be a number from -1 to 1, not {self.popularity!r}")
        if not 0 <= self.diversity <= 1:
            raise FieldError("diversity", f"must be a number from 0 to 1, not {self.diversity!r}")


@dataclass(frozen=True)
class ItemRanking:
    """Items in order: numbers, scores, and each part's share of the score, ``[n, parts]`` with the intent last."""

    places: NDArray[np.int64]
    scores: Floats
    shares: Floats


def rank(
    parts: Parts, weights: Sequence[float], history: History, intent: Floats | None, options: RankOptions
) -> ItemRanking:
    """Rank all items. ``intent`` has the likeness of each item to a sentence, ``[items]``."""
    chosen = _weights(weights, len(history), options)
    weighted = parts.scores(history, chosen) * np.array(chosen, np.float32)[:, None]
    aim = np.zeros(parts.items, np.float32)
    if intent is not None:
        aim = INTENT_WEIGHT * standard(intent[None], history.places)[0]
        weighted = weighted if len(history) else 0.3 * weighted
    shares = np.vstack([weighted, aim])
    scores = shares.sum(axis=0)
    if not options.seen:
        scores[history.places] = -np.inf
    usable = int(np.isfinite(scores).sum())
    places = top_of(scores, min(options.n, usable))
    if options.diversity > 0 and usable:
        pool = top_of(scores, min(usable, max(_LEAST_POOL, _POOL * options.n)))
        places = pool[_diverse(scores[pool], _likeness(parts, pool), options.n, options.diversity)]
    return ItemRanking(places, scores[places], shares[:, places].T)


def _weights(weights: Sequence[float], taken: int, options: RankOptions) -> list[float]:
    """Return the weights of this request: popularity alone for an empty history, and as much of it as asked."""
    found = list(weights) if taken else [1.0 if name == "popular" else 0.0 for name in PARTS]
    found[PARTS.index("popular")] += options.popularity
    return found


def _likeness(parts: Parts, pool: NDArray[np.int64]) -> Callable[[int], Floats]:
    """Return what gives the cosines of one candidate and all, ``[pool]``: by texts, else by EASE's directions."""
    if parts.vectors is not None:
        rows = parts.vectors.values[pool]
    else:
        rows = parts.ease.directions[pool] * np.sqrt(parts.ease.gains)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return lambda place: rows @ rows[place]


def _diverse(scores: Floats, likeness: Callable[[int], Floats], n: int, diversity: float) -> list[int]:
    """Return places of the pool by maximal marginal relevance; scores are scaled to 0 to 1."""
    span = float(scores.max() - scores.min()) or 1.0
    worth = (scores - scores.min()) / span
    nearest = np.zeros(len(scores), np.float32)
    left = np.ones(len(scores), bool)
    chosen: list[int] = []
    while left.any() and len(chosen) < n:
        marginal = np.where(left, (1 - diversity) * worth - diversity * nearest, -np.inf)
        place = int(marginal.argmax())
        chosen.append(place)
        left[place] = False
        nearest = np.maximum(nearest, likeness(place))
    return chosen
