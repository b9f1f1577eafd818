"""Random numbers of masks: a function of a seed, an epoch, a text's number and a position.

Knows no tokens. Invariant: a number does not depend on the batch that a text is in, its place in it, or the batch's
width; so a run that is resumed draws what an uninterrupted one would. The mixing is SplitMix64's (Steele, Lea and
Flood, 2014, figure 13).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_Words = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = (5**0.5 - 1) / 2
_TIMES = 1 << 32  # the stream of times; rules have small numbers


@dataclass(frozen=True)
class Noise:
    """Source of uniform numbers in [0, 1), one for each (text, position), in any number of independent streams."""

    seed: int
    epoch: int = 0

    def uniform(self, numbers: Ints, n: int, stream: int) -> Floats:
        """Return ``[B, n]`` for the texts with these ``numbers [B]``."""
        keys = self._keys(numbers, stream)
        positions = np.arange(1, n + 1, dtype=np.uint64) * _STEP
        return _fractions(_mixed(keys[:, None] + positions[None, :]))

    def times(self, numbers: Ints) -> Floats:
        """Return one time in [0, 1) for each text ``[B]``; texts with consecutive numbers cover the range evenly.

        An additive recurrence by the golden ratio with a random beginning. MDLM (Sahoo et al., 2024) spreads the
        times of a batch evenly for the same reason, lower variance, but there a text's time depends on its batch.
        """
        start = _fractions(self._keys(np.zeros(1, np.int64), _TIMES))[0]
        times: Floats = (start + numbers * _GOLDEN) % 1.0
        return times

    def _keys(self, numbers: Ints, stream: int) -> _Words:
        key = np.zeros(1, np.uint64)
        for part in (self.seed, self.epoch, stream):
            key = _mixed(key + np.uint64(part & 0xFFFFFFFFFFFFFFFF) + _STEP)
        return _mixed(key ^ _mixed(np.asarray(numbers, np.int64).astype(np.uint64) + _STEP))


def _mixed(z: _Words) -> _Words:
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    mixed: _Words = z ^ (z >> np.uint64(31))
    return mixed


def _fractions(z: _Words) -> Floats:
    fractions: Floats = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return fractions
