"""Sampling by compiled kernels: rows of logits in, token ids out.

This module is the CPU backend's `Sampling`. Owns each thread's scratch memory; a pass chooses by a `ChoiceTable`. Knows
nothing of requests or history. Loading the kernels imports no compiler once they are cached; greedy answers need none
of them.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.pass_tables import ChoiceTable
from miaotui.backends.sampling import PLAIN, Distribution
from miaotui.kernels.runtime import compiled
from miaotui.kernels.sampling.draw_fields import NUMBERS, WEIGHT_BITS, scratch_fields

KERNELS = (
    "sampling.draw:draw",
    "sampling.draw:best",
    "sampling.draw:mass",
    "sampling.draw:restrict",
)  # to prepare before the first request that samples

Row = NDArray[np.float32]
_WIDEST = WEIGHT_BITS + 1


choice = ChoiceTable  # how a sequence's tokens are chosen in the pass


class _Scratch(threading.local):
    """One thread's memory for the kernels; grows to the largest vocabulary seen."""

    def __init__(self) -> None:
        self._numbers = np.zeros(NUMBERS)
        self.scratch = np.empty(0, np.int64)

    def numbers_for(self, peak: float, spread: float, shape: Distribution, key: int) -> int:
        """Return the address of a draw's numbers."""
        scale, top_k, top_p, least = shape.scale, shape.top_k, shape.top_p, shape.least
        low, high = key & 0xFFFFFFFF, key >> 32
        self._numbers[:] = (peak, scale, spread, top_k, top_p, least, low, high)
        return _address(self._numbers)

    def scratch_for(self, size: int) -> int:
        """Return the address of enough scratch memory for ``size`` logits."""
        if self.scratch.size < scratch_fields(size):
            self.scratch = np.empty(scratch_fields(size), np.int64)
        return _address(self.scratch)


_workspace = _Scratch()


def draw(row: Row, peak: float, shape: Distribution, key: int) -> int:
    """Return the id drawn from the logits ``row [vocab]``, which are written over.

    ``peak`` is the greatest of them and finite; no logit is NaN. Those that top-k, top-p and min-p leave race for it,
    each with noise of its own under ``key`` (64 bits; see `kernels.sampling.gumbel`).
    """
    spread = float(_WIDEST)
    if shape.top_p < 1.0 or shape.top_k > 0:
        spread = min(max((peak - float(row.min())) * shape.scale, 1e-6), spread)
    numbers = _workspace.numbers_for(peak, spread, shape, key)
    return _kernel("sampling.draw:draw")(_address(row), row.size, numbers, _workspace.scratch_for(row.size))


def best(row: Row, n: int) -> list[int]:
    """Return the ids of the ``n`` highest logits of ``row [vocab]`` above -inf, best first.

    Of equals the lower id comes first.
    """
    if n == 0:
        return []
    count = _kernel("sampling.draw:best")(_address(row), row.size, n, _workspace.scratch_for(row.size))
    return [int(i) for i in _workspace.scratch[:count]]


def restrict(row: Row, words: NDArray[np.uint32]) -> None:
    """Set logits of ``row [vocab]`` to -inf where their bit is 0 in ``words [ceil(vocab / 32)]``."""
    _kernel("sampling.draw:restrict", 3)(_address(row), row.size, _address(words))


def log_total(row: Row, peak: float) -> float:
    """Return the natural logarithm of ``sum(exp(row - peak))``, right to about 1e-6."""
    numbers = _workspace.numbers_for(peak, _WIDEST, PLAIN, 0)
    scratch = _workspace.scratch_for(row.size)
    mass = _kernel("sampling.draw:mass")(_address(row), row.size, numbers, scratch)
    return math.log(mass / 2**WEIGHT_BITS)


@functools.cache
def _kernel(name: str, arguments: int = 4) -> Callable[..., int]:
    return compiled.function(name, arguments)


def _address(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])
