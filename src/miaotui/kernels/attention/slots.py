"""Attention of targets over slots, for the decoders of encoder-decoders: one row of each of many targets.

Every token of a target has a slot, and a row finds its tokens by a list of slots, so targets that begin alike share
them and nothing is ever copied. Where rows of one target follow each other in a pass, all keys and values are stored
first. A unit is a row and a head. It stores the row's own key and value otherwise, then computes all
scores, a softmax of two passes (with T5's bias by distance, if there is one), and all values, each in the order of the
list; so a row's result depends on its own target alone. Work of a unit: 2 x tokens x dim multiply-adds.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.attention.bidirectional import finish_row
from miaotui.kernels.attention.bidirectional_emit import softmax_rows
from miaotui.kernels.attention.fields import (
    BIAS_STRIDE,
    BIAS_TABLE,
    DIM,
    KEY_OFFSET,
    KV_HEADS,
    PAGE_STRIDE,
    PAGE_TOKENS,
    PAGES,
    QKV,
    QKV_STRIDE,
    SCALE,
    VALUE_OFFSET,
    VALUES_IN_HEAD,
)
from miaotui.kernels.attention.slots_emit import TOGETHER, copy_scaled, score_slots, weigh_slots
from miaotui.kernels.pointwise.emit import copy_row
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import peek, peek_float
from miaotui.kernels.runtime.ops import (
    ROW_FIELDS,
    ROW_PAGES,
    ROW_POSITION,
    RUN_CHAINED,
    RUN_ROW_TABLE,
    RUN_ROWS,
    RUN_SCRATCH,
    RUN_SCRATCH_STRIDE,
    RUN_TEAM,
    SLOT,
)
from miaotui.kernels.runtime.simd import intrinsic
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first

_LINE = 64

copy: Any = intrinsic(copy_row, "iii")
scale_head: Any = intrinsic(copy_scaled, "iiif")
scores_four, scores_one = (intrinsic(score_slots(count), "iiiiii") for count in (TOGETHER, 1))
weigh: Any = intrinsic(weigh_slots, "iiiiiii")
plain, biased = (intrinsic(softmax_rows(1, biased=each), "iiiiiii") for each in (False, True))


@inline
def score_tokens(query, dim, keys, stride, slots, count, out):  # type: ignore[no-untyped-def]
    """Compute the scores of one query and all tokens of its list."""
    done = 0
    while done < count:
        if count - done >= TOGETHER:
            scores_four(query, dim, keys, stride, slots + 8 * done, out + 4 * done)
            done += TOGETHER
        else:
            scores_one(query, dim, keys, stride, slots + 8 * done, out + 4 * done)
            done += 1
    return 0


@inline
def store_row(op, run, row, head):  # type: ignore[no-untyped-def]
    """Store one head of a row's key and value in the row's own slot."""
    entry = peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * row
    dim = peek(op, DIM)
    at = head * dim * 4
    source = peek(op, QKV) + row * peek(op, QKV_STRIDE) + at
    own = peek(op, PAGES) + at + peek(peek(entry, ROW_PAGES), peek(entry, ROW_POSITION)) * peek(op, PAGE_STRIDE)
    copy(source + peek(op, KEY_OFFSET), dim, own)
    copy(source + peek(op, VALUE_OFFSET), dim, own + peek(op, VALUES_IN_HEAD))
    return 0


@kernel()
def store_slots(op, run, member):  # type: ignore[no-untyped-def]
    """Store the keys and values of all rows, where some of them meet others of the pass."""
    if peek(run, RUN_CHAINED) == 0:
        return 0
    heads, team, slot = peek(op, KV_HEADS), peek(run, RUN_TEAM), peek(op, SLOT)
    units = peek(run, RUN_ROWS) * heads
    claimed = claim(run, slot, member, team, units)
    while claimed >= 0:
        for unit in range(claim_first(claimed), claim_end(claimed)):
            store_row(op, run, unit // heads, unit % heads)
        claimed = claim(run, slot, member, team, units)
    return 1


@inline
def attend_row(op, run, member, row, head):  # type: ignore[no-untyped-def]
    """Store one head of a row's key and value, and let its query meet all tokens up to the row itself."""
    entry = peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * row
    position, slots, dim = peek(entry, ROW_POSITION), peek(entry, ROW_PAGES), peek(op, DIM)
    stride, count, at = peek(op, PAGE_STRIDE), position + 1, head * dim * 4
    source = peek(op, QKV) + row * peek(op, QKV_STRIDE) + at
    keys = peek(op, PAGES) + at
    values = keys + peek(op, VALUES_IN_HEAD)
    if peek(run, RUN_CHAINED) == 0:
        store_row(op, run, row, head)
    query = peek(run, RUN_SCRATCH) + member * peek(run, RUN_SCRATCH_STRIDE)
    scores = query + dim * 4 + _LINE
    scale_head(source, dim, query, peek_float(op, SCALE))
    score_tokens(query, dim, keys, stride, slots, count, scores)
    panels, bias = (count + PAGE_TOKENS - 1) // PAGE_TOKENS, peek(op, BIAS_TABLE)
    if bias != 0:
        biased(scores, 0, panels, 0, 0, count, bias + head * peek(op, BIAS_STRIDE) - position * 4)
    else:
        plain(scores, 0, panels, 0, 0, count, 0)
    weigh(scores, count, dim, values, stride, slots, query)
    finish_row(op, row, head, query)
    return 0


@kernel()
def attend_slots(op, run, member):  # type: ignore[no-untyped-def]
    """Compute attention for all rows of the pass."""
    heads, team, slot = peek(op, KV_HEADS), peek(run, RUN_TEAM), peek(op, SLOT)
    units = peek(run, RUN_ROWS) * heads
    claimed = claim(run, slot, member, team, units)
    while claimed >= 0:
        for unit in range(claim_first(claimed), claim_end(claimed)):
            attend_row(op, run, member, unit // heads, unit % heads)
        claimed = claim(run, slot, member, team, units)
    return 1
