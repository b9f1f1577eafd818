"""Products of low-rank adapters beside those of single experts: for each route, by the adapter of its row.

`project_routes` makes the few values between the two thin matrices of each route, before the product that reads the
routes' inputs. `add_expert_pairs` adds the second product to a unit's outputs while they are in the nearest cache,
before an activation and before the route's weight. A route's result depends on its row, expert and adapter alone.

Memory: a route reads its pair's matrices once; routes of one expert whose rows have one adapter read tiles together.
"""

from __future__ import annotations

from miaotui.kernels.adapters.fields import (
    DOWN,
    EXPERT_HIDDEN,
    EXPERT_HIDDEN_STRIDE,
    EXPERT_PAIRS,
    EXPERT_PARTS,
    FEW,
    MOST_PARTS,
    PART_FIELDS,
    RANK,
    SCALE_BYTES,
    UP,
)
from miaotui.kernels.adapters.low_rank import MOST_TOGETHER, PART_BYTES, add_low_rank, project_tiles
from miaotui.kernels.experts.fields import (
    CHOSEN,
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
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import peek
from miaotui.kernels.runtime.ops import ROW_ADAPTER, ROW_FIELDS, ROWS, RUN_ROW_TABLE, RUN_TEAM, SLOT
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first, own_memory

_X, _HEADERS, _OWN_ROWS, _OWN_HEADERS_AT = lin.X, lin.HEADERS, lin.OWN_ROWS, lin.OWN_HEADERS_AT
_ROW_BYTES, _UP_BYTES = 128, 1024  # of 32 outputs, and of those of 8 rows, which lie before up's


@inline
def pair_of_route(op, run, route, expert, part):  # type: ignore[no-untyped-def]
    """Return the address of the record of a route's adapter; 0 if its row has none, or none for this matrix."""
    row = peek(peek(op, TABLE_ROUTES), ROUTE_FIELDS * route + ROUTE_ROW)
    table = peek(peek(run, RUN_ROW_TABLE), ROW_FIELDS * row + ROW_ADAPTER)
    if table == 0:
        return 0
    pair = table + peek(op, EXPERT_PAIRS) + 8 * PART_FIELDS * (MOST_PARTS * expert + part)
    return 0 if peek(pair, DOWN) == 0 else pair


@inline
def add_expert_pairs(op, run, expert, unit, parts, route, count, out):  # type: ignore[no-untyped-def]
    """Add second products to the 32 outputs of one unit of an expert, for ``count`` routes from ``route`` on.

    ``parts`` is 2 for gate and up, else 1.
    """
    if peek(op, EXPERT_PAIRS) == 0:
        return 0
    hidden = peek(op, EXPERT_HIDDEN) + route * peek(op, EXPERT_HIDDEN_STRIDE)
    for number in range(count):
        for part in range(parts):
            pair = pair_of_route(op, run, route + number, expert, part)
            if pair != 0:
                rank = peek(pair, RANK)
                up = peek(pair, UP) + unit * (SCALE_BYTES + 32 * rank)
                add_low_rank(hidden + part * PART_BYTES, rank, up, out + number * _ROW_BYTES + part * _UP_BYTES)
        hidden += peek(op, EXPERT_HIDDEN_STRIDE)
    return 0


@inline
def has_adapter(run, rows):  # type: ignore[no-untyped-def]
    """Return whether a row of the pass has an adapter."""
    row = 0
    while row < rows and peek(peek(run, RUN_ROW_TABLE), ROW_FIELDS * row + ROW_ADAPTER) == 0:
        row += 1
    return row < rows


@inline
def used_of_route(table, route):  # type: ignore[no-untyped-def]
    """Return the address of the entry of the used expert to which a route belongs; routes are in their order."""
    low, high = 0, peek(table, USED) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if peek(table, FIRST_USED + USED_FIELDS * middle + 1) <= route:
            low = middle
        else:
            high = middle - 1
    return table + 8 * (FIRST_USED + USED_FIELDS * low)


@inline
def project_block(op, run, route, end, part, x, x_stride, headers, header_stride):  # type: ignore[no-untyped-def]
    """Compute the values between the two matrices for the routes of a block, runs of one pair together."""
    stride = peek(op, EXPERT_HIDDEN_STRIDE)
    while route < end:
        used = used_of_route(peek(op, TABLE), route)
        expert, last = peek(used, 0), min(end, peek(used, 1) + peek(used, 2))
        pair, count = pair_of_route(op, run, route, expert, part), 1
        while (
            count < MOST_TOGETHER
            and route + count < last
            and pair_of_route(op, run, route + count, expert, part) == pair
        ):
            count += 1
        if pair != 0:
            at, head = x + route * x_stride, headers + route * header_stride
            out = peek(op, EXPERT_HIDDEN) + route * stride + part * PART_BYTES
            project_tiles(op, pair, count, at, x_stride, head, header_stride, out, stride)
        route += count
    return 0


@kernel()
def project_routes(op, run, member):  # type: ignore[no-untyped-def]
    """Multiply the inputs of each route by the first matrix of its row's adapter for its expert."""
    rows, team, slot, parts = peek(run, peek(op, ROWS)), peek(run, RUN_TEAM), peek(op, SLOT), peek(op, EXPERT_PARTS)
    if not has_adapter(run, rows):
        return 0
    x, x_stride = peek(op, GATHERED), peek(op, GATHERED_STRIDE)
    h, h_stride = peek(op, GATHERED_HEADERS), peek(op, GATHERED_HEADER_STRIDE)
    if rows == 1 and x != peek(op, _X):  # every expert reads the one row
        x, h, x_stride, h_stride = peek(op, _X), peek(op, _HEADERS), 0, 0
    if rows <= peek(op, _OWN_ROWS) and x == peek(op, _X):
        x = own_memory(run, member)
        h = x + peek(op, _OWN_HEADERS_AT)
    routes = rows * peek(op, CHOSEN)
    block = 1 if routes <= FEW else MOST_TOGETHER
    tasks = (routes + block - 1) // block * parts
    claimed = claim(run, slot, member, team, tasks)
    while claimed >= 0:
        for task in range(claim_first(claimed), claim_end(claimed)):
            route = task // parts * block
            project_block(op, run, route, min(route + block, routes), task % parts, x, x_stride, h, h_stride)
        claimed = claim(run, slot, member, team, tasks)
    return 1
