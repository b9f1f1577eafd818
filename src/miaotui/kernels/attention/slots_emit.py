"""Vector parts of attention over slots: scores, and weighted values, of one query and the tokens that a list names.

A slot holds one token's keys of all heads, then its values. Knows addresses and widths, not rows or threads. Invariant:
a score is a sum over the head in 16 lanes, halved at the end; values are added in the order of the list; both whatever
else is computed.
"""

from __future__ import annotations

from collections.abc import Callable

from miaotui.kernels.runtime.simd import F32, F32X, I64, Emitter, Value

_LINE = 64
TOGETHER = 4  # tokens whose scores are computed side by side


def score_slots(count: int) -> Callable[..., None]:
    """Make an emitter of the scores of one query and ``count`` tokens; ``slots`` is the address of their numbers."""

    def scores(e: Emitter, query: Value, dim: Value, keys: Value, stride: Value, slots: Value, out: Value) -> None:
        places = [keys + e.load(slots + 8 * i, I64, 8) * stride for i in range(count)]

        def step(index: Value, sums: list[Value]) -> list[Value]:
            line = e.load(query + index * _LINE, F32X, 4)
            return [
                e.fma(line, e.load(place + index * _LINE, F32X, 4), total)
                for place, total in zip(places, sums, strict=True)
            ]

        sums = e.loop(dim >> 4, [e.const(F32X, 0.0)] * count, step)
        for i, total in enumerate(sums):
            e.store(e.reduce(total, lambda a, b: a + b), out + 4 * i, 4)

    scores.__name__ = f"score_slots_{count}"
    return scores


def weigh_slots(
    e: Emitter, chances: Value, count: Value, dim: Value, values: Value, stride: Value, slots: Value, out: Value
) -> None:
    """Emit a query's sum of values, weighted by its chances, times the inverse of their sum, which lies before them."""
    inverse = e.load_splat(chances - _LINE, F32)

    def columns(index: Value, _: list[Value]) -> list[Value]:
        source = values + index * (2 * _LINE)

        def step(token: Value, sums: list[Value]) -> list[Value]:
            row = source + e.load(slots + (token << 3), I64, 8) * stride
            chance = e.load_splat(chances + (token << 2), F32)
            return [e.fma(chance, e.load(row + _LINE * i, F32X, 4), total) for i, total in enumerate(sums)]

        sums = e.loop(count, [e.const(F32X, 0.0)] * 2, step)
        for i, total in enumerate(sums):
            e.store(total * inverse, out + index * (2 * _LINE) + _LINE * i, 4)
        return []

    e.loop(dim >> 5, [], columns)


def copy_scaled(e: Emitter, source: Value, dim: Value, out: Value, scale: Value) -> None:
    """Emit ``out = source * scale`` of one head."""
    factor = e.splat(scale)

    def step(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.load(source + index * _LINE, F32X, 4) * factor, out + index * _LINE, 4)
        return []

    e.loop(dim >> 4, [], step)
