"""Drawing a token from a row of logits: top-k, top-p, min-p, and the choice.

Each filter sees the distribution that the one before has left. The choice is an exponential race between the
remaining tokens (see `gumbel`). Knows nothing of requests. One pass over the logits for a plain draw, at most five
with filters.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.sampling.draw_fields import (
    BLOCK,
    FEW,
    KEY_HIGH,
    KEY_LOW,
    LEAST,
    NUMBERS,
    PEAK,
    SCALE,
    SCRATCH_IDS,
    SCRATCH_LISTS,
    SCRATCH_TOP,
    SCRATCH_WEIGHTS,
    TOP_K,
    TOP_P,
)
from miaotui.kernels.sampling.gumbel import LOWEST_RANK, greatest, log2_wait, most_score, rank, token_noise
from miaotui.kernels.sampling.topk import find_best, narrow, spend
from miaotui.kernels.sampling.weights import doubles, fields, fill_masses, floats, weigh, words

_LOWEST = np.float32(-np.inf)
_LOWEST_BITS = np.int32(-8388608)  # the same, as it lies in memory
_ALL = np.int32(-1)
STRIDE = 64  # tokens that are looked at together; a divisor of BLOCK


@inline
def _score(power: Any, token: Any, low: Any, high: Any) -> Any:
    """Return a token's score under the key's two halves; the greatest score is drawn."""
    return rank(power - log2_wait(token_noise(low, high, np.uint32(token))))


@inline
def _bounds(values: Any, first: Any, numbers: Any, bounds: Any) -> Any:
    """Write upper bounds of the scores of tokens ``first``, ``first + 1``, …. Returns the greatest of them."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    low, high = np.uint32(numbers[KEY_LOW]), np.uint32(numbers[KEY_HIGH])
    for j in range(values.size):
        noise = token_noise(low, high, np.uint32(np.uint32(first) + np.uint32(j)))
        bounds[j] = rank(most_score((values[j] - peak) * scale, noise))
    return greatest(bounds, values.size)


@inline
def _pick(values: Any, numbers: Any, scratch: Any) -> Any:
    """Return the index of the token with the greatest score; of equals the first one."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    low, high = np.uint32(numbers[KEY_LOW]), np.uint32(numbers[KEY_HIGH])
    least = np.int64(numbers[LEAST])
    bounds = words(scratch + 8 * SCRATCH_WEIGHTS, BLOCK)
    found, best = 0, LOWEST_RANK
    for start in range(0, values.size, STRIDE):
        block = values[start : start + STRIDE]
        if _bounds(block, start, numbers, bounds) <= best:
            continue
        for j in range(block.size):
            if bounds[j] > best:
                power = (block[j] - peak) * scale
                score = _score(power, start + j, low, high)
                if score > best and weigh(power) >= least:
                    found, best = start + j, score
    return found


@inline
def _pick_few(values: Any, ids: Any, numbers: Any) -> Any:
    """Return the one of ``ids`` with the greatest score; of equals the lowest."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    least = np.int64(numbers[LEAST])
    low, high = np.uint32(numbers[KEY_LOW]), np.uint32(numbers[KEY_HIGH])
    found, best = ids[0], LOWEST_RANK
    for j in range(ids.size):
        power = (values[ids[j]] - peak) * scale
        if weigh(power) < least:
            continue
        score = _score(power, ids[j], low, high)
        if score > best or (score == best and ids[j] < found):
            best, found = score, ids[j]
    return found


@inline
def _choose(values: Any, top_k: Any, numbers: Any, scratch: Any) -> Any:
    """Return the index drawn. ``top_k`` is at most FEW, or 0 for all.

    Top-p first tries the FEW best tokens, which mostly hold enough weight; the histogram is for flatter rows.
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
    return _pick_few(values, ids[: spend(values, ids, budget, False, numbers)], numbers)


@inline
def drawn(values: Any, numbers: Any, scratch: Any) -> Any:
    """Return the index drawn from ``values``, which are overwritten."""
    top_k = np.int64(numbers[TOP_K])
    if top_k > FEW:
        narrow(values, top_k, True, numbers, scratch)
        top_k = 0
    return _choose(values, top_k, numbers, scratch)


@kernel(arguments=4)
def draw(values: Any, size: Any, numbers: Any, scratch: Any) -> Any:
    """Return the index drawn from float32 ``values [size]``, which are overwritten."""
    return drawn(floats(values, size), doubles(numbers, NUMBERS), scratch)


@kernel(arguments=4)
def best(values: Any, size: Any, k: Any, scratch: Any) -> Any:
    """Find the k best of float32 ``values [size]`` above -inf. Returns their number.

    Their indices, best first, go to the first k fields of ``scratch``.
    """
    top = floats(scratch + 8 * k, k)
    return find_best(floats(values, size), k, fields(scratch, k), top)


@kernel(arguments=4)
def mass(values: Any, size: Any, numbers: Any, scratch: Any) -> Any:
    """Return the sum of the weights of float32 ``values [size]``."""
    masses = fields(scratch + 8 * SCRATCH_LISTS, size)
    return fill_masses(floats(values, size), doubles(numbers, NUMBERS), 0, masses)


@inline
def _keep(bits: Any, word: Any) -> Any:
    """Set the float32 ``bits``, at most 32 of them, to -inf where ``word`` has a zero."""
    for j in range(bits.size):
        kept = np.int32(-((word >> j) & 1))
        bits[j] = (bits[j] & kept) | (_LOWEST_BITS & ~kept)


@inline
def forbid(values: Any, size: Any, mask: Any) -> Any:
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


@kernel(arguments=3)
def restrict(values: Any, size: Any, mask: Any) -> Any:
    """Apply `forbid` as a kernel of its own."""
    return forbid(values, size, mask)
