"""Forecasts of recordings learn how long windows really took, and allow for errors that do not even out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.engine.speech.window_errors import FIRST_DEVIATION, FIRST_MEAN, WindowErrors

RATIOS = st.lists(st.floats(0.01, 100), max_size=60)


@given(RATIOS)
def test_many_windows_need_less_room_than_one(ratios: list[float]) -> None:
    errors = WindowErrors()
    for ratio in ratios:
        errors.add(2.0, 2.0 * ratio)
    factors = [errors.factor(windows) for windows in (1, 2, 20, 2_000)]
    assert factors == sorted(factors, reverse=True)
    assert 1 / 3 <= factors[-1] <= factors[0] <= 3 + 3 * 3


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.6])
def test_steady_windows_are_foreseen(ratio: float) -> None:
    errors = WindowErrors()
    assert errors.factor(1) == FIRST_MEAN + 3 * FIRST_DEVIATION
    for _ in range(80):
        errors.add(1.0, ratio)
    assert errors.factor(10_000) == pytest.approx(ratio, abs=0.01)
    assert ratio < errors.factor(1) < ratio + 0.2
