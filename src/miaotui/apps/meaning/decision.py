"""The decision whether the documents answer a question, on a calibrated score.

Owns the signals and the logistic regression over them, one for each language. Knows neither indexes nor models: the
signals are numbers. Invariant: the same signals give the same probability, in [0, 1]; a signal that is missing is left
out by a regression of its own, never guessed. Fitted by ``benchmarks/meaning.py --fit`` on questions written for this
(``tests/retrieval/questions``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ANSWERED = 0.41  # probability from which an answer to an English question is tried
ANSWERED_CHINESE = 0.49  # likewise; about 15 of 100 answerable questions of customers lie below these
FEWEST_SENTENCES = 4  # of fewer, none is the ordinary one that the best is compared with
_USUAL_GAP = 0.05  # of questions that are answered
_USUAL_SENTENCES = 20  # in the pages of the questions that the regressions were fitted on
_LEAST_CROSS, _MOST_CROSS = -6.0, 10.0  # logits of the cross-encoder beyond these say no more

Signal = Literal["score", "gap", "cross"]


@dataclass(frozen=True)
class Signals:
    """Signs that the documents answer a question.

    ``score``: the best passage's, of words and meaning; ``sentences``: how many the index has; ``gap``: how much the
    best sentence's cosine is above the median of those found, None if they are too few; ``cross``: the
    cross-encoder's best logit.
    """

    score: float
    sentences: int = _USUAL_SENTENCES
    gap: float | None = None
    cross: float | None = None

    def values(self, spread: float) -> dict[Signal, float]:
        """Return the signals that there are, in the scale of the regressions.

        The best of many sentences is near by chance: ``spread`` is the standard deviation of unrelated ones' scores,
        whose largest grows with the square root of the logarithm of their number.
        """
        gap = _USUAL_GAP if self.gap is None else self.gap
        chance = spread * (_expected_largest(self.sentences) - _expected_largest(_USUAL_SENTENCES))
        found: dict[Signal, float] = {"score": 100.0 * (self.score - chance - 0.87), "gap": 100.0 * gap}
        if self.cross is not None:
            found["cross"] = max(0.0, min(_MOST_CROSS, self.cross) - _LEAST_CROSS)
        return found


def _expected_largest(count: int) -> float:
    """Return about how many standard deviations the largest of ``count`` normal values lies above their mean."""
    return math.sqrt(2.0 * math.log(max(count, 2)))


@dataclass(frozen=True)
class Regression:
    """Logistic regression: ``1 / (1 + exp(-(bias + sum of weights * signals)))``; for ``spread`` see `Signals`."""

    bias: float
    weights: Mapping[Signal, float]
    spread: float

    def probability(self, signals: Signals) -> float:
        """Return the probability that the documents answer the question."""
        values = signals.values(self.spread)
        total = self.bias + sum(weight * values[name] for name, weight in self.weights.items())
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, total))))


ENGLISH = Regression(-0.43, {"score": 0.473, "gap": 0.665}, 0.03)
ENGLISH_CROSS = Regression(-0.8, {"score": 0.434, "gap": 0.691, "cross": 0.266}, 0.03)
CHINESE = Regression(-0.17, {"score": 1.163}, 0.02)


def least_probability(*, chinese: bool) -> float:
    """Return the probability from which an answer is tried."""
    return ANSWERED_CHINESE if chinese else ANSWERED


def probability(signals: Signals, *, chinese: bool) -> float:
    """Return the probability that the documents answer a question."""
    if chinese:
        return CHINESE.probability(signals)
    return (ENGLISH if signals.cross is None else ENGLISH_CROSS).probability(signals)
