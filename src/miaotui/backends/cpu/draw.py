"""The Python face of the compiled draw: rows of logits in, token ids out.

Owns each thread's scratch memory and the conversion of temperature, top-p and min-p into the
kernels' units. Knows nothing of requests or history. Loading the kernels imports no compiler once
they are cached; greedy answers need none of them.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.noise import seed_start
from miaotui.kernels.runtime import compiled
from miaotui.kernels.sampling.draw_fields import (
    CHOICE_ENDS,
    CHOICE_FIELDS,
    CHOICE_LEAST,
    CHOICE_NOISY,
    CHOICE_SCALE,
    CHOICE_START,
    NUMBERS,
    WEIGHT_BITS,
    scratch_fields,
)

KERNELS = (
    "sampling.draw:draw",
    "sampling.draw:best",
    "sampling.draw:mass",
    "sampling.draw:restrict",
)  # to prepare before the first request that samples

Row = NDArray[np.float32]
_LOG2_E = math.log2(math.e)
_WIDEST = WEIGHT_BITS + 1


@dataclass(frozen=True)
class Distribution:
    """How a row's logits become a distribution, in the kernels' units."""

    scale: float  # log2(e) / temperature, within what float32 multiplies without loss of meaning
    top_k: int  # 0: all
    top_p: float
    least: int  # min-p as a weight

    @staticmethod
    def of(temperature: float, top_k: int, top_p: float, min_p: float) -> Distribution:
        """From a request's parameters; ``temperature > 0``."""
        scale = float(np.float32(min(max(_LOG2_E / temperature, 1e-30), 1e30)))
        return Distribution(scale, top_k, top_p, math.ceil(min_p * 2**WEIGHT_BITS))


def choice_table(shape: Distribution | None, seed: int, ends: Sequence[int]) -> NDArray[np.int64]:
    """How the pass itself chooses a sequence's tokens: fields of `draw_ops`, then its end tokens.

    ``shape`` None: the best one.
    """
    table = np.zeros(CHOICE_FIELDS + len(ends), np.int64)
    table[CHOICE_FIELDS:], table[CHOICE_ENDS] = ends, len(ends)
    table[CHOICE_NOISY], shape = shape is not None, shape or _PLAIN
    table.view(np.uint64)[CHOICE_START] = seed_start(seed)
    numbers = table.view(np.float64)[CHOICE_SCALE : CHOICE_LEAST + 1]
    numbers[:] = shape.scale, shape.top_k, shape.top_p, shape.least
    return table


_PLAIN = Distribution.of(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


class _Scratch(threading.local):
    """One thread's memory for the kernels; grows to the largest vocabulary seen."""

    def __init__(self) -> None:
        self._numbers = np.zeros(NUMBERS)
        self.scratch = np.empty(0, np.int64)

    def numbers_for(self, peak: float, spread: float, shape: Distribution, key: int) -> int:
        """The address of a draw's numbers."""
        scale, top_k, top_p, least = shape.scale, shape.top_k, shape.top_p, shape.least
        low, high = key & 0xFFFFFFFF, key >> 32
        self._numbers[:] = (peak, scale, spread, top_k, top_p, least, low, high)
        return _address(self._numbers)

    def scratch_for(self, size: int) -> int:
        """The address of enough scratch memory for ``size`` logits."""
        if self.scratch.size < scratch_fields(size):
            self.scratch = np.empty(scratch_fields(size), np.int64)
        return _address(self.scratch)


_workspace = _Scratch()


def draw(row: Row, peak: float, shape: Distribution, key: int) -> int:
    """The id drawn from the logits ``row [vocab]``, which are written over.

    ``peak`` is the greatest of them and finite; no logit is NaN. Those that top-k, top-p and min-p
    leave race for it, each with noise of its own under ``key`` (64 bits; see `kernels.sampling.gumbel`).
    """
    spread = float(_WIDEST)
    if shape.top_p < 1.0 or shape.top_k > 0:
        spread = min(max((peak - float(row.min())) * shape.scale, 1e-6), spread)
    numbers = _workspace.numbers_for(peak, spread, shape, key)
    return _kernel("sampling.draw:draw")(_address(row), row.size, numbers, _workspace.scratch_for(row.size))


def best(row: Row, n: int) -> list[int]:
    """The ids of the ``n`` highest logits of ``row [vocab]`` above -inf, best first.

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
    """Natural log of ``sum(exp(row - peak))``, right to about 1e-6."""
    numbers = _workspace.numbers_for(peak, _WIDEST, _PLAIN, 0)
    scratch = _workspace.scratch_for(row.size)
    mass = _kernel("sampling.draw:mass")(_address(row), row.size, numbers, scratch)
    return math.log(mass / 2**WEIGHT_BITS)


@functools.cache
def _kernel(name: str, arguments: int = 4) -> Callable[..., int]:
    return compiled.function(name, arguments)


def _address(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])
