"""Temperature scaling and the calibration error, on logits whose right temperature is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import RequestError
from miaotui.tasks.calibration import (
    HIGHEST,
    LOWEST,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    report,
    softmax_rows,
)

TEMPERATURES = st.floats(0.1, 10.0)
SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int, n: int = 4000, labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn with the probabilities that they say."""
    rng = np.random.default_rng(seed)
    logits = 2.0 * rng.standard_normal((n, labels))
    sums = softmax_rows(logits).cumsum(axis=1)
    return logits, (rng.random((n, 1)) > sums).sum(axis=1).clip(0, labels - 1)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, factor=TEMPERATURES)
def test_the_factor_by_which_logits_are_wrong_is_found(seed: int, factor: float) -> None:
    logits, targets = drawn(seed)
    assert fit_temperature(factor * logits, targets) == pytest.approx(factor, rel=0.15)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, factor=TEMPERATURES)
def test_no_other_temperature_has_a_lower_loss(seed: int, factor: float) -> None:
    logits, targets = drawn(seed, 200)
    best = fit_temperature(factor * logits, targets)
    smoothing = 1 / 202
    least = log_loss(factor * logits, targets, best, smoothing)
    for other in (0.5 * best, 0.9 * best, 1.1 * best, 2.0 * best):
        assert least <= log_loss(factor * logits, targets, other, smoothing) + 1e-9


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, temperature=st.floats(LOWEST, HIGHEST))
def test_a_temperature_changes_no_order(seed: int, temperature: float) -> None:
    logits = np.random.default_rng(seed).standard_normal((20, 5))
    scaled = softmax_rows(logits, temperature)
    assert (scaled.argmax(axis=1) == logits.argmax(axis=1)).all()
    assert scaled.sum(axis=1) == pytest.approx(1.0)


def test_scaling_lowers_the_calibration_error() -> None:
    logits, targets = drawn(0)
    before, after = report(5 * logits, targets), report(5 * logits, targets, fit_temperature(5 * logits, targets))
    assert before.calibration_error > 0.15
    assert after.calibration_error < 0.03
    assert after.log_loss < before.log_loss
    assert after.accuracy == before.accuracy


def test_the_calibration_error_by_hand() -> None:
    rows = [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]
    # 0.9: one of two right, so 0.4 apart for two; 0.6 wrong, 0.6 apart; 0.7 right, 0.3 apart
    assert expected_calibration_error(rows, [0, 1, 1, 1]) == pytest.approx((2 * 0.4 + 0.6 + 0.3) / 4)
    assert expected_calibration_error([[1.0, 0.0]], [0]) == 0.0
    assert expected_calibration_error(np.zeros((0, 2)), []) == 0.0


def test_few_labels_that_are_all_right_do_not_make_certainty() -> None:
    few, many = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]] * 200
    unsure = softmax_rows(few, fit_temperature(few, [0, 1])).max()
    sure = softmax_rows(many, fit_temperature(many, [0, 1] * 200)).max()
    assert unsure == pytest.approx(1 - 1 / 8, abs=0.01)  # a fourth is smoothed over two labels
    assert 0.99 < sure < 1.0
    assert math.isfinite(log_loss([[1e4, 0.0]], [1]))


def test_rows_may_have_fewer_labels() -> None:
    rows = [[2.0, 0.0, -math.inf], [0.0, 1.0, 2.0]]
    assert math.isfinite(log_loss(rows, [0, 2], 2.0, 0.1))
    assert 0 < fit_temperature(rows, [0, 2]) < HIGHEST
    assert softmax_rows(rows, 3.0)[0][2] == 0.0


def test_without_examples_there_is_no_temperature() -> None:
    with pytest.raises(RequestError, match="give at least one"):
        fit_temperature(np.zeros((0, 3)), [])
