"""Operations that touch each value of a row once: embedding, norms with quantization, residual norms, caps, taps.

Each is *idempotent*: it reads one buffer and writes another. For few rows every thread of the team
does all of it, which costs less than meeting at a barrier; for many rows the threads share the rows
and meet. `shared` decides, from the number of values alone, so all threads agree.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from miaotui.kernels.arithmetic import quantize_group, softcap
from miaotui.kernels.compiler import inline, kernel
from miaotui.kernels.formats import Format
from miaotui.kernels.memory import peek, peek_float
from miaotui.kernels.ops import (
    HEADER_BYTES,
    ROW_FIELDS,
    ROW_TOKEN,
    ROWS,
    RUN_LOGIT_ROWS,
    RUN_LOGIT_TABLE,
    RUN_ROW_TABLE,
    RUN_TEAM,
    SLOT,
)
from miaotui.kernels.pointwise_fields import (
    EPS,
    GATHER,
    KIND,
    LAYER,
    NORM_BIAS,
    OUT,
    OUT_FLOAT,
    OUT_FLOAT_STRIDE,
    OUT_HEADER_STRIDE,
    OUT_HEADERS,
    OUT_STRIDE,
    RESIDUAL,
    RESIDUAL_STRIDE,
    RMS,
    TABLE,
    TABLE_GROUPS,
    TABLE_OUT,
    TABLE_OUT_STRIDE,
    TABLE_SCALE,
    TABLE_STRIDE,
    WEIGHT,
    WIDTH,
    X_STRIDE,
    X,
)
from miaotui.kernels.simd import F32, F32X, I8, I64, Emitter, Value, intrinsic
from miaotui.kernels.sync import claim, claim_end, claim_first

ALONE = 8192  # values up to which every thread does the whole operation


def _sums(e: Emitter, x: Value, width: Value, shift: Value | None) -> Value:
    """Sum of values (``shift`` None) or of squared differences from ``shift``; 2 x 16 partial sums, then halving."""

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
    """Mean (0 for RMS) and reciprocal deviation of a row, in all lanes."""
    count = e.to_float(width)
    mean = e.splat(_sums(e, x, width, None) / count) if layer else e.const(F32X, 0.0)
    variance = _sums(e, x, width, mean) / count
    inverse = e.const(F32, 1.0) / e.unary("sqrt", variance + eps)
    return mean, e.splat(inverse)


def _norm_row(layer: bool, residual: bool) -> Any:
    """Norm of one row: quantized for a product, or added to the residual stream."""

    def norm_row(
        e: Emitter, x: Value, width: Value, weight: Value, bias: Value, eps: Value,
        out: Value, headers: Value, also: Value,
    ) -> None:  # fmt: skip
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
                quantize_group(
                    e, halves[0], halves[1], out + (group << 5), headers + group * HEADER_BYTES
                )
                _store_also(e, halves, also, group)
            return []

        e.loop(width >> 5, [], step)

    return norm_row


def _store_also(e: Emitter, halves: list[Value], also: Value, group: Value) -> None:
    def store() -> None:
        for part, value in enumerate(halves):
            e.store(value, also + group * 128 + 64 * part, 4)

    e.when(e.compare("!=", also, e.const(I64, 0)), store)


def _quantize_row(e: Emitter, x: Value, width: Value, out: Value, headers: Value) -> None:
    def step(group: Value, _: list[Value]) -> list[Value]:
        halves = [e.load(x + group * 128 + 64 * part, F32X, 4) for part in range(2)]
        quantize_group(e, halves[0], halves[1], out + (group << 5), headers + group * HEADER_BYTES)
        return []

    e.loop(width >> 5, [], step)


def _copy_row(e: Emitter, x: Value, width: Value, out: Value) -> None:
    def step(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.load(x + index * 64, F32X, 4), out + index * 64, 4)
        return []

    e.loop(width >> 4, [], step)


def _softcap_row(e: Emitter, x: Value, width: Value, cap: Value) -> None:
    def step(index: Value, _: list[Value]) -> list[Value]:
        e.store(softcap(e, e.load(x + index * 64, F32X, 4), e.splat(cap)), x + index * 64, 4)
        return []

    e.loop(width >> 4, [], step)


def _embed_row(form: Format) -> Any:
    """One row of a packed table as float32: lane ``token % 16`` of each of its tile's loads."""

    def embed_row(
        e: Emitter, tile: Value, groups: Value, lane: Value, out: Value, factor: Value
    ) -> None:
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

    def embed_row_f32(
        e: Emitter, tile: Value, groups: Value, lane: Value, out: Value, factor: Value
    ) -> None:
        def step(k: Value, _: list[Value]) -> list[Value]:
            e.store(e.load(tile + k * 64 + lane * 4, F32, 4) * factor, out + k * 4, 4)
            return []

        e.loop(groups << 5, [], step)

    return embed_row_f32 if form is Format.F32 else embed_row


rms_row: Any = intrinsic(_norm_row(layer=False, residual=False), "iiiifiii")
layer_row: Any = intrinsic(_norm_row(layer=True, residual=False), "iiiifiii")
rms_add_row: Any = intrinsic(_norm_row(layer=False, residual=True), "iiiifiii")
quantize_row: Any = intrinsic(_quantize_row, "iiii")
copy_row: Any = intrinsic(_copy_row, "iii")
softcap_row: Any = intrinsic(_softcap_row, "iif")


@inline
def source_row(op, run, row):  # type: ignore[no-untyped-def]
    """Which row of the pass the operation's row ``row`` reads."""
    if peek(op, GATHER) == 1:
        return peek(peek(run, RUN_LOGIT_TABLE), row)
    return row


@inline
def norm_one(op, run, row):  # type: ignore[no-untyped-def]
    """Norm and quantize one row."""
    x = peek(op, X) + source_row(op, run, row) * peek(op, X_STRIDE)
    out = peek(op, OUT) + row * peek(op, OUT_STRIDE)
    headers = peek(op, OUT_HEADERS) + row * peek(op, OUT_HEADER_STRIDE)
    width, weight, bias, eps = (
        peek(op, WIDTH),
        peek(op, WEIGHT),
        peek(op, NORM_BIAS),
        peek_float(op, EPS),
    )
    also = peek(op, OUT_FLOAT)
    if also != 0:
        also += row * peek(op, OUT_FLOAT_STRIDE)
    kind = peek(op, KIND)
    if kind == RMS:
        rms_row(x, width, weight, bias, eps, out, headers, also)
    elif kind == LAYER:
        layer_row(x, width, weight, bias, eps, out, headers, also)
    else:
        quantize_row(x, width, out, headers)
    return 0


@inline
def norm_add_one(op, run, row):  # type: ignore[no-untyped-def]
    """``out = residual + norm(x)`` for one row."""
    x = peek(op, X) + row * peek(op, X_STRIDE)
    out = peek(op, OUT) + row * peek(op, OUT_STRIDE)
    residual = peek(op, RESIDUAL) + row * peek(op, RESIDUAL_STRIDE)
    rms_add_row(x, peek(op, WIDTH), peek(op, WEIGHT), 0, peek_float(op, EPS), out, 0, residual)
    return 0


@inline
def copy_one(op, run, row):  # type: ignore[no-untyped-def]
    """Copy one row out, for whoever reads hidden states."""
    x = peek(op, X) + row * peek(op, X_STRIDE)
    copy_row(x, peek(op, WIDTH), peek(op, OUT) + row * peek(op, OUT_STRIDE))
    return 0


def _row_kernel(one: Any, name: str) -> Any:
    """A kernel that applies ``one`` to every row: all by every thread when small, shared when large."""

    def rows_kernel(op, run, member):  # type: ignore[no-untyped-def]
        rows = peek(run, peek(op, ROWS))
        if rows * peek(op, WIDTH) <= ALONE:
            for row in range(rows):
                one(op, run, row)
            return 0
        team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
        claimed = claim(run, slot, member, team, rows)
        while claimed >= 0:
            for row in range(claim_first(claimed), claim_end(claimed)):
                one(op, run, row)
            claimed = claim(run, slot, member, team, rows)
        return 1

    rows_kernel.__name__ = rows_kernel.__qualname__ = name
    return kernel()(rows_kernel)


def _embed_one(form: Format) -> Any:
    emitted = intrinsic(_embed_row(form), "iiiif")

    def one(op, run, row):  # type: ignore[no-untyped-def]
        token = peek(peek(run, RUN_ROW_TABLE), row * ROW_FIELDS + ROW_TOKEN)
        tile = peek(op, TABLE) + (token >> 4) * peek(op, TABLE_STRIDE)
        out = peek(op, TABLE_OUT) + row * peek(op, TABLE_OUT_STRIDE)
        emitted(tile, peek(op, TABLE_GROUPS), token & 15, out, peek_float(op, TABLE_SCALE))
        return 0

    return inline(one)


norm = _row_kernel(norm_one, "norm")
norm_add = _row_kernel(norm_add_one, "norm_add")
tap = _row_kernel(copy_one, "tap")
embed_q4 = _row_kernel(_embed_one(Format.Q4), "embed_q4")
embed_q4m = _row_kernel(_embed_one(Format.Q4M), "embed_q4m")
embed_q8 = _row_kernel(_embed_one(Format.Q8), "embed_q8")
embed_f32 = _row_kernel(_embed_one(Format.F32), "embed_f32")


@kernel()
def cap_logits(op, run, member):  # type: ignore[no-untyped-def]
    """Soft cap of the logits in place: never by two threads, so always shared."""
    rows = peek(run, RUN_LOGIT_ROWS)
    chunks = (peek(op, WIDTH) + 511) // 512
    team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
    claimed = claim(run, slot, member, team, rows * chunks)
    while claimed >= 0:
        for unit in range(claim_first(claimed), claim_end(claimed)):
            row, chunk = unit // chunks, unit % chunks
            start = peek(op, WIDTH) * chunk // chunks // 16 * 16
            end = peek(op, WIDTH) * (chunk + 1) // chunks // 16 * 16
            x = peek(op, X) + row * peek(op, X_STRIDE) + 4 * start
            softcap_row(x, end - start, peek_float(op, EPS))
        claimed = claim(run, slot, member, team, rows * chunks)
    return 1
