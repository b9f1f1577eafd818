"""Drawing a token from a row of logits: top-k, top-p, min-p, and the pick.

Each filter sees the distribution the one before has left. The pick lays the tokens that are left
out in id order, each as wide as its weight, and takes the one at ``uniform`` of the total. Knows
nothing of requests. One pass over the logits for a plain draw, at most five with filters.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from miaotui.kernels.compiler import inline, kernel
from miaotui.kernels.draw_ops import (
    BLOCK,
    FEW,
    LEAST,
    NUMBERS,
    PEAK,
    SCALE,
    SCRATCH_IDS,
    SCRATCH_LISTS,
    SCRATCH_TOP,
    TOP_K,
    TOP_P,
    UNIFORM,
)
from miaotui.kernels.narrow import find_best, narrow, sort_few, spend
from miaotui.kernels.weights import doubles, fields, fill_masses, floats, weigh, words

_LOWEST = np.float32(-np.inf)
_LOWEST_BITS = np.int32(-8388608)  # the same, as it lies in memory
_ALL = np.int32(-1)


@inline
def _pick(values: Any, numbers: Any, scratch: Any) -> Any:
    """The index where the running sum of the weights passes ``uniform`` of their total."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    least = np.int64(numbers[LEAST])
    masses = fields(scratch + 8 * SCRATCH_LISTS, values.size)
    total = fill_masses(values, numbers, least, masses)
    target = min(np.int64(numbers[UNIFORM] * np.float64(total)), total - 1)
    b = 0
    while target >= masses[b]:
        target -= masses[b]
        b += 1
    at = b * BLOCK
    while True:
        weight = weigh((values[at] - peak) * scale)
        target -= weight if weight >= least else 0
        if target < 0:
            return at
        at += 1


@inline
def _pick_few(values: Any, ids: Any, numbers: Any, scratch: Any) -> Any:
    """`_pick` among ``ids``, in the order of the ids."""
    sort_few(ids)
    few = floats(scratch + 8 * SCRATCH_TOP, ids.size)
    for j in range(ids.size):
        few[j] = values[ids[j]]
    return ids[_pick(few, numbers, scratch)]


@inline
def _compact(values: Any, ids: Any) -> Any:
    """Move the tokens above -inf to the front, in order, and write their ids; how many."""
    count = 0
    for i in range(values.size):
        value = values[i]
        values[count] = value
        ids[count] = i
        count += 1 if value > _LOWEST else 0
    return count


@inline
def _choose(values: Any, top_k: Any, numbers: Any, scratch: Any) -> Any:
    """The index drawn; ``top_k`` is at most FEW, or 0 for all.

    Top-p first tries the FEW best, which mostly hold enough; the histogram is for flatter rows.
    """
    top_p = numbers[TOP_P]
    if top_k == 0 and top_p == 1.0:
        return _pick(values, numbers, scratch)
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    ids = fields(scratch + 8 * SCRATCH_IDS, FEW)
    top = floats(scratch + 8 * SCRATCH_TOP, FEW)
    ids = ids[: find_best(values, top_k if top_k > 0 else FEW, ids, top)]
    held = total = 0
    for j in range(ids.size):
        held += weigh((values[ids[j]] - peak) * scale)
    if top_k > 0:
        total = held
    else:
        masses = fields(scratch + 8 * SCRATCH_LISTS, values.size)
        total = fill_masses(values, numbers, 0, masses)
    budget = min(np.int64(math.ceil(top_p * np.float64(total))), total)
    if held < budget:
        narrow(values, budget, False, numbers, scratch)
        return _pick(values, numbers, scratch)
    return _pick_few(values, ids[: spend(values, ids, budget, False, numbers)], numbers, scratch)


@kernel(arguments=4)
def draw(values: Any, size: Any, numbers: Any, scratch: Any) -> Any:
    """The index drawn from float32 ``values [size]``, which are written over."""
    number = doubles(numbers, NUMBERS)
    top_k = np.int64(number[TOP_K])
    if top_k <= FEW:
        return _choose(floats(values, size), top_k, number, scratch)
    narrow(floats(values, size), top_k, True, number, scratch)
    ids = fields(scratch + 8 * (SCRATCH_LISTS + size), size)
    count = _compact(floats(values, size), ids)
    return ids[_choose(floats(values, count), 0, number, scratch)]


@kernel(arguments=4)
def best(values: Any, size: Any, k: Any, scratch: Any) -> Any:
    """How many of the k best of float32 ``values [size]`` are above -inf.

    Their indices, best first, go to the first k fields of ``scratch``.
    """
    top = floats(scratch + 8 * k, k)
    return find_best(floats(values, size), k, fields(scratch, k), top)


@kernel(arguments=4)
def mass(values: Any, size: Any, numbers: Any, scratch: Any) -> Any:
    """The sum of the weights of float32 ``values [size]``."""
    masses = fields(scratch + 8 * SCRATCH_LISTS, size)
    return fill_masses(floats(values, size), doubles(numbers, NUMBERS), 0, masses)


@inline
def _keep(bits: Any, word: Any) -> Any:
    """Set the float32 ``bits``, at most 32 of them, to -inf where ``word`` has a zero."""
    for j in range(bits.size):
        kept = np.int32(-((word >> j) & 1))
        bits[j] = (bits[j] & kept) | (_LOWEST_BITS & ~kept)


@kernel(arguments=3)
def restrict(values: Any, size: Any, mask: Any) -> Any:
    """Set float32 ``values [size]`` to -inf where their bit of the 32-bit words ``mask`` is 0."""
    bits = words(values, size)
    masks = words(mask, (size + 31) // 32)
    whole = size // 32
    for w in range(whole):
        word = masks[w]
        if word == 0:
            bits[w * 32 : w * 32 + 32] = _LOWEST_BITS
        elif word != _ALL:
            part = bits[w * 32 : w * 32 + 32]
            for j in range(32):
                kept = np.int32(-((word >> j) & 1))
                part[j] = (part[j] & kept) | (_LOWEST_BITS & ~kept)
    if size > whole * 32:
        _keep(bits[whole * 32 : size], masks[whole])
    return 0
