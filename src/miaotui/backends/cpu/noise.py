"""The randomness of sampling: one key per (seed, position), whatever else the engine is doing.

Knows nothing of tokens or batches. There is no generator state to advance, so a row that is
computed again, alone, in a batch or as a draft, meets the same noise. The function is two rounds of
SplitMix64's mixer (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014):
the first scatters the seed, the second walks positions from there. What the key means for each token
is in ``kernels.sampling.gumbel``.
"""

from __future__ import annotations

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, made odd


def mix64(value: int) -> int:
    """Scramble 64 bits: a bijection in which each input bit sways about half of the output bits."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def seed_start(seed: int) -> int:
    """Where a seed's walk over positions begins."""
    return mix64((seed + _GAMMA) & _MASK)


def noise_key(seed: int, position: int) -> int:
    """The 64 bits that all tokens' noise at absolute ``position`` under ``seed`` is made from."""
    return mix64((seed_start(seed) + (position + 1) * _GAMMA) & _MASK)
