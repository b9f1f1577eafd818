"""Matrix products ``out[m, n] = sum over k of x[m, k] * w[n, k]`` with packed weights and int8 activations.

A *unit* is 32 outputs (two tiles). Threads claim units; a unit runs for all rows in blocks of at
most 8. Sums within a group of 32 inputs are exact integers; groups are added in ascending order
with one fused multiply-add each (two for ``q4m``), so an output never depends on how many rows or
threads there were.

Per group, tile and row: 8 dot products of 64, one conversion, one multiply, one multiply-add.
Memory: the packed weights once per pass, for up to 8 rows as for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from miaotui.kernels.compiler import inline, kernel
from miaotui.kernels.cpu import Isa, probe
from miaotui.kernels.dots import splat_inputs
from miaotui.kernels.epilogue import epilogue
from miaotui.kernels.formats import LINE, Format
from miaotui.kernels.linear_fields import (
    GATED_SILU,
    GROUPS,
    HEADER_STRIDE,
    HEADERS,
    MODE,
    TILE_STRIDE,
    UNITS,
    WEIGHTS,
    X_STRIDE,
    X,
)
from miaotui.kernels.memory import peek
from miaotui.kernels.ops import HEADER_BYTES, ROWS, RUN_SCRATCH, RUN_SCRATCH_STRIDE, RUN_TEAM, SLOT
from miaotui.kernels.simd import BYTES, F32, F32X, I16, I32, LANES, Emitter, Value, intrinsic
from miaotui.kernels.sync import claim, claim_end, claim_first

PREFETCH_BYTES = 4096
STREAMING = 8  # rows up to which a product waits for memory rather than for arithmetic
# Row counts for which a unit's two tiles are summed side by side: more chains of dot products in
# flight. Fewer rows wait for
# memory, which streams best one tile after the other; more rows do not fit the registers.
_PAIRED = {Isa.AVX512_VNNI: (5, 6), Isa.NEON_DOTPROD: (3,)}
# rows per block when there are many
BLOCK = {Isa.AVX512_VNNI: 6, Isa.AVX_VNNI: 4, Isa.AVX2: 4, Isa.NEON_DOTPROD: 6, Isa.PLAIN: 4}[
    probe().isa
]


class _Tile:
    """Where one tile's numbers are, and how a group of it is read."""

    def __init__(self, e: Emitter, form: Format, address: Value) -> None:
        self.e, self.form, self.address = e, form, address

    def at(self, group: Value, prefetch: bool) -> _Group:
        """The addresses of one group; ``prefetch`` asks for the one that is read a little later."""
        form = self.form
        if form.record_groups == 1:
            record = self.address + group * form.record_bytes
            found = _Group(self.e, form, record, record + form.head_bytes)
        else:
            record = self.address + (group >> 1) * form.record_bytes
            odd = group & 1
            integers = record + odd * form.integer_bytes + form.head_bytes
            found = _Group(self.e, form, record + odd * (2 * LANES), integers)
        if prefetch:
            self.e.prefetch(record + PREFETCH_BYTES)
            for line in range(0, form.integer_bytes, LINE):
                self.e.prefetch(found.integers + (PREFETCH_BYTES + line))
        return found


class _Group:
    """One group of a tile: 32 inputs of 16 rows."""

    def __init__(self, e: Emitter, form: Format, head: Value, integers: Value) -> None:
        self.e, self.form, self.head, self.integers = e, form, head, integers

    def loads(self, index: int) -> list[Value]:
        """The weights of inputs ``8 index`` to ``8 index + 7`` as two vectors of bytes."""
        e = self.e
        if self.form is Format.Q8:
            return [
                e.load(self.integers + (128 * index + 64 * half), BYTES, 64) for half in range(2)
            ]
        packed = e.load(self.integers + 64 * index, BYTES, 64)
        words = e.bits(packed, ir.VectorType(I16, 2 * LANES))
        return [packed & 15, e.bits(words >> 4, BYTES) & 15]

    def scale(self) -> Value:
        """The group's 16 scales."""
        return self.e.load_half(self.head)

    def minimum(self) -> Value:
        """The group's 16 minimums (``q4m``)."""
        return self.e.load_half(self.head + 2 * LANES)


def _emit_tiles(
    e: Emitter, form: Format, rows: int, tiles: list[_Tile], x: Any, headers: Any, groups: Value
) -> list[list[Value]]:
    """The sums of ``rows`` rows with each tile: ``[rows][tiles]`` vectors of 16 outputs."""
    offset_per_sum = {Format.Q4: -8, Format.Q4M: 0, Format.Q8: -e.dot.byte_bias}[form]
    step = e.dot.byte if form is Format.Q8 else e.dot.nibble
    many = len(tiles)
    zero = e.const(F32X, 0.0)

    def group_step(group: Value, carried: list[Value]) -> list[Value]:
        head = [headers(row) + group * HEADER_BYTES for row in range(rows)]
        if offset_per_sum:
            offsets = [
                e.splat(e.load(head[row] + 4, I32, 4) * offset_per_sum) for row in range(rows)
            ]
        else:
            offsets = [e.splat(e.const(I32, 0))] * rows
        sums = [[e.dot.start(offsets[row]) for _ in tiles] for row in range(rows)]
        parts = [tile.at(group, prefetch=rows <= STREAMING) for tile in tiles]
        for index in range(4):
            halves = [part.loads(index) for part in parts]
            for half in range(2):
                for row in range(rows):
                    inputs = splat_inputs(e, x(row) + group * 32 + (8 * index + 4 * half))
                    for t in range(many):
                        sums[row][t] = step(sums[row][t], halves[t][half], inputs)
        scales = [part.scale() for part in parts]
        minimums = [part.minimum() for part in parts] if form is Format.Q4M else None
        result = []
        for row in range(rows):
            scale = e.load_splat(head[row], F32)
            for t in range(many):
                whole = e.to_float(e.dot.finish(sums[row][t], offsets[row]))
                total = e.fma(whole * scale, scales[t], carried[row * many + t])
                if minimums:
                    total = e.fma(minimums[t], e.load_splat(head[row] + 8, F32), total)
                result.append(total)
        return result

    flat = e.loop(groups, [zero] * (rows * many), group_step)
    return [flat[row * many : (row + 1) * many] for row in range(rows)]


def _emit_tiles_f32(e: Emitter, rows: int, tile: _Tile, x: Any, groups: Value) -> list[list[Value]]:
    """The same for float32 weights and inputs: one multiply-add per input, in ascending order."""

    def input_step(k: Value, carried: list[Value]) -> list[Value]:
        weights = e.load(tile.address + k * 64, F32X, 64)
        return [
            e.fma(e.load_splat(x(row) + k * 4, F32), weights, carried[row]) for row in range(rows)
        ]

    sums = e.loop(groups * 32, [e.const(F32X, 0.0)] * rows, input_step)
    return [[total] for total in sums]


def emit_unit(form: Format, rows: int, paired: Sequence[int] = ()) -> Any:
    """An emitter for 32 outputs of ``rows`` rows; also what the cross-compiled tests build."""

    def unit(
        e: Emitter, weights: Value, stride: Value, groups: Value, x: Value, x_stride: Value,
        headers: Value, header_stride: Value, out: Value, out_stride: Value,
    ) -> None:  # fmt: skip
        addresses = [weights, weights + stride]
        pairs = (
            [addresses] if rows in paired and form is not Format.F32 else [[a] for a in addresses]
        )
        done = 0
        for pair in pairs:
            tiles = [_Tile(e, form, address) for address in pair]

            def x_row(row: int) -> Value:
                return x + x_stride * row

            def header_row(row: int) -> Value:
                return headers + header_stride * row

            if form is Format.F32:
                sums = _emit_tiles_f32(e, rows, tiles[0], x_row, groups)
            else:
                sums = _emit_tiles(e, form, rows, tiles, x_row, header_row, groups)
            for row in range(rows):
                for t, total in enumerate(sums[row]):
                    e.store(total, out + out_stride * row + (done + t) * 64, 4)
            done += len(pair)

    unit.__name__ = f"unit_{form.value}_{rows}"
    return unit


def _unit_function(form: Format) -> Any:
    """Compiled ``unit(rows, …)``: the emitted variant for each number of rows from 1 to 8."""
    paired = _PAIRED.get(probe().isa, ())
    r1, r2, r3, r4, r5, r6, r7, r8 = (
        intrinsic(emit_unit(form, rows, paired), "iiiiiiiii") for rows in range(1, 9)
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


def _linear_kernel(form: Format) -> Any:
    unit = _unit_function(form)
    out_stride = 128  # a row of 32 outputs

    def linear(op, run, member):  # type: ignore[no-untyped-def]
        rows = peek(run, peek(op, ROWS))
        team = peek(run, RUN_TEAM)
        units, slot = peek(op, UNITS), peek(op, SLOT)
        stride, groups = peek(op, TILE_STRIDE), peek(op, GROUPS)
        x, x_stride = peek(op, X), peek(op, X_STRIDE)
        h, h_stride = peek(op, HEADERS), peek(op, HEADER_STRIDE)
        out = peek(run, RUN_SCRATCH) + member * peek(run, RUN_SCRATCH_STRIDE)
        gated = peek(op, MODE) >= GATED_SILU
        tiles = 4 if gated else 2
        claimed = claim(run, slot, member, team, units)
        while claimed >= 0:
            for index in range(claim_first(claimed), claim_end(claimed)):
                w = peek(op, WEIGHTS) + index * tiles * stride
                row = 0
                while row < rows:
                    count = rows - row
                    if count > 8:
                        count = BLOCK
                    unit(count, w, stride, groups, x + row * x_stride, x_stride,
                         h + row * h_stride, h_stride, out, out_stride)  # fmt: skip
                    if gated:
                        unit(count, w + 2 * stride, stride, groups, x + row * x_stride, x_stride,
                             h + row * h_stride, h_stride, out + 1024, out_stride)  # fmt: skip
                    epilogue(op, out, row, count, index)
                    row += count
            claimed = claim(run, slot, member, team, units)
        return 1

    linear.__name__ = linear.__qualname__ = f"linear_{form.value}"
    return kernel()(linear)


linear_q4 = _linear_kernel(Format.Q4)
linear_q4m = _linear_kernel(Format.Q4M)
linear_q8 = _linear_kernel(Format.Q8)
linear_f32 = _linear_kernel(Format.F32)

LINEAR = {
    Format.Q4: linear_q4,
    Format.Q4M: linear_q4m,
    Format.Q8: linear_q8,
    Format.F32: linear_f32,
}
