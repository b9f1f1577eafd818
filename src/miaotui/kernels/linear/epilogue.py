"""Epilogue of a matrix product: the work on 32 outputs while they are in the nearest cache.

`STORE` writes them (plus bias), `ADD` adds them to the residual stream. The other modes apply an activation, the gated
ones of them to 32 gate outputs, which they multiply by 32 up outputs; the result is quantized for the next product, or
float32 for one of float32 weights.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.linear.fields import (
    ADD,
    BIAS,
    GATED_GELU,
    GATED_GELU_ERF,
    GATED_SILU,
    GELU,
    GELU_ERF,
    MODE,
    OUT,
    OUT_HEADER_STRIDE,
    OUT_HEADERS,
    OUT_STRIDE,
    RELU,
    SILU,
)
from miaotui.kernels.runtime.arithmetic import gelu, gelu_tanh, quantize_group, relu, silu, swiglu_clamped, tanh
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


def _store_halves(e: Emitter, halves: list[Value], out: Value) -> None:
    for i, half in enumerate(halves):
        e.store(half, out + 64 * i, 4)


def _activated(activation: Any, gated: bool) -> Any:
    """Make an emitter of 32 outputs from ``gate`` (and ``up``); without a ``header`` they are float32."""

    def activated32(e: Emitter, gate: Value, up: Value, out: Value, header: Value) -> None:
        halves = [activation(e, e.load(gate + offset, F32X, 4)) for offset in (0, 64)]
        if gated:
            halves = [half * e.load(up + offset, F32X, 4) for half, offset in zip(halves, (0, 64), strict=True)]
        quantized = e.compare("!=", header, e.const(I64, 0))
        e.when(quantized, lambda: quantize_group(e, halves[0], halves[1], out, header))
        e.when(e.compare("==", header, e.const(I64, 0)), lambda: _store_halves(e, halves, out))

    return activated32


def _gated_clamped(e: Emitter, gate: Value, up: Value, out: Value, header: Value) -> None:
    """Store `swiglu_clamped` of 32 gate and 32 up outputs, as `_activated` does."""
    halves = [swiglu_clamped(e, e.load(gate + at, F32X, 4), e.load(up + at, F32X, 4)) for at in (0, 64)]
    e.when(e.compare("!=", header, e.const(I64, 0)), lambda: quantize_group(e, halves[0], halves[1], out, header))
    e.when(e.compare("==", header, e.const(I64, 0)), lambda: _store_halves(e, halves, out))


store32: Any = intrinsic(_store32, "iii")
add32: Any = intrinsic(_add32, "iii")
gated_silu32, gated_gelu32, gated_gelu_erf32 = (
    intrinsic(_activated(activation, gated=True), "iiii") for activation in (silu, gelu_tanh, gelu)
)
gated_clamped32: Any = intrinsic(_gated_clamped, "iiii")
silu32, gelu32, gelu_erf32, relu32, tanh32 = (
    intrinsic(_activated(activation, gated=False), "iiii") for activation in (silu, gelu_tanh, gelu, relu, tanh)
)


def _activate(mode: Any, gate: Any, up: Any, target: Any, header: Any) -> Any:
    """Apply the activation of ``mode`` to 32 outputs."""
    if mode == GATED_SILU:
        gated_silu32(gate, up, target, header)
    elif mode == GATED_GELU:
        gated_gelu32(gate, up, target, header)
    elif mode == GATED_GELU_ERF:
        gated_gelu_erf32(gate, up, target, header)
    elif mode < SILU:
        gated_clamped32(gate, up, target, header)
    elif mode == SILU:
        silu32(gate, up, target, header)
    elif mode == GELU:
        gelu32(gate, up, target, header)
    elif mode == GELU_ERF:
        gelu_erf32(gate, up, target, header)
    elif mode == RELU:
        relu32(gate, up, target, header)
    else:
        tanh32(gate, up, target, header)


def _finish_activated(op: Any, scratch: Any, row: Any, count: Any, unit: Any, mode: Any) -> Any:
    """Add the bias where the sums lie, and activate ``count`` rows of one unit."""
    gated, bias = mode < SILU, peek(op, BIAS)
    if bias != 0:
        bias += unit * (256 if gated else 128)
        for index in range(count):
            add32(bias, scratch + index * 128, 0)
            if gated:
                add32(bias + 128, scratch + index * 128 + 1024, 0)
    stride, header_stride = peek(op, OUT_STRIDE), peek(op, OUT_HEADER_STRIDE)
    header = peek(op, OUT_HEADERS)
    target = peek(op, OUT) + row * stride + unit * (128 if header == 0 else 32)
    if header != 0:
        header += row * header_stride + unit * HEADER_BYTES
    for index in range(count):
        gate = scratch + index * 128
        activate(mode, gate, gate + 1024, target, header)
        target += stride
        if header != 0:
            header += header_stride
    return 0


activate = inline(_activate)
finish_activated = inline(_finish_activated)


def _epilogue(op: Any, scratch: Any, row: Any, count: Any, unit: Any) -> Any:
    """Finish ``count`` rows from ``row`` on of one unit.

    ``scratch`` holds 32 floats for each row; for gated modes 32 more lie 1024 bytes further.
    """
    mode = peek(op, MODE)
    if mode >= GATED_SILU:
        return finish_activated(op, scratch, row, count, unit, mode)
    stride = peek(op, OUT_STRIDE)
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
