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

ANSWERED = 0.4  # probability from which an answer is tried; 15 of 100 customers' questions lie below it
FEWEST_SENTENCES = 4  # of fewer, none is the ordinary one that the best is compared with
_USUAL_GAP = 0.05  # of questions that are answered
_LEAST_CROSS, _MOST_CROSS = -6.0, 10.0  # logits of the cross-encoder beyond these say no more

Signal = Literal["cosine", "gap", "cross", "yes"]


@dataclass(frozen=True)
class Signals:
    """Signs that the documents answer a question.

    ``cosine``: of the question and its best sentence; ``gap``: how much that is above the median of all sentences
    found, None if they are too few; ``cross``: the cross-encoder's best logit; ``yes``: log-odds of the chat model's
    own yes.
    """

    cosine: float
    gap: float | None = None
    cross: float | None = None
    yes: float | None = None

    def values(self) -> dict[Signal, float]:
        """Return the signals that there are, in the scale of the regressions."""
        gap = _USUAL_GAP if self.gap is None else self.gap
        found: dict[Signal, float] = {"cosine": 100.0 * (self.cosine - 0.85), "gap": 100.0 * gap}
        if self.cross is not None:
            found["cross"] = max(0.0, min(_MOST_CROSS, self.cross) - _LEAST_CROSS)
        if self.yes is not None:
            found["yes"] = max(-10.0, min(10.0, self.yes))
        return found


@dataclass(frozen=True)
class Regression:
    """Logistic regression: ``1 / (1 + exp(-(bias + sum of weights * signals)))``."""

    bias: float
    weights: Mapping[Signal, float]

    def probability(self, signals: Signals) -> float:
        """Return the probability that the documents answer the question."""
        values = signals.values()
        total = self.bias + sum(weight * values[name] for name, weight in self.weights.items())
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, total))))


ENGLISH = Regression(-0.21, {"cosine": 0.59, "gap": 0.48})
ENGLISH_CROSS = Regression(-0.6, {"cosine": 0.54, "gap": 0.52, "cross": 0.25})
CHINESE = Regression(-3.06, {"cosine": 1.39})
CHINESE_YES = Regression(-3.06, {"cosine": 1.39, "yes": 0.0})


def probability(self, signals: Signals) -> float:
    """Return the probability that the documents answer the question."""
    values = signals.values()
    total = self.bias + sum(weight * values[name] for name, weight in self.weights.items())
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, total))))


ENGLISH = Regression(0.0, {"cosine": 1.0, "words": 1.0})
ENGLISH_CROSS = Regression(0.0, {"cosine": 1.0, "words": 1.0, "cross": 0.3})
CHINESE = Regression(0.0, {"cosine": 1.0, "words": 1.0})
CHINESE_YES = Regression(0.0, {"cosine": 1.0, "words": 1.0, "yes": 0.5})


def probability(signals: Signals, *, chinese: bool) -> float:
    """Return the probability that the documents answer a question."""
    if chinese:
        return (CHINESE if signals.yes is None else CHINESE_YES).probability(signals)
    return (ENGLISH if signals.cross is None else ENGLISH_CROSS).probability(signals)
