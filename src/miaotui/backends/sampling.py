"""The definition of a draw: how logits become a distribution, and the noise of each (seed, position).

Every backend follows it, so the same logits choose the same tokens in all of them. Knows neither rows nor memory.
Invariant: there is no generator state. A row that is computed again, alone, in a batch or as a draft, meets the same
noise. A key is two rounds of SplitMix64's mixer (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", 2014): the first scatters the seed, the second walks positions from there. Each token's noise under a key
and the weights of tokens are defined in ``kernels.sampling`` (`gumbel`, `weights`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from miaotui.kernels.sampling.draw_fields import WEIGHT_BITS

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, made odd
_LOG2_E = math.log2(math.e)


class Distribution(NamedTuple):
    """Rule that makes a distribution of a row's logits, in the units of the draw."""

    scale: float  # log2(e) / temperature, within what float32 multiplies without loss of meaning
    top_k: int  # 0: all
    top_p: float
    least: int  # min-p as a weight: the best token weighs 2**40

    @staticmethod
    def of(temperature: float, top_k: int, top_p: float, min_p: float) -> Distribution:
        """Make it from a request's parameters; ``temperature > 0``."""
        scale = float(np.float32(min(max(_LOG2_E / temperature, 1e-30), 1e30)))
        return Distribution(scale, top_k, top_p, math.ceil(min_p * 2**WEIGHT_BITS))


PLAIN = Distribution.of(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


def mix64(value: int) -> int:
    """Scramble 64 bits: a bijection in which each input bit sways about half of the output bits."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def seed_start(seed: int) -> int:
    """Return where a seed's walk over positions begins."""
    return mix64((seed + _GAMMA) & _MASK)


def noise_key(seed: int, position: int) -> int:
    """Return the 64 bits that all tokens' noise at absolute ``position`` under ``seed`` is made from."""
    return mix64((seed_start(seed) + (position + 1) * _GAMMA) & _MASK)
