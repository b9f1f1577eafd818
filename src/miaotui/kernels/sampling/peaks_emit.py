"""Vector part of the search for the best logits: the greatest of some vectors, NaN if there is one.

Describes its arithmetic to an `Emitter` and knows only an address and a count. Maxima are exact, so their order does
not matter.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from miaotui.kernels.runtime.simd import F32X, Emitter, Value

CHAINS = 4  # vectors of peaks that do not wait for each other


def vectors_peak(e: Emitter, x: Value, count: Value) -> Value:
    """Compute the greatest of ``count`` vectors of float32; NaN if any of them is one."""

    def step(chains: int) -> Callable[[Value, list[Value]], list[Value]]:
        def body(index: Value, carried: list[Value]) -> list[Value]:
            tops, bad = carried[:-1], carried[-1]
            for chain in range(chains):
                value = e.load(x + (index * chains + chain) * 64, F32X, 4)
                tops[chain] = e.maximum(value, tops[chain])
                bad = e.select(e.compare("==", value, value), bad, value)
            return [*tops, bad]

        return body

    lowest = e.wrap(ir.Constant(F32X, [float("-inf")] * F32X.count))
    *tops, bad = e.loop(count >> 2, [lowest] * CHAINS + [e.const(F32X, 0.0)], step(CHAINS))
    top = e.reduce(e.concat(tops), e.maximum)
    done = count >> 2 << 2
    x = x + done * 64
    rest, bad = e.loop(count - done, [e.splat(top), bad], step(1))
    return e.reduce(rest, e.maximum) + e.reduce(bad, lambda a, b: a + b)  # 0, or NaN
