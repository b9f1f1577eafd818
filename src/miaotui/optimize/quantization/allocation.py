"""Choice of one type for each matrix: the least loss within a number of bytes.

Owns the choice as arithmetic. Knows no matrices, only numbers. Invariant: the bytes are never exceeded, and where
sizes are multiples of the unit no other choice loses less (dynamic programming over bytes, as in the knapsack problem
with multiple choices).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, gcd
from typing import NamedTuple

import numpy as np

from miaotui.errors import RequestError

CELLS = 1 << 14  # of the table over bytes, at most


class Option(NamedTuple):
    """A way to store one matrix: its bytes, and what it costs in nats of divergence."""

    size_bytes: int
    loss: float


class Allocation(NamedTuple):
    """Number of the option chosen for each matrix, with the sum of bytes and of losses."""

    chosen: tuple[int, ...]
    size_bytes: int
    loss: float


def allocate(matrices: Sequence[Sequence[Option]], limit_bytes: int) -> Allocation:
    """Choose one option for each matrix within ``limit_bytes``. Raises `RequestError` if the smallest exceed it."""
    least = [min(option.size_bytes for option in options) for options in matrices]
    if sum(least) > limit_bytes:
        raise RequestError(
            f"the matrices take at least {sum(least):,} bytes, and {limit_bytes:,} are left for them: "
            "allow a larger size, or choose a smaller model"
        )
    spare = [[option.size_bytes - low for option in options] for options, low in zip(matrices, least, strict=True)]
    room = min(limit_bytes - sum(least), sum(max(each) for each in spare))
    unit = gcd(*[size for sizes in spare for size in sizes])
    unit = max(unit, ceil(room / CELLS), 1)
    cells = room // unit
    best = np.zeros(cells + 1)
    picks = np.zeros((len(matrices), cells + 1), np.uint8)
    for number, (options, sizes) in enumerate(zip(matrices, spare, strict=True)):
        best, picks[number] = _with_matrix(best, options, [ceil(size / unit) for size in sizes])
    chosen, cell = [], cells
    for number in range(len(matrices) - 1, -1, -1):
        pick = int(picks[number, cell])
        chosen.append(pick)
        cell -= ceil(spare[number][pick] / unit)
    return _summed(matrices, tuple(reversed(chosen)))


def _with_matrix(
    best: np.ndarray[tuple[int], np.dtype[np.float64]], options: Sequence[Option], steps: Sequence[int]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.uint8]]]:
    """Return the least loss within each number of cells with one more matrix, and its option."""
    cells = len(best)
    found, pick = np.full(cells, np.inf), np.zeros(cells, np.uint8)
    for number, (option, step) in enumerate(zip(options, steps, strict=True)):
        if step >= cells:
            continue
        loss = np.full(cells, np.inf)
        loss[step:] = best[: cells - step] + option.loss
        better = loss < found
        found[better], pick[better] = loss[better], number
    return found, pick


def _summed(matrices: Sequence[Sequence[Option]], chosen: tuple[int, ...]) -> Allocation:
    taken = [options[pick] for options, pick in zip(matrices, chosen, strict=True)]
    return Allocation(chosen, sum(one.size_bytes for one in taken), sum(one.loss for one in taken))
