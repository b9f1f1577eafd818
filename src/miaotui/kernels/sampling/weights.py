"""Weight of a token: its probability as an integer that any processor computes alike.

It is the integer part of ``2**40 * exp2(scale * (logit - peak))``, computed by float32 operations in a fixed order,
none fused. Sums of integers do not depend on their order, so no result depends on vectors, blocks or threads. Tokens
below 2**-40 of the best one's probability weigh nothing. Also here: memory addresses viewed as arrays. Cost: about 20
vector operations per logit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj

from miaotui.kernels.runtime.compiler import inline
from miaotui.kernels.sampling.constants import EXP2
from miaotui.kernels.sampling.draw_fields import BLOCK, PEAK, SCALE, WEIGHT_BITS

_FLOOR = np.float32(-WEIGHT_BITS - 2)
_ONE = np.float32(1)

# Adding 1.5 * 2**23 leaves a small float32 rounded to an integer in the low bits of its mantissa.
_ROUND = np.float32(12582912.0)
_ROUND_BITS = np.int32(0x4B400000)
_MANTISSA = np.float32(1 << 24)
_SHIFT = WEIGHT_BITS - 24

_C1, _C2, _C3, _C4, _C5, _C6 = (np.float32(c) for c in EXP2)


def _view(kind: Any) -> Any:
    """Make a function ``(address, size)`` that views memory as an array of ``kind``."""
    arrays: Any = arrayobj  # Numba has no annotations

    @intrinsic
    def view(_typing_context: Any, _address: Any, _size: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = arrays.make_array(signature.return_type)(context, builder)
            item = context.get_constant(types.intp, kind.bitwidth // 8)
            data = builder.inttoptr(arguments[0], array.data.type)
            arrays.populate_array(array, data, [arguments[1]], [item], item, None)
            return array._getvalue()

        return types.Array(kind, 1, "C")(types.int64, types.int64), generate

    return view


floats, doubles = _view(types.float32), _view(types.float64)
words, fields = _view(types.int32), _view(types.int64)


@inline
def weigh(power: Any) -> Any:
    """Compute ``floor(2**(40 + power))`` for a float32 ``power <= 0``."""
    y = np.float32(power if power > _FLOOR else _FLOOR)
    rounded = np.float32(y + _ROUND)
    f = y - (rounded - _ROUND)
    shift = _ROUND_BITS - np.float32(rounded).view(np.int32)
    exp2 = (((((_C6 * f + _C5) * f + _C4) * f + _C3) * f + _C2) * f + _C1) * f + _ONE
    return (np.int64(np.int32(exp2 * _MANTISSA)) << _SHIFT) >> shift


@inline
def fill_masses(values: Any, numbers: Any, least: Any, masses: Any) -> Any:
    """Write the weight of each block, without tokens lighter than ``least``. Returns their sum."""
    peak, scale = np.float32(numbers[PEAK]), np.float32(numbers[SCALE])
    total = 0
    for b in range((values.size + BLOCK - 1) // BLOCK):
        block = values[b * BLOCK : (b + 1) * BLOCK]
        mass = 0
        for j in range(block.size):
            weight = weigh((block[j] - peak) * scale)
            mass += weight if weight >= least else 0
        masses[b] = mass
        total += mass
    return total
