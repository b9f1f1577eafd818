"""Prefetching: cache lines that another core has written, and weights that are read next.

Between cores that share no cache a line takes a fifth of a microsecond, and a load that waits for one blocks all
later loads. Prefetched together, many lines are in flight at once. Lines that will be written are prefetched too: a
store waits until no other core holds its line, and the next store waits for that one. Invariant: nothing here changes
a value.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.attention import fields as att
from miaotui.kernels.linear.fields import OUT, OUT_HEADER_STRIDE, OUT_HEADERS, OUT_STRIDE
from miaotui.kernels.linear.formats import GROUP, LINE
from miaotui.kernels.runtime.compiler import inline
from miaotui.kernels.runtime.memory import ask_for, ask_for_weights, ask_to_write, peek
from miaotui.kernels.runtime.ops import AHEAD, AHEAD_BYTES, AHEAD_UNITS, HEADER_BYTES, RUN_TEAM

AHEAD_LINES = 128  # while threads meet and norm: a third as many are half as good, twice as many no better
_FLOATS = 4 * GROUP  # bytes of a unit's outputs


@inline
def ask_ahead(op, run, member):  # type: ignore[no-untyped-def]
    """Prefetch the beginning of a member's share of the weights that are read after the next barrier."""
    weights = peek(op, AHEAD)
    if weights != 0:
        first = peek(op, AHEAD_UNITS) * member // peek(run, RUN_TEAM)
        share = weights + first * peek(op, AHEAD_BYTES)
        for line in range(AHEAD_LINES):
            ask_for_weights(share + LINE * line)


@inline
def ask_span(address: Any, size: Any) -> None:
    """Prefetch all lines of ``size`` bytes."""
    for at in range(0, size, LINE):
        ask_for(address + at)


@inline
def ask_inputs(rows, groups, input_bytes, x, x_stride, headers, header_stride):  # type: ignore[no-untyped-def]
    """Prefetch the quantized inputs of a product, which all threads have written."""
    for row in range(rows):
        ask_span(x + row * x_stride, groups * GROUP * input_bytes)
        ask_span(headers + row * header_stride, groups * HEADER_BYTES)


@inline
def ask_outputs(op, row, count, unit):  # type: ignore[no-untyped-def]
    """Prefetch, for writing, the outputs of a unit for ``count`` rows from ``row`` on."""
    stride = peek(op, OUT_STRIDE)
    target = peek(op, OUT) + row * stride
    if peek(op, OUT_HEADERS) == 0:
        target += unit * _FLOATS
        for _ in range(count):
            ask_to_write(target)
            ask_to_write(target + LINE)
            target += stride
        return
    header_stride = peek(op, OUT_HEADER_STRIDE)
    header = peek(op, OUT_HEADERS) + row * header_stride + unit * HEADER_BYTES
    target += unit * GROUP
    for _ in range(count):
        ask_to_write(target)
        ask_to_write(header)
        target += stride
        header += header_stride


@inline
def ask_attended(op, first, row, count, head):  # type: ignore[no-untyped-def]
    """Prefetch for a unit of attention: queries from ``row`` on, keys and values from ``first`` on, and results."""
    dim = peek(op, att.DIM)
    size = peek(op, att.GROUP_HEADS) * dim
    for index in range(first, row + count):
        source = peek(op, att.QKV) + index * peek(op, att.QKV_STRIDE)
        ask_span(source + peek(op, att.KEY_OFFSET) + head * dim * 4, dim * 4)
        ask_span(source + peek(op, att.VALUE_OFFSET) + head * dim * 4, dim * 4)
        if index >= row:
            ask_span(source + head * size * 4, size * 4)
            if peek(op, att.OUT_HEADERS) == 0:
                continue  # results lie elsewhere, as floats
            out = peek(op, att.OUT) + index * peek(op, att.OUT_STRIDE) + head * size
            for at in range(0, size, LINE):
                ask_to_write(out + at)
            headers = peek(op, att.OUT_HEADERS) + index * peek(op, att.OUT_HEADER_STRIDE)
            ask_to_write(headers + head * size // GROUP * HEADER_BYTES)
