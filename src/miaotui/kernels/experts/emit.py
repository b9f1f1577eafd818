"""Vector parts of mixtures of experts: router scores of a row, and the weighted sum of an expert's outputs.

Each describes its arithmetic to an `Emitter` and knows only addresses and counts. Sums of scores run in 16 partial
sums, which are then halved. Invariant: scores are finite whatever the logits are.
"""

from __future__ import annotations

from miaotui.kernels.runtime.arithmetic import exp
from miaotui.kernels.runtime.simd import F32, F32X, I32, I64, LANES, Emitter, Value

MASKED = -1e30  # a logit that is no number, or of no expert


def _lanes(e: Emitter, logits: Value, index: Value, count: Value) -> tuple[Value, Value]:
    """Load 16 logits, and mark those of experts. A logit that is no number counts as the lowest."""
    x = e.load(logits + index * 64, F32X, 4)
    numbers = e.splat(e.narrow(index * LANES, I32)) + e.lane_numbers()
    inside = e.compare("<", numbers, e.splat(e.narrow(count, I32)))
    low = e.const(F32X, MASKED)
    return e.select(inside, e.select(e.compare("==", x, x), e.maximum(x, low), low), low), inside


def softmax_scores(e: Emitter, logits: Value, count: Value) -> None:
    """Replace ``count`` logits by their softmax; those behind them, up to whole vectors, become 0."""
    vectors = (count + (LANES - 1)) >> 4

    def highest(index: Value, carried: list[Value]) -> list[Value]:
        return [e.maximum(carried[0], _lanes(e, logits, index, count)[0])]

    top = e.splat(e.reduce(e.loop(vectors, [e.const(F32X, MASKED)], highest)[0], e.maximum))

    def weigh(index: Value, carried: list[Value]) -> list[Value]:
        x, inside = _lanes(e, logits, index, count)
        weight = e.select(inside, exp(e, x - top), e.const(F32X, 0.0))
        e.store(weight, logits + index * 64, 4)
        return [carried[0] + weight]

    total = e.loop(vectors, [e.const(F32X, 0.0)], weigh)[0]
    inverse = e.splat(e.const(F32, 1.0) / e.reduce(total, lambda a, b: a + b))

    def divide(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.load(logits + index * 64, F32X, 4) * inverse, logits + index * 64, 4)
        return []

    e.loop(vectors, [], divide)


def sigmoid_scores(e: Emitter, logits: Value, count: Value) -> None:
    """Replace ``count`` logits by their sigmoids; those behind them, up to whole vectors, change as well."""
    one = e.const(F32X, 1.0)

    def squash(index: Value, _: list[Value]) -> list[Value]:
        x, _inside = _lanes(e, logits, index, count)
        e.store(one / (exp(e, e.const(F32X, 0.0) - x) + one), logits + index * 64, 4)
        return []

    e.loop((count + (LANES - 1)) >> 4, [], squash)


def add_weighted(e: Emitter, source: Value, target: Value, weight: Value) -> None:
    """Add 32 floats times the float at ``weight`` to those at ``target``."""
    factor = e.splat(e.load(weight, F32, 8))
    for offset in (0, 64):
        total = e.fma(e.load(source + offset, F32X, 4), factor, e.load(target + offset, F32X, 4))
        e.store(total, target + offset, 4)


def float_bits(e: Emitter, value: Value) -> Value:
    """Return a float32 as the field that `peek_float` reads."""
    return e.wrap(e.builder.zext(e.bits(value, I32).ir, I64))
