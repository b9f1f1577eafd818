"""The decision whether the documents answer a question, on a calibrated score.

Owns the signals and the logistic regression over them, one for each language. Knows neither indexes nor models: the
signals are numbers. Invariant: the same signals give the same probability, in [0, 1]; a signal that is missing is left
out by a regression of its own, never guessed. Fitted by ``benchmarks/retrieval/meaning.py --fit`` on the questions of
``tests/retrieval/questions``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FEWEST_SENTENCES = 4  # of fewer, none is the ordinary one that the best is compared with
_USUAL_GAP = 0.05  # of questions that are answered
_USUAL_SENTENCES = 20  # in the pages of the questions that the regressions were fitted on
_LEAST_CROSS, _MOST_CROSS = -6.0, 10.0  # logits of the cross-encoder beyond these say no more

Signal = Literal["score", "gap", "cross", "offer", "strange"]


@dataclass(frozen=True)
class Signals:
    """Signs that the documents answer a question.

    ``score``: the best passage's, of words and meaning; ``sentences``: how many the index has; ``gap``: how much the
    best sentence's cosine is above the median of those found, None if they are too few; ``cross``: the
    cross-encoder's best logit; ``in_english``: the cosines are of the space of English;
    ``offer``: the question is whether there is something at all, which is often not in the documents;
    ``strange``: the share of the question's names that no passage found has.
    """

    score: float
    sentences: int = _USUAL_SENTENCES
    gap: float | None = None
    cross: float | None = None
    in_english: bool = False
    offer: bool = False
    strange: float = 0.0

    def values(self, spread: float) -> dict[Signal, float]:
        """Return the signals that there are, in the scale of the regressions.

        The best of many sentences is near by chance: ``spread`` is the standard deviation of unrelated ones' scores,
        whose largest grows with the square root of the logarithm of their number. Fewer than those that the
        regressions were fitted on get no bonus.
        """
        gap = _USUAL_GAP if self.gap is None else self.gap
        chance = spread * max(0.0, _expected_largest(self.sentences) - _expected_largest(_USUAL_SENTENCES))
        found: dict[Signal, float] = {"score": 100.0 * (self.score - chance - 0.87), "gap": 100.0 * gap}
        found |= {"offer": float(self.offer), "strange": self.strange}
        if self.cross is not None:
            found["cross"] = max(0.0, min(_MOST_CROSS, self.cross) - _LEAST_CROSS)
        return found


def _expected_largest(count: int) -> float:
    """Return about how many standard deviations the largest of ``count`` normal values lies above their mean."""
    return math.sqrt(2.0 * math.log(max(count, 2)))


@dataclass(frozen=True)
class Regression:
    """Logistic regression: ``1 / (1 + exp(-(bias + sum of weights * signals)))``; for ``spread`` see `Signals`.

    ``least`` is the probability from which an answer is tried: about 15 of 100 answerable questions of customers lie
    below it.
    """

    bias: float
    weights: Mapping[Signal, float]
    spread: float
    least: float

    def probability(self, signals: Signals) -> float:
        """Return the probability that the documents answer the question."""
        values = signals.values(self.spread)
        total = self.bias + sum(weight * values[name] for name, weight in self.weights.items())
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, total))))


ENGLISH = Regression(-0.43, {"score": 0.473, "gap": 0.665}, 0.03, 0.41)
ENGLISH_CROSS = Regression(-0.8, {"score": 0.434, "gap": 0.691, "cross": 0.266}, 0.03, 0.41)
IN_ENGLISH = Regression(1.89, {"score": 0.6, "gap": 0.24, "offer": -1.25, "strange": -0.87}, 0.03, 0.41)
IN_ENGLISH_CROSS = Regression(
    1.83, {"score": 0.59, "gap": 0.23, "offer": -1.25, "strange": -0.96, "cross": 0.15}, 0.03, 0.41
)
CHINESE = Regression(-1.27, {"score": 0.73, "gap": 0.51, "offer": -0.94, "strange": -0.46}, 0.02, 0.41)


def regression_for(signals: Signals, *, chinese: bool) -> Regression:
    """Return the regression for a question's language, the space that it was compared in, and the signals there are."""
    if chinese:
        return CHINESE
    if signals.in_english:
        return IN_ENGLISH if signals.cross is None else IN_ENGLISH_CROSS
    return ENGLISH if signals.cross is None else ENGLISH_CROSS


def least_probability(signals: Signals, *, chinese: bool) -> float:
    """Return the probability from which an answer is tried."""
    return regression_for(signals, chinese=chinese).least


def probability(signals: Signals, *, chinese: bool) -> float:
    """Return the probability that the documents answer a question."""
    return regression_for(signals, chinese=chinese).probability(signals)
