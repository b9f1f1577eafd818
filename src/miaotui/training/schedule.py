"""The order of examples and the learning rate, as functions of the step: a run that is resumed finds both again.

Knows no torch. Invariant: nothing here has a state.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from miaotui.training.noise import Noise

_ORDER = 31  # the stream of noise


def learning_rate(step: int, steps: int, warm_steps: int = 100, last: float = 0.05) -> float:
    """Return the share of the highest rate: a linear rise, then half a cosine down to ``last``.

    The rise takes ``warm_steps``, but no more than a tenth of all.
    """
    warm = min(1.0, (step + 1) / min(warm_steps, max(steps // 10, 1)))
    return warm * (last + (1 - last) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def shuffled(numbers: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return ``numbers`` in the order of an epoch."""
    order: NDArray[np.int64] = numbers[np.argsort(Noise(seed, epoch).uniform(numbers, 1, _ORDER)[:, 0], kind="stable")]
    return order


def examples_of(step: int, count: int, batch: int, seed: int) -> NDArray[np.int64]:
    """Return the numbers of the ``batch`` examples of a step, out of ``count``; epochs follow without a gap."""
    at, found = step * batch, np.empty(0, np.int64)
    while len(found) < batch:
        epoch, place = divmod(at + len(found), count)
        more = shuffled(np.arange(count, dtype=np.int64), seed, epoch)[place:]
        found = np.concatenate([found, more[: batch - len(found)]])
    return found
