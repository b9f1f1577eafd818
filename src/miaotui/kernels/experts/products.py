"""Matrix products with the chosen experts of each row; no others are read.

All of an operation's experts are shared out together, without a meeting between them. `gate_up` cuts them into units
of 32 gate and 32 up outputs of one expert. `down` cuts the *outputs*: a thread computes its columns for every expert in
ascending order, and adds each to the residual stream with the route's weight. So a row's sum has one order, whatever
runs beside it, and no two threads write one value. Blocks of rows are those of `linear.matmul`.

Memory: the weights of each used expert once per pass, in runs of several units (`RUN_UNITS` of down, a whole expert of
gate and up); the beginning of the next run is prefetched during the last unit of a run.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.adapters.routes import add_expert_pairs
from miaotui.kernels.experts.emit import add_weighted
from miaotui.kernels.experts.fields import (
    EXPERT_BIAS,
    EXPERT_BYTES,
    FIRST_USED,
    GATHERED,
    GATHERED_HEADER_STRIDE,
    GATHERED_HEADERS,
    GATHERED_STRIDE,
    ROUTE_FIELDS,
    ROUTE_ROW,
    TABLE,
    TABLE_ROUTES,
    USED,
    USED_FIELDS,
)
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.linear.epilogue import add32 as add_bias
from miaotui.kernels.linear.epilogue import epilogue
from miaotui.kernels.linear.formats import LINE, Format
from miaotui.kernels.linear.matmul import BLOCK_ROWS, MOST_ROWS, unit_function
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import READ_ONCE, ask_for_weights, ask_to_write, peek
from miaotui.kernels.runtime.ops import ROWS, RUN_SCRATCH, RUN_SCRATCH_STRIDE, RUN_TEAM, SLOT
from miaotui.kernels.runtime.prefetch import ask_outputs
from miaotui.kernels.runtime.simd import intrinsic
from miaotui.kernels.runtime.sync import claim_end, claim_first, claim_some, own_memory

add32: Any = intrinsic(add_weighted, "iii")

RUN_UNITS = 8  # of down for one expert after another: 110 KB of 4-bit weights of 768 inputs
SHARES = 32  # claims of each thread, of gate and up
NEXT_LINES = 128  # of the next run, prefetched: as far as a product prefetches within one
_USED_BYTES = 8 * USED_FIELDS
_OUT_STRIDE = 128  # a row of 32 outputs
_WEIGHTS, _STRIDE, _GROUPS, _UNITS = lin.WEIGHTS, lin.TILE_STRIDE, lin.GROUPS, lin.UNITS
_X, _X_STRIDE, _HEADERS, _HEADER_STRIDE = lin.X, lin.X_STRIDE, lin.HEADERS, lin.HEADER_STRIDE
_OWN_ROWS, _OWN_HEADERS_AT, _OUT, _OUT_BYTES = lin.OWN_ROWS, lin.OWN_HEADERS_AT, lin.OUT, lin.OUT_STRIDE


@inline
def used_expert(table, number):  # type: ignore[no-untyped-def]
    """Return the address of the number-th entry of the list of used experts."""
    return table + 8 * FIRST_USED + number * _USED_BYTES


@inline
def ask_run(weights):  # type: ignore[no-untyped-def]
    """Prefetch the beginning of a run of weights."""
    for line in range(NEXT_LINES):
        ask_for_weights(weights + LINE * line)


@inline
def block_of(left):  # type: ignore[no-untyped-def]
    """Return how many of the rows that are left go together."""
    return BLOCK_ROWS if left > MOST_ROWS else left


@inline
def add_biases(op, expert, units, index, size, count, out):  # type: ignore[no-untyped-def]
    """Add an expert's biases to ``count`` rows of one unit; of gate and up it has ``size`` 256 bytes, else 128."""
    bias = peek(op, EXPERT_BIAS)
    if bias == 0:
        return 0
    bias += (expert * units + index) * size
    for number in range(count):
        add_bias(bias, out + number * _OUT_STRIDE, 0)
        if size == 256:
            add_bias(bias + _OUT_STRIDE, out + number * _OUT_STRIDE + 1024, 0)
    return 0


def _gate_up_kernel(form: Format) -> Any:
    unit = unit_function(form, READ_ONCE, False)

    def gate_up(op, run, member):  # type: ignore[no-untyped-def]
        rows, team, slot = peek(run, peek(op, ROWS)), peek(run, RUN_TEAM), peek(op, SLOT)
        stride, groups, units = peek(op, _STRIDE), peek(op, _GROUPS), peek(op, _UNITS)
        x, x_stride = peek(op, GATHERED), peek(op, GATHERED_STRIDE)
        h, h_stride = peek(op, GATHERED_HEADERS), peek(op, GATHERED_HEADER_STRIDE)
        if rows == 1:  # every expert reads the one row
            x, h, x_stride, h_stride = peek(op, _X), peek(op, _HEADERS), 0, 0
        if rows <= peek(op, _OWN_ROWS) and x == peek(op, _X):
            x = own_memory(run, member)
            h = x + peek(op, _OWN_HEADERS_AT)
        out = peek(run, RUN_SCRATCH) + member * peek(run, RUN_SCRATCH_STRIDE)
        table = peek(op, TABLE)
        tasks = peek(table, USED) * units
        chunk = max(tasks // (team * SHARES), 1)
        claimed = claim_some(run, slot, member, team, tasks, chunk)
        while claimed >= 0:
            for task in range(claim_first(claimed), claim_end(claimed)):
                used, index = used_expert(table, task // units), task % units
                w = peek(op, _WEIGHTS) + peek(used, 0) * peek(op, EXPERT_BYTES) + index * 4 * stride
                if index == units - 1 and task + 1 < tasks:
                    following = peek(used_expert(table, task // units + 1), 0)
                    ask_run(peek(op, _WEIGHTS) + following * peek(op, EXPERT_BYTES))
                row, end = peek(used, 1), peek(used, 1) + peek(used, 2)
                while row < end:
                    count = block_of(end - row)
                    ask_outputs(op, row, count, index)
                    at, head = x + row * x_stride, h + row * h_stride
                    unit(count, w, stride, groups, at, x_stride, head, h_stride, out, _OUT_STRIDE)
                    unit(count, w + 2 * stride, stride, groups, at, x_stride, head, h_stride, out + 1024, _OUT_STRIDE)
                    add_biases(op, peek(used, 0), units, index, 256, count, out)
                    add_expert_pairs(op, run, peek(used, 0), index, 2, row, count, out)
                    epilogue(op, out, row, count, index)
                    row += count
            claimed = claim_some(run, slot, member, team, tasks, chunk)
        return 1

    gate_up.__name__ = gate_up.__qualname__ = f"gate_up_{form.value}"
    return kernel()(gate_up)


@inline
def add_outputs(op, routes, row, count, index, source):  # type: ignore[no-untyped-def]
    """Add a unit's outputs for ``count`` routes from ``row`` on to the rows they belong to."""
    for number in range(count):
        route = routes + 8 * ROUTE_FIELDS * (row + number)
        target = peek(op, _OUT) + peek(route, ROUTE_ROW) * peek(op, _OUT_BYTES) + index * _OUT_STRIDE
        add32(source + number * _OUT_STRIDE, target, route + 8)
    return 0


@inline
def ask_added(op, routes, row, count, index):  # type: ignore[no-untyped-def]
    """Prefetch, for writing, the outputs that `add_outputs` adds to."""
    for number in range(count):
        route = routes + 8 * ROUTE_FIELDS * (row + number)
        target = peek(op, _OUT) + peek(route, ROUTE_ROW) * peek(op, _OUT_BYTES) + index * _OUT_STRIDE
        ask_to_write(target)
        ask_to_write(target + LINE)


def _down_kernel(form: Format) -> Any:
    unit = unit_function(form, READ_ONCE, False)

    def down(op, run, member):  # type: ignore[no-untyped-def]
        team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
        stride, groups, units = peek(op, _STRIDE), peek(op, _GROUPS), peek(op, _UNITS)
        x, x_stride = peek(op, _X), peek(op, _X_STRIDE)
        h, h_stride = peek(op, _HEADERS), peek(op, _HEADER_STRIDE)
        out = peek(run, RUN_SCRATCH) + member * peek(run, RUN_SCRATCH_STRIDE)
        table, routes = peek(op, TABLE), peek(op, TABLE_ROUTES)
        experts = peek(table, USED)
        chunk = min(max(units // (2 * team), 1), RUN_UNITS)
        claimed = claim_some(run, slot, member, team, units, chunk)
        while claimed >= 0:
            first, last = claim_first(claimed), claim_end(claimed) - 1
            for number in range(experts):
                used = used_expert(table, number)
                weights = peek(op, _WEIGHTS) + peek(used, 0) * peek(op, EXPERT_BYTES)
                for index in range(first, last + 1):
                    if index == last and number + 1 < experts:
                        following = peek(used_expert(table, number + 1), 0) * peek(op, EXPERT_BYTES)
                        ask_run(peek(op, _WEIGHTS) + following + first * 2 * stride)
                    w = weights + index * 2 * stride
                    row, end = peek(used, 1), peek(used, 1) + peek(used, 2)
                    while row < end:
                        count = block_of(end - row)
                        ask_added(op, routes, row, count, index)
                        at, head = x + row * x_stride, h + row * h_stride
                        unit(count, w, stride, groups, at, x_stride, head, h_stride, out, _OUT_STRIDE)
                        add_biases(op, peek(used, 0), units, index, _OUT_STRIDE, count, out)
                        add_expert_pairs(op, run, peek(used, 0), index, 1, row, count, out)
                        add_outputs(op, routes, row, count, index, out)
                        row += count
            claimed = claim_some(run, slot, member, team, units, chunk)
        return 1

    down.__name__ = down.__qualname__ = f"down_{form.value}"
    return kernel()(down)


def __getattr__(name: str) -> Any:
    """Make the kernel of a name, such as ``gate_up_q4`` or ``down_q8``."""
    for product, make in (("gate_up_", _gate_up_kernel), ("down_", _down_kernel)):
        form = name.removeprefix(product)
        if form != name and form in _FORMS:
            return make(Format(form))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_FORMS = {form.value for form in Format}
