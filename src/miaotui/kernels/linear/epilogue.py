"""Epilogue of a matrix product: the work on 32 outputs while they are in the nearest cache.

`STORE` writes them (plus bias), `ADD` adds them to the residual stream, the gated modes combine 32 gate and 32 up
outputs with an activation and quantize the result for the next product.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.linear.fields import ADD, BIAS, GATED_SILU, MODE, OUT, OUT_HEADER_STRIDE, OUT_HEADERS, OUT_STRIDE
from miaotui.kernels.runtime.arithmetic import gelu_tanh, quantize_group, silu
from miaotui.kernels.runtime.compiler import inline
from miaotui.kernels.runtime.memory import peek
from miaotui.kernels.runtime.ops import HEADER_BYTES
from miaotui.kernels.runtime.simd import F32X, I64, Emitter, Value, intrinsic


def _store32(e: Emitter, source: Value, target: Value, bias: Value) -> None:
    _combine(e, source, target, bias, add=False)


def _add32(e: Emitter, source: Value, target: Value, bias: Value) -> None:
    _combine(e, source, target, bias, add=True)


def _combine(e: Emitter, source: Value, target: Value, bias: Value, add: bool) -> None:
    """Compute ``target (+)= source + bias`` for 32 floats."""
    some = e.compare("!=", bias, e.const(I64, 0))
    for offset in (0, 64):
        value = e.load(source + offset, F32X, 4)
        if add:
            value = e.load(target + offset, F32X, 4) + value
        e.store(value, target + offset, 4)

    def add_bias() -> None:
        for offset in (0, 64):
            total = e.load(target + offset, F32X, 4) + e.load(bias + offset, F32X, 4)
            e.store(total, target + offset, 4)

    e.when(some, add_bias)


def _gated(activation: Any) -> Any:
    def gated32(e: Emitter, gate: Value, up: Value, integers: Value, header: Value) -> None:
        halves = [activation(e, e.load(gate + offset, F32X, 4)) * e.load(up + offset, F32X, 4) for offset in (0, 64)]
        quantize_group(e, halves[0], halves[1], integers, header)

    return gated32


store32: Any = intrinsic(_store32, "iii")
add32: Any = intrinsic(_add32, "iii")
gated_silu32: Any = intrinsic(_gated(silu), "iiii")
gated_gelu32: Any = intrinsic(_gated(gelu_tanh), "iiii")


def _epilogue(op: Any, scratch: Any, row: Any, count: Any, unit: Any) -> Any:
    """Finish ``count`` rows from ``row`` on of one unit.

    ``scratch`` holds 32 floats for each row; for gated modes 32 more lie 1024 bytes further.
    """
    mode = peek(op, MODE)
    stride = peek(op, OUT_STRIDE)
    if mode >= GATED_SILU:
        target = peek(op, OUT) + row * stride + unit * 32
        header_stride = peek(op, OUT_HEADER_STRIDE)
        header = peek(op, OUT_HEADERS) + row * header_stride + unit * HEADER_BYTES
        for index in range(count):
            gate = scratch + index * 128
            if mode == GATED_SILU:
                gated_silu32(gate, gate + 1024, target, header)
            else:
                gated_gelu32(gate, gate + 1024, target, header)
            target += stride
            header += header_stride
        return 0
    target = peek(op, OUT) + row * stride + unit * 128
    bias = peek(op, BIAS)
    if bias != 0:
        bias += unit * 128
    for index in range(count):
        if mode == ADD:
            add32(scratch + index * 128, target, bias)
        else:
            store32(scratch + index * 128, target, bias)
        target += stride
    return 0


epilogue = inline(_epilogue)
