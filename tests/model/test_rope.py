"""Frequencies of rotary encodings: their defining properties, and values no model can have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.errors import ModelFormatError
from miaotui.model.rope import RopeConfig, longrope_magnitude

PLAIN = RopeConfig(theta=10_000.0, dim=64)


def test_plain_frequencies_fall_from_one_by_a_constant_ratio() -> None:
    frequencies = PLAIN.inverse_frequencies()
    assert frequencies.shape == (32,)
    assert frequencies.dtype == np.float64
    assert frequencies[0] == 1.0
    np.testing.assert_allclose(frequencies[1:] / frequencies[:-1], 10_000 ** (-1 / 32))
    assert PLAIN.magnitude() == 1.0


def test_linear_scaling_divides_all_frequencies() -> None:
    rope = RopeConfig(theta=10_000.0, dim=64, scaling="linear", factor=8.0)
    np.testing.assert_allclose(rope.inverse_frequencies() * 8, PLAIN.inverse_frequencies())


def test_llama3_keeps_fast_pairs_and_divides_slow_ones() -> None:
    rope = RopeConfig(theta=500_000.0, dim=128, scaling="llama3", factor=32.0, original_context=8192)
    plain = RopeConfig(theta=500_000.0, dim=128).inverse_frequencies()
    ratio = plain / rope.inverse_frequencies()
    turns = 8192 * plain / (2 * math.pi)
    np.testing.assert_allclose(ratio[turns > 4], 1)
    np.testing.assert_allclose(ratio[turns < 1], 32)
    between = ratio[(turns >= 1) & (turns <= 4)]
    assert len(between) > 2
    assert (np.diff(between) > 0).all()


def test_yarn_keeps_fast_pairs_and_interpolates_slow_ones() -> None:
    rope = RopeConfig(theta=1e6, dim=128, scaling="yarn", factor=4.0, original_context=32_768)
    ratio = RopeConfig(theta=1e6, dim=128).inverse_frequencies() / rope.inverse_frequencies()
    np.testing.assert_allclose(ratio[0], 1)
    np.testing.assert_allclose(ratio[-1], 4)
    assert (np.diff(ratio) >= 0).all()
    assert rope.magnitude() == pytest.approx(0.1 * math.log(4) + 1)


def test_declared_magnitude_wins() -> None:
    rope = RopeConfig(theta=1e6, dim=64, scaling="yarn", factor=4.0, original_context=64, attention_factor=1.5)
    assert rope.magnitude() == 1.5


def test_frequency_factors_divide_pair_by_pair() -> None:
    factors = tuple(1.0 + i for i in range(32))
    rope = RopeConfig(theta=10_000.0, dim=64, freq_factors=factors)
    np.testing.assert_allclose(rope.inverse_frequencies() * factors, PLAIN.inverse_frequencies())


def test_longrope_magnitude_of_phi3_mini_128k() -> None:
    assert longrope_magnitude(32.0, 4096) == pytest.approx(1.19023807, abs=1e-7)
    assert longrope_magnitude(1.0, 4096) == 1.0


@pytest.mark.parametrize(
    "values",
    [
        {"dim": 0},
        {"dim": 63},
        {"dim": 1 << 20},
        {"theta": 0.5},
        {"theta": math.nan},
        {"factor": 0.5},
        {"factor": math.inf},
        {"attention_factor": -1.0},
        {"freq_factors": (1.0,)},
        {"freq_factors": (0.0,) * 32},
        {"scaling": "llama3", "original_context": 0},
        {"scaling": "llama3", "original_context": 64, "low_freq_factor": 4.0},
        {"scaling": "yarn", "original_context": 64, "beta_fast": 0.5},
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ModelFormatError, match="must be"):
        RopeConfig(**{"theta": 10_000.0, "dim": 64} | values)


@given(
    theta=st.floats(1.5, 1e9),
    half=st.integers(1, 128),
    scaling=st.sampled_from(["none", "linear", "llama3", "yarn"]),
    factor=st.floats(1, 1e4),
    context=st.integers(1, 1 << 20),
)
def test_scaling_slows_rotation_by_at_most_the_factor(
    theta: float, half: int, scaling: Any, factor: float, context: int
) -> None:
    rope = RopeConfig(theta=theta, dim=2 * half, scaling=scaling, factor=factor, original_context=context)
    plain = RopeConfig(theta=theta, dim=2 * half).inverse_frequencies()
    ratio = plain / rope.inverse_frequencies()
    assert np.isfinite(ratio).all()
    assert (ratio > 1 - 1e-9).all()
    assert (ratio < factor * (1 + 1e-9)).all()
