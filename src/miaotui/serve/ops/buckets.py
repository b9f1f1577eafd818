"""Buckets of histograms that several parts share, in seconds.

Owns numbers alone: fine where steps and tokens lie, so that a change of a millisecond shows.
"""

from __future__ import annotations

STEP_S: tuple[float, ...] = (
    0.001,
    0.002,
    0.003,
    0.004,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.03,
    0.04,
    0.05,
)  # a step, or what a step brings: one token of an answer
STEP_S += (0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
