"""Vector parts of pointwise operations: one row is normed, quantized, copied, capped or embedded.

Each describes its arithmetic to an `Emitter` and knows only addresses and widths (multiples of 32). `rows` decides
which rows there are and which thread computes them. Sums run along the row in two vectors of 16 partial sums, which
are then halved, so they are equal on every processor.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from miaotui.kernels.linear.formats import Format
from miaotui.kernels.runtime.arithmetic import quantize_group, softcap
from miaotui.kernels.runtime.ops import HEADER_BYTES
from miaotui.kernels.runtime.simd import F32, F32X, I8, I64, Emitter, Value


def _sums(e: Emitter, x: Value, width: Value, shift: Value | None) -> Value:
    """Sum values (``shift`` None) or squared differences from ``shift``: 2 x 16 partial sums, then halving."""

    def step(index: Value, carried: list[Value]) -> list[Value]:
        result = []
        for part, total in enumerate(carried):
            value = e.load(x + index * 128 + 64 * part, F32X, 4)
            if shift is None:
                result.append(total + value)
            else:
                apart = value - shift
                result.append(e.fma(apart, apart, total))
        return result

    parts = e.loop(width >> 5, [e.const(F32X, 0.0)] * 2, step)
    return e.reduce(parts[0] + parts[1], lambda a, b: a + b)


def _statistics(e: Emitter, x: Value, width: Value, eps: Value, layer: bool) -> tuple[Value, Value]:
    """Compute the mean (0 for RMS) and the reciprocal deviation of a row, in all lanes."""
    count = e.to_float(width)
    mean = e.splat(_sums(e, x, width, None) / count) if layer else e.const(F32X, 0.0)
    variance = _sums(e, x, width, mean) / count
    inverse = e.const(F32, 1.0) / e.unary("sqrt", variance + eps)
    return mean, e.splat(inverse)


def norm_row(layer: bool, residual: bool, wide: bool = False) -> Callable[..., None]:
    """Norm one row: quantize it for a product (unless ``out`` is 0), or add it to the residual stream.

    ``wide``: results are int16.
    """
    shift = 6 if wide else 5

    def emit(
        e: Emitter,
        x: Value,
        width: Value,
        weight: Value,
        bias: Value,
        eps: Value,
        out: Value,
        headers: Value,
        also: Value,
    ) -> None:
        mean, inverse = _statistics(e, x, width, eps, layer)

        def step(group: Value, _: list[Value]) -> list[Value]:
            halves = []
            for part in range(2):
                offset = group * 128 + 64 * part
                value = (e.load(x + offset, F32X, 4) - mean) * inverse
                value = value * e.load(weight + offset, F32X, 4)
                if layer:
                    value = value + e.load(bias + offset, F32X, 4)
                halves.append(value)
                if residual:
                    e.store(e.load(also + offset, F32X, 4) + value, out + offset, 4)
            if not residual:
                integers, header = out + (group << shift), headers + group * HEADER_BYTES
                wanted = e.compare("!=", out, e.const(I64, 0))
                e.when(wanted, lambda: quantize_group(e, halves[0], halves[1], integers, header, wide))
                _store_also(e, halves, also, group)
            return []

        e.loop(width >> 5, [], step)

    return emit


def _store_also(e: Emitter, halves: list[Value], also: Value, group: Value) -> None:
    def store() -> None:
        for part, value in enumerate(halves):
            e.store(value, also + group * 128 + 64 * part, 4)

    e.when(e.compare("!=", also, e.const(I64, 0)), store)


def quantize_row(wide: bool) -> Callable[..., None]:
    """Quantize float32 to int8, or int16 if ``wide``, with headers."""

    def emit(e: Emitter, x: Value, width: Value, out: Value, headers: Value) -> None:
        def step(group: Value, _: list[Value]) -> list[Value]:
            halves = [e.load(x + group * 128 + 64 * part, F32X, 4) for part in range(2)]
            integers, header = out + (group << (6 if wide else 5)), headers + group * HEADER_BYTES
            quantize_group(e, halves[0], halves[1], integers, header, wide)
            return []

        e.loop(width >> 5, [], step)

    return emit


def copy_row(e: Emitter, x: Value, width: Value, out: Value) -> None:
    """Copy float32 from one address to another."""

    def step(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.load(x + index * 64, F32X, 4), out + index * 64, 4)
        return []

    e.loop(width >> 4, [], step)


def sum_rows(e: Emitter, x: Value, width: Value, position: Value, kind: Value, out: Value) -> None:
    """Compute ``out = x + position + kind`` of float32 rows."""

    def step(index: Value, _: list[Value]) -> list[Value]:
        token, place, segment = (e.load(row + index * 64, F32X, 4) for row in (x, position, kind))
        e.store(token + place + segment, out + index * 64, 4)
        return []

    e.loop(width >> 4, [], step)


def softcap_row(e: Emitter, x: Value, width: Value, cap: Value) -> None:
    """Apply a soft cap in place."""

    def step(index: Value, _: list[Value]) -> list[Value]:
        e.store(softcap(e, e.load(x + index * 64, F32X, 4), e.splat(cap)), x + index * 64, 4)
        return []

    e.loop(width >> 4, [], step)


def embed_row(form: Format) -> Callable[..., None]:
    """Write one row of a packed table as float32: lane ``token % 16`` of each of its tile's loads."""

    def emit(e: Emitter, tile: Value, groups: Value, lane: Value, out: Value, factor: Value) -> None:
        four_bytes, four_floats = ir.VectorType(I8, 4), ir.VectorType(F32, 4)

        def scalar(address: Value) -> Value:
            return e.splat(e.lane(e.load_half(address, 1), 0) * factor, 4)

        def step(group: Value, _: list[Value]) -> list[Value]:
            record, head = tile + group * form.record_bytes, lane * 2
            integers = record + form.head_bytes
            if form.record_groups == 2:
                record, odd = tile + (group >> 1) * form.record_bytes, group & 1
                head = head + odd * 32
                integers = record + odd * form.integer_bytes + form.head_bytes
            head = head + record
            scale = scalar(head)
            for index in range(8):
                if form is Format.Q8:
                    raw = e.load(integers + lane * 4 + 64 * index, four_bytes)
                    whole = e.widen(raw ^ 128, ir.IntType(32))
                else:
                    raw = e.load(integers + lane * 4 + 64 * (index // 2), four_bytes)
                    raw = (raw >> 4) if index % 2 else (raw & 15)
                    whole = e.widen_unsigned(raw, ir.IntType(32))
                    whole = whole - (8 if form is Format.Q4 else 0)
                value = e.to_float(whole) * scale
                if form is Format.Q4M:
                    value = value + scalar(head + 32)
                assert value.type == four_floats
                e.store(value, out + group * 128 + 16 * index, 4)
            return []

        e.loop(groups, [], step)

    def emit_f32(e: Emitter, tile: Value, groups: Value, lane: Value, out: Value, factor: Value) -> None:
        def step(k: Value, _: list[Value]) -> list[Value]:
            e.store(e.load(tile + k * 64 + lane * 4, F32, 4) * factor, out + k * 4, 4)
            return []

        e.loop(groups << 5, [], step)

    return emit_f32 if form is Format.F32 else emit
