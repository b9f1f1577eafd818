"""Inner loops of matrix products: 32 outputs of one to eight rows, from two packed tiles.

Processors differ only in how much fits in their registers. `Tiling` says how many rows are computed together, whether
the two tiles go side by side, and whether a tile is split in halves. The choice never changes a result: each output
is its own lane, summed over groups in ascending order.

Instructions of the inner loop for 512 weights (32 inputs of 16 outputs), as ``benchmarks/decode/inner_loops.py`` counts
them: of one row, and of a block of six rows, of which so many multiply weights: 96 with AVX2, 48 with AVX-512 VNNI.

             AVX2             AVX-512 VNNI                     AVX2             AVX-512 VNNI
    format   one row  block   one row  block   bytes  format   one row  block   one row  block   bytes
    q4       108      521     52       141     288    q3_k     166      557     74       166     228
    q4m       98      435     43       140     320    q4_k     113      436     54       144     296
    q8       134      644     47       136     544    q5_k     155      510     61       163     360
    q5_0     158      605     68       161     352    q6_k     167      570     73       169     420
    q5_1     149      511     60       158     384    iq4_xs   165      666     60       148     276
    q6       163      641     69       163     416    iq1      134      529     71       160     292
    iq4_nl   163      707     60       149     288    iq2      145      609     69       158     292
    mxfp4    136      587     65       157     272    iq3_s    131      525     70       159     292
    q2_k     119      514     54       162     168    tq2      103      481     45       136     148

With AVX2, a core that issues four vector instructions a cycle spends 25 to 42 cycles on such a group of one row; memory
that gives a core 4 bytes a cycle takes 37 (tq2) to 136 (q8): one row waits for memory. A block spends 109 to 177
cycles, where its multiplications alone need 48, two a cycle: a prompt is bound by what surrounds them, the loads of
inputs and weights and the joining of codes and scales. That is what a format of more planes costs: q6_k needs 134 more
than q4_k.

With AVX-512 VNNI one row takes 11 (q4m), 14 (q4_k), 15 (q5_1 and q5_k) and 18 cycles (q6_k) at four instructions a
cycle, and memory of 90 GB/s for two cores of 4.1 GHz 29, 27, 35, 33 and 38, as it takes 25 to 50 for all formats but
the smallest. AVX-VNNI without AVX-512 takes 20 (q8), 25 (q4_k), 35 (q5_k) and 41 (q6_k): there q5_k and q6_k have no
spare cycles any more where memory is that fast, and q4_k next to none beside what a pass does between products. Where
memory binds, what is missing to the read limit of a file is the 2.8 and 2.3% that q4_k and q5_k have more bytes than
their blocks, and what a pass does while it reads no weights: barriers, norms and attention, the more of it the faster
memory is.

With AVX-512 VNNI the two units that multiply bound a block: 60 of q4's instructions are theirs (48 dot products, 12 of
floats), 61 of iq4_xs's, 68 of q4_k's and q5_k's (minimums), 78 of q6_k's, which has two scales for a group: at least
30, 34 and 39 cycles; and all 169 of q6_k's, four a cycle, take 42. In cache, one core of a Zen 5 does 397 (q4) and
300 GMAC/s (q6_k): 32 and 42 cycles at 4.1 GHz. So 48 / 78 = 62% of the int8 rate is the most that q6_k can reach.
At these rates the products of a whole prompt of Llama 3.2 1B's shape, 243 million weights in four layers, take two
cores 306 microseconds a token in q4 and 405 in q6_k, of 389 and 467 that were measured (`docs/models.md`): attention,
norms and rounding take some 60 to 80 in every format, and the rest of q6_k's distance to q4 is its products'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from miaotui.kernels.linear.dots import splat_inputs, splat_pair
from miaotui.kernels.linear.formats import GROUP, LINE, SUPER_GROUPS, TILE_ROWS, Format
from miaotui.kernels.linear.tile_loads import Tile, TileGroup, is_signed, most_weight, table_offset
from miaotui.kernels.platform.cpu import Isa
from miaotui.kernels.runtime.memory import READ_ONCE
from miaotui.kernels.runtime.ops import HEADER_BYTES
from miaotui.kernels.runtime.simd import F32, I8X, I16, I32, I64, Emitter, Value, stack_floats

# How far ahead of its use a line is asked for: what a core reads within the time that memory takes to answer.
# A core also works ahead of what it waits for, by the 448 instructions that Zen 5 holds: one row on AVX-512 by 2.4
# (q5_0) to 2.6 KB (q6_k), on AVX2 by 0.8 to 1.3. Lines asked for some 9 KB ahead in all arrive soonest, so
# the first of them take 6 KiB, all others 8: products alone then read 2 to 5% more a second from memory, both cores.
PREFETCH_BYTES = 8192 if READ_ONCE else 4096
NEAR_BYTES = 6144 if READ_ONCE else 4096


@dataclass(frozen=True)
class Tiling:
    """Use of a processor's registers for a block of rows."""

    block: int  # rows per block when there are many
    most: int  # rows that still go as one block
    paired: tuple[int, ...] = ()  # row counts for which both tiles are summed side by side
    halved: int = 0  # from how many rows on half a tile goes at a time; from two, if groups have two scales; 0: never
    near: bool = False  # one row of at least 4 bits a weight has so few instructions that the core works far ahead

    def is_paired(self, rows: int, form: Format) -> bool:
        """Return whether both tiles are summed side by side. Two scales of a group take one more register a sum."""
        return rows in self.paired and form.layout.subs < 2 and not form.is_float

    def lanes(self, rows: int, form: Format) -> int:
        """Return how many outputs of a tile are summed together. Sums of floats are all that their loop holds."""
        first = min(2, self.halved) if form.layout.subs == 2 else self.halved
        return TILE_ROWS // 2 if 0 < first <= rows and not form.is_float else TILE_ROWS

    def ahead(self, rows: int, form: Format) -> int:
        """Return how many bytes ahead of its use a line is asked for."""
        return NEAR_BYTES if self.near and rows == 1 and form.layout.low >= 4 else PREFETCH_BYTES


def groups_together(form: Format, rows: int) -> int:
    """Return how many groups of a record a step of the loop adds.

    Of q5_k with one row two, ten lines instead of five: products alone then read 9% more a second from the memory of
    a Zen 5, both cores, and with the distance above 14%. Of a whole pass 3.5% are left, 9% without AVX-512, in pairs
    of runs. Other formats and more rows do not gain. Nothing in q5_k's counts sets it apart: 61 instructions for 360
    bytes, beside 68 for 352 of q5_0, take 15 of the 34 cycles in which memory delivers them.
    """
    return 2 if form is Format.Q5_K and rows == 1 else 1


# Side by side there are more chains of dot products in flight, which a prompt's blocks want. Other numbers of rows
# wait for memory, too, which streams best one tile after the other.
TILINGS = {
    Isa.AVX512_VNNI: Tiling(block=6, most=8, paired=(6,), near=True),
    Isa.AVX_VNNI: Tiling(block=6, most=8, halved=5),
    Isa.AVX2: Tiling(block=6, most=6, halved=2),
    Isa.NEON_DOTPROD: Tiling(block=4, most=4),
    Isa.PLAIN: Tiling(block=2, most=2, halved=2),
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


class _Sums:
    """Sums of all rows with some tiles, group after group. The loop carries ``rows x tiles`` values."""

    def __init__(self, e: Emitter, tiles: list[Tile], operands: Operands, ahead: Value | int | None) -> None:
        self.e, self.tiles, self.operands, self.ahead = e, tiles, operands, ahead
        self.form, self.layout, self.lanes = tiles[0].form, tiles[0].layout, tiles[0].lanes
        layout = self.layout
        self.offset = layout.offset
        if is_signed(self.form):
            self.offset = e.dot.byte_bias
        elif layout.table:
            self.offset = table_offset(self.form)

    def all(self) -> list[Value]:
        """Return every row's sums: row 0's tiles, row 1's, …"""
        zero = self.e.const(ir.VectorType(F32, self.lanes), 0.0)
        count = self.operands.rows * len(self.tiles)
        if self.layout.groups == SUPER_GROUPS:
            return self.e.loop(self.operands.groups >> 3, [zero] * count, self._record)
        return self.e.loop(self.operands.groups, [zero] * count, self._group)

    def _group(self, group: Value, carried: list[Value]) -> list[Value]:
        heads = [self.operands.header(row, group) for row in range(self.operands.rows)]
        parts = [tile.at(group, self.ahead) for tile in self.tiles]
        whole = self._wide_integers(group, heads, parts) if self.operands.wide else self._integers(group, heads, parts)
        scales = [part.scale() for part in parts]
        minimums = [part.minimum() for part in parts] if self.layout.minimums else []
        return [
            self._add(carried[i], whole[i], heads[i // len(parts)], i % len(parts), scales, minimums)
            for i in range(len(whole))
        ]

    def _record(self, index: Value, carried: list[Value]) -> list[Value]:
        """Add eight groups, whose scales are integers times their record's.

        A group's one integer becomes a float with its record's scale, once for all rows; those of halves multiply sums.
        """
        e = self.e
        records = [tile.record(index, self.ahead) for tile in self.tiles]
        zero = e.const(I64, 0)
        first = [tile.inside(record, zero, None) for tile, record in zip(self.tiles, records, strict=True)]
        scales = [part.scale() for part in first]
        minimums = [part.minimum() for part in first] if self.layout.minimums else []

        def group(inside: Value, totals: list[Value]) -> list[Value]:
            number = (index << 3) + inside
            heads = [self.operands.header(row, number) for row in range(self.operands.rows)]
            pairs = zip(self.tiles, records, strict=True)
            parts = [tile.inside(record, inside, self.ahead) for tile, record in pairs]
            whole = self._integers(number, heads, parts)
            if self.layout.subs == 1:  # products of both scales are exact
                own = [part.sub_scale() * scale for part, scale in zip(parts, scales, strict=True)]
                least = [parts[i].sub_minimum() * minimum for i, minimum in enumerate(minimums)]
                return [
                    self._add(totals[i], whole[i], heads[i // len(parts)], i % len(parts), own, least)
                    for i in range(len(whole))
                ]
            least = [part.sub_minimums() for part in parts] if minimums else []
            return [
                self._add_halves(totals[i], whole[i], heads[i // len(parts)], i % len(parts), scales, minimums, least)
                for i in range(len(whole))
            ]

        def step(number: Value, totals: list[Value]) -> list[Value]:
            for each in range(together):
                totals = group(number * together + each, totals)
            return totals

        together = groups_together(self.form, self.operands.rows)
        return e.loop(e.const(I64, SUPER_GROUPS // together), carried, group if together == 1 else step)

    def _integers(self, group: Value, heads: list[Value], parts: list[TileGroup]) -> list[Value]:
        """Compute the exact sums of one group; weights count as ``stored - offset``. Halves are times their scales."""
        e, rows, many = self.e, self.operands.rows, len(parts)
        signed, halves = is_signed(self.form), max(1, self.layout.subs)
        room = min(e.dot.room(most_weight(self.form)), 8 // halves)
        words = [part.subs() for part in parts] if self.layout.subs == 2 else []
        sums = self._starts(heads, words)
        for first in range(0, 8, room):
            scales = [e.dot.scale(word, first * halves // 8) for word in words] or [None] * many
            partial = [e.dot.start(total) if not words else None for total in sums]
            for index in range(first, first + room):
                weights = [part.weights(index) for part in parts]
                for row in range(rows):
                    at = self.operands.inputs(row) + group * 32 + 4 * index
                    inputs = splat_inputs(e, at, self.lanes)
                    for t in range(many):
                        i = row * many + t
                        partial[i] = e.dot.step(partial[i], weights[t], inputs, signed)
            sums = [e.dot.fold(total, partial[i], scales[i % many]) for i, total in enumerate(sums)]
        return sums

    def _starts(self, heads: list[Value], words: list[Value]) -> list[Value]:
        """Return each sum's start: the offset's share of it."""
        e, many = self.e, len(self.tiles)
        zero = e.splat(e.const(I32, 0), self.lanes)
        if not self.offset:
            return [zero] * (len(heads) * many)
        if not words:
            return [e.splat(e.load(head + 4, I32, 4) * -self.offset, self.lanes) for head in heads for _ in range(many)]
        shares = [word * -self.offset for word in words]
        return [e.dot.pairs(zero, share, splat_pair(e, head + 12, self.lanes)) for head in heads for share in shares]

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

    def _add_halves(
        self,
        total: Value,
        whole: Value,
        head: Value,
        tile: int,
        scales: list[Value],
        minimums: list[Value],
        least: list[Value],
    ) -> Value:
        """Compute `_add` with a record's scales, ``least`` being the integer minimums of the group's halves."""
        e = self.e
        total = self._add(total, whole, head, tile, scales, [])
        if not minimums:
            return total
        zero = e.splat(e.const(I32, 0), self.lanes)
        under = e.dot.pairs(zero, least[tile], splat_pair(e, head + 12, self.lanes))
        return self._add(total, under, head, tile, minimums, [])


def _float_sums(e: Emitter, tile: Tile, operands: Operands) -> list[Value]:
    """Sum float32 weights times inputs: one multiply-add per input, in ascending order."""
    kind, rows = ir.VectorType(F32, tile.lanes), range(operands.rows)

    def step(k: Value, carried: list[Value]) -> list[Value]:
        weights = e.load(tile.address + k * 64 + 4 * tile.first, kind, 4 * tile.lanes)
        inputs = [e.splat(e.load(operands.inputs(row) + k * 4, F32), tile.lanes) for row in rows]
        return [e.fma(inputs[row], weights, carried[row]) for row in rows]

    return e.loop(operands.groups * 32, [e.const(kind, 0.0)] * operands.rows, step)


def _bf16_sums(e: Emitter, tile: Tile, operands: Operands) -> list[Value]:
    """Sum bfloat16 weights times inputs, which are integers times their scale: one multiply-add for each, ascending.

    For each input and 16 outputs: a load, a widening, a shift; for each row a broadcast and a multiply-add.
    """
    kind, stored = ir.VectorType(F32, tile.lanes), ir.VectorType(I16, tile.lanes)
    inputs = [stack_floats(e, GROUP) for _ in range(operands.rows)]

    def group(number: Value, totals: list[Value]) -> list[Value]:
        codes = tile.address + number * tile.form.record_bytes
        for line in range(0, tile.form.record_bytes, LINE):
            e.prefetch(codes + (line + PREFETCH_BYTES), once=tile.once)
        for row, buffer in enumerate(inputs):
            scale = e.splat(e.load(operands.header(row, number), F32))
            for half in range(2):
                integers = e.load(operands.inputs(row) + number * GROUP + 16 * half, I8X)
                e.store(e.to_float(e.widen(integers, I32)) * scale, buffer + 64 * half, 4)

        def step(k: Value, carried: list[Value]) -> list[Value]:
            upper = e.load(codes + k * (2 * TILE_ROWS) + 2 * tile.first, stored, 2 * tile.lanes)
            weights = e.bits(e.widen_unsigned(upper, I32) << 16, kind)
            return [e.fma(e.load_splat(at + k * 4, F32), weights, carried[i]) for i, at in enumerate(inputs)]

        return e.loop(e.const(I64, GROUP), totals, step)

    return e.loop(operands.groups, [e.const(kind, 0.0)] * operands.rows, group)


def emit_unit(
    form: Format, rows: int, tiling: Tiling = Tiling(block=8, most=8), once: bool = READ_ONCE, wide: bool = False
) -> Callable[..., None]:
    """Make an emitter of 32 outputs for ``rows`` rows.

    ``once``: the caches need not keep the weights. ``wide``: inputs are int16 (see `quantize_group`).

    Its values are the first tile's address, the bytes to the next tile, the number of groups, the inputs and their
    stride, the headers and their stride, the outputs (float32) and their stride.
    """
    lanes = tiling.lanes(rows, form)
    paired = tiling.is_paired(rows, form)

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
                elif form is Format.BF16:
                    sums = _bf16_sums(e, tiles[0], operands)
                else:
                    ahead = stride * 2 if paired else tiling.ahead(rows, form)  # the next unit, or this stream
                    sums = _Sums(e, tiles, operands, ahead if first == 0 else None).all()
                for i, total in enumerate(sums):
                    row, tile = i // len(pair), pair[i % len(pair)]
                    e.store(total, out + out_stride * row + (64 * tile + 4 * first), 4)

    unit.__name__ = f"unit_{form.value}_{rows}{'_wide' if wide else ''}"
    return unit


def emit_tile(form: Format, rows: int, tiling: Tiling) -> Callable[..., None]:
    """Make an emitter of the 16 outputs of a single tile for ``rows`` rows; the caches keep its weights.

    Its values are those of `emit_unit` without the bytes to the next tile.
    """
    lanes = tiling.lanes(rows, form)

    def one_tile(
        e: Emitter,
        weights: Value,
        groups: Value,
        x: Value,
        x_stride: Value,
        headers: Value,
        header_stride: Value,
        out: Value,
        out_stride: Value,
    ) -> None:
        operands = Operands(rows, groups, x, x_stride, headers, header_stride)
        for first in range(0, TILE_ROWS, lanes):
            tile = Tile(e, form, weights, lanes, first, once=False)
            for row, total in enumerate(_Sums(e, [tile], operands, PREFETCH_BYTES if first == 0 else None).all()):
                e.store(total, out + out_stride * row + 4 * first, 4)

    one_tile.__name__ = f"tile_{form.value}_{rows}"
    return one_tile
