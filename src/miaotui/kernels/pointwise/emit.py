"""Vector parts of pointwise operations: one row is normed, quantized, copied, capped or embedded.

Each describes its arithmetic to an `Emitter` and knows only addresses and widths (multiples of 32). `rows` decides
which rows there are and which thread computes them. Sums run along the row in two vectors of 16 partial sums, which
are then halved, so they are equal on every processor.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from miaotui.kernels.linear.formats import LINE, Format
from miaotui.kernels.runtime.arithmetic import quantize_group, softcap
from miaotui.kernels.runtime.ops import HEADER_BYTES
from miaotui.kernels.runtime.simd import F32, F32X, I8, I16, I32, I64, Emitter, Value


def sums(e: Emitter, x: Value, width: Value, shift: Value | None) -> Value:
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


def squares(e: Emitter, x: Value, width: Value) -> Value:
    """Return the mean of the squares of a row."""
    return sums(e, x, width, e.const(F32X, 0.0)) / e.to_float(width)


def statistics(e: Emitter, x: Value, width: Value, eps: Value, layer: bool) -> tuple[Value, Value]:
    """Compute the mean (0 for RMS) and the reciprocal deviation of a row, in all lanes."""
    count = e.to_float(width)
    mean = e.splat(sums(e, x, width, None) / count) if layer else e.const(F32X, 0.0)
    variance = sums(e, x, width, mean) / count
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
        mean, inverse = statistics(e, x, width, eps, layer)

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


def multiply_row(e: Emitter, x: Value, width: Value, factors: Value) -> None:
    """Multiply float32 values by ``factors`` in place."""

    def step(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.load(x + index * 64, F32X, 4) * e.load(factors + index * 64, F32X, 4), x + index * 64, 4)
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
    layout = form.layout

    def emit(e: Emitter, tile: Value, groups: Value, lane: Value, out: Value, factor: Value) -> None:
        def step(group: Value, _: list[Value]) -> list[Value]:
            shift = layout.groups.bit_length() - 1
            record, inside = tile + (group >> shift) * form.record_bytes, group & (layout.groups - 1)
            scale, minimum = _row_scales(e, form, record, inside, lane)
            codes = record + inside * form.integer_bytes + (lane * 4 + form.head_bytes)
            for index in range(8):
                half = index * max(1, layout.subs) // 8
                value = e.to_float(_row_codes(e, form, codes, index)) * e.splat(scale[half] * factor, 4)
                if minimum:
                    value = value + e.splat(minimum[half] * factor, 4)
                e.store(value, out + group * 128 + 16 * index, 4)
            return []

        e.loop(groups, [], step)

    def emit_f32(e: Emitter, tile: Value, groups: Value, lane: Value, out: Value, factor: Value) -> None:
        def step(k: Value, _: list[Value]) -> list[Value]:
            e.store(e.load(tile + k * 64 + lane * 4, F32, 4) * factor, out + k * 4, 4)
            return []

        e.loop(groups << 5, [], step)

    def emit_bf16(e: Emitter, tile: Value, groups: Value, lane: Value, out: Value, factor: Value) -> None:
        def step(k: Value, _: list[Value]) -> list[Value]:
            upper = e.widen_unsigned(e.load(tile + k * 32 + lane * 2, I16, 2), I32) << 16
            e.store(e.bits(upper, F32) * factor, out + k * 4, 4)
            return []

        e.loop(groups << 5, [], step)

    return {Format.F32: emit_f32, Format.BF16: emit_bf16}.get(form, emit)


def _row_codes(e: Emitter, form: Format, codes: Value, step: int) -> Value:
    """Load four inputs of one row, as the integers that their codes stand for."""
    layout = form.layout

    def field(offset: int, bits: int) -> Value:
        raw = e.load(codes + (offset + LINE * (step * bits // 8)), ir.VectorType(I8, 4))
        return raw >> step * bits % 8 & (1 << bits) - 1

    code = field(0, layout.low)
    if layout.high:
        code = code | field(LINE * layout.low, layout.high) << layout.low
    if layout.table:
        found = e.dot.lookup(layout.table, e.shuffle(code, [lane % 4 for lane in range(16)]))
        return e.widen(e.shuffle(found, range(4)), I32)
    return e.widen_unsigned(code, I32) - layout.offset


def _row_scales(e: Emitter, form: Format, record: Value, group: Value, lane: Value) -> tuple[list[Value], list[Value]]:
    """Load one row's scales and minimums of a group, one or two of each."""
    layout = form.layout

    def number(first: int) -> Value:
        address = record + lane * 2 + first
        return e.lane(e.load_half(address if layout.subs else address + group * 32, 1), 0)

    def integer(first: int, half: int, signed: bool) -> Value:
        at = record + (group + first) * (16 * layout.subs) + lane * layout.subs + (layout.float_bytes + half)
        raw = e.load(at, I8)
        if layout.nibbles:
            raw = raw & 15 if signed else raw >> 4
        return e.to_float(e.widen(raw, I32))

    halves = range(max(1, layout.subs))
    if layout.exponents:
        power = e.widen_unsigned(e.load(record + group * 16 + lane, I8), I32)
        return [e.bits(e.maximum((power - 1) << 23, (power + 1) << 21), F32)], []
    scale = number(0) if layout.unit == 1 else number(0) * layout.unit
    minimum = number(layout.float_bytes - 32 * (1 if layout.subs else layout.groups)) if layout.minimums else None
    if not layout.subs:
        return [scale], [] if minimum is None else [minimum]
    scales = [scale * integer(0, half, True) for half in halves]
    if minimum is None:
        return scales, []
    return scales, [minimum * integer(0 if layout.nibbles else layout.groups, half, False) for half in halves]
