"""Passes of hand-filled operations over arrays, for the tests of kernels.

`run_pass` does what the engine's program and runner do together: a table of operations, a run, a
team. `Floating` and `Quantized` are buffers with strides wider than their rows; what lies between
and behind the rows must survive, and reading a buffer checks that it did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.kernels.linear import formats
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.packed_blocks import Blocks, pack, quantize
from miaotui.kernels.reference import Bytes
from miaotui.kernels.runtime import compiled, ops
from miaotui.kernels.runtime.thread_pool import ThreadPool, address_of, aligned_bytes, aligned_int64, shared_pool

HEADER = np.dtype([("scale", "f4"), ("sum", "i4"), ("offset", "f4"), ("start", "i4")])
UNTOUCHED = 0xA5
Operation = tuple[str, Mapping[int, int]]


def table_of(operations: Sequence[Operation]) -> NDArray[np.int64]:
    """Operations ``(kernel, fields)`` as the table that a team runs."""
    table = aligned_int64(len(operations) * ops.OP_FIELDS).reshape(-1, ops.OP_FIELDS)
    for index, (kernel, fields) in enumerate(operations):
        row = table[index]
        row[ops.FUNCTION], row[ops.SLOT] = compiled.address(kernel), index % ops.CLAIM_SLOTS
        for field, value in fields.items():
            row[field] = value
    return table


def run_pass(
    operations: Sequence[Operation], run_fields: Mapping[int, int], threads: int = 1, team: ThreadPool | None = None
) -> None:
    """Run operations once; ``run_fields`` say over which rows."""
    table, run = table_of(operations), aligned_int64(ops.RUN_FIELDS)
    for field, value in run_fields.items():
        run[field] = value
    (team or shared_pool(threads)).run(address_of(table), len(table), run)


class Guarded:
    """``rows`` rows of ``width_bytes`` with room between them; all of it is marked."""

    def __init__(self, rows: int, width_bytes: int, spare_bytes: int = 64) -> None:
        self.rows, self.width_bytes = rows, width_bytes
        self.stride = -(-width_bytes // 64) * 64 + spare_bytes
        self.data = aligned_bytes((rows + 1) * self.stride)
        self.data[:] = UNTOUCHED

    @property
    def address(self) -> int:
        return address_of(self.data)

    @property
    def table(self) -> NDArray[np.uint8]:
        return self.data.reshape(-1, self.stride)[: self.rows, : self.width_bytes]

    def check(self, rows: int) -> None:
        """Nothing but the first ``rows`` rows was written."""
        table = self.data.reshape(-1, self.stride)
        assert (table[:rows, self.width_bytes :] == UNTOUCHED).all(), "written beside a row"
        assert (table[rows:] == UNTOUCHED).all(), "written behind the last row"


class Floating(Guarded):
    """Rows of float32."""

    def __init__(self, rows: int, width: int, values: NDArray[np.float32] | None = None) -> None:
        super().__init__(rows, 4 * width)
        if values is not None:
            self.write(values)

    def write(self, values: NDArray[np.float32]) -> None:
        self.table[: len(values)] = np.ascontiguousarray(values).view(np.uint8)

    def read(self, rows: int | None = None) -> NDArray[np.float32]:
        """The first rows, which alone were written."""
        rows = self.rows if rows is None else rows
        self.check(rows)
        return self.table[:rows].copy().view(np.float32)


class Quantized:
    """Rows of int8, or int16 if ``wide``, and their headers."""

    def __init__(self, rows: int, width: int, values: Bytes | None = None, wide: bool = False) -> None:
        self.wide = wide
        self.integers = Guarded(rows, width * (1 + wide))
        self.headers = Guarded(rows, width // formats.GROUP * HEADER.itemsize)
        self.width = width
        if values is not None:
            self.write(values)

    def write(self, values: Bytes) -> None:
        rows, groups = values.scales.shape
        self.integers.table[:rows] = self._crossed(values.integers.reshape(rows, -1)).view(np.uint8)
        headers = np.zeros((rows, groups), HEADER)
        headers["scale"], headers["sum"] = values.scales, values.sums
        headers["offset"] = values.offsets
        headers["start"] = self._last_field(values)
        self.headers.table[:rows] = headers.view(np.uint8).reshape(rows, -1)

    def read(self, rows: int) -> Bytes:
        """The first rows, which alone were written; their headers agree with the integers."""
        self.integers.check(rows)
        self.headers.check(rows)
        integers = self._crossed(self.integers.table[:rows].copy().view(np.int16 if self.wide else np.int8))
        headers = self.headers.table[:rows].copy().view(HEADER)
        values = Bytes(integers.reshape(rows, -1, formats.GROUP), headers["scale"].copy())
        assert_same(headers["sum"], values.sums)
        assert_same(headers["offset"], values.offsets)
        assert_same(headers["start"], self._last_field(values))
        return values

    def _last_field(self, values: Bytes) -> NDArray[np.int32]:
        """What sums with 8-bit weights start from if wide, else the sums of both halves as two int16."""
        if self.wide:
            return -128 * values.sums
        rows, groups = values.scales.shape
        halves = values.integers.reshape(rows, groups, 2, 16).sum(axis=3).astype(np.int16)
        return halves.view(np.int32)[..., 0]

    def _crossed(self, integers: NDArray[Any]) -> NDArray[Any]:
        """The order in memory, and back: of each four int16 the middle ones change places."""
        if not self.wide:
            return integers
        return np.ascontiguousarray(integers.reshape(len(integers), -1, 4)[..., [0, 2, 1, 3]].reshape(integers.shape))


def assert_same(found: NDArray[np.generic], expected: NDArray[np.generic]) -> None:
    """Equal bit for bit; zeros of either sign are equal."""
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def assert_same_bytes(found: Bytes, expected: Bytes) -> None:
    assert_same(found.integers, expected.integers)
    assert_same(found.scales, expected.scales)


def packed(blocks: Blocks) -> NDArray[np.uint8]:
    """Blocks, rows padded to whole units, in the memory layout of the kernels."""
    rows, groups = blocks.integers.shape[:2]
    inputs = groups * formats.GROUP
    missing = formats.padded_rows(rows) - rows
    whole = blocks.mapped(lambda part: np.pad(part, [(0, missing)] + [(0, 0)] * (part.ndim - 1)))
    out = aligned_bytes(formats.packed_bytes(blocks.format, rows, inputs))
    pack(whole, out.reshape(-1, formats.tile_stride(blocks.format, inputs)))
    return out


def group_counts(form: Format, count: int) -> int:
    """``count`` groups, or as many whole records where a record is never cut."""
    each = form.record_groups
    return -(-count // each) * each if each == formats.SUPER_GROUPS else count


def random_blocks(form: Format, rows: int, inputs: int, rng: np.random.Generator, spread: float = 0.02) -> Blocks:
    """Any integers the format holds, any scales: also zero, negative, subnormal."""
    groups, layout = inputs // formats.GROUP, form.layout
    if form is Format.F32:
        return Blocks(form, rng.standard_normal((rows, groups, 32), np.float32))
    if form is Format.BF16:
        return quantize(form, rng.standard_normal((rows, inputs), np.float32))
    integers = rng.integers(0, 1 << (layout.low + layout.high), (rows, groups, 32), np.uint8)
    if layout.exponents:
        return Blocks(form, integers, rng.integers(100, 130, (rows, groups), np.uint8))
    shape = (rows, groups // layout.groups if layout.subs else groups)
    scales, minimums = (rng.normal(0, spread, shape).astype(np.float16) for _ in "ab")
    odd = rng.random(shape)
    scales[odd < 0.05] = 0
    scales[odd > 0.95] = np.float16(3e-7)
    blocks = Blocks(form, integers, scales, minimums if layout.minimums else None)
    return _with_subs(blocks, rng) if layout.subs else blocks


def _with_subs(blocks: Blocks, rng: np.random.Generator) -> Blocks:
    layout = blocks.format.layout
    shape = (*blocks.integers.shape[:2], layout.subs)
    low, high = SUB_RANGES[blocks.format]
    subs, least = (rng.integers(low, high, shape).astype(np.int8).view(np.uint8) for _ in "ab")
    return replace(blocks, subs=subs, sub_minimums=least if layout.minimums else None)


SUB_RANGES = {
    Format.Q2_K: (0, 16),
    Format.Q3_K: (-32, 32),
    Format.Q4_K: (0, 64),
    Format.Q5_K: (0, 64),
    Format.Q6_K: (-128, 128),
    Format.IQ4_XS: (-32, 32),
    Format.IQ1: (1, 16),
    Format.IQ2: (1, 32),
    Format.IQ3_XXS: (1, 32),
    Format.IQ3_S: (1, 32),
    Format.TQ2: (1, 2),
}
