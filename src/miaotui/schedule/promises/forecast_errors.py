"""Errors of forecasts, and the time that a promise must allow for because of them.

Owns the mean and the spread of what steps took over what was foreseen: apart for steps that read prompts and steps
that only answer, whose drafts are right more or less often from text to text, and for three lengths of time each.
Knows neither steps nor clocks: foreseen and real seconds come in. Invariant: more work never gets less time. Errors of
single steps partly cancel, so that a second is foreseen better, in relation, than a twentieth of one; the statistics
are exponentially weighted, with surprises cut off, so that one stall counts as one and is forgotten within seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LENGTHS_S = (0.05, 0.2, 0.8)  # of forecasts that are judged
WEIGHT = (1 / 40, 1 / 16, 1 / 10)  # of the newest error: some seconds of work count
ALONE, CROWDED = 1.0, 1.4  # spreads above the mean error that a promise allows for, alone and beside others
FIRST_SPREAD, LEAST_SPREAD, MOST_SPREAD = 0.04, 0.01, 0.35  # relative
SURPRISE = 3.0  # spreads: what is further off counts as just so much
MOST_BIAS = 0.2
MOST_ALLOWED = 0.6  # beyond the time foreseen, relative


@dataclass(slots=True)
class _Window:
    """A stretch of steps: seconds as foreseen when it began, and as they were."""

    pace: float
    foreseen_s: float = 0.0
    took_s: float = 0.0


@dataclass(slots=True)
class _Errors:
    """Logarithms of real over foreseen time, for one length of forecast."""

    length_s: float
    weight: float
    mean: float = 0.0
    variance: float = FIRST_SPREAD**2
    window: _Window | None = None

    def add(self, foreseen_s: float, took_s: float, pace: float) -> None:
        """Count a step, foreseen in ``foreseen_s`` at the present ``pace``."""
        window = self.window
        if window is None:
            window = self.window = _Window(pace)
        window.foreseen_s += foreseen_s * window.pace / pace
        window.took_s += took_s
        if window.foreseen_s >= self.length_s:
            self._judge(math.log(window.took_s / window.foreseen_s))
            self.window = None

    def _judge(self, error: float) -> None:
        spread = math.sqrt(self.variance)
        off = min(max(error - self.mean, -SURPRISE * spread), SURPRISE * spread)
        self.mean = min(max(self.mean + self.weight * off, -MOST_BIAS), MOST_BIAS)
        variance = self.variance + self.weight * (off * off - self.variance)
        self.variance = min(max(variance, LEAST_SPREAD**2), MOST_SPREAD**2)

    @property
    def spread(self) -> float:
        """Return the standard deviation of the error, relative."""
        return math.sqrt(self.variance)


class _Kind:
    """Errors of one kind of step."""

    def __init__(self) -> None:
        self._lengths = [*map(_Errors, LENGTHS_S, WEIGHT)]

    def add(self, foreseen_s: float, took_s: float, pace: float) -> None:
        for errors in self._lengths:
            errors.add(foreseen_s, took_s, pace)

    def at(self, foreseen_s: float) -> tuple[float, float]:
        """Return mean and spread of the error of a forecast of this length."""
        shorter = self._lengths[0]
        if foreseen_s <= shorter.length_s:
            return shorter.mean, shorter.spread
        for longer in self._lengths[1:]:
            if foreseen_s < longer.length_s:
                share = math.log(foreseen_s / shorter.length_s) / math.log(longer.length_s / shorter.length_s)
                mean = shorter.mean + share * (longer.mean - shorter.mean)
                return mean, shorter.spread + share * (longer.spread - shorter.spread)
            shorter = longer
        return shorter.mean, shorter.spread


class ForecastErrors:
    """Errors by kind of step and length of forecast; one thread adds, any may ask."""

    def __init__(self) -> None:
        self._reading, self._answering = _Kind(), _Kind()

    def add(self, reading: bool, foreseen_s: float, took_s: float, pace: float) -> None:
        """Count a step that took ``took_s`` and was foreseen, at the present ``pace``, to take ``foreseen_s``."""
        if foreseen_s > 0.0 and took_s > 0.0:
            (self._reading if reading else self._answering).add(foreseen_s, took_s, pace)

    def allowed_s(self, reading_s: float, answering_s: float, deviations: float = ALONE) -> float:
        """Return the time to allow for, where so much is foreseen up to the first token and so much from there on.

        The errors of the two parts are independent: their squares add up.
        """
        mean_r, spread_r = self._reading.at(reading_s)
        mean_a, spread_a = self._answering.at(answering_s)
        foreseen_s = reading_s + answering_s
        more_s = reading_s * mean_r + answering_s * mean_a
        more_s += deviations * math.hypot(reading_s * spread_r, answering_s * spread_a)
        return foreseen_s + min(max(more_s, 0.0), MOST_ALLOWED * foreseen_s)
