"""Routing: which experts each row uses, with which weights, and the lists of rows by expert.

`route` chooses for each row alone, so a row's experts depend on that row alone; where experts are in groups, it first
chooses some groups. `group` sorts routes by expert, and by
row within an expert, by counting. `gather` lays the inputs of each expert's rows side by side. A few rows are routed
and grouped by one thread at once; many are shared out, and only their grouping is one thread's.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.experts.emit import float_bits, sigmoid_scores, softmax_scores
from miaotui.kernels.experts.fields import (
    BIAS,
    CHOSEN,
    COUNT,
    EXPERT_GROUPS,
    FEW,
    FIRST_USED,
    GATHERED,
    GATHERED_HEADER_STRIDE,
    GATHERED_HEADERS,
    GATHERED_STRIDE,
    GROUP_BEST,
    IS_NORMALIZED,
    IS_SIGMOID,
    KEPT_GROUPS,
    LOGITS,
    LOGITS_STRIDE,
    PICKS,
    ROUTE_FIELDS,
    ROUTE_ROW,
    ROUTE_SCALES,
    ROUTE_WEIGHT,
    ROUTED,
    ROUTES,
    SCALE,
    SHARED,
    SHARED_LOGIT,
    SHARED_ROUTES,
    TABLE_ROUTES,
    USED,
    USED_FIELDS,
)
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.pointwise.emit import copy_row
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import load_float, peek, peek_float, poke
from miaotui.kernels.runtime.ops import HEADER_BYTES, ROWS, RUN_TEAM, SLOT
from miaotui.kernels.runtime.simd import intrinsic
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first, own_memory

softmax: Any = intrinsic(softmax_scores, "ii")
sigmoid: Any = intrinsic(sigmoid_scores, "ii")
bits: Any = intrinsic(float_bits, "f", "i")
copy: Any = intrinsic(copy_row, "iii")

_ROUTE_BYTES = 8 * ROUTE_FIELDS
_LOWEST = -1e38
_BELOW = -3e38  # two of the lowest ranks together are higher
_X, _X_STRIDE, _HEADERS, _HEADER_STRIDE, _GROUPS = lin.X, lin.X_STRIDE, lin.HEADERS, lin.HEADER_STRIDE, lin.GROUPS
_OWN_ROWS, _OWN_HEADERS_AT = lin.OWN_ROWS, lin.OWN_HEADERS_AT


@inline
def rank(scores, bias, expert):  # type: ignore[no-untyped-def]
    """Return the number by which an expert is chosen."""
    score = load_float(scores + 4 * expert)
    return score + load_float(bias + 4 * expert) if bias != 0 else score


@inline
def group_rank(scores, bias, first, size, best):  # type: ignore[no-untyped-def]
    """Return the number by which a group is chosen: the sum of its ``best`` (one or two) highest ranks."""
    high = second = load_float(scores) * 0 + _LOWEST
    for expert in range(first, first + size):
        found = rank(scores, bias, expert)
        if found > high:
            high, second = found, high
        elif found > second:
            second = found
    return high + second if best == 2 else high


@inline
def choose_groups(op, scores, bias, count):  # type: ignore[no-untyped-def]
    """Return a bit for each chosen group; of equal ranks the lower number comes first. Without groups all bits."""
    groups = peek(op, EXPERT_GROUPS)
    if groups <= 1:
        return -1
    size, chosen = count // groups, 0
    for _turn in range(peek(op, KEPT_GROUPS)):
        best, best_rank = 0, load_float(scores) * 0 + _BELOW
        for group in range(groups):
            found = group_rank(scores, bias, group * size, size, peek(op, GROUP_BEST))
            if (chosen >> group) & 1 == 0 and found > best_rank:
                best, best_rank = group, found
        chosen |= 1 << best
    return chosen


@inline
def open_rank(scores, bias, expert, groups, size):  # type: ignore[no-untyped-def]
    """Return `rank`, the lowest for an expert of a group that was not chosen."""
    found = rank(scores, bias, expert)
    if groups != -1 and (groups >> (expert // size)) & 1 == 0:
        return found * 0 + _LOWEST
    return found


@inline
def last_pick(scores, bias, count, chosen, groups, size):  # type: ignore[no-untyped-def]
    """Return the expert that is chosen last: of equal ranks the lower number comes first."""
    last, last_rank = -1, open_rank(scores, bias, 0, groups, size)
    for turn in range(chosen):
        best, best_rank = 0, last_rank * 0 + _LOWEST
        for expert in range(count):
            found = open_rank(scores, bias, expert, groups, size)
            after = turn == 0 or found < last_rank or (found == last_rank and expert > last)
            if after and found > best_rank:
                best, best_rank = expert, found
        last, last_rank = best, best_rank
    return last


@inline
def pick_experts(op, scores, count, chosen, picks):  # type: ignore[no-untyped-def]
    """Write the chosen experts and their scores in ascending order of experts; return the sum of their scores."""
    bias = peek(op, BIAS)
    groups, size = choose_groups(op, scores, bias, count), count // max(peek(op, EXPERT_GROUPS), 1)
    last = last_pick(scores, bias, count, chosen, groups, size)
    least, total, found = open_rank(scores, bias, last, groups, size), load_float(scores) * 0, 0
    for expert in range(count):
        here = open_rank(scores, bias, expert, groups, size)
        if here > least or (here == least and expert <= last):
            score = load_float(scores + 4 * expert)
            poke(picks, ROUTE_FIELDS * found, expert)
            poke(picks, ROUTE_FIELDS * found + ROUTE_WEIGHT, bits(score))
            total += score
            found += 1
    return total


@inline
def route_row(op, row):  # type: ignore[no-untyped-def]
    """Choose the experts of one row."""
    scores, count, chosen = peek(op, LOGITS) + row * peek(op, LOGITS_STRIDE), peek(op, COUNT), peek(op, CHOSEN)
    if peek(op, IS_SIGMOID) == 1:
        sigmoid(scores, count)
    else:
        softmax(scores, count)
    picks = peek(op, PICKS) + row * chosen * _ROUTE_BYTES
    total = pick_experts(op, scores, count, chosen, picks)
    factor = peek_float(op, SCALE)
    if peek(op, IS_NORMALIZED) == 1:
        factor = factor / total
    for index in range(chosen):
        at = ROUTE_FIELDS * index + ROUTE_WEIGHT
        weight = peek_float(picks, at) * factor
        if peek(op, ROUTE_SCALES) != 0:
            weight *= load_float(peek(op, ROUTE_SCALES) + 4 * peek(picks, ROUTE_FIELDS * index))
        poke(picks, at, bits(weight))
    return 0


@inline
def share_row(op, row):  # type: ignore[no-untyped-def]
    """Write the shared expert's route of one row."""
    routes, column = peek(op, SHARED_ROUTES) + row * _ROUTE_BYTES, peek(op, SHARED_LOGIT)
    weight = peek_float(op, SCALE) * 0 + 1
    if column != 0:
        logit = peek(op, LOGITS) + row * peek(op, LOGITS_STRIDE) + 4 * column
        sigmoid(logit, 1)
        weight = load_float(logit)
    poke(routes, ROUTE_ROW, row)
    poke(routes, ROUTE_WEIGHT, bits(weight))
    return 0


@inline
def route_one(op, row):  # type: ignore[no-untyped-def]
    """Route one row to its experts, and to the shared one."""
    if peek(op, SHARED) != 0:
        share_row(op, row)
    return route_row(op, row)


@inline
def list_used(table, count):  # type: ignore[no-untyped-def]
    """Turn the numbers of routes, by expert, into the list of used experts and cursors into the routes."""
    cursors, used, first = table + 8 * (FIRST_USED + USED_FIELDS * count), 0, 0
    for expert in range(count):
        number = peek(cursors, expert)
        if number > 0:
            entry = table + 8 * (FIRST_USED + USED_FIELDS * used)
            poke(entry, 0, expert)
            poke(entry, 1, first)
            poke(entry, 2, number)
            used += 1
        poke(cursors, expert, first)
        first += number
    poke(table, USED, used)
    return cursors


@inline
def group_rows(op, rows):  # type: ignore[no-untyped-def]
    """Sort the picks of all rows by expert."""
    table, count, picks, routes = peek(op, ROUTED), peek(op, COUNT), peek(op, PICKS), peek(op, ROUTES)
    number, chosen = rows * peek(op, CHOSEN), peek(op, CHOSEN)
    cursors = table + 8 * (FIRST_USED + USED_FIELDS * count)
    for expert in range(count):
        poke(cursors, expert, 0)
    for pick in range(number):
        expert = peek(picks, ROUTE_FIELDS * pick)
        poke(cursors, expert, peek(cursors, expert) + 1)
    list_used(table, count)
    for pick in range(number):
        expert = peek(picks, ROUTE_FIELDS * pick)
        at = peek(cursors, expert)
        poke(routes, ROUTE_FIELDS * at, pick // chosen)
        poke(routes, ROUTE_FIELDS * at + ROUTE_WEIGHT, peek(picks, ROUTE_FIELDS * pick + ROUTE_WEIGHT))
        poke(cursors, expert, at + 1)
    if peek(op, SHARED) != 0:
        shared = peek(op, SHARED)
        poke(shared, USED, 1)
        poke(shared, FIRST_USED, 0)
        poke(shared, FIRST_USED + 1, 0)
        poke(shared, FIRST_USED + 2, rows)
    return 0


@kernel()
def route(op, run, member):  # type: ignore[no-untyped-def]
    """Choose the experts of every row; group a few rows at once."""
    rows = peek(run, peek(op, ROWS))
    if rows <= FEW:
        if member == 0:
            for row in range(rows):
                route_one(op, row)
            group_rows(op, rows)
        return 1
    team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
    claimed = claim(run, slot, member, team, rows)
    while claimed >= 0:
        for row in range(claim_first(claimed), claim_end(claimed)):
            route_one(op, row)
        claimed = claim(run, slot, member, team, rows)
    return 1


@kernel()
def group(op, run, member):  # type: ignore[no-untyped-def]
    """List many rows by expert; a few are listed already."""
    rows = peek(run, peek(op, ROWS))
    if rows <= FEW:
        return 0
    if member == 0:
        group_rows(op, rows)
    return 1


@kernel()
def gather(op, run, member):  # type: ignore[no-untyped-def]
    """Copy the quantized inputs of each route. A single row is read where it lies."""
    rows = peek(run, peek(op, ROWS))
    if rows == 1:
        return 0
    x, headers = peek(op, _X), peek(op, _HEADERS)
    if rows <= peek(op, _OWN_ROWS):
        x = own_memory(run, member)
        headers = x + peek(op, _OWN_HEADERS_AT)
    groups, routes = peek(op, _GROUPS), peek(op, TABLE_ROUTES)
    team, slot, number = peek(run, RUN_TEAM), peek(op, SLOT), rows * peek(op, CHOSEN)
    claimed = claim(run, slot, member, team, number)
    while claimed >= 0:
        for at in range(claim_first(claimed), claim_end(claimed)):
            row = peek(routes, ROUTE_FIELDS * at)
            copy(x + row * peek(op, _X_STRIDE), groups * 8 + 8, peek(op, GATHERED) + at * peek(op, GATHERED_STRIDE))
            source = headers + row * peek(op, _HEADER_STRIDE)
            target = peek(op, GATHERED_HEADERS) + at * peek(op, GATHERED_HEADER_STRIDE)
            copy(source, groups * (HEADER_BYTES // 4) + 12, target)
        claimed = claim(run, slot, member, team, number)
    return 1
