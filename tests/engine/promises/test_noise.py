"""Noise: reference values, uniformity, and no visible tie between neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import sampling_oracle as oracle

from miaotui.backends.sampling import mix64, noise_key
from miaotui.types import MAX_SEED

SEEDS = 200
POSITIONS = 250
TOKENS = 500


def uniform(seed: int, position: int) -> float:
    """The upper bits of the key."""
    return (noise_key(seed, position) >> 11) * 2.0**-53


@pytest.fixture(scope="module")
def grid() -> np.ndarray:
    return np.array([[uniform(seed, position) for position in range(POSITIONS)] for seed in range(SEEDS)])


def assert_uniform(lines: np.ndarray) -> None:
    """Chi-square over 20 bins for each line, all of them together; 5 sigma either way."""
    counts = np.stack([np.bincount((line * 20).astype(int), minlength=20) for line in lines])
    expected = lines.shape[1] / 20
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = 19 * len(lines)
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_mixer_agrees_with_the_published_generator() -> None:
    # SplitMix64 from state 0: the first three outputs, as its authors' code gives them
    gamma = 0x9E3779B97F4A7C15
    outputs = [mix64((n * gamma) % 2**64) for n in (1, 2, 3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_values_never_change() -> None:
    """Answers with a seed are promised to be repeatable, over releases too."""
    known = {
        (0, 0): 0xA706DD2F4D197E6F,
        (0, 1): 0xB382A305F4414F5E,
        (1, 0): 0x5E41AB087439611E,
        (42, 1000): 0xB1FC8C824D524899,
        (MAX_SEED, 131071): 0xA332D35DE29A093C,
    }
    assert {key: noise_key(*key) for key in known} == known
    assert oracle.token_noise(0x0123456789ABCDEF, 4).tolist() == [433435268, 1284316949, 1845708882, 1180254594]


def test_range(grid: np.ndarray) -> None:
    assert grid.min() >= 0.0
    assert grid.max() < 1.0
    assert np.unique(grid).size == grid.size


@pytest.mark.parametrize("axis", [0, 1])
def test_uniform_along_seeds_and_positions(grid: np.ndarray, axis: int) -> None:
    assert_uniform(np.moveaxis(grid, axis, 0))


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
    changed = {uniform(1 << bit, 0) for bit in range(63)} | {uniform(0, 1 << bit) for bit in range(31)}
    assert len(changed) == 63 + 31


@pytest.fixture(scope="module")
def of_tokens() -> np.ndarray:
    """Noise in (0, 1) by position and token."""
    keys = [noise_key(5, position) for position in range(POSITIONS)]
    return np.array([(oracle.token_noise(key, TOKENS) + 0.5) * 2.0**-31 for key in keys])


@pytest.mark.parametrize("axis", [0, 1])
def test_uniform_along_tokens_and_positions(of_tokens: np.ndarray, axis: int) -> None:
    assert_uniform(np.moveaxis(of_tokens, axis, 0))


@pytest.mark.parametrize("distance", [1, 2, 16, 256])
def test_neighbouring_tokens_are_uncorrelated(of_tokens: np.ndarray, distance: int) -> None:
    left, right = of_tokens[:, :-distance].ravel(), of_tokens[:, distance:].ravel()
    assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(left.size)


def test_the_first_to_arrive_is_anyone(of_tokens: np.ndarray) -> None:
    """Equal tokens win equally often: chi-square over 10 groups of ids, 9 degrees of freedom."""
    winners = np.bincount(of_tokens.argmin(axis=1) * 10 // TOKENS, minlength=10)
    assert ((winners - POSITIONS / 10) ** 2 / (POSITIONS / 10)).sum() < 40


def test_waits_are_right_over_their_whole_range() -> None:
    near = np.arange(1000, dtype=np.int64)
    spread = np.linspace(0, 2**31 - 1, 100_001).astype(np.int64)
    noise = np.concatenate([near, 2**30 - 500 + near, 2**31 - 1000 + near, spread])
    exact = np.log2(-np.log1p(-(noise + 0.5) / 2**31) / np.log(2))
    found = oracle.log2_waits(noise).astype(np.float64)
    assert np.abs(found - exact).max() < 2e-6
