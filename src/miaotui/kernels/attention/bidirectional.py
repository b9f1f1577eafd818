"""Attention over whole texts, for encoders: every row sees all rows of its text, or those within a window.

A text's keys and values live for one layer, or, with `STORED`, for later passes: there the rows of a target attend to
its source, whose panel and length are theirs. Keys lie in panels of 16 tokens from panel `ROW_PANEL` on, so no row of
another text is near. A unit is a block of rows and a head: all scores, a softmax of two passes, then all values,
each in ascending order; so a row's result depends on its text alone. Work of a unit: 2 x rows x tokens x dim
multiply-adds, and an exponential for each score.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.attention.bidirectional_emit import (
    GROUPS,
    finish_head,
    relative_panel,
    score_panel,
    softmax_rows,
    store_token,
    weigh_values,
)
from miaotui.kernels.attention.emit import rotate_head
from miaotui.kernels.attention.fields import (
    BIAS_STRIDE,
    BIAS_TABLE,
    COS,
    DIM,
    HEAD_BYTES,
    KEY_OFFSET,
    KEYS,
    KV_HEADS,
    OUT,
    OUT_HEADER_STRIDE,
    OUT_HEADERS,
    OUT_STRIDE,
    PAGE_TOKENS,
    QKV,
    QKV_STRIDE,
    RELATIVE_HEAD_BYTES,
    RELATIVE_KEYS,
    RELATIVE_QUERIES,
    RELATIVE_STRIDE,
    ROTATED,
    SCALE,
    SIN,
    STORED,
    VALUE_OFFSET,
    VALUES,
    WINDOW,
)
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import peek, peek_float
from miaotui.kernels.runtime.ops import (
    BLOCK_COUNT,
    BLOCK_FIELDS,
    BLOCK_ROW,
    HEADER_BYTES,
    ROW_FIELDS,
    ROW_PANEL,
    ROW_POSITION,
    ROW_VIEW_END,
    ROWS,
    RUN_BLOCK_TABLE,
    RUN_BLOCKS,
    RUN_ROW_TABLE,
    RUN_SCRATCH,
    RUN_SCRATCH_STRIDE,
    RUN_TEAM,
    SLOT,
)
from miaotui.kernels.runtime.simd import intrinsic
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first, claim_some

OWN_HEADS_ROWS = 64  # of a pass
LINE = 64  # bytes of a panel's scores of one query, and of what lies before them

store_one: Any = intrinsic(store_token, "iiiiiiii")
rotate: Any = intrinsic(rotate_head, "iiiiiiiff")
finish: Any = intrinsic(finish_head, "iiii")
plain_four, plain_one = (intrinsic(softmax_rows(count, biased=False), "iiiiiii") for count in (4, 1))
biased_four, biased_one = (intrinsic(softmax_rows(count, biased=True), "iiiiiii") for count in (4, 1))
relative_two, relative_one = (intrinsic(relative_panel(count), "iiiiiiii") for count in (2, 1))
_MOST = GROUPS[0]
scores_most, scores_six, scores_four, scores_two, scores_one = (intrinsic(score_panel(n), "iiiii") for n in GROUPS)
weigh_most, weigh_six, weigh_four, weigh_two, weigh_one = (intrinsic(weigh_values(n), "iiiiii") for n in GROUPS)


@inline
def has_own_heads(op, run):  # type: ignore[no-untyped-def]
    """Return whether each thread stores the keys of the heads that it attends with, so that none waits for another's.

    The heads of few rows are shared evenly or not at all. Keys that later passes attend to are stored by themselves.
    """
    if peek(op, STORED) == 1:
        return False
    return peek(run, peek(op, ROWS)) <= OWN_HEADS_ROWS and peek(op, KV_HEADS) % peek(run, RUN_TEAM) == 0


@kernel()
def store_keys(op, run, member):  # type: ignore[no-untyped-def]
    """Rotate all keys of the pass into their panels, and copy the values beside them."""
    if has_own_heads(op, run):
        return 0
    heads, team, slot = peek(op, KV_HEADS), peek(run, RUN_TEAM), peek(op, SLOT)
    units = peek(run, RUN_BLOCKS) * heads
    claimed = claim(run, slot, member, team, units)
    while claimed >= 0:
        for unit in range(claim_first(claimed), claim_end(claimed)):
            store_block(op, run, unit // heads, unit % heads)
        claimed = claim(run, slot, member, team, units)
    return 1


@inline
def store_block(op, run, block, head):  # type: ignore[no-untyped-def]
    """Store one head of a block of rows."""
    table = peek(run, RUN_BLOCK_TABLE) + 8 * BLOCK_FIELDS * block
    row = peek(table, BLOCK_ROW)
    for index in range(row, row + peek(table, BLOCK_COUNT)):
        store_head(op, run, index, head)
    return 0


@inline
def store_head(op, run, row, head):  # type: ignore[no-untyped-def]
    """Store one head of one row."""
    table = peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * row
    position, dim = peek(table, ROW_POSITION), peek(op, DIM)
    token = peek(table, ROW_PANEL) * PAGE_TOKENS + position
    rotated = peek(op, ROTATED)
    turn = position * (rotated // 2) * 4
    source = peek(op, QKV) + row * peek(op, QKV_STRIDE) + head * dim * 4
    column = token // PAGE_TOKENS * dim * LINE + token % PAGE_TOKENS * 4
    at = head * peek(op, HEAD_BYTES)
    keys, values = peek(op, KEYS) + at + column, peek(op, VALUES) + at + token * dim * 4
    key, value = source + peek(op, KEY_OFFSET), source + peek(op, VALUE_OFFSET)
    store_one(key, value, keys, values, dim, rotated, peek(op, COS) + turn, peek(op, SIN) + turn)
    return 0


@inline
def group_of(left):  # type: ignore[no-untyped-def]
    """Return how many of the queries left are taken together."""
    if left >= _MOST:
        return _MOST
    if left >= 6:
        return 6
    if left >= 4:
        return 4
    return 2 if left >= 2 else 1


@inline
def score_queries(queries, count, dim, keys, out, stride):  # type: ignore[no-untyped-def]
    """Compute the scores of all queries of a block and one panel."""
    done = 0
    while done < count:
        some = group_of(count - done)
        at, to = queries + done * dim * 4, out + done * stride
        if some == _MOST:
            scores_most(at, dim, keys, to, stride)
        elif some == 6:
            scores_six(at, dim, keys, to, stride)
        elif some == 4:
            scores_four(at, dim, keys, to, stride)
        elif some == 2:
            scores_two(at, dim, keys, to, stride)
        else:
            scores_one(at, dim, keys, to, stride)
        done += some
    return 0


@inline
def weigh_queries(chances, stride, count, values, tokens, dim, out):  # type: ignore[no-untyped-def]
    """Compute the weighted values of all queries of a block."""
    done = 0
    while done < count:
        some = group_of(count - done)
        at, to = chances + done * stride, out + done * dim * 4
        if some == _MOST:
            weigh_most(at, stride, values, tokens, dim, to)
        elif some == 6:
            weigh_six(at, stride, values, tokens, dim, to)
        elif some == 4:
            weigh_four(at, stride, values, tokens, dim, to)
        elif some == 2:
            weigh_two(at, stride, values, tokens, dim, to)
        else:
            weigh_one(at, stride, values, tokens, dim, to)
        done += some
    return 0


@inline
def load_queries(op, run, queries, row, count, head):  # type: ignore[no-untyped-def]
    """Rotate and scale the queries of a block."""
    dim, rotated = peek(op, DIM), peek(op, ROTATED)
    for index in range(count):
        position = peek(peek(run, RUN_ROW_TABLE), (row + index) * ROW_FIELDS + ROW_POSITION)
        source = peek(op, QKV) + (row + index) * peek(op, QKV_STRIDE) + head * dim * 4
        turn = position * (rotated // 2) * 4
        cos, sin = peek(op, COS) + turn, peek(op, SIN) + turn
        rotate(source, queries + index * dim * 4, dim, rotated, cos, sin, 0, 0.0, peek_float(op, SCALE))
    return 0


@inline
def view_start(op, position):  # type: ignore[no-untyped-def]
    """Return the first position that a row sees."""
    window = peek(op, WINDOW)
    return max(position - window + 1, 0) if window > 0 else 0


@inline
def view_end(op, position, tokens):  # type: ignore[no-untyped-def]
    """Return one past the last position that a row sees."""
    window = peek(op, WINDOW)
    return min(position + window, tokens) if window > 0 else tokens


@inline
def soften(op, head, scores, stride, position, count, tokens, first, panels):  # type: ignore[no-untyped-def]
    """Turn the scores of a block's queries into chances, four at a time where all see the whole text."""
    bias = peek(op, BIAS_TABLE)
    if bias != 0:
        bias += head * peek(op, BIAS_STRIDE) + (first - position) * 4
    done = 0
    while done < count:
        low, high = view_start(op, position + done), view_end(op, position + done, tokens)
        at, beside = scores + done * stride, bias - 4 * done
        if count - done >= 4 and peek(op, WINDOW) == 0:
            if bias != 0:
                biased_four(at, stride, panels, first, low, high, beside)
            else:
                plain_four(at, stride, panels, first, low, high, 0)
            done += 4
        else:
            if bias != 0:
                biased_one(at, stride, panels, first, low, high, beside)
            else:
                plain_one(at, stride, panels, first, low, high, 0)
            done += 1
    return 0


@inline
def add_positions(op, head, queries, count, keys, distance, out, stride):  # type: ignore[no-untyped-def]
    """Add the terms of position to the scores of a block's queries and one panel.

    ``distance`` is that of the panel's first key and the first query.
    """
    dim, rows = peek(op, DIM), peek(op, RELATIVE_STRIDE)
    at = head * peek(op, RELATIVE_HEAD_BYTES) + distance * 4
    position_keys, position_queries = peek(op, RELATIVE_KEYS) + at, peek(op, RELATIVE_QUERIES) + at
    done = 0
    while done < count:
        query, to, back = queries + done * dim * 4, out + done * stride, done * 4
        if count - done >= 2:
            relative_two(query, dim, keys, position_keys - back, position_queries - back, rows, to, stride)
            done += 2
        else:
            relative_one(query, dim, keys, position_keys - back, position_queries - back, rows, to, stride)
            done += 1
    return 0


@inline
def attend_block(op, run, member, block, head):  # type: ignore[no-untyped-def]
    """Compute one head of a block of rows of one text."""
    table = peek(run, RUN_BLOCK_TABLE) + 8 * BLOCK_FIELDS * block
    row, count, dim = peek(table, BLOCK_ROW), peek(table, BLOCK_COUNT), peek(op, DIM)
    entry = peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * row
    position, tokens = peek(entry, ROW_POSITION), peek(entry, ROW_VIEW_END)
    start = view_start(op, position) // PAGE_TOKENS
    end = view_end(op, position + count - 1, tokens)
    panels, first = (end + PAGE_TOKENS - 1) // PAGE_TOKENS - start, start * PAGE_TOKENS
    stride = (panels + 1) * LINE
    queries = peek(run, RUN_SCRATCH) + member * peek(run, RUN_SCRATCH_STRIDE)
    scores = queries + count * dim * 4 + LINE
    load_queries(op, run, queries, row, count, head)
    at = head * peek(op, HEAD_BYTES)
    panel = peek(entry, ROW_PANEL) + start
    keys, values = peek(op, KEYS) + at + panel * dim * LINE, peek(op, VALUES) + at + panel * dim * LINE
    for index in range(panels):
        panel_keys, to = keys + index * dim * LINE, scores + index * LINE
        score_queries(queries, count, dim, panel_keys, to, stride)
        if peek(op, RELATIVE_KEYS) != 0:
            distance = first + index * PAGE_TOKENS - position
            add_positions(op, head, queries, count, panel_keys, distance, to, stride)
    soften(op, head, scores, stride, position, count, tokens, first, panels)
    weigh_queries(scores, stride, count, values, end - first, dim, queries)
    for index in range(count):
        finish_row(op, row + index, head, queries + index * dim * 4)
    return 0


@inline
def finish_row(op, row, head, source):  # type: ignore[no-untyped-def]
    """Write one row's head for the next product."""
    dim, headers = peek(op, DIM), peek(op, OUT_HEADERS)
    out = peek(op, OUT) + row * peek(op, OUT_STRIDE)
    if headers != 0:
        headers += row * peek(op, OUT_HEADER_STRIDE) + head * dim // 32 * HEADER_BYTES
        finish(source, dim, out + head * dim, headers)
    else:
        finish(source, dim, out + head * dim * 4, 0)
    return 0


@kernel()
def attend(op, run, member):  # type: ignore[no-untyped-def]
    """Compute attention for all rows of the pass."""
    heads, team, slot = peek(op, KV_HEADS), peek(run, RUN_TEAM), peek(op, SLOT)
    blocks = peek(run, RUN_BLOCKS)
    if has_own_heads(op, run):
        for head in range(heads * member // team, heads * (member + 1) // team):
            for block in range(blocks):
                store_block(op, run, block, head)
            for block in range(blocks):
                attend_block(op, run, member, block, head)
        return 1
    units = blocks * heads
    claimed = claim_some(run, slot, member, team, units, 1)
    while claimed >= 0:
        for unit in range(claim_first(claimed), claim_end(claimed)):
            attend_block(op, run, member, unit // heads, unit % heads)
        claimed = claim_some(run, slot, member, team, units, 1)
    return 1
