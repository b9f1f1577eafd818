"""Vector parts of attention over whole texts: scores, softmax, weighted values.

Keys lie in panels of 16 tokens ``[dim, 16]``, so a vector of scores is 16 tokens; values lie token by token. Queries
are taken in groups as large as registers hold sums for. Knows addresses and widths, not rows or threads. Invariant:
every sum runs over the head's values, or over a text's tokens, in ascending order, whatever the group.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from miaotui.kernels.attention.emit import MASKED, rotate_head
from miaotui.kernels.platform.cpu import Isa, probe
from miaotui.kernels.runtime.arithmetic import exp, lanes_between, quantize_group
from miaotui.kernels.runtime.ops import HEADER_BYTES
from miaotui.kernels.runtime.simd import F32, F32X, I32, I64, LANES, Emitter, Value, stack_floats

GROUPS = (12, 6, 4, 2, 1) if probe().isa is Isa.AVX512_VNNI else (6, 6, 4, 2, 1)  # queries taken together
_LINE = 4 * LANES
_SCATTERED = 8  # values of a key that are stored in one step of a loop


def store_token(
    e: Emitter, key: Value, value: Value, keys: Value, values: Value, dim: Value, rotated: Value, cos: Value, sin: Value
) -> None:
    """Rotate one token's key of one head into its panel's column at ``keys``, and copy its value to ``values``."""
    buffer = stack_floats(e, 1024)
    zero, one = e.const(F32, 0.0), e.const(F32, 1.0)
    rotate_head(e, key, buffer, dim, rotated, cos, sin, e.const(I64, 0), zero, one)

    def scatter(index: Value, _: list[Value]) -> list[Value]:
        for lane in range(_SCATTERED):
            e.store(
                e.load(buffer + (index * _SCATTERED + lane << 2), F32, 4), keys + (index * _SCATTERED + lane) * _LINE, 4
            )
        return []

    def copy(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.load(value + index * _LINE, F32X, 4), values + index * _LINE, 4)
        return []

    e.loop(dim >> 3, [], scatter)
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


def relative_panel(count: int) -> Callable[..., None]:
    """Make an emitter that adds DeBERTa's terms of position to the scores of ``count`` queries and one panel.

    Content to position is query times ``position_keys``, position to content is key times ``position_queries`` (He et
    al., 2021, equation 4). Both tables are ``[dim, distances]``, rows ``table_stride`` bytes apart, distances of key
    and query ascending: an address is that of the first query and the panel's first key.
    """

    def relative(
        e: Emitter,
        queries: Value,
        dim: Value,
        keys: Value,
        position_keys: Value,
        position_queries: Value,
        table_stride: Value,
        out: Value,
        stride: Value,
    ) -> None:
        places = [queries + (dim << 2) * i for i in range(count)]

        def step(d: Value, sums: list[Value]) -> list[Value]:
            lanes, row, result = e.load(keys + d * _LINE, F32X, 4), d * table_stride, []
            for i, place in enumerate(places):
                to_position = e.load(position_keys + row - 4 * i, F32X, 4)
                to_content = e.load(position_queries + row - 4 * i, F32X, 4)
                result.append(e.fma(e.load_splat(place + (d << 2), F32), to_position, sums[2 * i]))
                result.append(e.fma(lanes, to_content, sums[2 * i + 1]))
            return result

        sums = e.loop(dim, [e.const(F32X, 0.0)] * (2 * count), step)
        for i in range(count):
            at = out + stride * i
            e.store(e.load(at, F32X, 4) + (sums[2 * i] + sums[2 * i + 1]), at, 4)

    relative.__name__ = f"relative_{count}"
    return relative


def softmax_rows(count: int, biased: bool) -> Callable[..., None]:
    """Make an emitter of ``count`` queries' softmax over panels of scores; a bias by distance is added first.

    All see the positions from ``low`` to ``high``; ``first`` is the position of the first score. Chances replace the
    scores, 0 where a query does not see; the inverse of their sum is stored before them. ``bias`` is the first query's.
    """

    def softmax(
        e: Emitter, scores: Value, stride: Value, panels: Value, first: Value, low: Value, high: Value, bias: Value
    ) -> None:
        rows = [scores + stride * i for i in range(count)]
        biases = [bias - 4 * i for i in range(count)] if biased else []
        _Softmax(e, rows, biases, _View(e, panels, first, low, high)).run()

    softmax.__name__ = f"softmax_{count}_{'biased' if biased else 'plain'}"
    return softmax


class _View:
    """Panels of which some tokens are seen: only the first and last ones need a mask."""

    def __init__(self, e: Emitter, panels: Value, first: Value, low: Value, high: Value) -> None:
        self.e, self.first = e, first
        self.bounds = e.narrow(low, I32), e.narrow(high, I32)
        start = (low - first + (LANES - 1)) >> 4
        end = e.maximum(start, (high - first) >> 4)
        self.spans = ((e.const(I64, 0), start, True), (start, end, False), (end, panels, True))

    def over(self, begun: list[Value], step: Callable[[Value, list[Value], Value | None], list[Value]]) -> list[Value]:
        """Emit ``step(panel, carried, mask)`` for all panels in order."""
        for start, end, masked in self.spans:
            body = partial(self._step, step, start, masked)
            begun = self.e.loop(end - start, begun, body)
        return begun

    def _step(
        self,
        step: Callable[[Value, list[Value], Value | None], list[Value]],
        start: Value,
        masked: bool,
        index: Value,
        carried: list[Value],
    ) -> list[Value]:
        panel = start + index
        first = self.e.narrow(self.first + (panel << 4), I32)
        return step(panel, carried, lanes_between(self.e, first, *self.bounds) if masked else None)


class _Softmax:
    """Softmax of several rows side by side: their chains of operations overlap."""

    def __init__(self, e: Emitter, rows: list[Value], biases: list[Value], view: _View) -> None:
        self.e, self.rows, self.biases, self.view = e, rows, biases, view

    def run(self) -> None:
        """Emit both passes: the highest score, then the chances and their sum."""
        e, count = self.e, len(self.rows)
        tops = self.view.over([e.const(F32X, MASKED)] * count, self._raise_tops)
        self.tops = [e.splat(e.reduce(top, e.maximum)) for top in tops]
        totals = self.view.over([e.const(F32X, 0.0)] * count, self._add_chances)
        for row, total in zip(self.rows, totals, strict=True):
            e.store(e.const(F32, 1.0) / e.reduce(total, lambda a, b: a + b), row - _LINE, 4)

    def _raise_tops(self, panel: Value, tops: list[Value], seen: Value | None) -> list[Value]:
        e, result = self.e, []
        for i, (row, top) in enumerate(zip(self.rows, tops, strict=True)):
            at = row + panel * _LINE
            value = e.load(at, F32X, 4)
            if self.biases:
                value = value + e.load(self.biases[i] + panel * _LINE, F32X, 4)
            if seen is not None:
                value = e.select(seen, value, e.const(F32X, MASKED))
            if self.biases or seen is not None:
                e.store(value, at, 4)
            result.append(e.maximum(value, top))
        return result

    def _add_chances(self, panel: Value, totals: list[Value], seen: Value | None) -> list[Value]:
        e, result = self.e, []
        for row, top, total in zip(self.rows, self.tops, totals, strict=True):
            at = row + panel * _LINE
            chance = exp(e, e.load(at, F32X, 4) - top)
            if seen is not None:
                chance = e.select(seen, chance, e.const(F32X, 0.0))
            e.store(chance, at, 4)
            result.append(total + chance)
        return result


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
