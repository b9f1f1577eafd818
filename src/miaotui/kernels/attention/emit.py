"""Vector parts of attention: rotate a head, let queries meet a page.

A query's scratch is ``dim`` floats of query, ``dim`` of accumulated values, then four lines of 16: the softmax's
partial sums, this page's probabilities, the running maximum, and a line with the bounds ``[start, end)`` of its view
(int32), the slope by which its scores fall with distance (float32) and its position (int32).
Masked scores are -1e30; their exponential against any real maximum is 0.
"""

from __future__ import annotations

from collections.abc import Callable

from miaotui.kernels.platform.cpu import Isa, probe
from miaotui.kernels.runtime.arithmetic import exp, lanes_between, quantize_group, softcap
from miaotui.kernels.runtime.ops import HEADER_BYTES
from miaotui.kernels.runtime.simd import F32, F32X, I8X, I16, I32, I64, LANES, Emitter, Value

MASKED = -1e30
ACCUMULATORS = 48  # floats before the bounds: sums, probabilities, maximum
TOGETHER = (1, 2, 3, 4, 6, 8)  # queries that meet a page at once
_LINE = 4 * LANES
# lines of sums that registers hold beside what is multiplied, and columns summed together
_SUMS, _COLUMNS = (16, 2) if probe().isa is Isa.AVX512_VNNI else (4, 1)


def query_bytes(dim: int) -> int:
    """Return the bytes of one query's scratch."""
    return 4 * (2 * dim + 4 * LANES)


def rotate_head(
    e: Emitter,
    source: Value,
    target: Value,
    dim: Value,
    rotated: Value,
    cos: Value,
    sin: Value,
    norm: Value,
    eps: Value,
    scale: Value,
) -> None:
    """Norm (if ``norm`` is not 0), rotate pairs ``(i, i + rotated / 2)``, scale; ``dim`` floats from source to target.

    Rotary position embedding after Su et al. 2021 (RoFormer, section 3.2), in the half-split arrangement.
    """
    norm_head(e, source, target, dim, norm, eps)
    half = rotated >> 1
    factor = e.splat(scale)

    def pair(index: Value, _: list[Value]) -> list[Value]:
        low_at, high_at = target + index * _LINE, target + index * _LINE + (half << 2)
        low, high = e.load(low_at, F32X, 4), e.load(high_at, F32X, 4)
        c, s = e.load(cos + index * _LINE, F32X, 4), e.load(sin + index * _LINE, F32X, 4)
        zero = e.const(F32X, 0.0)
        e.store(e.fma(low, c, zero - high * s) * factor, low_at, 4)
        e.store(e.fma(high, c, low * s) * factor, high_at, 4)
        return []

    e.loop(half >> 4, [], pair)
    rest = target + (rotated << 2)

    def scale_rest(index: Value, _: list[Value]) -> list[Value]:
        at = rest + index * _LINE
        e.store(e.load(at, F32X, 4) * factor, at, 4)
        return []

    e.loop((dim - rotated) >> 4, [], scale_rest)


def norm_head(e: Emitter, source: Value, target: Value, dim: Value, norm: Value, eps: Value) -> None:
    """Copy a head, or copy it through an RMS norm."""
    count = dim >> 4

    def copy(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.load(source + index * _LINE, F32X, 4), target + index * _LINE, 4)
        return []

    e.loop(count, [], copy)

    def square(index: Value, carried: list[Value]) -> list[Value]:
        value = e.load(target + index * _LINE, F32X, 4)
        return [e.fma(value, value, carried[0])]

    def apply() -> None:
        total = e.reduce(e.loop(count, [e.const(F32X, 0.0)], square)[0], lambda a, b: a + b)
        inverse = e.splat(e.const(F32, 1.0) / e.unary("sqrt", total / e.to_float(dim) + eps))

        def step(index: Value, _: list[Value]) -> list[Value]:
            at = target + index * _LINE
            e.store(e.load(at, F32X, 4) * inverse * e.load(norm + index * _LINE, F32X, 4), at, 4)
            return []

        e.loop(count, [], step)

    e.when(e.compare("!=", norm, e.const(I64, 0)), apply)


def clear_query(e: Emitter, query: Value, dim: Value) -> None:
    """Reset a query's sums and maximum."""
    base = query + (dim << 2)

    def step(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.const(F32X, 0.0), base + index * _LINE, 4)
        return []

    e.loop((dim >> 4) + 1, [], step)
    e.store(e.const(F32X, MASKED), base + (dim << 2) + 2 * _LINE, 4)


def sink_query(e: Emitter, query: Value, dim: Value, score: Value) -> None:
    """Begin a query's sums and maximum with a ``score`` that has no value (Xiao et al. 2023, attention sinks)."""
    e.store(e.const(F32, 1.0), query + (dim << 3), 4)  # the first of the sixteen partial sums
    e.store(e.splat(score), query + (dim << 3) + 2 * _LINE, 4)


def prefetch_bytes(e: Emitter, address: Value, size: Value) -> None:
    """Prefetch every line of a page's head. A page is too short for the processor's own prefetcher."""

    def step(index: Value, _: list[Value]) -> list[Value]:
        e.prefetch(address + (index << 6))
        return []

    e.loop(size >> 6, [], step)


def finish_query(e: Emitter, query: Value, dim: Value, out: Value, header: Value) -> None:
    """Divide by the softmax's sum and quantize the head for the output product."""
    values = query + (dim << 2)
    total = e.reduce(e.load(values + (dim << 2), F32X, 4), lambda a, b: a + b)
    inverse = e.splat(e.const(F32, 1.0) / total)

    def step(group: Value, _: list[Value]) -> list[Value]:
        halves = [e.load(values + group * 128 + 64 * i, F32X, 4) * inverse for i in range(2)]
        quantize_group(e, halves[0], halves[1], out + (group << 5), header + group * HEADER_BYTES)
        return []

    e.loop(dim >> 5, [], step)


def store_query(e: Emitter, query: Value, dim: Value, out: Value, count: Value) -> None:
    """Divide by the softmax's sum, and store the first ``count`` values, a multiple of 8, as float32."""
    values = query + (dim << 2)
    total = e.reduce(e.load(values + (dim << 2), F32X, 4), lambda a, b: a + b)
    inverse = e.splat(e.const(F32, 1.0) / total)

    def step(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.load(values + index * _LINE, F32X, 4) * inverse, out + index * _LINE, 4)
        return []

    def store_half() -> None:  # no more, since another thread writes what follows
        at = (count >> 4) * _LINE
        e.store(e.split(e.load(values + at, F32X, 4) * inverse, 2)[0], out + at, 4)

    e.loop(count >> 4, [], step)
    e.when(e.compare("!=", count & 8, e.const(I64, 0)), store_half)


def attend_emitters(int8: bool, capped: bool, biased: bool = False) -> tuple[Callable[..., None], ...]:
    """Make emitters of queries that meet one page, one for each number in `TOGETHER`.

    Values: the first query's scratch and the bytes to the next, the page's keys and values, ``dim``, an address to
    prefetch or 0, the page's first position, and the soft cap. ``biased``: scores fall with the distance of the key, by
    the query's slope (ALiBi, Press et al. 2022, section 3).
    """
    return tuple(_attend(count, int8, capped, biased) for count in TOGETHER)


def _attend(count: int, int8: bool, capped: bool, biased: bool) -> Callable[..., None]:
    def attend(
        e: Emitter,
        base: Value,
        stride: Value,
        keys: Value,
        values: Value,
        dim: Value,
        ahead: Value,
        first: Value,
        cap: Value,
    ) -> None:
        page = _Page(e, keys, values, dim, int8)
        queries = [base + stride * i for i in range(count)]
        scores = page.scores(queries, ahead)
        if capped:
            scores = [softcap(e, score, e.splat(cap)) for score in scores]
        if biased:
            scores = [
                _biased(e, query + (dim << 3), score, first) for query, score in zip(queries, scores, strict=True)
            ]
        page.weigh(queries, scores, e.narrow(first, I32))
        page.gather(queries)

    attend.__name__ = f"attend_{count}_{'int8' if int8 else 'f16'}{'_capped' if capped else ''}{'_biased' * biased}"
    return attend


def _biased(e: Emitter, line: Value, scores: Value, first: Value) -> Value:
    """Add slope times (key's position - query's position) to the scores of the page that begins at ``first``."""
    bounds = line + 3 * _LINE
    back = e.splat(e.narrow(first, I32)) + e.lane_numbers() - e.load_splat(bounds + 12, I32)
    return e.fma(e.load_splat(bounds + 8, F32), e.to_float(back), scores)


class _Page:
    """Keys and values of one head for 16 tokens, and the three steps in which queries meet them."""

    def __init__(self, e: Emitter, keys: Value, values: Value, dim: Value, int8: bool) -> None:
        self.e, self.keys, self.values, self.dim, self.int8 = e, keys, values, dim, int8
        self.width = 1 if int8 else 2

    def _lanes(self, address: Value) -> Value:
        if self.int8:
            return self.e.to_float(self.e.widen(self.e.load(address, I8X, 1), I32))
        return self.e.load_half(address)

    def scores(self, queries: list[Value], ahead: Value) -> list[Value]:
        """Multiply queries by keys: two chains of multiply-adds, for the first and second half of the head.

        Meanwhile prefetches the page at ``ahead``, if that is not 0, line by line: a page is too short for the
        processor's own prefetcher.
        """
        e, count, half = self.e, len(queries), self.dim >> 1
        wanted = e.compare("!=", ahead, e.const(I64, 0))

        def ask(d: Value) -> None:
            for line in range(self.width):
                e.prefetch(ahead + d * (64 * self.width) + 64 * line)

        def step(d: Value, carried: list[Value]) -> list[Value]:
            result = []
            e.when(wanted, lambda: ask(d))
            for part, at in enumerate((d, d + half)):
                lanes = self._lanes(self.keys + at * (LANES * self.width))
                for i, query in enumerate(queries):
                    factor = e.load_splat(query + (at << 2), F32)
                    result.append(e.fma(factor, lanes, carried[part * count + i]))
            return result

        sums = e.loop(half, [e.const(F32X, 0.0)] * (2 * count), step)
        totals = [sums[i] + sums[count + i] for i in range(count)]
        if self.int8:
            scales = e.load(self.keys + self.dim * LANES, F32X, 4)
            totals = [total * scales for total in totals]
        return totals

    def weigh(self, queries: list[Value], scores: list[Value], first: Value) -> None:
        """Store each query's probabilities in scratch, and update its sums and maximum.

        A maximum is computed, and earlier sums are scaled, only where some score exceeds the maximum so far. That is
        rare after the first pages; a factor of 1 would change nothing.
        """
        e = self.e
        lines = [query + (self.dim << 3) for query in queries]
        views, masked, above = [], [], None
        for line, score in zip(lines, scores, strict=True):
            bounds = line + 3 * _LINE
            view = lanes_between(e, first, e.load(bounds, I32, 4), e.load(bounds + 4, I32, 4))
            views.append(view)
            masked.append(e.select(view, score, e.const(F32X, MASKED)))
            higher = e.compare(">", masked[-1], e.load(line + 2 * _LINE, F32X, 4))
            above = higher if above is None else above | higher
        assert above is not None, "a page is met by some query"
        some = e.compare("!=", e.bits(above, I16), e.const(I16, 0))
        e.when(some, lambda: self._rescale(queries, masked))
        for line, view, score in zip(lines, views, masked, strict=True):
            now = e.load(line + 2 * _LINE, F32X, 4)
            chance = e.select(view, exp(e, score - now), e.const(F32X, 0.0))
            e.store(e.load(line, F32X, 4) + chance, line, 4)
            weight = chance
            if self.int8:
                weight = chance * e.load(self.values + self.dim * LANES, F32X, 4)
            e.store(weight, line + _LINE, 4)

    def _rescale(self, queries: list[Value], scores: list[Value]) -> None:
        """Compute new maxima, and scale the earlier sums to them."""
        e, dim = self.e, self.dim
        factors = []
        for query, score in zip(queries, scores, strict=True):
            line = query + (dim << 3) + 2 * _LINE
            before = e.load(line, F32X, 4)
            now = e.maximum(before, e.splat(e.reduce(score, e.maximum)))
            e.store(now, line, 4)
            factors.append(exp(e, before - now))

        def step(column: Value, _: list[Value]) -> list[Value]:
            for query, factor in zip(queries, factors, strict=True):
                at = query + (dim << 2) + column * _LINE  # the last column is the sums
                e.store(e.load(at, F32X, 4) * factor, at, 4)
            return []

        e.loop((dim >> 4) + 1, [], step)

    def gather(self, queries: list[Value]) -> None:
        """Add the values, weighted by the probabilities, to each query's sums."""
        some = _SUMS // _COLUMNS
        for first in range(0, len(queries), some):
            self._gather(queries[first : first + some])

    def _gather(self, queries: list[Value]) -> None:
        """Add values for as many queries as registers hold sums of, 16 columns together, so that each load serves
        all.
        """
        e, columns, whole = self.e, self.dim >> 4, self.dim >> 4
        if _COLUMNS == 2:
            whole = columns >> 1
            e.loop(columns & 1, [], lambda _, __: self._columns(queries, columns - 1, 1))
        e.loop(whole, [], lambda index, _: self._columns(queries, index * _COLUMNS, _COLUMNS))

    def _columns(self, queries: list[Value], first: Value, count: int) -> list[Value]:
        e, dim = self.e, self.dim
        places = [query + (dim << 2) + (first + i) * _LINE for query in queries for i in range(count)]

        def step(token: Value, totals: list[Value]) -> list[Value]:
            row = self.values + (dim * token + (first << 4)) * self.width
            lanes = [self._lanes(row + LANES * self.width * i) for i in range(count)]
            chances = (e.load_splat(query + (dim << 3) + (token << 2) + _LINE, F32) for query in queries)
            pairs = ((chance, line) for chance in chances for line in lanes)
            return [e.fma(*pair, total) for pair, total in zip(pairs, totals, strict=True)]

        begun = [e.load(place, F32X, 4) for place in places]
        totals = e.loop(e.const(I64, LANES), begun, step)
        for place, total in zip(places, totals, strict=True):
            e.store(total, place, 4)
        return []
