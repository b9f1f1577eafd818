"""Operations on several residual streams (AltUp), on inputs of layers, and on sparse gates.

Each is *idempotent* and computes whole rows, as those of `rows`. A row's streams lie one after the other; ``WIDTH`` is
that of one.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.pointwise.emit import copy_row
from miaotui.kernels.pointwise.fields import (
    COEFFICIENTS,
    EPS,
    FACTOR,
    OUT,
    OUT_HEADER_STRIDE,
    OUT_HEADERS,
    OUT_STRIDE,
    PARTS,
    READ,
    READ_STRIDE,
    RESIDUAL,
    RESIDUAL_STRIDE,
    SCALES,
    WEIGHT,
    WIDTH,
    X_STRIDE,
    X,
)
from miaotui.kernels.pointwise.rows import row_kernel, source_row
from miaotui.kernels.pointwise.streams_emit import (
    STREAMS,
    add_row,
    add_to_streams_row,
    correct_row,
    length_row,
    merge_row,
    norm_add_scaled_row,
    predict_row,
    product_row,
    sparse_gate_row,
)
from miaotui.kernels.runtime.compiler import inline
from miaotui.kernels.runtime.memory import peek, peek_float
from miaotui.kernels.runtime.simd import intrinsic

emit_norm: Any = intrinsic(norm_add_scaled_row, "iiififi")
emit_add: Any = intrinsic(add_row, "iiii")
emit_product: Any = intrinsic(product_row, "iiiii")
emit_copy: Any = intrinsic(copy_row, "iii")
emit_length: Any = intrinsic(length_row, "iiii")
emit_merge: Any = intrinsic(merge_row, "iiii")
emit_predict: Any = intrinsic(predict_row, "iiifii")
emit_correct: Any = intrinsic(correct_row, "iiiifiiii")
emit_more: Any = intrinsic(add_to_streams_row, "iiii")
emit_sparse: Any = intrinsic(sparse_gate_row, "iifii")


@inline
def norm_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Compute ``out = (residual + norm(x)) * factor`` for each of a row's parts."""
    width, weight, eps, factor = peek(op, WIDTH), peek(op, WEIGHT), peek_float(op, EPS), peek_float(op, FACTOR)
    x, out = peek(op, X) + row * peek(op, X_STRIDE), peek(op, OUT) + row * peek(op, OUT_STRIDE)
    residual = peek(op, RESIDUAL) + row * peek(op, RESIDUAL_STRIDE)
    for part in range(peek(op, PARTS)):
        at = 4 * width * part
        emit_norm(x + at, width, weight, eps, residual + at, factor, out + at)
    return 0


@inline
def add_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Add two rows."""
    x, out = peek(op, X) + row * peek(op, X_STRIDE), peek(op, OUT) + row * peek(op, OUT_STRIDE)
    emit_add(x, peek(op, WIDTH), peek(op, RESIDUAL) + row * peek(op, RESIDUAL_STRIDE), out)
    return 0


@inline
def product_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Multiply two rows, and quantize the result."""
    other = peek(op, RESIDUAL) + row * peek(op, RESIDUAL_STRIDE)
    out, headers = peek(op, OUT) + row * peek(op, OUT_STRIDE), peek(op, OUT_HEADERS) + row * peek(op, OUT_HEADER_STRIDE)
    emit_product(peek(op, X) + row * peek(op, X_STRIDE), peek(op, WIDTH), other, out, headers)
    return 0


@inline
def spread_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Begin a row's streams: the embedding, then the others at its length."""
    width, first = peek(op, WIDTH), peek(op, RESIDUAL) + row * peek(op, RESIDUAL_STRIDE)
    x, out = peek(op, X) + row * peek(op, X_STRIDE), peek(op, OUT) + row * peek(op, OUT_STRIDE)
    emit_copy(first, width, out)
    for number in range(STREAMS - 1):
        emit_length(x + 4 * width * number, width, first, out + 4 * width * (number + 1))
    return 0


@inline
def merge_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Join the streams of a row whose logits are wanted to one."""
    first = peek(op, RESIDUAL) + source_row(op, run, row) * peek(op, RESIDUAL_STRIDE)
    x, out = peek(op, X) + row * peek(op, X_STRIDE), peek(op, OUT) + row * peek(op, OUT_STRIDE)
    emit_merge(first, peek(op, WIDTH), x, out)
    return 0


@inline
def predict_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Predict a row's streams after a layer."""
    x, out = peek(op, X) + row * peek(op, X_STRIDE), peek(op, OUT) + row * peek(op, OUT_STRIDE)
    emit_predict(x, peek(op, WIDTH), peek(op, WEIGHT), peek_float(op, EPS), peek(op, COEFFICIENTS), out)
    return 0


@inline
def correct_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Correct a row's predictions by the stream that was computed."""
    x, out = peek(op, X) + row * peek(op, X_STRIDE), peek(op, OUT) + row * peek(op, OUT_STRIDE)
    computed = peek(op, RESIDUAL) + row * peek(op, RESIDUAL_STRIDE)
    read, eps = peek(op, READ) + row * peek(op, READ_STRIDE), peek_float(op, EPS)
    width, router, coefficients, scales = peek(op, WIDTH), peek(op, WEIGHT), peek(op, COEFFICIENTS), peek(op, SCALES)
    emit_correct(x, width, computed, router, eps, coefficients, out, scales, read)
    return 0


@inline
def more_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Add what a layer's inputs give to all streams of a row but the first."""
    x, out = peek(op, X) + row * peek(op, X_STRIDE), peek(op, OUT) + row * peek(op, OUT_STRIDE)
    emit_more(x, peek(op, WIDTH), peek(op, RESIDUAL) + row * peek(op, RESIDUAL_STRIDE), out)
    return 0


@inline
def sparse_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Apply a gate that lets only the largest values of a row through."""
    out, headers = peek(op, OUT) + row * peek(op, OUT_STRIDE), peek(op, OUT_HEADERS) + row * peek(op, OUT_HEADER_STRIDE)
    x = peek(op, X) + row * peek(op, X_STRIDE)
    emit_sparse(x, peek(op, WIDTH), peek_float(op, FACTOR), out, headers)
    return 0


norm_add_scaled = row_kernel(norm_one, "norm_add_scaled")
add = row_kernel(add_one, "add")
product = row_kernel(product_one, "product")
spread = row_kernel(spread_one, "spread")
merge = row_kernel(merge_one, "merge")
predict = row_kernel(predict_one, "predict")
correct = row_kernel(correct_one, "correct")
add_to_streams = row_kernel(more_one, "add_to_streams")
sparse_gate = row_kernel(sparse_one, "sparse_gate")
