"""Vector parts of operations on several residual streams, on inputs of layers, and on sparse gates.

Each describes its arithmetic to an `Emitter` and knows only addresses and widths (multiples of 32). A row's streams lie
one after the other. The formulas are those of `model.streams` and `model.formulas`. Sums run along the row as in
`pointwise.emit`.
"""

from __future__ import annotations

from miaotui.kernels.pointwise.emit import squares, statistics
from miaotui.kernels.runtime.arithmetic import gelu_tanh, quantize_group, tanh
from miaotui.kernels.runtime.ops import HEADER_BYTES
from miaotui.kernels.runtime.simd import F32, F32X, Emitter, Value

STREAMS = 4
_LEAST_SQUARE = 1e-5  # see `model.streams.LEAST_SQUARE`


def norm_add_scaled_row(
    e: Emitter, x: Value, width: Value, weight: Value, eps: Value, residual: Value, factor: Value, out: Value
) -> None:
    """Compute ``out = (residual + norm(x)) * factor``, with an RMS norm."""
    _, inverse = statistics(e, x, width, eps, layer=False)
    scale = e.splat(factor)

    def step(index: Value, _: list[Value]) -> list[Value]:
        at = index * 64
        value = e.load(x + at, F32X, 4) * inverse * e.load(weight + at, F32X, 4)
        e.store((e.load(residual + at, F32X, 4) + value) * scale, out + at, 4)
        return []

    e.loop(width >> 4, [], step)


def add_row(e: Emitter, x: Value, width: Value, other: Value, out: Value) -> None:
    """Compute ``out = x + other``."""

    def step(index: Value, _: list[Value]) -> list[Value]:
        at = index * 64
        e.store(e.load(x + at, F32X, 4) + e.load(other + at, F32X, 4), out + at, 4)
        return []

    e.loop(width >> 4, [], step)


def product_row(e: Emitter, x: Value, width: Value, other: Value, out: Value, headers: Value) -> None:
    """Quantize ``x * other``."""

    def step(group: Value, _: list[Value]) -> list[Value]:
        halves = []
        for part in range(2):
            at = group * 128 + 64 * part
            halves.append(e.load(x + at, F32X, 4) * e.load(other + at, F32X, 4))
        quantize_group(e, halves[0], halves[1], out + (group << 5), headers + group * HEADER_BYTES)
        return []

    e.loop(width >> 5, [], step)


def length_row(e: Emitter, x: Value, width: Value, model: Value, out: Value) -> None:
    """Scale ``x`` to the root mean square of ``model``."""
    factor = _factor(e, x, width, squares(e, model, width))

    def step(index: Value, _: list[Value]) -> list[Value]:
        at = index * 64
        e.store(e.load(x + at, F32X, 4) * factor, out + at, 4)
        return []

    e.loop(width >> 4, [], step)


def merge_row(e: Emitter, first: Value, width: Value, others: Value, out: Value) -> None:
    """Compute the mean of ``first`` and the three ``others``, each scaled to the root mean square of the first."""
    target = squares(e, first, width)
    places = [others + (width << 2) * number for number in range(STREAMS - 1)]
    factors = [_factor(e, place, width, target) for place in places]

    def step(index: Value, _: list[Value]) -> list[Value]:
        at = index * 64
        total = e.load(first + at, F32X, 4)
        for place, factor in zip(places, factors, strict=True):
            total = total + e.load(place + at, F32X, 4) * factor
        e.store(total * (1 / STREAMS), out + at, 4)
        return []

    e.loop(width >> 4, [], step)


def _factor(e: Emitter, x: Value, width: Value, target: Value) -> Value:
    """Return the root of ``target`` over that of the mean square of ``x``, in all lanes."""
    square = e.maximum(squares(e, x, width), e.const(F32, _LEAST_SQUARE))
    return e.splat(e.unary("sqrt", target) / e.unary("sqrt", square))


def _modalities(e: Emitter, x: Value, width: Value, router: Value, eps: Value) -> list[Value]:
    """Return the weights of a row's parts, each in all lanes; ``router`` has the norm's weights in it."""
    _, inverse = statistics(e, x, width, eps, layer=False)

    def step(index: Value, carried: list[Value]) -> list[Value]:
        value = e.load(x + index * 64, F32X, 4)
        rows = [router + (width << 2) * number + index * 64 for number in range(STREAMS)]
        return [e.fma(value, e.load(row, F32X, 4), total) for row, total in zip(rows, carried, strict=True)]

    totals = e.loop(width >> 4, [e.const(F32X, 0.0)] * STREAMS, step)
    return [tanh(e, e.splat(e.reduce(total, lambda a, b: a + b)) * inverse) for total in totals]


def _mixture(e: Emitter, weights: list[Value], coefficients: Value, row: int, start: float = 0.0) -> Value:
    """Return ``start`` plus one row of coefficients times the weights, in all lanes."""
    total = e.const(F32X, start)
    for number, weight in enumerate(weights):
        total = e.fma(e.load_splat(coefficients + 4 * (row * STREAMS + number), F32), weight, total)
    return total


def predict_row(
    e: Emitter, streams: Value, width: Value, router: Value, eps: Value, coefficients: Value, out: Value
) -> None:
    """Predict each stream: itself plus a mixture of all."""
    weights = _modalities(e, streams, width, router, eps)
    numbers = range(STREAMS)
    mixtures = [[_mixture(e, weights, coefficients, row * STREAMS + each) for each in numbers] for row in numbers]
    stride = width << 2

    def step(index: Value, _: list[Value]) -> list[Value]:
        at = index * 64
        values = [e.load(streams + stride * number + at, F32X, 4) for number in numbers]
        for number in numbers:
            total = values[number]
            for value, factor in zip(values, mixtures[number], strict=True):
                total = e.fma(value, factor, total)
            e.store(total, out + stride * number + at, 4)
        return []

    e.loop(width >> 4, [], step)


def correct_row(
    e: Emitter,
    predictions: Value,
    width: Value,
    computed: Value,
    router: Value,
    eps: Value,
    coefficients: Value,
    out: Value,
    scale: Value,
    read: Value,
) -> None:
    """Move each prediction by a share of what the computed one was wrong by; ``read`` is the first times ``scale``."""
    weights = _modalities(e, computed, width, router, eps)
    shares = [_mixture(e, weights, coefficients, number, 1.0) for number in range(STREAMS)]
    stride = width << 2

    def step(index: Value, _: list[Value]) -> list[Value]:
        at = index * 64
        values = [e.load(predictions + stride * number + at, F32X, 4) for number in range(STREAMS)]
        wrong = e.load(computed + at, F32X, 4) - values[0]
        results = [e.fma(wrong, share, value) for share, value in zip(shares, values, strict=True)]
        for number, result in enumerate(results):
            e.store(result, out + stride * number + at, 4)
        e.store(results[0] * e.load(scale + at, F32X, 4), read + at, 4)
        return []

    e.loop(width >> 4, [], step)


def add_to_streams_row(e: Emitter, streams: Value, width: Value, added: Value, out: Value) -> None:
    """Copy the first stream, and add ``added`` to the others."""
    stride = width << 2

    def step(index: Value, _: list[Value]) -> list[Value]:
        at = index * 64
        e.store(e.load(streams + at, F32X, 4), out + at, 4)
        more = e.load(added + at, F32X, 4)
        for number in range(1, STREAMS):
            place = stride * number + at
            e.store(e.load(streams + place, F32X, 4) + more, out + place, 4)
        return []

    e.loop(width >> 4, [], step)


def sparse_gate_row(e: Emitter, wide: Value, width: Value, cutoff: Value, out: Value, headers: Value) -> None:
    """Quantize ``GELU(max(gate - bound, 0)) * up``; the bound is ``cutoff`` deviations above the mean of all gates.

    Gates and ups lie in alternating groups of 32, as a product of both leaves them.
    """
    count, zero = e.to_float(width), e.const(F32X, 0.0)

    def total(shift: Value | None) -> Value:
        def step(group: Value, carried: list[Value]) -> list[Value]:
            result = []
            for part, so_far in enumerate(carried):
                value = e.load(wide + group * 256 + 64 * part, F32X, 4)
                apart = value if shift is None else value - shift
                result.append(so_far + apart if shift is None else e.fma(apart, apart, so_far))
            return result

        halves = e.loop(width >> 5, [zero] * 2, step)
        return e.reduce(halves[0] + halves[1], lambda a, b: a + b) / count

    mean = total(None)
    deviation = e.unary("sqrt", total(e.splat(mean)))
    bound = e.splat(mean + cutoff * deviation)

    def step(group: Value, _: list[Value]) -> list[Value]:
        halves = []
        for part in range(2):
            at = wide + group * 256 + 64 * part
            gate = e.maximum(e.load(at, F32X, 4) - bound, zero)
            halves.append(gelu_tanh(e, gate) * e.load(at + 128, F32X, 4))
        quantize_group(e, halves[0], halves[1], out + (group << 5), headers + group * HEADER_BYTES)
        return []

    e.loop(width >> 5, [], step)
