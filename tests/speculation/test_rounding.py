"""Rounding for inputs that go together: products come out nearer than with weights rounded one by one."""

from __future__ import annotations

import numpy as np
import pytest

from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.packed_blocks import quantize, values
from miaotui.model.draft_head.rounding import round_for

ROWS, INPUTS = 64, 96


def correlated(count: int, seed: int) -> np.ndarray:
    """Inputs of which a few directions say most, as states of a model are."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(0, 1, (INPUTS, INPUTS)) * 0.8 ** np.arange(INPUTS)
    return (rng.normal(0, 1, (count, INPUTS)) @ mixing.T).astype(np.float32)


def matrix() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (ROWS, INPUTS)).astype(np.float32)


def test_products_come_out_nearer() -> None:
    inputs, fresh, whole = correlated(4000, 2), correlated(500, 3), matrix()
    spread = (inputs.T @ inputs / len(inputs)).astype(np.float64)
    plain, rounded = values(quantize(Format.Q4, whole)), values(round_for(whole, spread))
    wanted = fresh @ whole.T
    off, nearer = (np.square(fresh @ each.T - wanted).mean() for each in (plain, rounded))
    assert nearer < 0.2 * off
    assert np.abs(rounded - whole).max() < 1.5  # no weight goes far astray


def test_inputs_that_do_not_go_together_are_rounded_one_by_one() -> None:
    whole = matrix()
    blocks, plain = round_for(whole, np.eye(INPUTS)), quantize(Format.Q4, whole)
    assert np.array_equal(blocks.integers, plain.integers)
    assert np.array_equal(blocks.scales, plain.scales)


def test_rows_of_zeros_stay() -> None:
    whole = matrix()
    whole[5] = 0
    spread = np.eye(INPUTS) + 0.5
    assert not values(round_for(whole, spread))[5].any()


def test_what_nothing_spreads_like_is_refused() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        round_for(matrix(), -np.eye(INPUTS))
