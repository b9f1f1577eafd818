"""Vector parts of the search for a row's best tokens: sums of exponentials, and which of 16 logits pass a bar.

Describes its arithmetic to an `Emitter` and knows only addresses and counts. Invariant: a sum has 16 partial sums in
ascending order of logits, which are then halved.
"""

from __future__ import annotations

from miaotui.kernels.runtime.arithmetic import exp, lanes_between
from miaotui.kernels.runtime.simd import F32X, I16, I32, I64, Emitter, Value

_LINE = 64


def exponentials(e: Emitter, x: Value, count: Value, top: Value) -> Value:
    """Compute the sum of ``exp(x - top)`` of ``count`` float32; whole vectors are read."""
    above = e.splat(top)

    def whole(index: Value, sums: list[Value]) -> list[Value]:
        return [sums[0] + exp(e, e.load(x + index * _LINE, F32X, 4) - above)]

    def rest(index: Value, sums: list[Value]) -> list[Value]:
        first = count >> 4 << 4
        seen = lanes_between(e, e.narrow(first, I32), e.const(I32, 0), e.narrow(count, I32))
        value = exp(e, e.load(x + first * 4, F32X, 4) - above)
        return [sums[0] + e.select(seen, value, e.const(F32X, 0.0))]

    begun = e.loop(count >> 4, [e.const(F32X, 0.0)], whole)
    ended = e.loop((count & 15) + 15 >> 4, begun, rest)
    return e.reduce(ended[0], lambda a, b: a + b)


def weighted_exponentials(e: Emitter, x: Value, weights: Value, count: Value, top: Value) -> Value:
    """Compute the sum of ``weights * exp(x - top)`` of ``count`` float32; whole vectors are read."""
    above = e.splat(top)

    def step(index: Value, sums: list[Value]) -> list[Value]:
        first = index << 4
        seen = lanes_between(e, e.narrow(first, I32), e.const(I32, 0), e.narrow(count, I32))
        value = e.load(weights + first * 4, F32X, 4) * exp(e, e.load(x + first * 4, F32X, 4) - above)
        return [sums[0] + e.select(seen, value, e.const(F32X, 0.0))]

    return e.reduce(e.loop(count + 15 >> 4, [e.const(F32X, 0.0)], step)[0], lambda a, b: a + b)


def passing(e: Emitter, x: Value, bar: Value) -> Value:
    """Return a bit for each of 16 float32 that is at least ``bar``."""
    return e.widen_unsigned(e.bits(e.compare(">=", e.load(x, F32X, 4), e.splat(bar)), I16), I64)
