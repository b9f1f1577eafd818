"""Errors of forecasts of a speech model's windows: how much longer a recording may take than its parts predict.

Owns the mean of real over predicted times of windows, and their mean deviation. Invariant: the allowance for a
recording of many windows is nearer to the mean than that of one, for errors of windows even out.
"""

from __future__ import annotations

import math

FIRST_MEAN, FIRST_DEVIATION = 1.6, 0.2  # before any window was heard alone: the first ones take up to 1.75
WEIGHT = 0.15  # of a window in both
DEVIATIONS = 3.0  # that a promise allows for
LEAST_DEVIATION = 0.05
WILD = 3.0  # ratios are cut to 1/3 to 3: a stopped machine says nothing about the next window


class WindowErrors:
    """Real times of windows over predicted ones, as an exponential mean and its mean absolute deviation."""

    def __init__(self) -> None:
        self.mean, self.deviation = FIRST_MEAN, FIRST_DEVIATION

    def add(self, predicted_s: float, took_s: float) -> None:
        """Learn from a window that was computed alone."""
        ratio = min(max(took_s / max(predicted_s, 1e-9), 1 / WILD), WILD)
        self.deviation += WEIGHT * (abs(ratio - self.mean) - self.deviation)
        self.mean += WEIGHT * (ratio - self.mean)

    def factor(self, windows: int) -> float:
        """Return what the predicted time of so many windows is multiplied by in a promise."""
        return self.mean + DEVIATIONS * max(self.deviation, LEAST_DEVIATION) / math.sqrt(max(windows, 1))
