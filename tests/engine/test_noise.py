"""Noise: reference values, uniformity, and no visible tie between neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from miaotui.engine.noise import mix64, uniform
from miaotui.types import MAX_SEED

SEEDS = 200
POSITIONS = 250


@pytest.fixture(scope="module")
def grid() -> np.ndarray:
    return np.array(
        [[uniform(seed, position) for position in range(POSITIONS)] for seed in range(SEEDS)]
    )


def test_mixer_agrees_with_the_published_generator() -> None:
    # SplitMix64 from state 0: the first three outputs, as its authors' code gives them
    gamma = 0x9E3779B97F4A7C15
    outputs = [mix64((n * gamma) % 2**64) for n in (1, 2, 3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_values_never_change() -> None:
    """Answers with a seed are promised to be repeatable, over releases too."""
    known = {
        (0, 0): 0.6524484863740322,
        (0, 1): 0.7012121095215252,
        (1, 0): 0.36818951565166946,
        (42, 1000): 0.6952598398323256,
        (MAX_SEED, 131071): 0.6374942878925155,
    }
    assert {key: uniform(*key) for key in known} == known


def test_range(grid: np.ndarray) -> None:
    assert grid.min() >= 0.0
    assert grid.max() < 1.0
    assert np.unique(grid).size == grid.size


@pytest.mark.parametrize("axis", [0, 1])
def test_uniform_along_seeds_and_positions(grid: np.ndarray, axis: int) -> None:
    """Chi-square over 20 bins for each row or column, all of them together; 5 sigma either way."""
    lines = np.moveaxis(grid, axis, 0)
    counts = np.stack([np.bincount((line * 20).astype(int), minlength=20) for line in lines])
    expected = lines.shape[1] / 20
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = 19 * len(lines)
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("distance", [1, 2, 3, 16])
@pytest.mark.parametrize("axis", [0, 1])
def test_neighbours_are_uncorrelated(grid: np.ndarray, axis: int, distance: int) -> None:
    lines = np.moveaxis(grid, axis, 0)
    left, right = lines[:-distance].ravel(), lines[distance:].ravel()
    assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(left.size)


def test_sequences_of_two_seeds_do_not_overlap() -> None:
    """Seed s at position p + 1 must not be seed s + 1 at position p, nor anything alike."""
    values = {uniform(seed, position) for seed in range(50) for position in range(50)}
    assert len(values) == 2500


def test_every_bit_of_seed_and_position_matters() -> None:
    changed = {uniform(1 << bit, 0) for bit in range(63)} | {
        uniform(0, 1 << bit) for bit in range(31)
    }
    assert len(changed) == 63 + 31
