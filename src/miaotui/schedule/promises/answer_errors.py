"""Errors of the forecasts of whole answers.

`forecast.ForecastErrors` judges the cost model by single steps; `AnswerErrors` judges the forecast that a promise was
made on: the time of an answer from its arrival to its last token over the time foreseen at its admission. Beside the
errors of steps that holds what steps do not show: drafts that are right more or less often in this text, the way into
the engine, and changes of the machine's speed that last as long as an answer. Only answers beside which nothing else
ran are counted. Knows neither clocks nor requests. Invariant: one error counts for at most `SURPRISE` spreads.
"""

from __future__ import annotations

import math

FIRST_SPREAD, LEAST_SPREAD, MOST_SPREAD = 0.045, 0.03, 0.3  # of the logarithm of real over foreseen time
FIRST_COUNT, MOST_COUNT = 4, 12  # answers that the first spread counts for; older ones fade
SURPRISE = 1.5  # spreads: what is further off counts as just so much; normal errors lose a sixth by that
MOST_BIAS = 0.15
DEVIATIONS = 2.3  # spreads above the mean error that a promise allows for


class AnswerErrors:
    """Mean and spread of the logarithm of real over foreseen time; one thread adds, any may ask."""

    def __init__(self) -> None:
        self._count = FIRST_COUNT
        self.mean, self._variance = 0.0, FIRST_SPREAD**2

    @property
    def spread(self) -> float:
        """Return the standard deviation of the logarithm."""
        return math.sqrt(self._variance)

    def add(self, foreseen_s: float, took_s: float) -> None:
        """Count an answer that took ``took_s`` and was foreseen to take ``foreseen_s``."""
        if foreseen_s <= 0.0 or took_s <= 0.0:
            return
        self._count = min(self._count + 1, MOST_COUNT)
        weight, most = 1 / self._count, SURPRISE * self.spread
        off = min(max(math.log(took_s) - math.log(foreseen_s) - self.mean, -most), most)
        self.mean = min(max(self.mean + weight * off, -MOST_BIAS), MOST_BIAS)
        variance = (1 - weight) * (self._variance + weight * off * off)
        self._variance = min(max(variance, LEAST_SPREAD**2), MOST_SPREAD**2)

    def allowed_s(self, foreseen_s: float, deviations: float = DEVIATIONS) -> float:
        """Return the time to allow for an answer that is foreseen to take ``foreseen_s``; never less than that."""
        return foreseen_s * math.exp(max(self.mean + deviations * self.spread, 0.0))
