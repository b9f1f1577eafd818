"""Products of low-rank adapters beside those of the model: ``out += (x @ down.T) @ up.T``, by each row's own adapter.

`project` makes the few values between the two thin matrices: int8 inputs times 8-bit weights, exact within 32, as
`linear.matmul` does. `add` sums over ranks in ascending order, one multiply-add each, multiplies by the output's scale
and adds to what the product has stored. `activate` does so before an activation. A row's result depends on that row
and its adapter alone: never on the rows beside it, nor on which thread computes it.

Memory: a row alone reads its adapter's matrices once, 8.5 bits a weight of the first and 8 + 32 / rank of the second.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.adapters.fields import (
    DOWN,
    DOWN_STRIDE,
    FEW,
    HIDDEN,
    HIDDEN_STRIDE,
    IS_GATHERED,
    PAIRS,
    PART_FIELDS,
    PART_VALUES,
    PARTS,
    RANK,
    SCALE_BYTES,
    SECOND,
    THIRD,
    TILES,
    TOGETHER,
    UNITS,
    UP,
    WIDE,
    WIDE_STRIDE,
)
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.linear.epilogue import activate as activate_unit
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.tiles import TILINGS, emit_tile
from miaotui.kernels.platform.cpu import probe
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import peek
from miaotui.kernels.runtime.ops import (
    HEADER_BYTES,
    ROW_ADAPTER,
    ROW_FIELDS,
    ROWS,
    RUN_LOGIT_TABLE,
    RUN_ROW_TABLE,
    RUN_TEAM,
    SLOT,
)
from miaotui.kernels.runtime.simd import F32, F32X, I8X, I32, Emitter, Value, intrinsic
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first, own_memory

_X, _X_STRIDE, _HEADERS, _HEADER_STRIDE, _GROUPS = lin.X, lin.X_STRIDE, lin.HEADERS, lin.HEADER_STRIDE, lin.GROUPS
_OWN_ROWS, _OWN_HEADERS_AT = lin.OWN_ROWS, lin.OWN_HEADERS_AT
_MODE, _OUT, _OUT_STRIDE = lin.MODE, lin.OUT, lin.OUT_STRIDE
_OUT_HEADERS, _OUT_HEADER_STRIDE, _SILU = lin.OUT_HEADERS, lin.OUT_HEADER_STRIDE, lin.SILU
PART_BYTES, _UNIT_BYTES = 4 * PART_VALUES, 128
_TILING = TILINGS[probe().isa]

one_row: Any = intrinsic(emit_tile(Format.Q8, 1, _TILING), "iiiiiiii")
few_rows: Any = intrinsic(emit_tile(Format.Q8, min(TOGETHER, _TILING.most), _TILING), "iiiiiiii")
MOST_TOGETHER = min(TOGETHER, _TILING.most)


def _add_low_rank(e: Emitter, hidden: Value, rank: Value, up: Value, target: Value) -> None:
    """Compute ``target += scale * (hidden @ codes)`` for 32 outputs."""

    def step(index: Value, carried: list[Value]) -> list[Value]:
        factor = e.load_splat(hidden + (index << 2), F32)
        codes = up + ((index << 5) + SCALE_BYTES)
        halves = [e.to_float(e.widen(e.load(codes + 16 * half, I8X, 16), I32)) for half in range(2)]
        return [e.fma(half, factor, total) for half, total in zip(halves, carried, strict=True)]

    for half, total in enumerate(e.loop(rank, [e.const(F32X, 0.0)] * 2, step)):
        at = target + 64 * half
        e.store(e.fma(total, e.load(up + 64 * half, F32X, 4), e.load(at, F32X, 4)), at, 4)


add_low_rank: Any = intrinsic(_add_low_rank, "iiii")


@inline
def pair_of(op, run, row, part):  # type: ignore[no-untyped-def]
    """Return the address of the record of a row's adapter; 0 if the row has none, or none for this part."""
    number = peek(peek(run, RUN_LOGIT_TABLE), row) if peek(op, IS_GATHERED) == 1 else row
    table = peek(peek(run, RUN_ROW_TABLE), ROW_FIELDS * number + ROW_ADAPTER)
    if table == 0:
        return 0
    pair = table + peek(op, PAIRS) + 8 * PART_FIELDS * part
    return 0 if peek(pair, DOWN) == 0 else pair


@inline
def is_idle(op, run, rows):  # type: ignore[no-untyped-def]
    """Return whether no row's adapter changes the operation's product."""
    for row in range(rows):
        for part in range(peek(op, PARTS)):
            if pair_of(op, run, row, part) != 0:
                return False
    return True


@inline
def project_tiles(op, pair, count, at, x_stride, head, header_stride, out, stride):  # type: ignore[no-untyped-def]
    """Compute the values between the two matrices of one adapter's ``pair`` for ``count`` rows."""
    for tile in range(peek(pair, TILES)):
        weights = peek(pair, DOWN) + tile * peek(op, DOWN_STRIDE)
        if count == MOST_TOGETHER:
            few_rows(weights, peek(op, _GROUPS), at, x_stride, head, header_stride, out, stride)
        else:
            for index in range(count):
                here, its = at + index * x_stride, head + index * header_stride
                one_row(weights, peek(op, _GROUPS), here, x_stride, its, header_stride, out + index * stride, stride)
        out += 64
    return 0


@inline
def project_run(op, pair, row, count, part, x, headers):  # type: ignore[no-untyped-def]
    """Compute `project_tiles` for rows of a pass."""
    x_stride, header_stride, stride = peek(op, _X_STRIDE), peek(op, _HEADER_STRIDE), peek(op, HIDDEN_STRIDE)
    at, head = x + row * x_stride, headers + row * header_stride
    out = peek(op, HIDDEN) + row * stride + part * PART_BYTES
    return project_tiles(op, pair, count, at, x_stride, head, header_stride, out, stride)


@inline
def project_rows(op, run, row, end, part, x, headers):  # type: ignore[no-untyped-def]
    """Compute `project_run` for each run of rows with the same adapter."""
    while row < end:
        pair, count = pair_of(op, run, row, part), 1
        while count < MOST_TOGETHER and row + count < end and pair_of(op, run, row + count, part) == pair:
            count += 1
        if pair != 0:
            project_run(op, pair, row, count, part, x, headers)
        row += count
    return 0


@kernel()
def project(op, run, member):  # type: ignore[no-untyped-def]
    """Multiply each row's inputs by the first matrix of its adapter."""
    rows, team, slot, parts = peek(run, peek(op, ROWS)), peek(run, RUN_TEAM), peek(op, SLOT), peek(op, PARTS)
    if is_idle(op, run, rows):
        return 0
    x, headers = peek(op, _X), peek(op, _HEADERS)
    if rows <= peek(op, _OWN_ROWS):
        x = own_memory(run, member)
        headers = x + peek(op, _OWN_HEADERS_AT)
    block = 1 if rows <= FEW else MOST_TOGETHER
    tasks = (rows + block - 1) // block * parts
    claimed = claim(run, slot, member, team, tasks)
    while claimed >= 0:
        for task in range(claim_first(claimed), claim_end(claimed)):
            row = task // parts * block
            project_rows(op, run, row, min(row + block, rows), task % parts, x, headers)
        claimed = claim(run, slot, member, team, tasks)
    return 1


@inline
def add_unit(op, run, row, part, unit, target):  # type: ignore[no-untyped-def]
    """Add a row's second product to the 32 outputs of one unit of a part."""
    pair = pair_of(op, run, row, part)
    if pair != 0:
        rank = peek(pair, RANK)
        hidden = peek(op, HIDDEN) + row * peek(op, HIDDEN_STRIDE) + part * PART_BYTES
        add_low_rank(hidden, rank, peek(pair, UP) + unit * (SCALE_BYTES + 32 * rank), target)
    return 0


@inline
def row_of_task(task, rows, units):  # type: ignore[no-untyped-def]
    """Return the row of a task: a few rows one after another; of many rows all for one unit, which is read once."""
    return task // units if rows <= FEW else task % rows


@inline
def unit_of_task(task, rows, units):  # type: ignore[no-untyped-def]
    """Return the unit of a task."""
    return task % units if rows <= FEW else task // rows


@kernel()
def add(op, run, member):  # type: ignore[no-untyped-def]
    """Add each row's second product to the outputs of the model's own; nothing where no row's adapter has one."""
    rows, team, slot, units = peek(run, peek(op, ROWS)), peek(run, RUN_TEAM), peek(op, SLOT), peek(op, UNITS)
    if is_idle(op, run, rows):
        return 0
    claimed = claim(run, slot, member, team, rows * units)
    while claimed >= 0:
        for task in range(claim_first(claimed), claim_end(claimed)):
            row, unit = row_of_task(task, rows, units), unit_of_task(task, rows, units)
            part, first = 0, 0
            if unit >= peek(op, THIRD):
                part, first = 2, peek(op, THIRD)
            elif unit >= peek(op, SECOND):
                part, first = 1, peek(op, SECOND)
            target = peek(op, _OUT) + row * peek(op, _OUT_STRIDE) + unit * _UNIT_BYTES
            add_unit(op, run, row, part, unit - first, target)
        claimed = claim(run, slot, member, team, rows * units)
    return 1


@kernel()
def activate(op, run, member):  # type: ignore[no-untyped-def]
    """Add each row's second products to gate and up, and apply the activation, as a product's own end would.

    Without a place for results, the activation is left to who reads gate and up.
    """
    rows, team, slot, units = peek(run, peek(op, ROWS)), peek(run, RUN_TEAM), peek(op, SLOT), peek(op, UNITS)
    mode, wide, wide_stride = peek(op, _MODE), peek(op, WIDE), peek(op, WIDE_STRIDE)
    step = 2 * _UNIT_BYTES if mode < _SILU else _UNIT_BYTES
    claimed = claim(run, slot, member, team, rows * units)
    while claimed >= 0:
        for task in range(claim_first(claimed), claim_end(claimed)):
            row, unit = row_of_task(task, rows, units), unit_of_task(task, rows, units)
            gate = wide + row * wide_stride + unit * step
            add_unit(op, run, row, 0, unit, gate)
            if mode < _SILU:
                add_unit(op, run, row, 1, unit, gate + _UNIT_BYTES)
            if peek(op, _OUT) != 0:
                target = peek(op, _OUT) + row * peek(op, _OUT_STRIDE) + unit * 32
                header = peek(op, _OUT_HEADERS) + row * peek(op, _OUT_HEADER_STRIDE) + unit * HEADER_BYTES
                activate_unit(mode, gate, gate + _UNIT_BYTES, target, header)
        claimed = claim(run, slot, member, team, rows * units)
    return 1
