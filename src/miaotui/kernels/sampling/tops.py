"""The best tokens of each row and the sum that turns logits into log-probabilities, for searches for a target.

`part_tops` finds each part's peak and its sum of exponentials, while the logits are near the threads that computed
them. `row_tops` adds the sums up and lists as many tokens as the row asks for (`ROW_TOPS`), best first, equals in
ascending order: the n-th highest peak of the parts is a bar that n logits reach, so only parts that reach it are read
again. Where a row holds a NaN, so does its sum. Work: an exponential for each logit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import load_float, peek, poke, store_float
from miaotui.kernels.runtime.ops import ROW_FIELDS, ROW_TOPS, ROWS, RUN_LOGIT_TABLE, RUN_ROW_TABLE, RUN_TEAM, SLOT
from miaotui.kernels.runtime.simd import intrinsic
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first
from miaotui.kernels.sampling.peaks import part_peak
from miaotui.kernels.sampling.peaks_fields import PART
from miaotui.kernels.sampling.tops_emit import exponentials, passing, weighted_exponentials
from miaotui.kernels.sampling.tops_fields import (
    MOST,
    OUT,
    PARTS,
    PARTS_STRIDE,
    RECORD_COUNT,
    RECORD_FIELDS,
    RECORD_TOKENS,
    RECORD_TOTAL,
    WIDTH,
    X_STRIDE,
    X,
)

_LOWEST = np.float32(-np.inf)

_exponentials: Any = intrinsic(exponentials, "iif", "f")
_weighted: Any = intrinsic(weighted_exponentials, "iiif", "f")
_passing: Any = intrinsic(passing, "if", "i")


@kernel()
def part_tops(op, run, member):  # type: ignore[no-untyped-def]
    """Compute the peak and the sum of exponentials of each part of each row."""
    rows, width = peek(run, peek(op, ROWS)), peek(op, WIDTH)
    count = (width + PART - 1) // PART
    team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
    claimed = claim(run, slot, member, team, count)
    while claimed >= 0:
        for part in range(claim_first(claimed), claim_end(claimed)):
            size = min(width - part * PART, PART)
            for row in range(rows):
                x = peek(op, X) + row * peek(op, X_STRIDE) + 4 * PART * part
                out = peek(op, PARTS) + row * peek(op, PARTS_STRIDE) + 4 * part
                top = part_peak(x, size)
                store_float(out, top)
                store_float(out + 4 * count, _exponentials(x, size, top))
        claimed = claim(run, slot, member, team, count)
    return 1


@inline
def put(record, found, wanted, token, value):  # type: ignore[no-untyped-def]
    """Put a token into a list of at most ``wanted``, behind those as good; returns the list's new length."""
    pairs = record + 8 * RECORD_TOKENS
    at = min(found, wanted - 1)
    while at > 0 and load_float(pairs + 16 * at - 8) < value:
        poke(pairs, 2 * at, peek(pairs, 2 * at - 2))
        store_float(pairs + 16 * at + 8, load_float(pairs + 16 * at - 8))
        at -= 1
    poke(pairs, 2 * at, token)
    store_float(pairs + 16 * at + 8, value)
    return min(found + 1, wanted)


@inline
def last_value(record, wanted):  # type: ignore[no-untyped-def]
    """Return the value of the last of ``wanted`` tokens."""
    return load_float(record + 8 * RECORD_TOKENS + 16 * wanted - 8)


@inline
def bar_of(parts, count, record, wanted):  # type: ignore[no-untyped-def]
    """Return a value that at least ``wanted`` logits reach, from the peaks of parts; the record serves as a list."""
    if count <= wanted:
        return _LOWEST
    found = 0
    for part in range(count):
        value = load_float(parts + 4 * part)
        if found < wanted or value > last_value(record, wanted):
            found = put(record, found, wanted, part, value)
    bar = last_value(record, wanted)
    return _LOWEST if np.isnan(bar) else bar


@inline
def list_part(record, found, wanted, bar, x, first, size):  # type: ignore[no-untyped-def]
    """Put the tokens of one part that pass the bar into the record; returns how many it has."""
    for start in range(0, size, 16):
        least = last_value(record, wanted) if found == wanted else bar
        bits = _passing(x + 4 * start, least)
        lane = 0
        while bits != 0:
            if bits & 1 == 1 and start + lane < size:
                value = load_float(x + 4 * (start + lane))
                if found < wanted or value > last_value(record, wanted):
                    found = put(record, found, wanted, first + start + lane, value)
            bits >>= 1
            lane += 1
    return found


@inline
def list_row(op, record, parts, x, wanted):  # type: ignore[no-untyped-def]
    """List the best tokens of one row."""
    width = peek(op, WIDTH)
    count = (width + PART - 1) // PART
    bar = bar_of(parts, count, record, wanted)
    found = 0
    for part in range(count):
        if load_float(parts + 4 * part) >= bar:
            first, size = PART * part, min(width - PART * part, PART)
            found = list_part(record, found, wanted, bar, x + 4 * first, first, size)
    return found


@inline
def highest(parts, count):  # type: ignore[no-untyped-def]
    """Return the highest peak; NaN if any of them is one."""
    top = _LOWEST
    for part in range(count):
        value = load_float(parts + 4 * part)
        if np.isnan(value):
            return value
        if value > top:
            top = value
    return top


@kernel()
def row_tops(op, run, member):  # type: ignore[no-untyped-def]
    """List the best tokens of each row, from the peaks of its parts, and compute its sum of exponentials."""
    rows, width = peek(run, peek(op, ROWS)), peek(op, WIDTH)
    count = (width + PART - 1) // PART
    team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
    claimed = claim(run, slot, member, team, rows)
    while claimed >= 0:
        for index in range(claim_first(claimed), claim_end(claimed)):
            row = peek(peek(run, RUN_LOGIT_TABLE), index)
            wanted = min(peek(peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * row, ROW_TOPS), MOST)
            parts = peek(op, PARTS) + index * peek(op, PARTS_STRIDE)
            record = peek(op, OUT) + 8 * RECORD_FIELDS * index
            x = peek(op, X) + index * peek(op, X_STRIDE)
            top = highest(parts, count)
            total = top if np.isnan(top) else _weighted(parts, parts + 4 * count, count, top)
            store_float(record + 8 * RECORD_TOTAL, total)
            poke(record, RECORD_COUNT, list_row(op, record, parts, x, wanted) if wanted > 0 else 0)
        claimed = claim(run, slot, member, team, rows)
    return 1
