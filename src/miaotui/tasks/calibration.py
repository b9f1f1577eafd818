"""Calibration of probabilities: temperature scaling, and how far probabilities are from the share that is right.

Owns these two computations, in float64. Knows neither texts nor models. Invariant: a temperature never changes which
label is likeliest. Source: Guo et al. 2017, arXiv:1706.04599, sections 2 (expected calibration error) and 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from miaotui.errors import RequestError

Doubles = NDArray[np.float64]
LOWEST, HIGHEST = 0.01, 100.0  # temperatures
N_BINS = 15
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_STEPS = 60  # of golden-section search: the interval shrinks by 1e-12


@dataclass(frozen=True)
class CalibrationReport:
    """Figures of probabilities on examples whose labels are known.

    ``calibration_error`` is the mean distance of probability and share of right answers, weighted by how many examples
    fall into each of the bins; ``log_loss`` is in nats.
    """

    n: int
    accuracy: float
    calibration_error: float
    log_loss: float


def softmax_rows(logits: ArrayLike, temperature: float = 1.0) -> Doubles:
    """Return probabilities, float64 ``[n, labels]``, of logits of that shape divided by ``temperature``."""
    scaled = np.atleast_2d(np.asarray(logits, np.float64)) / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    weights = np.exp(scaled)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def log_loss(logits: ArrayLike, targets: ArrayLike, temperature: float = 1.0, smoothing: float = 0.0) -> float:
    """Return the mean of `log_losses`."""
    return float(log_losses(logits, targets, temperature, smoothing).mean())


def log_losses(logits: ArrayLike, targets: ArrayLike, temperature: float = 1.0, smoothing: float = 0.0) -> Doubles:
    """Return the negative log-likelihoods ``[n]``, in nats, of ``targets [n]`` under ``logits [n, labels]``.

    ``smoothing`` is the share of each target that all labels have in equal parts. A logit of -inf is no label.
    """
    scaled = np.atleast_2d(np.asarray(logits, np.float64)) / temperature
    top = scaled.max(axis=1)
    total = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
    wanted = scaled[np.arange(len(scaled)), np.asarray(targets)]
    if smoothing:
        there = np.isfinite(scaled)
        mean = np.where(there, scaled, 0.0).sum(axis=1) / there.sum(axis=1)
        wanted = (1.0 - smoothing) * wanted + smoothing * mean
    return np.asarray(total - wanted)


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """Return the temperature that makes held-out ``targets [n]`` likeliest under ``logits [n, labels]``.

    Targets are smoothed by one part in ``n + 2``, so that few examples that are all right do not make certainty (Platt
    1999, section 2.2). The loss is convex in the temperature's inverse: golden-section search finds its only minimum.
    Raises `RequestError` without examples.
    """
    rows, wanted = np.atleast_2d(np.asarray(logits, np.float64)), np.asarray(targets)
    if not len(wanted) or len(rows) != len(wanted):
        raise RequestError("calibration needs held-out examples with their labels: give at least one")
    smoothing = 1.0 / (len(wanted) + 2)

    def loss(inverse_log: float) -> float:
        return log_loss(rows, wanted, math.exp(-inverse_log), smoothing)

    low, high = -math.log(HIGHEST), -math.log(LOWEST)
    for _ in range(_STEPS):
        span = _GOLDEN * (high - low)
        left, right = high - span, low + span
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return math.exp(-(low + high) / 2.0)


def expected_calibration_error(probabilities: ArrayLike, targets: ArrayLike, bins: int = N_BINS) -> float:
    """Return the expected calibration error of ``probabilities [n, labels]``: bins of equal width, likeliest label."""
    rows, wanted = np.atleast_2d(np.asarray(probabilities, np.float64)), np.asarray(targets)
    if not len(wanted):
        return 0.0
    sure = rows.max(axis=1)
    right = (rows.argmax(axis=1) == wanted).astype(np.float64)
    places = np.minimum((sure * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(places, sure - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(wanted))


def report(logits: ArrayLike, targets: ArrayLike, temperature: float = 1.0) -> CalibrationReport:
    """Return the figures of ``logits [n, labels]`` at a temperature on examples with known ``targets [n]``."""
    rows, wanted = softmax_rows(logits, temperature), np.asarray(targets)
    accuracy = float((rows.argmax(axis=1) == wanted).mean()) if len(wanted) else 0.0
    error = expected_calibration_error(rows, wanted)
    loss = log_loss(logits, wanted, temperature) if len(wanted) else 0.0
    return CalibrationReport(len(wanted), accuracy, error, loss)
