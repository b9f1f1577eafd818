"""Ranking tokens: the k best, and where the best k or the best share of the weight ends.

Ranking is by logit, then by lower id. To find a border takes one histogram over the logits and a sort of the one
bucket that holds it, not of the vocabulary (a distribution sort cut short; Knuth, TAOCP 3, 5.2.5). Buckets are in
rank order, so the result is exact. Two passes over the logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from miaotui.kernels.runtime.compiler import inline
from miaotui.kernels.sampling.draw_fields import (
    BLOCK,
    BUCKETS,
    PEAK,
    SCALE,
    SCRATCH_LISTS,
    SCRATCH_MASS,
    SCRATCH_PLACES,
    SCRATCH_WEIGHTS,
    SPILL,
    SPREAD,
    WEIGHT_BITS,
)
from miaotui.kernels.sampling.weights import fields, weigh

_LAST = np.float32(BUCKETS - 1)
_LOWEST = np.float32(-np.inf)
_ZERO = np.float32(0)
_ID = (1 << 31) - 1  # the low bits of a rank key


@inline
def find_best(values: Any, k: Any, ids: Any, top: Any) -> Any:
    """Write the indices of the k best of ``values`` above -inf to ``ids``, best first. Returns their number."""
    count = 0
    bar = _LOWEST
    for start in range(0, values.size, 64):
        block = values[start : start + 64]
        hits = 0
        for j in range(block.size):
            hits += 1 if block[j] > bar else 0
        if hits == 0:
            continue
        for j in range(block.size):
            value = block[j]
            if value > bar:
                at = min(count, k - 1)
                while at > 0 and top[at - 1] < value:
                    top[at] = top[at - 1]
                    ids[at] = ids[at - 1]
                    at -= 1
                top[at] = value
                ids[at] = start + j
                count = min(count + 1, k)
                if count == k:
                    bar = top[k - 1]
    return count


@inline
def sort_few(keys: Any) -> None:
    """Sort in place (Shell's method, gaps by Gonnet's 5/11): the lists are short."""
    gap = keys.size
    while gap > 1:
        gap = max(1, gap * 5 // 11)
        for i in range(gap, keys.size):
            key = keys[i]
            at = i
            while at >= gap and keys[at - gap] > key:
                keys[at] = keys[at - gap]
                at -= gap
            keys[at] = key


@inline
def _bucket(power: Any, width: Any) -> Any:
    """Return the bucket of a logit: the better, the lower, so that buckets are in rank order."""
    at = np.float32(-power * width)
    return np.int32(at if at < _LAST else _LAST)


@inline
def _rank_key(value: Any, i: Any) -> Any:
    """Return a number that sorts as the ranking does: 32 bits of logit, best first, then 31 bits of id."""
    bits = np.float32(value + _ZERO).view(np.int32)  # + 0: one zero, not two
    ascending = np.int64(bits ^ ((bits >> 31) & _ID))
    return ((_ID - ascending) << 31) | i


@inline
def spend(values: Any, ranked: Any, budget: Any, by_count: Any, numbers: Any) -> Any:
    """Return how many of the ``ranked``, from the first on, it takes to reach ``budget``."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    for j in range(ranked.size):
        budget -= 1 if by_count else weigh((values[ranked[j] & _ID] - peak) * scale)
        if budget <= 0:
            return j + 1
    return ranked.size


@inline
def _fill_histogram(values: Any, by_count: Any, numbers: Any, scratch: Any) -> None:
    """Sum up the weight (or number of tokens that weigh anything) in each bucket of the logits."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    width = np.float32(_LAST / np.float32(numbers[SPREAD]))
    mass = fields(scratch + 8 * SCRATCH_MASS, BUCKETS + SPILL)
    weights = fields(scratch + 8 * SCRATCH_WEIGHTS, BLOCK)
    places = fields(scratch + 8 * SCRATCH_PLACES, BLOCK)
    mass[:] = 0
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        for j in range(block.size):
            power = (block[j] - peak) * scale
            weight = weigh(power)
            places[j] = _bucket(power, width) if weight > 0 else BUCKETS + (j % SPILL)
            weights[j] = min(weight, 1) if by_count else weight
        for j in range(block.size):
            mass[places[j]] += weights[j]


@inline
def _cut(values: Any, border: Any, numbers: Any, scratch: Any) -> Any:
    """Mask what ranks below bucket ``border``; list rank keys of what in it weighs anything."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    width = np.float32(_LAST / np.float32(numbers[SPREAD]))
    inside = fields(scratch + 8 * SCRATCH_PLACES, BLOCK)
    members = fields(scratch + 8 * SCRATCH_LISTS, values.size)
    count = 0
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        for j in range(block.size):
            value = block[j]
            power = (value - peak) * scale
            bucket = _bucket(power, width)
            inside[j] = 1 if bucket == border and power >= -WEIGHT_BITS else 0
            block[j] = value if bucket <= border else _LOWEST
        for j in range(block.size):
            members[count] = start + j
            count += inside[j]
    for j in range(count):
        members[j] = _rank_key(values[members[j]], members[j])
    sort_few(members[:count])
    return count


@inline
def narrow(values: Any, budget: Any, by_count: Any, numbers: Any, scratch: Any) -> None:
    """Mask, with -inf, all but the best tokens whose number, or weight, reaches ``budget``."""
    _fill_histogram(values, by_count, numbers, scratch)
    mass = fields(scratch + 8 * SCRATCH_MASS, BUCKETS)
    border = 0
    while border < BUCKETS and budget > mass[border]:
        budget -= mass[border]
        border += 1
    if border == BUCKETS:
        return  # more than there are
    count = _cut(values, border, numbers, scratch)
    members = fields(scratch + 8 * SCRATCH_LISTS, count)
    for j in range(spend(values, members, budget, by_count, numbers), members.size):
        values[members[j] & _ID] = _LOWEST
