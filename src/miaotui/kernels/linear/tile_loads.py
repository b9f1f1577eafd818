"""Reading packed weights: the address of a tile's records, and the codes and scales of a group as vectors.

Knows every `Layout` and no sums. Codes of several planes are put together here: a field costs a load (one for 2, 4 or 8
steps), a shift, a mask and, for upper bits, an "or"; all rows of a block share them.
"""

from __future__ import annotations

from llvmlite import ir

from miaotui.kernels.linear.formats import LINE, TILE_ROWS, Format
from miaotui.kernels.runtime.simd import F32, I8, I16, I32, I64, Emitter, Value


class Tile:
    """Some lanes of one tile: the address of its numbers, and how a record of it is read."""

    def __init__(self, e: Emitter, form: Format, address: Value, lanes: int, first: int, once: bool) -> None:
        self.e, self.form, self.layout, self.address = e, form, form.layout, address
        self.lanes, self.first, self.once = lanes, first, once

    def at(self, group: Value, ahead: Value | int | None) -> TileGroup:
        """Return one group of a format whose records hold one or two. Prefetches the data ``ahead`` bytes later."""
        form = self.form
        if form.record_groups == 1:
            record, inside = self.address + group * form.record_bytes, self.e.const(I64, 0)
        else:
            record, inside = self.address + (group >> 1) * form.record_bytes, group & 1
        if ahead is not None:
            self.e.prefetch(record + ahead, once=self.once)
        return self.inside(record, inside, ahead)

    def record(self, index: Value, ahead: Value | int | None) -> Value:
        """Return the address of a record of eight groups. Prefetches the head ``ahead`` bytes later."""
        record = self.address + index * self.form.record_bytes
        if ahead is not None:
            for line in range(0, self.form.head_bytes, LINE):
                self.e.prefetch(record + line + ahead, once=self.once)
        return record

    def inside(self, record: Value, group: Value, ahead: Value | int | None) -> TileGroup:
        """Return a group of a record. Prefetches the codes ``ahead`` bytes later."""
        codes = record + group * self.form.integer_bytes + self.form.head_bytes
        if ahead is not None:
            for line in range(0, self.form.integer_bytes, LINE):
                self.e.prefetch(codes + line + ahead, once=self.once)
        return TileGroup(self, record, group, codes + 4 * self.first)


class TileGroup:
    """One group of a tile: 32 inputs of its lanes."""

    def __init__(self, tile: Tile, record: Value, group: Value, codes: Value) -> None:
        self.e, self.form, self.layout, self.lanes = tile.e, tile.form, tile.layout, tile.lanes
        self.first, self.record, self.group, self.codes = tile.first, record, group, codes

    def weights(self, step: int) -> Value:
        """Return the weights of inputs ``4 step`` to ``4 step + 3`` as `Dot.step` takes them."""
        layout = self.layout
        if layout.low == 8:
            return self.signed(self._plane(0, step))
        codes = self._field(0, layout.low, step, 0)
        if layout.high:
            codes = codes | self._field(64 * layout.low, layout.high, step, layout.low)
        if not layout.table:
            return codes
        bias = self.e.dot.byte_bias if is_signed(self.form) else table_offset(self.form)
        found: Value = self.e.dot.lookup([entry + bias for entry in layout.table], codes)
        return found

    def signed(self, stored: Value) -> Value:
        """Return bytes that are stored as value + 128 as value + `Dot.byte_bias`."""
        return stored if self.e.dot.byte_bias else stored ^ 128

    def _plane(self, offset: int, load: int) -> Value:
        """Load 4 bytes for each lane."""
        size = 4 * self.lanes
        return self.e.load(self.codes + (offset + LINE * load), ir.VectorType(I8, size), min(size, 32))

    def _field(self, offset: int, bits: int, step: int, place: int) -> Value:
        """Return a step's field of a plane, at bit ``place`` of each byte."""
        plane = self._plane(offset, step * bits // 8)
        shift, mask = step * bits % 8 - place, ((1 << bits) - 1) << place
        if shift == 0:
            return plane & mask
        words = self.e.bits(plane, ir.VectorType(I16, plane.type.count // 2))
        moved = words >> shift if shift > 0 else words << -shift
        return self.e.bits(moved, plane.type) & mask

    def pairs(self, index: int) -> list[Value]:
        """Load weights ``8 index`` on as stored, as four vectors of int16: inputs 0 and 2 of each output, 1 and 3, …"""
        e = self.e
        kind = ir.VectorType(I16, 2 * self.lanes)
        if self.form is Format.Q8:
            words = [e.load(self.codes + (128 * index + 64 * i), kind, min(4 * self.lanes, 32)) for i in range(2)]
            return [part for word in words for part in (word & 255, word >> 8)]
        word = e.load(self.codes + 64 * index, kind, min(4 * self.lanes, 32))
        return [(word >> shift) & 15 for shift in (0, 8, 4, 12)]

    def scale(self) -> Value:
        """Load the group's scales, or its record's."""
        e, first = self.e, self.record + 2 * self.first
        if self.layout.exponents:
            stored = e.load(self.record + self.group * TILE_ROWS + self.first, ir.VectorType(I8, self.lanes), 8)
            power = e.widen_unsigned(stored, I32)
            # 2^(power - 128): the second is right for the two powers below float32's normal numbers
            bits = e.maximum((power - 1) << 23, (power + 1) << 21)
            return e.bits(bits, ir.VectorType(F32, self.lanes))
        scales = e.load_half(first if self.layout.subs else first + self.group * (2 * TILE_ROWS), self.lanes)
        return scales if self.layout.unit == 1 else scales * self.layout.unit

    def minimum(self) -> Value:
        """Load the group's minimums, or its record's."""
        at = self.layout.float_bytes - 2 * TILE_ROWS * (1 if self.layout.subs else self.layout.groups)
        first = self.record + (at + 2 * self.first)
        return self.e.load_half(first if self.layout.subs else first + self.group * (2 * TILE_ROWS), self.lanes)

    def sub_scale(self) -> Value:
        """Load the group's integer scale as float32, where a group has one."""
        return self.e.to_float(self.e.widen(self._integers(0), I32))

    def sub_minimum(self) -> Value:
        """Load the group's integer minimum as float32, where a group has one."""
        return self.e.to_float(self.e.widen(self._integers(self.layout.groups), I32))

    def subs(self) -> Value:
        """Load the integer scales of the group's halves as two int16 of each lane."""
        words = self.e.widen(self._integers(0), I16)
        return words & 15 if self.layout.nibbles else words

    def sub_minimums(self) -> Value:
        """Load the integer minimums of the group's halves in the form of `subs`."""
        if self.layout.nibbles:
            return self.e.widen(self._integers(0), I16) >> 4 & 15
        return self.e.widen(self._integers(self.layout.groups), I16)

    def _integers(self, first: int) -> Value:
        """Load int8 integers of a group, ``first`` groups further in the head."""
        each = self.layout.subs
        at = self.layout.float_bytes + first * TILE_ROWS * each + self.first * each
        address = self.record + self.group * (TILE_ROWS * each) + at
        return self.e.load(address, ir.VectorType(I8, self.lanes * each), 8)


def is_signed(form: Format) -> bool:
    """Return whether weights go to `Dot.step` as bytes of either sign: their values span more than 7 bits."""
    layout = form.layout
    return layout.low == 8 or (bool(layout.table) and max(layout.table) - min(layout.table) > 127)


def table_offset(form: Format) -> int:
    """Return how far values of a table lie above zero in unsigned weights."""
    return -min(form.layout.table)


def most_weight(form: Format) -> int:
    """Return the largest weight that `Dot.step` meets, or magnitude of one."""
    layout = form.layout
    if is_signed(form):
        return 128
    return max(layout.table) + table_offset(form) if layout.table else (1 << (layout.low + layout.high)) - 1
