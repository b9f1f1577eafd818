"""Vector parts of attention that store a token's key and value in a page.

Knows addresses and widths alone, as `emit`. Invariant: whatever a head holds, what is stored are finite numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from miaotui.kernels.attention import fields
from miaotui.kernels.attention.emit import norm_head, rotate_head
from miaotui.kernels.runtime.arithmetic import narrow_half
from miaotui.kernels.runtime.simd import F32, F32X, I8, I64, LANES, Emitter, Value, stack_floats

MAX_HEAD_DIM = 1024
LINE = 4 * LANES


def store_key_value(int8: bool) -> Callable[..., None]:
    """An emitter that writes one token's key (transposed) and value of one head into a page."""

    def half_head(e: Emitter, key: Value, value: Value, page: Value, values: Value, dim: Value, slot: Value) -> None:
        def step(index: Value, _: list[Value]) -> list[Value]:
            halves = narrow_half(e, e.load(key + index * LINE, F32X, 4))
            column = page + index * (LANES * LANES * 2) + (slot << 1)
            for lane in range(LANES):
                e.store(e.lane(halves, lane), column + lane * LANES * 2, 2)
            row = values + (slot * dim + (index << 4) << 1)
            e.store(narrow_half(e, e.load(value + index * LINE, F32X, 4)), row, 2)
            return []

        e.loop(dim >> 4, [], step)

    def byte_head(e: Emitter, key: Value, value: Value, page: Value, values: Value, dim: Value, slot: Value) -> None:
        scales = [
            _store_scale(e, source, base + dim * LANES + (slot << 2), dim)
            for source, base in ((key, page), (value, values))
        ]

        def step(index: Value, _: list[Value]) -> list[Value]:
            whole = [
                e.narrow(e.to_int(e.unary("rint", e.load(source + index * LINE, F32X, 4) * inverse)), I8)
                for source, inverse in zip((key, value), scales, strict=True)
            ]
            column = page + index * (LANES * LANES) + slot
            for lane in range(LANES):
                e.store(e.lane(whole[0], lane), column + lane * LANES, 1)
            e.store(whole[1], values + slot * dim + (index << 4), 1)
            return []

        e.loop(dim >> 4, [], step)

    def emit(e: Emitter, op: Value, key: Value, value: Value, page: Value, slot: Value, position: Value) -> None:
        def field(number: int, kind: Any = I64) -> Value:
            return e.load(op + 8 * number, kind, 8)

        dim, rotated = field(fields.DIM), field(fields.ROTATED)
        row = position * (rotated >> 1) << 2
        buffer = stack_floats(e, MAX_HEAD_DIM)
        rotate_head(
            e,
            key,
            buffer,
            dim,
            rotated,
            field(fields.COS) + row,
            field(fields.SIN) + row,
            field(fields.KEY_NORM),
            field(fields.NORM_EPS, F32),
            e.const(F32, 1.0),
        )
        normed, norm = stack_floats(e, MAX_HEAD_DIM), field(fields.VALUE_NORM)
        has_norm = e.compare("!=", norm, e.const(I64, 0))
        e.when(has_norm, lambda: norm_head(e, value, normed, dim, norm, field(fields.NORM_EPS, F32)))
        source, values = e.select(has_norm, normed, value), page + field(fields.VALUES_IN_HEAD)
        (byte_head if int8 else half_head)(e, buffer, source, page, values, dim, slot)

    return emit


def _store_scale(e: Emitter, source: Value, target: Value, dim: Value) -> Value:
    """Store ``max |x| / 127`` of a head. Returns its reciprocal in all lanes.

    It is always a finite number, whatever the head holds: another sequence may get the page next, and its stale
    scales are multiplied by zero, not skipped.
    """

    def step(index: Value, carried: list[Value]) -> list[Value]:
        return [e.maximum(e.unary("fabs", e.load(source + index * LINE, F32X, 4)), carried[0])]

    top = e.reduce(e.loop(dim >> 4, [e.const(F32X, 0.0)], step)[0], e.maximum)
    top = e.minimum(top, e.const(F32, 3e38))
    e.store(top / 127.0, target, 4)
    zero, one = e.const(F32, 0.0), e.const(F32, 1.0)
    some = e.compare(">", top, zero)
    return e.splat(e.select(some, e.const(F32, 127.0) / e.select(some, top, one), zero))
