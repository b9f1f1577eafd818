"""Drawing a token: integer weights of logits, the filters that narrow them, and the pick.

A token's weight is ``floor(2**40 * exp2(scale * (logit - peak)))``, an exact integer that any
processor computes alike: float32 operations in a fixed order, none fused. Sums of integers do not
depend on their order, so neither does a choice depend on vectors, blocks or threads. Tokens below
2**-40 of the best one's probability weigh nothing and are never drawn.

Ranking is by logit, then by lower id. Finding where the top k or the top p ends takes one histogram
over the logits and a sort of the one bucket that holds the border, not of the vocabulary (a
distribution sort cut short; Knuth, TAOCP 3, 5.2.5). Cost per logit: one weight (about 20 vector
operations) a pass; one pass for the plain draw, at most five with filters.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from miaotui.kernels.compiler import inline, kernel
from miaotui.kernels.draw_ops import (
    BLOCK,
    BUCKETS,
    FEW,
    LEAST,
    NUMBERS,
    PEAK,
    SCALE,
    SCRATCH_IDS,
    SCRATCH_LISTS,
    SCRATCH_MASS,
    SCRATCH_PLACES,
    SCRATCH_TOP,
    SCRATCH_WEIGHTS,
    SPILL,
    SPREAD,
    TOP_K,
    TOP_P,
    UNIFORM,
    WEIGHT_BITS,
)

_FLOOR = np.float32(-WEIGHT_BITS - 2)
_LAST = np.float32(BUCKETS - 1)
_LOWEST = np.float32(-np.inf)
_ZERO = np.float32(0)
_ID = (1 << 31) - 1  # the low bits of a rank key
_ONE = np.float32(1)

# Adding 1.5 * 2**23 leaves a small float32 rounded to an integer in the low bits of its mantissa.
_ROUND = np.float32(12582912.0)
_ROUND_BITS = np.int32(0x4B400000)
_MANTISSA = np.float32(1 << 24)
_SHIFT = WEIGHT_BITS - 24

# (2**f - 1) / f on [-1/2, 1/2], interpolated at the Chebyshev points; 2**f is then right to 1e-7.
_C1 = np.float32(0.6931471880262287)
_C2 = np.float32(0.24022650760568084)
_C3 = np.float32(0.05550357114218973)
_C4 = np.float32(0.009618082557286611)
_C5 = np.float32(0.0013390863364733119)
_C6 = np.float32(0.00015453162942006833)


def _view(kind: Any) -> Any:
    """A function ``(address, size)`` that sees memory as an array of ``kind``, which compiled code may return."""

    @intrinsic
    def view(_typing_context: Any, _address: Any, _size: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = make_array(signature.return_type)(context, builder)
            item = context.get_constant(types.intp, kind.bitwidth // 8)
            data = builder.inttoptr(arguments[0], array.data.type)
            populate_array(array, data, [arguments[1]], [item], item, None)
            return array._getvalue()

        return types.Array(kind, 1, "C")(types.int64, types.int64), generate

    return view


_floats, _doubles, _fields = _view(types.float32), _view(types.float64), _view(types.int64)


@inline
def _weight(power: Any) -> Any:
    """``floor(2**(40 + power))`` for a float32 ``power <= 0``."""
    y = np.float32(power if power > _FLOOR else _FLOOR)
    rounded = np.float32(y + _ROUND)
    f = y - (rounded - _ROUND)
    shift = _ROUND_BITS - np.float32(rounded).view(np.int32)
    exp2 = (((((_C6 * f + _C5) * f + _C4) * f + _C3) * f + _C2) * f + _C1) * f + _ONE
    return (np.int64(np.int32(exp2 * _MANTISSA)) << _SHIFT) >> shift


@inline
def _bucket(power: Any, width: Any) -> Any:
    """The bucket of a logit: the better, the lower, so that buckets are in rank order."""
    at = np.float32(-power * width)
    return np.int32(at if at < _LAST else _LAST)


@inline
def _best(values: Any, k: Any, ids: Any, top: Any) -> Any:
    """Write the indices of the k best of ``values`` above -inf into ``ids``, best first; how many there are."""
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
def _sort(keys: Any) -> None:
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
def _rank_key(value: Any, i: Any) -> Any:
    """A number that sorts as the ranking does: 32 bits of logit, best first, then 31 bits of id."""
    bits = np.float32(value + _ZERO).view(np.int32)  # + 0: one zero, not two
    ascending = np.int64(bits ^ ((bits >> 31) & _ID))
    return ((_ID - ascending) << 31) | i


@inline
def _spend(values: Any, ranked: Any, budget: Any, by_count: Any, numbers: Any) -> Any:
    """How many of the ``ranked``, from the first on, it takes to reach ``budget``."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    for j in range(ranked.size):
        budget -= 1 if by_count else _weight((values[ranked[j] & _ID] - peak) * scale)
        if budget <= 0:
            return j + 1
    return ranked.size


@inline
def _fill_histogram(values: Any, by_count: Any, numbers: Any, scratch: Any) -> Any:
    """The weight (or the number of tokens that weigh anything) in each bucket of the logits."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    width = np.float32(_LAST / np.float32(numbers[SPREAD]))
    mass = _fields(scratch + 8 * SCRATCH_MASS, BUCKETS + SPILL)
    weights = _fields(scratch + 8 * SCRATCH_WEIGHTS, BLOCK)
    places = _fields(scratch + 8 * SCRATCH_PLACES, BLOCK)
    mass[:] = 0
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        for j in range(block.size):
            power = (block[j] - peak) * scale
            weight = _weight(power)
            places[j] = _bucket(power, width) if weight > 0 else BUCKETS + (j % SPILL)
            weights[j] = min(weight, 1) if by_count else weight
        for j in range(block.size):
            mass[places[j]] += weights[j]
    return mass[:BUCKETS]


@inline
def _cut(values: Any, border: Any, numbers: Any, scratch: Any) -> Any:
    """Mask what ranks below bucket ``border``; rank keys of its tokens that weigh anything."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    width = np.float32(_LAST / np.float32(numbers[SPREAD]))
    inside = _fields(scratch + 8 * SCRATCH_PLACES, BLOCK)
    members = _fields(scratch + 8 * SCRATCH_LISTS, values.size)
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
    _sort(members[:count])
    return members[:count]


@inline
def _narrow(values: Any, budget: Any, by_count: Any, numbers: Any, scratch: Any) -> None:
    """Mask, with -inf, all but the best tokens whose number, or weight, reaches ``budget``."""
    mass = _fill_histogram(values, by_count, numbers, scratch)
    border = 0
    while border < BUCKETS and budget > mass[border]:
        budget -= mass[border]
        border += 1
    if border == BUCKETS:
        return  # more than there are
    members = _cut(values, border, numbers, scratch)
    for j in range(_spend(values, members, budget, by_count, numbers), members.size):
        values[members[j] & _ID] = _LOWEST


@inline
def _fill_masses(values: Any, numbers: Any, least: Any, masses: Any) -> Any:
    """Write the weight of each block, less tokens lighter than ``least``; their sum."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    total = 0
    for b in range((values.size + BLOCK - 1) // BLOCK):
        block = values[b * BLOCK : (b + 1) * BLOCK]
        mass = 0
        for j in range(block.size):
            weight = _weight((block[j] - peak) * scale)
            mass += weight if weight >= least else 0
        masses[b] = mass
        total += mass
    return total


@inline
def _pick(values: Any, numbers: Any, scratch: Any) -> Any:
    """The index where the running sum of the weights passes ``uniform`` of their total."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    least = np.int64(numbers[LEAST])
    masses = _fields(scratch + 8 * SCRATCH_LISTS, values.size)
    total = _fill_masses(values, numbers, least, masses)
    target = min(np.int64(numbers[UNIFORM] * np.float64(total)), total - 1)
    b = 0
    while target >= masses[b]:
        target -= masses[b]
        b += 1
    at = b * BLOCK
    while True:
        weight = _weight((values[at] - peak) * scale)
        target -= weight if weight >= least else 0
        if target < 0:
            return at
        at += 1


@inline
def _pick_few(values: Any, ids: Any, numbers: Any, scratch: Any) -> Any:
    """`_pick` among ``ids``, in the order of the ids."""
    _sort(ids)
    few = _floats(scratch + 8 * SCRATCH_TOP, ids.size)
    for j in range(ids.size):
        few[j] = values[ids[j]]
    return ids[_pick(few, numbers, scratch)]


@inline
def _compact(values: Any, ids: Any) -> Any:
    """Move the tokens above -inf to the front, in order, and write their ids; how many there are."""
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
    ids = _fields(scratch + 8 * SCRATCH_IDS, FEW)
    top = _floats(scratch + 8 * SCRATCH_TOP, FEW)
    ids = ids[: _best(values, top_k if top_k > 0 else FEW, ids, top)]
    held = total = 0
    for j in range(ids.size):
        held += _weight((values[ids[j]] - peak) * scale)
    if top_k > 0:
        total = held
    else:
        masses = _fields(scratch + 8 * SCRATCH_LISTS, values.size)
        total = _fill_masses(values, numbers, 0, masses)
    budget = min(np.int64(math.ceil(top_p * np.float64(total))), total)
    if held < budget:
        _narrow(values, budget, False, numbers, scratch)
        return _pick(values, numbers, scratch)
    return _pick_few(values, ids[: _spend(values, ids, budget, False, numbers)], numbers, scratch)


@kernel(arguments=4)
def draw(values: Any, size: Any, numbers: Any, scratch: Any) -> Any:
    """The index drawn from float32 ``values [size]`` (written over) after top-k, top-p and min-p."""
    number = _doubles(numbers, NUMBERS)
    top_k = np.int64(number[TOP_K])
    if top_k <= FEW:
        return _choose(_floats(values, size), top_k, number, scratch)
    _narrow(_floats(values, size), top_k, True, number, scratch)
    ids = _fields(scratch + 8 * (SCRATCH_LISTS + size), size)
    count = _compact(_floats(values, size), ids)
    return ids[_choose(_floats(values, count), 0, number, scratch)]


@kernel(arguments=4)
def best(values: Any, size: Any, k: Any, scratch: Any) -> Any:
    """How many of the k best of float32 ``values [size]`` are above -inf.

    Their indices, best first, go to the first k fields of ``scratch``.
    """
    top = _floats(scratch + 8 * k, k)
    return _best(_floats(values, size), k, _fields(scratch, k), top)


@kernel(arguments=4)
def mass(values: Any, size: Any, numbers: Any, scratch: Any) -> Any:
    """The sum of the weights of float32 ``values [size]``."""
    masses = _fields(scratch + 8 * SCRATCH_LISTS, size)
    return _fill_masses(_floats(values, size), _doubles(numbers, NUMBERS), 0, masses)
