"""The best logit of each row, found by the threads that computed the logits, so that nothing reads them again.

`part_peaks` finds the peak of every `PART` logits, for all rows. Threads claim parts, which lie in the order of the
head's outputs, so mostly each reads what it has just written. `row_peaks` then finds the first part with the row's
peak and the peak's first place in it. Ties go to the lowest id, and the first NaN counts as the highest, as in
`numpy.argmax`. Memory: the logits once, from the second-level cache; 2 vector operations for 16 of them.

Where a sequence's choice has a mask, forbidden logits become -inf on the way, and the peak is that of the others. If
a row's logits are not numbers, the peak is the row's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import load_float, peek, poke, store_float
from miaotui.kernels.runtime.ops import ROW_CHOICE, ROW_FIELDS, ROWS, RUN_LOGIT_TABLE, RUN_ROW_TABLE, RUN_TEAM, SLOT
from miaotui.kernels.runtime.simd import intrinsic
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first
from miaotui.kernels.sampling.draw import forbid
from miaotui.kernels.sampling.draw_fields import ALL_ALLOWED, CHOICE_MASK, NOT_HERE
from miaotui.kernels.sampling.peaks_emit import vectors_peak
from miaotui.kernels.sampling.peaks_fields import (
    MASKED,
    OUT,
    PART,
    PARTS,
    PARTS_STRIDE,
    PEAK_FIELDS,
    PEAK_ID,
    PEAK_VALUE,
    WIDTH,
    X_STRIDE,
    X,
)

_LOWEST = np.float32(-np.inf)

_vectors_peak: Any = intrinsic(vectors_peak, "ii", "f")


@inline
def part_peak(x, size):  # type: ignore[no-untyped-def]
    """Return the greatest of ``size`` float32 at ``x``; NaN if any of them is one."""
    whole = size >> 4
    top = _vectors_peak(x, whole)
    for index in range(whole << 4, size):
        value = load_float(x + 4 * index)
        if value > top or np.isnan(value):
            top = top if np.isnan(top) else value
    return top


@inline
def first_place(x, size, top):  # type: ignore[no-untyped-def]
    """Return where ``top`` first lies among ``size`` float32 at ``x``; the first NaN if it is one."""
    for index in range(size):
        value = load_float(x + 4 * index)
        if value == top or (np.isnan(value) and np.isnan(top)):
            return index
    return 0


@inline
def first_part(parts, count):  # type: ignore[no-untyped-def]
    """Return the first part with the highest peak, or with NaN."""
    top, found = _LOWEST, 0
    for part in range(count):
        value = load_float(parts + 4 * part)
        if np.isnan(value):
            return part
        if value > top:
            top, found = value, part
    return found


@inline
def mask_of(op, run, index):  # type: ignore[no-untyped-def]
    """Return the address of the mask of a row of logits; 0 if it has none."""
    if peek(op, MASKED) == 0:
        return 0
    row = peek(peek(run, RUN_LOGIT_TABLE), index)
    choice = peek(peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * row, ROW_CHOICE)
    mask = ALL_ALLOWED if choice == 0 else peek(choice, CHOICE_MASK)
    return ALL_ALLOWED if mask == NOT_HERE else mask


@kernel()
def part_peaks(op, run, member):  # type: ignore[no-untyped-def]
    """Compute the peak of each part of each row."""
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
                store_float(out, part_peak(x, size))
                mask = mask_of(op, run, row)
                if mask != 0:
                    forbid(x, size, mask + PART // 8 * part)
                    store_float(out + 4 * count, part_peak(x, size))
        claimed = claim(run, slot, member, team, count)
    return 1


@kernel()
def row_peaks(op, run, member):  # type: ignore[no-untyped-def]
    """Compute the id and the logit of each row's peak, from the peaks of its parts."""
    rows, width = peek(run, peek(op, ROWS)), peek(op, WIDTH)
    count = (width + PART - 1) // PART
    team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
    claimed = claim(run, slot, member, team, rows)
    while claimed >= 0:
        for row in range(claim_first(claimed), claim_end(claimed)):
            parts = peek(op, PARTS) + row * peek(op, PARTS_STRIDE)
            part = first_part(parts, count)
            top = load_float(parts + 4 * part)
            if mask_of(op, run, row) != 0 and -np.inf < top < np.inf:
                parts += 4 * count
                part = first_part(parts, count)
            start = part * PART
            x = peek(op, X) + row * peek(op, X_STRIDE)
            place = first_place(x + 4 * start, min(width - start, PART), load_float(parts + 4 * part))
            token = start + place
            out = peek(op, OUT) + 8 * PEAK_FIELDS * row
            poke(out, PEAK_ID, token)
            store_float(out + 8 * PEAK_VALUE, load_float(x + 4 * token))
        claimed = claim(run, slot, member, team, rows)
    return 1
