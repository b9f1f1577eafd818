"""Matrix products ``out[m, n] = sum over k of x[m, k] * w[n, k]`` with packed weights and int8 activations.

A *unit* is 32 outputs (two tiles). Threads claim units; a unit runs for all rows in blocks of at most 8. Sums within
a group of 32 inputs are exact integers. Groups are added in ascending order with one fused multiply-add each (two for
``q4m``). So an output never depends on the number of rows or threads.

Per group, tile and row: 8 dot products of 64, one conversion, one multiply, one multiply-add. Memory: the packed
weights once per pass, for up to 8 rows as for one.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.linear.epilogue import epilogue
from miaotui.kernels.linear.fields import (
    GATED_SILU,
    GROUPS,
    HEADER_STRIDE,
    HEADERS,
    MODE,
    OWN_HEADERS_AT,
    OWN_ROWS,
    SILU,
    TILE_STRIDE,
    UNITS,
    WEIGHTS,
    X_STRIDE,
    X,
)
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.tiles import TILINGS, emit_unit
from miaotui.kernels.platform.cpu import probe
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import READ_ONCE, peek
from miaotui.kernels.runtime.ops import ROWS, RUN_SCRATCH, RUN_SCRATCH_STRIDE, RUN_TEAM, SLOT
from miaotui.kernels.runtime.prefetch import ask_inputs, ask_outputs
from miaotui.kernels.runtime.simd import intrinsic
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first, own_memory

_TILING = TILINGS[probe().isa]
BLOCK_ROWS, MOST_ROWS = _TILING.block, _TILING.most  # rows of a block; rows that still go as one
_BLOCK, _MOST = BLOCK_ROWS, MOST_ROWS
LEAST_BLOCKS = 8  # of rows, before units are cut: the halves still read weights for several blocks
EVEN = 8  # units for each thread, from which on it matters little that one has one more


@inline
def parts_of_rows(rows, units, team):  # type: ignore[no-untyped-def]
    """Return into how many parts many rows are cut, so that threads share few units evenly."""
    if rows < LEAST_BLOCKS * _BLOCK or team == 1 or units >= EVEN * team:
        return 1
    return min((EVEN * team + units - 1) // units, rows // (LEAST_BLOCKS // 2 * _BLOCK))


@inline
def first_row(rows, part, parts):  # type: ignore[no-untyped-def]
    """Return where a part of the rows begins: with a whole block."""
    return rows if part == parts else rows * part // parts // _BLOCK * _BLOCK


def unit_function(form: Format, once: bool, wide: bool) -> Any:
    """Return compiled ``unit(rows, …)``: it calls the emitted variant for each number of rows from 1 to 8."""
    r1, r2, r3, r4, r5, r6, r7, r8 = (
        intrinsic(emit_unit(form, min(rows, _MOST), _TILING, once, wide), "iiiiiiiii") for rows in range(1, 9)
    )

    def unit(rows, w, stride, groups, x, x_stride, h, h_stride, out, out_stride):  # type: ignore[no-untyped-def]
        if rows == 1:
            r1(w, stride, groups, x, x_stride, h, h_stride, out, out_stride)
        elif rows == 2:
            r2(w, stride, groups, x, x_stride, h, h_stride, out, out_stride)
        elif rows == 3:
            r3(w, stride, groups, x, x_stride, h, h_stride, out, out_stride)
        elif rows == 4:
            r4(w, stride, groups, x, x_stride, h, h_stride, out, out_stride)
        elif rows == 5:
            r5(w, stride, groups, x, x_stride, h, h_stride, out, out_stride)
        elif rows == 6:
            r6(w, stride, groups, x, x_stride, h, h_stride, out, out_stride)
        elif rows == 7:
            r7(w, stride, groups, x, x_stride, h, h_stride, out, out_stride)
        else:
            r8(w, stride, groups, x, x_stride, h, h_stride, out, out_stride)

    return inline(unit)


def _linear_kernel(form: Format, name: str, once: bool = READ_ONCE, wide: bool = False) -> Any:
    unit = unit_function(form, once, wide)
    input_bytes = 2 if wide else 1
    out_stride = 128  # a row of 32 outputs

    def linear(op, run, member):  # type: ignore[no-untyped-def]
        rows = peek(run, peek(op, ROWS))
        team = peek(run, RUN_TEAM)
        units, slot = peek(op, UNITS), peek(op, SLOT)
        stride, groups = peek(op, TILE_STRIDE), peek(op, GROUPS)
        x, x_stride = peek(op, X), peek(op, X_STRIDE)
        h, h_stride = peek(op, HEADERS), peek(op, HEADER_STRIDE)
        if rows <= peek(op, OWN_ROWS):
            x = own_memory(run, member)
            h = x + peek(op, OWN_HEADERS_AT)
        elif rows <= _MOST:
            ask_inputs(rows, groups, input_bytes, x, x_stride, h, h_stride)
        out = peek(run, RUN_SCRATCH) + member * peek(run, RUN_SCRATCH_STRIDE)
        gated = GATED_SILU <= peek(op, MODE) < SILU
        tiles = 4 if gated else 2
        parts = parts_of_rows(rows, units, team)
        claimed = claim(run, slot, member, team, units * parts)
        while claimed >= 0:
            for claim_index in range(claim_first(claimed), claim_end(claimed)):
                part, index = claim_index // units, claim_index % units
                w = peek(op, WEIGHTS) + index * tiles * stride
                row, end = first_row(rows, part, parts), first_row(rows, part + 1, parts)
                while row < end:
                    count = end - row
                    if count > _MOST:
                        count = _BLOCK
                    ask_outputs(op, row, count, index)
                    at, head = x + row * x_stride, h + row * h_stride
                    unit(count, w, stride, groups, at, x_stride, head, h_stride, out, out_stride)
                    if gated:
                        gate = w + 2 * stride
                        unit(count, gate, stride, groups, at, x_stride, head, h_stride, out + 1024, out_stride)
                    epilogue(op, out, row, count, index)
                    row += count
            claimed = claim(run, slot, member, team, units * parts)
        return 1

    linear.__name__ = linear.__qualname__ = name
    return kernel()(linear)


linear_q4 = _linear_kernel(Format.Q4, "linear_q4")
linear_q4m = _linear_kernel(Format.Q4M, "linear_q4m")
linear_q8 = _linear_kernel(Format.Q8, "linear_q8")
linear_f32 = _linear_kernel(Format.F32, "linear_f32")
linear_bf16 = _linear_kernel(Format.BF16, "linear_bf16")
linear_q5_0 = _linear_kernel(Format.Q5_0, "linear_q5_0")
linear_q5_1 = _linear_kernel(Format.Q5_1, "linear_q5_1")
linear_q6 = _linear_kernel(Format.Q6, "linear_q6")
linear_iq4_nl = _linear_kernel(Format.IQ4_NL, "linear_iq4_nl")
linear_mxfp4 = _linear_kernel(Format.MXFP4, "linear_mxfp4")
linear_q2_k = _linear_kernel(Format.Q2_K, "linear_q2_k")
linear_q3_k = _linear_kernel(Format.Q3_K, "linear_q3_k")
linear_q4_k = _linear_kernel(Format.Q4_K, "linear_q4_k")
linear_q5_k = _linear_kernel(Format.Q5_K, "linear_q5_k")
linear_q6_k = _linear_kernel(Format.Q6_K, "linear_q6_k")
linear_iq4_xs = _linear_kernel(Format.IQ4_XS, "linear_iq4_xs")
linear_iq1 = _linear_kernel(Format.IQ1, "linear_iq1")
linear_iq2 = _linear_kernel(Format.IQ2, "linear_iq2")
linear_iq3_xxs = _linear_kernel(Format.IQ3_XXS, "linear_iq3_xxs")
linear_iq3_s = _linear_kernel(Format.IQ3_S, "linear_iq3_s")
linear_tq2 = _linear_kernel(Format.TQ2, "linear_tq2")

# Of small matrices that are read again after each pass: of a draft head, which the last cache has room for.
linear_q4_kept = _linear_kernel(Format.Q4, "linear_q4_kept", once=False)
linear_q4m_kept = _linear_kernel(Format.Q4M, "linear_q4m_kept", once=False)

# Of int16 activations, which an encoder's norms leave: half the products of an instruction, 32 times the steps.
linear_q4_wide = _linear_kernel(Format.Q4, "linear_q4_wide", wide=True)
linear_q4m_wide = _linear_kernel(Format.Q4M, "linear_q4m_wide", wide=True)
linear_q8_wide = _linear_kernel(Format.Q8, "linear_q8_wide", wide=True)
