"""Vector parts of attention over whole texts: scores, softmax, weighted values.

Keys lie in panels of 16 tokens ``[dim, 16]``, so a vector of scores is 16 tokens; values lie token by token. Queries
are taken in groups as large as registers hold sums for. Knows addresses and widths, not rows or threads. Invariant:
every sum runs over the head's values, or over a text's tokens, in ascending order, whatever the group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from miaotui.kernels.attention.emit import MASKED, rotate_head, stack_floats
from miaotui.kernels.platform.cpu import Isa, probe
from miaotui.kernels.runtime.arithmetic import exp, lanes_between, quantize_group
from miaotui.kernels.runtime.ops import HEADER_BYTES
from miaotui.kernels.runtime.simd import F32, F32X, I32, I64, LANES, Emitter, Value

GROUPS = (12, 6, 4, 2, 1) if probe().isa is Isa.AVX512_VNNI else (6, 6, 4, 2, 1)  # queries taken together
_LINE = 4 * LANES


def store_token(
    e: Emitter, key: Value, value: Value, keys: Value, values: Value, dim: Value, rotated: Value, cos: Value, sin: Value
) -> None:
    """Rotate one token's key of one head into its panel's column at ``keys``, and copy its value to ``values``."""
    buffer = stack_floats(e, 1024)
    zero, one = e.const(F32, 0.0), e.const(F32, 1.0)
    rotate_head(e, key, buffer, dim, rotated, cos, sin, e.const(I64, 0), zero, one)

    def scatter(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.load(buffer + (index << 2), F32, 4), keys + index * _LINE, 4)
        return []

    def copy(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.load(value + index * _LINE, F32X, 4), values + index * _LINE, 4)
        return []

    e.loop(dim, [], scatter)
    e.loop(dim >> 4, [], copy)


def score_panel(count: int) -> Callable[..., None]:
    """Make an emitter of the scores of ``count`` queries and one panel of keys."""

    def scores(e: Emitter, queries: Value, dim: Value, keys: Value, out: Value, stride: Value) -> None:
        places = [queries + (dim << 2) * i for i in range(count)]

        def step(d: Value, sums: list[Value]) -> list[Value]:
            lanes = e.load(keys + d * _LINE, F32X, 4)
            factors = [e.load_splat(place + (d << 2), F32) for place in places]
            return [e.fma(factor, lanes, total) for factor, total in zip(factors, sums, strict=True)]

        for i, total in enumerate(e.loop(dim, [e.const(F32X, 0.0)] * count, step)):
            e.store(total, out + stride * i, 4)

    scores.__name__ = f"scores_{count}"
    return scores


def weigh_values(count: int) -> Callable[..., None]:
    """Make an emitter of ``count`` queries' sums of values, weighted by their chances, times the inverse sums.

    A query's chances lie at ``chances``, and the inverse of their sum before them.
    """

    def weigh(e: Emitter, chances: Value, stride: Value, values: Value, tokens: Value, dim: Value, out: Value) -> None:
        places = [chances + stride * i for i in range(count)]

        def column(index: Value, _: list[Value]) -> list[Value]:
            source = values + index * _LINE

            def step(token: Value, sums: list[Value]) -> list[Value]:
                lanes = e.load(source + (dim << 2) * token, F32X, 4)
                factors = [e.load_splat(place + (token << 2), F32) for place in places]
                return [e.fma(factor, lanes, total) for factor, total in zip(factors, sums, strict=True)]

            sums = e.loop(tokens, [e.const(F32X, 0.0)] * count, step)
            for i, (total, place) in enumerate(zip(sums, places, strict=True)):
                inverse = e.load_splat(place - _LINE, F32)
                e.store(total * inverse, out + (dim << 2) * i + index * _LINE, 4)
            return []

        e.loop(dim >> 4, [], column)

    weigh.__name__ = f"weigh_{count}"
    return weigh


def softmax_row(biased: bool) -> Callable[..., None]:
    """Make an emitter of one query's softmax over panels of scores; a bias by distance is added first.

    ``low`` and ``high`` bound the positions that it sees, ``first`` is the position of the first score. Chances replace
    the scores, 0 where it does not see; the inverse of their sum is stored before them.
    """

    def softmax(e: Emitter, scores: Value, panels: Value, first: Value, low: Value, high: Value, bias: Value) -> None:
        zero = e.const(I64, 0)
        start = (low - first + (LANES - 1)) >> 4
        end = e.maximum(start, (high - first) >> 4)
        spans = ((zero, start, True), (start, end, False), (end, panels, True))  # only whole panels need no mask
        bounds = e.narrow(low, I32), e.narrow(high, I32)

        def view(panel: Value) -> Value:
            return lanes_between(e, e.narrow(first + (panel << 4), I32), *bounds)

        def over(begun: Value, step: Callable[[Value, Value, bool], Value]) -> Value:
            for start_at, end_at, masked in spans:
                begun = _span(e, start_at, end_at, begun, step, masked)
            return begun

        def raise_top(panel: Value, top: Value, masked: bool) -> Value:
            at = scores + panel * _LINE
            value = e.load(at, F32X, 4)
            if biased:
                value = value + e.load(bias + panel * _LINE, F32X, 4)
            if masked:
                value = e.select(view(panel), value, e.const(F32X, MASKED))
            e.store(value, at, 4)
            return e.maximum(value, top)

        top = e.splat(e.reduce(over(e.const(F32X, MASKED), raise_top), e.maximum))

        def add_chance(panel: Value, total: Value, masked: bool) -> Value:
            at = scores + panel * _LINE
            chance = exp(e, e.load(at, F32X, 4) - top)
            if masked:
                chance = e.select(view(panel), chance, e.const(F32X, 0.0))
            e.store(chance, at, 4)
            return total + chance

        total = e.reduce(over(e.const(F32X, 0.0), add_chance), lambda a, b: a + b)
        e.store(e.const(F32, 1.0) / total, scores - _LINE, 4)

    softmax.__name__ = "softmax_biased" if biased else "softmax_plain"
    return softmax


def _span(
    e: Emitter, start: Value, end: Value, begun: Value, step: Callable[[Value, Value, bool], Value], masked: bool
) -> Value:
    def body(index: Value, carried: Sequence[Value]) -> list[Value]:
        return [step(start + index, carried[0], masked)]

    return e.loop(end - start, [begun], body)[0]


def finish_head(e: Emitter, source: Value, dim: Value, out: Value, header: Value) -> None:
    """Quantize one head for the next product; without a ``header`` copy it as float32."""

    def quantize() -> None:
        e.loop(dim >> 5, [], quantize_step)

    def copy() -> None:
        e.loop(dim >> 4, [], copy_step)

    def quantize_step(group: Value, _: list[Value]) -> list[Value]:
        halves = [e.load(source + group * 128 + 64 * i, F32X, 4) for i in range(2)]
        quantize_group(e, halves[0], halves[1], out + (group << 5), header + group * HEADER_BYTES)
        return []

    def copy_step(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.load(source + index * _LINE, F32X, 4), out + index * _LINE, 4)
        return []

    e.when(e.compare("!=", header, e.const(I64, 0)), quantize)
    e.when(e.compare("==", header, e.const(I64, 0)), copy)
