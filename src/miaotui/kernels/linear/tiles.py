"""Inner loops of matrix products: 32 outputs of one to eight rows, from two packed tiles.

Processors differ only in how much fits in their registers. `Tiling` says how many rows are computed together, whether
the two tiles go side by side, and whether a tile is split in halves. The choice never changes a result: each output
is its own lane, summed over groups in ascending order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from miaotui.kernels.linear.dots import splat_inputs, splat_pair
from miaotui.kernels.linear.formats import LINE, TILE_ROWS, Format
from miaotui.kernels.platform.cpu import Isa
from miaotui.kernels.runtime.memory import READ_ONCE
from miaotui.kernels.runtime.ops import HEADER_BYTES
from miaotui.kernels.runtime.simd import F32, I8, I16, I32, Emitter, Value

# How far ahead of its use a line is asked for: what a core reads within the time that memory takes to answer.
# On Zen 5 with 90 GB/s for two cores 8 KiB make a pass of one row 9% shorter than 4 KiB; less or more is slower.
PREFETCH_BYTES = 8192 if READ_ONCE else 4096


@dataclass(frozen=True)
class Tiling:
    """Use of a processor's registers for a block of rows."""

    block: int  # rows per block when there are many
    most: int  # rows that still go as one block
    paired: tuple[int, ...] = ()  # row counts for which both tiles are summed side by side
    halved: bool = False  # two rows and more: half a tile at a time

    def lanes(self, rows: int, form: Format) -> int:
        """Return how many outputs of a tile are summed together. Sums of floats are all that their loop holds."""
        return TILE_ROWS // 2 if self.halved and rows > 1 and form is not Format.F32 else TILE_ROWS


# Side by side there are more chains of dot products in flight; but few rows wait for memory, which
# streams best one tile after the other.
TILINGS = {
    Isa.AVX512_VNNI: Tiling(block=6, most=8, paired=(5, 6, 7, 8)),
    Isa.AVX_VNNI: Tiling(block=4, most=4, halved=True),
    Isa.AVX2: Tiling(block=6, most=6, halved=True),
    Isa.NEON_DOTPROD: Tiling(block=4, most=4),
    Isa.PLAIN: Tiling(block=2, most=2, halved=True),
}


@dataclass(frozen=True)
class Operands:
    """Addresses of a unit's inputs: row ``r`` is at ``x + r * x_stride``, its headers likewise."""

    rows: int
    groups: Value
    x: Value
    x_stride: Value
    headers: Value
    header_stride: Value
    wide: bool = False  # inputs are int16

    def inputs(self, row: int) -> Value:
        """Return the address of a row's integers (or floats)."""
        return self.x + self.x_stride * row

    def header(self, row: int, group: Value) -> Value:
        """Return the address of a group's scale and sums."""
        return self.headers + self.header_stride * row + group * HEADER_BYTES


class Tile:
    """Some lanes of one tile: the address of its numbers, and how a group of it is read."""

    def __init__(self, e: Emitter, form: Format, address: Value, lanes: int, first: int, once: bool) -> None:
        self.e, self.form, self.address = e, form, address
        self.lanes, self.first, self.once = lanes, first, once

    def at(self, group: Value, ahead: Value | int | None) -> TileGroup:
        """Return one group. Prefetches the data ``ahead`` bytes later."""
        form = self.form
        if form.record_groups == 1:
            head = record = self.address + group * form.record_bytes
            integers = record + form.head_bytes
        else:
            record = self.address + (group >> 1) * form.record_bytes
            odd = group & 1
            head = record + odd * (2 * TILE_ROWS)
            integers = record + odd * form.integer_bytes + form.head_bytes
        if ahead is not None:
            self.e.prefetch(record + ahead, once=self.once)
            for line in range(0, form.integer_bytes, LINE):
                self.e.prefetch(integers + line + ahead, once=self.once)
        return TileGroup(self, head + 2 * self.first, integers + 4 * self.first)


class TileGroup:
    """One group of a tile: 32 inputs of its lanes."""

    def __init__(self, tile: Tile, head: Value, integers: Value) -> None:
        self.e, self.form, self.lanes = tile.e, tile.form, tile.lanes
        self.head, self.integers = head, integers

    def loads(self, index: int) -> list[Value]:
        """Load the weights of inputs ``8 index`` to ``8 index + 7`` as two vectors of bytes."""
        e, size = self.e, 4 * self.lanes
        kind = ir.VectorType(I8, size)
        if self.form is Format.Q8:
            return [e.load(self.integers + (128 * index + 64 * i), kind, size) for i in range(2)]
        packed = e.load(self.integers + 64 * index, kind, size)
        words = e.bits(packed, ir.VectorType(I16, size // 2))
        return [packed & 15, e.bits(words >> 4, kind) & 15]

    def pairs(self, index: int) -> list[Value]:
        """Load these weights as stored, as four vectors of int16: inputs 0 and 2 of each output, 1 and 3, and so on."""
        e = self.e
        kind = ir.VectorType(I16, 2 * self.lanes)
        if self.form is Format.Q8:
            words = [e.load(self.integers + (128 * index + 64 * i), kind, 4 * self.lanes) for i in range(2)]
            return [part for word in words for part in (word & 255, word >> 8)]
        word = e.load(self.integers + 64 * index, kind, 4 * self.lanes)
        return [(word >> shift) & 15 for shift in (0, 8, 4, 12)]

    def scale(self) -> Value:
        """Load the group's scales."""
        return self.e.load_half(self.head, self.lanes)

    def minimum(self) -> Value:
        """Load the group's minimums (``q4m``)."""
        return self.e.load_half(self.head + 2 * TILE_ROWS, self.lanes)


class _Sums:
    """Sums of all rows with some tiles, group after group. The loop carries ``rows x tiles`` values."""

    def __init__(self, e: Emitter, tiles: list[Tile], operands: Operands, ahead: Value | int | None) -> None:
        self.e, self.tiles, self.operands, self.ahead = e, tiles, operands, ahead
        self.form, self.lanes = tiles[0].form, tiles[0].lanes

    def all(self) -> list[Value]:
        """Return every row's sums: row 0's tiles, row 1's, …"""
        zero = self.e.const(ir.VectorType(F32, self.lanes), 0.0)
        count = self.operands.rows * len(self.tiles)
        return self.e.loop(self.operands.groups, [zero] * count, self._group)

    def _group(self, group: Value, carried: list[Value]) -> list[Value]:
        heads = [self.operands.header(row, group) for row in range(self.operands.rows)]
        parts = [tile.at(group, self.ahead) for tile in self.tiles]
        whole = self._wide_integers(group, heads, parts) if self.operands.wide else self._integers(group, heads, parts)
        scales = [part.scale() for part in parts]
        minimums = [part.minimum() for part in parts] if self.form is Format.Q4M else []
        return [
            self._add(carried[i], whole[i], heads[i // len(parts)], i % len(parts), scales, minimums)
            for i in range(len(whole))
        ]

    def _integers(self, group: Value, heads: list[Value], parts: list[TileGroup]) -> list[Value]:
        """Compute the exact sums of one group, with weights as ``stored - offset``."""
        e, rows, many = self.e, self.operands.rows, len(parts)
        per_sum = {Format.Q4: -8, Format.Q4M: 0, Format.Q8: -e.dot.byte_bias}[self.form]
        step = e.dot.byte if self.form is Format.Q8 else e.dot.nibble
        if per_sum:
            offsets = [e.splat(e.load(head + 4, I32, 4) * per_sum, self.lanes) for head in heads]
        else:
            offsets = [e.splat(e.const(I32, 0), self.lanes)] * rows
        sums = [e.dot.start(offsets[i // many]) for i in range(rows * many)]
        for index in range(4):
            halves = [part.loads(index) for part in parts]
            for half in range(2):
                for row in range(rows):
                    at = self.operands.inputs(row) + group * 32 + (8 * index + 4 * half)
                    inputs = splat_inputs(e, at, self.lanes)
                    for t in range(many):
                        i = row * many + t
                        sums[i] = step(sums[i], halves[t][half], inputs)
        return [e.dot.finish(total, offsets[i // many]) for i, total in enumerate(sums)]

    def _wide_integers(self, group: Value, heads: list[Value], parts: list[TileGroup]) -> list[Value]:
        """Compute the exact sums of one group with int16 inputs: weights as stored, less the offset's share."""
        e, many = self.e, len(parts)
        per_sum = -8 if self.form is Format.Q4 else 0
        starts = [
            e.load(head + 12, I32, 4) if self.form is Format.Q8 else e.load(head + 4, I32, 4) * per_sum
            for head in heads
        ]
        sums = [e.splat(start, self.lanes) for start in starts for _ in parts]
        for index in range(4):
            words = [part.pairs(index) for part in parts]
            for step in range(4):
                for row in range(self.operands.rows):
                    at = self.operands.inputs(row) + group * 64 + (16 * index + 4 * step)
                    inputs = splat_pair(e, at, self.lanes)
                    for t in range(many):
                        i = row * many + t
                        sums[i] = e.dot.pairs(sums[i], words[t][step], inputs)
        return sums

    def _add(
        self, total: Value, whole: Value, head: Value, tile: int, scales: list[Value], minimums: list[Value]
    ) -> Value:
        """Compute ``total + whole * input scale * weight scale (+ minimum * input scale * input sum)``."""
        e = self.e
        scaled = e.to_float(whole) * e.splat(e.load(head, F32), self.lanes)
        total = e.fma(scaled, scales[tile], total)
        if minimums:
            total = e.fma(minimums[tile], e.splat(e.load(head + 8, F32), self.lanes), total)
        return total


def _float_sums(e: Emitter, tile: Tile, operands: Operands) -> list[Value]:
    """Sum float32 weights times inputs: one multiply-add per input, in ascending order."""
    kind, rows = ir.VectorType(F32, tile.lanes), range(operands.rows)

    def step(k: Value, carried: list[Value]) -> list[Value]:
        weights = e.load(tile.address + k * 64 + 4 * tile.first, kind, 4 * tile.lanes)
        inputs = [e.splat(e.load(operands.inputs(row) + k * 4, F32), tile.lanes) for row in rows]
        return [e.fma(inputs[row], weights, carried[row]) for row in rows]

    return e.loop(operands.groups * 32, [e.const(kind, 0.0)] * operands.rows, step)


def emit_unit(
    form: Format, rows: int, tiling: Tiling = Tiling(block=8, most=8), once: bool = READ_ONCE, wide: bool = False
) -> Callable[..., None]:
    """Make an emitter of 32 outputs for ``rows`` rows.

    ``once``: the caches need not keep the weights. ``wide``: inputs are int16 (see `quantize_group`).

    Its values are the first tile's address, the bytes to the next tile, the number of groups, the inputs and their
    stride, the headers and their stride, the outputs (float32) and their stride.
    """
    lanes = tiling.lanes(rows, form)
    paired = rows in tiling.paired and form is not Format.F32

    def unit(
        e: Emitter,
        weights: Value,
        stride: Value,
        groups: Value,
        x: Value,
        x_stride: Value,
        headers: Value,
        header_stride: Value,
        out: Value,
        out_stride: Value,
    ) -> None:
        operands = Operands(rows, groups, x, x_stride, headers, header_stride, wide)
        addresses = [weights, weights + stride]
        together = [[0, 1]] if paired else [[0], [1]]
        for pair in together:
            for first in range(0, TILE_ROWS, lanes):
                tiles = [Tile(e, form, addresses[i], lanes, first, once) for i in pair]
                if form is Format.F32:
                    sums = _float_sums(e, tiles[0], operands)
                else:
                    ahead = stride * 2 if paired else PREFETCH_BYTES  # the next unit, or this stream
                    sums = _Sums(e, tiles, operands, ahead if first == 0 else None).all()
                for i, total in enumerate(sums):
                    row, tile = i // len(pair), pair[i % len(pair)]
                    e.store(total, out + out_stride * row + (64 * tile + 4 * first), 4)

    unit.__name__ = f"unit_{form.value}_{rows}{'_wide' if wide else ''}"
    return unit
