"""Features of the units of one text, by which a summary chooses: place, centrality, likeness to the whole, cues.

Owns their arithmetic, in float64. Knows neither weights nor models. Invariant: features of a text depend on that text
alone. Sources: Erkan and Radev 2004, arXiv:1109.2128 (LexRank); Edmundson 1969 (place, cue words).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.tasks.summaries.units import TextUnit

Doubles = NDArray[np.float64]
NAMES = (
    "first", "second", "last", "place", "centrality", "likeness",
    "coverage", "length", "short", "long", "cue", "digits",
)  # fmt: skip
DAMPING = 0.85
ROUNDS = 50  # of power iteration
_CUES = re.compile(
    r"\b(?:we (?:propose|present|introduce|show|develop|describe|study|provide)|this (?:paper|work|study|article)|"
    r"in this (?:paper|work)|our (?:method|approach|model|results?)|in (?:conclusion|summary)|overall|the main|"
    r"announced|according to)\b|本文|提出|研究|探讨|分析|介绍|总之|结论|综上|表明|影响|应用|方法",
    re.IGNORECASE,
)


def tf_idf(units: Sequence[TextUnit]) -> Doubles:
    """Return unit vectors, float64 ``[n, terms]``: term counts by how few units have the term."""
    seen = Counter(term for unit in units for term in set(unit.terms))
    places = {term: place for place, term in enumerate(seen)}
    matrix = np.zeros((len(units), max(len(places), 1)))
    for row, unit in enumerate(units):
        for term, count in Counter(unit.terms).items():
            matrix[row, places[term]] = count * (1.0 + math.log(len(units) / seen[term]))
    return np.asarray(matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12))


def centrality(likeness: Doubles) -> Doubles:
    """Return continuous LexRank ``[n]`` of likenesses ``[n, n]``, scaled so that the mean is 1."""
    n = len(likeness)
    sums = likeness.sum(axis=1, keepdims=True)
    steps = np.where(sums > 0, likeness / np.maximum(sums, 1e-12), 1.0 / n)
    found = np.full(n, 1.0 / n)
    for _ in range(ROUNDS):
        found = (1.0 - DAMPING) / n + DAMPING * (found @ steps)
    return np.asarray(found * n)


def features_of(units: Sequence[TextUnit], vectors: Doubles | None = None) -> tuple[Doubles, Doubles]:
    """Return features, float64 ``[n, len(NAMES)]``, and the likeness of units ``[n, n]``.

    ``vectors`` are unit embeddings ``[n, d]``; None: words alone.
    """
    matrix = tf_idf(units)
    likeness = matrix @ matrix.T
    if vectors is not None:
        likeness = 0.5 * likeness + 0.5 * np.clip(vectors @ vectors.T, 0.0, 1.0)
    whole = matrix.sum(axis=0)
    like_whole = matrix @ (whole / max(float(np.linalg.norm(whole)), 1e-12))
    totals = Counter(term for unit in units for term in unit.terms)
    most = max(totals.values(), default=1)
    n = len(units)
    lengths = np.array([max(len(unit.terms), 1) for unit in units], np.float64)
    rows = np.zeros((n, len(NAMES)))
    rows[0, 0], rows[min(1, n - 1), 1], rows[-1, 2] = 1.0, float(n > 1), 1.0
    rows[:, 3] = np.arange(n) / max(n - 1, 1)
    rows[:, 4] = np.log(centrality(likeness))
    rows[:, 5] = like_whole
    rows[:, 6] = [sum(totals[term] / most for term in set(unit.terms)) / max(len(set(unit.terms)), 1) for unit in units]
    rows[:, 7] = np.log(lengths)
    rows[:, 8] = np.minimum(lengths / 5.0, 1.0)
    rows[:, 9] = np.maximum(lengths / 20.0 - 1.0, 0.0)
    rows[:, 10] = [float(_CUES.search(unit.text) is not None) for unit in units]
    rows[:, 11] = [sum(letter.isdigit() for letter in unit.text) / max(len(unit.text), 1) for unit in units]
    return rows, likeness
