"""Attention over paged keys and values: rotation, storing, and an online softmax in fixed page order.

A page holds 16 tokens of one layer. Per key/value head it holds first the keys, transposed (``[dim, 16]``, so a score
vector is 16 tokens and needs no horizontal sum), then the values ``[16, dim]``; as float16, or as int8 with 16
float32 scales after each. A query meets its pages in ascending order, one page at a time, whatever else is in the
batch: the result depends on its own position alone. Online softmax after Milakov and Gimelshein 2018 (section 3);
paging after Kwon et al. 2023.

Work per query and page: 2 x 16 x dim multiply-adds, two exponentials of 16 lanes.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.attention.emit import (
    ACCUMULATORS,
    attend_emitters,
    clear_query,
    finish_query,
    prefetch_bytes,
    query_bytes,
    rotate_head,
    sink_query,
    store_query,
)
from miaotui.kernels.attention.fields import (
    CAP,
    COS,
    DIM,
    GROUP_HEADS,
    HEAD_STRIDE,
    HEAD_VALUES,
    KEY_OFFSET,
    KV_HEADS,
    NORM_EPS,
    OUT,
    OUT_HEADER_STRIDE,
    OUT_HEADERS,
    OUT_STRIDE,
    PAGE_STRIDE,
    PAGE_TOKENS,
    PAGES,
    QKV,
    QKV_STRIDE,
    QUERY_NORM,
    QUERY_WEIGHTS,
    ROTATED,
    SCALE,
    SHARED,
    SIN,
    SINKS,
    SLOPES,
    VALUE_OFFSET,
    VALUES_IN_HEAD,
    WINDOW,
)
from miaotui.kernels.attention.store_emit import store_key_value
from miaotui.kernels.pointwise.emit import copy_row, multiply_row
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import load_float, peek, peek_float, store_float, store_int32
from miaotui.kernels.runtime.ops import (
    BLOCK_COUNT,
    BLOCK_FIELDS,
    BLOCK_ROW,
    COPY_FIELDS,
    ROW_FIELDS,
    ROW_PAGES,
    ROW_POSITION,
    ROW_VIEW_END,
    RUN_BLOCK_TABLE,
    RUN_BLOCKS,
    RUN_COPIES,
    RUN_COPY_TABLE,
    RUN_ROW_TABLE,
    RUN_ROWS,
    RUN_SCRATCH,
    RUN_SCRATCH_STRIDE,
    RUN_SINGLE,
    RUN_STORE_TABLE,
    RUN_STORES,
    RUN_TEAM,
    SLOT,
    STORE_FIELDS,
)
from miaotui.kernels.runtime.prefetch import ask_attended
from miaotui.kernels.runtime.simd import intrinsic
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first, claim_some, usual_chunk

MANY = 16  # queries: from so many on, work on a page of a prompt takes longer than its reading
EVEN = 4  # units for each thread, from which on it matters little that one has one more


@inline
def head_address(op, page, head):  # type: ignore[no-untyped-def]
    """Return where a head's keys of a page lie."""
    return peek(op, PAGES) + page * peek(op, PAGE_STRIDE) + head * peek(op, HEAD_STRIDE)


query_stride = inline(query_bytes)
rotate: Any = intrinsic(rotate_head, "iiiiiiiff")
prefetch: Any = intrinsic(prefetch_bytes, "ii")
clear: Any = intrinsic(clear_query, "ii")
sink: Any = intrinsic(sink_query, "iif")
finish: Any = intrinsic(finish_query, "iiii")
keep: Any = intrinsic(store_query, "iiii")
multiply: Any = intrinsic(multiply_row, "iii")
copy: Any = intrinsic(copy_row, "iii")


def _store_function(int8: bool) -> Any:
    emitted = intrinsic(store_key_value(int8), "iiiiii")

    def store(op, run, entry, head):  # type: ignore[no-untyped-def]
        """Rotate one key head of one row, and write it and its value head to its page."""
        table = peek(run, RUN_STORE_TABLE) + 8 * STORE_FIELDS * entry
        row, page, slot = peek(table, 0), peek(table, 1), peek(table, 2)
        position = peek(peek(run, RUN_ROW_TABLE), row * ROW_FIELDS + ROW_POSITION)
        dim = peek(op, DIM)
        source = peek(op, QKV) + row * peek(op, QKV_STRIDE) + head * dim * 4
        target = head_address(op, page, head)
        emitted(op, source + peek(op, KEY_OFFSET), source + peek(op, VALUE_OFFSET), target, slot, position)
        return 0

    return inline(store)


def _attend_function(int8: bool, capped: bool, biased: bool) -> Any:
    one, two, three, four, six, eight = (intrinsic(e, "iiiiiiif") for e in attend_emitters(int8, capped, biased))

    def attend(queries, stride, count, keys, values, dim, ahead, first, cap):  # type: ignore[no-untyped-def]
        """Let ``count`` queries meet one page."""
        done = 0
        while done < count:
            left = count - done
            base = queries + done * stride
            if left > 6 and left != 9:
                eight(base, stride, keys, values, dim, ahead, first, cap)
                done += 8
            elif left > 4:
                six(base, stride, keys, values, dim, ahead, first, cap)
                done += 6
            elif left == 4:
                four(base, stride, keys, values, dim, ahead, first, cap)
                done += 4
            elif left == 3:
                three(base, stride, keys, values, dim, ahead, first, cap)
                done += 3
            elif left == 2:
                two(base, stride, keys, values, dim, ahead, first, cap)
                done += 2
            else:
                one(base, stride, keys, values, dim, ahead, first, cap)
                done += 1
            ahead = 0
        return 0

    return inline(attend)


@inline
def first_seen(op, position):  # type: ignore[no-untyped-def]
    """Return the first position that a query at ``position`` sees."""
    window = peek(op, WINDOW)
    if window > 0 and position - window + 1 > 0:
        return position - window + 1
    return 0


@inline
def load_query(op, run, row, head, target):  # type: ignore[no-untyped-def]
    """Rotate and scale one query head into scratch, and reset its sums. Returns the start of its view."""
    table = peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * row
    position, end, dim = peek(table, ROW_POSITION), peek(table, ROW_VIEW_END), peek(op, DIM)
    start = first_seen(op, position)
    source = peek(op, QKV) + row * peek(op, QKV_STRIDE) + head * dim * 4
    rotated, at = peek(op, ROTATED), peek(op, ROTATED) // 2 * 4 * position
    cos, sin, eps, scale = peek(op, COS) + at, peek(op, SIN) + at, peek_float(op, NORM_EPS), peek_float(op, SCALE)
    rotate(source, target, dim, rotated, cos, sin, peek(op, QUERY_NORM), eps, scale)
    if peek(op, QUERY_WEIGHTS) != 0:
        multiply(target, dim, peek(op, QUERY_WEIGHTS))
    clear(target, dim)
    if peek(op, SINKS) != 0:
        sink(target, dim, load_float(peek(op, SINKS) + 4 * head))
    bounds = target + 4 * (2 * dim + ACCUMULATORS)
    store_int32(bounds, start)
    store_int32(bounds + 4, end)
    if peek(op, SLOPES) != 0:
        store_float(bounds + 8, load_float(peek(op, SLOPES) + 4 * head))
        store_int32(bounds + 12, position)
    return start


@inline
def page_of_unit(op, run, unit, number):  # type: ignore[no-untyped-def]
    """Return the address of the ``number``-th page that a unit reads; 0 if it has none."""
    heads = peek(op, KV_HEADS)
    first = peek(peek(run, RUN_BLOCK_TABLE), BLOCK_FIELDS * (unit // heads) + BLOCK_ROW)
    row = peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * first
    at = first_seen(op, peek(row, ROW_POSITION)) // PAGE_TOKENS + number
    if at > (peek(row, ROW_VIEW_END) - 1) // PAGE_TOKENS:
        return 0
    return head_address(op, peek(peek(row, ROW_PAGES), at), unit % heads)


@inline
def ask_page(op, page):  # type: ignore[no-untyped-def]
    """Prefetch all of a page's head."""
    if page != 0:
        prefetch(page, peek(op, HEAD_STRIDE))


@inline
def load_queries(op, run, queries, row, count, head):  # type: ignore[no-untyped-def]
    """Fill the scratch of all queries of a block. Returns the start of the first view."""
    group, stride = peek(op, GROUP_HEADS), query_stride(peek(op, DIM))
    start = 1 << 40
    for index in range(count):
        for g in range(group):
            target = queries + (index * group + g) * stride
            first = load_query(op, run, row + index, head * group + g, target)
            if first < start:
                start = first
    return start


@inline
def last_view(run, row, count):  # type: ignore[no-untyped-def]
    """Return one past the last position that any row of a block sees."""
    rows = peek(run, RUN_ROW_TABLE)
    end = 0
    for index in range(row, row + count):
        view_end = peek(rows, index * ROW_FIELDS + ROW_VIEW_END)
        if view_end > end:
            end = view_end
    return end


@inline
def finish_queries(op, queries, row, count, head):  # type: ignore[no-untyped-def]
    """Divide by the sums head by head, and quantize for the output product unless that is done later."""
    group, dim = peek(op, GROUP_HEADS), peek(op, DIM)
    stride = query_stride(dim)
    for index in range(count):
        out = peek(op, OUT) + (row + index) * peek(op, OUT_STRIDE)
        headers = peek(op, OUT_HEADERS) + (row + index) * peek(op, OUT_HEADER_STRIDE)
        for g in range(group):
            query = queries + (index * group + g) * stride
            if peek(op, OUT_HEADERS) == 0:
                size = peek(op, HEAD_VALUES)
                keep(query, dim, out + 4 * size * (head * group + g), size)
            else:
                column = (head * group + g) * dim
                finish(query, dim, out + column, headers + column // 2)
    return 0


@inline
def parts_of(run, heads):  # type: ignore[no-untyped-def]
    """Return into how many parts blocks are cut, so that threads share few blocks evenly.

    A part stores the keys and values that it sees.
    """
    blocks = peek(run, RUN_BLOCKS)
    few = blocks * heads < EVEN * peek(run, RUN_TEAM) and peek(run, RUN_ROWS) >= 2 * blocks
    return 2 if few and peek(run, RUN_SINGLE) == 1 else 1


def _unit_function(int8: bool, capped: bool, biased: bool) -> Any:
    store = _store_function(int8)
    attend = _attend_function(int8, capped, biased)

    def unit(op, run, member, block, head, part, parts, next_first, next_second):  # type: ignore[no-untyped-def]
        """Compute the queries of one part of a block of rows that share one key/value head.

        While it works on a page it prefetches the second one after it, also if that belongs to the next unit.
        """
        table = peek(run, RUN_BLOCK_TABLE) + 8 * BLOCK_FIELDS * block
        first, whole = peek(table, BLOCK_ROW), peek(table, BLOCK_COUNT)
        row = first + (whole * part + parts - 1) // parts
        count = first + (whole * (part + 1) + parts - 1) // parts - row
        if count == 0:
            return 0
        ask_attended(op, first, row, count, head)
        queries = peek(run, RUN_SCRATCH) + member * peek(run, RUN_SCRATCH_STRIDE)
        start = load_queries(op, run, queries, row, count, head)
        end = last_view(run, row, count)
        last = (end + PAGE_TOKENS - 1) // PAGE_TOKENS
        rows = peek(run, RUN_ROW_TABLE)
        pages = peek(rows, row * ROW_FIELDS + ROW_PAGES)
        seen = min(whole, end - peek(rows, first * ROW_FIELDS + ROW_POSITION))
        single = peek(run, RUN_SINGLE) == 1
        stores = single and peek(op, SHARED) == 0
        if stores and seen > 1:
            for index in range(first, first + seen):
                store(op, run, index, head)
        dim, cap = peek(op, DIM), peek_float(op, CAP)
        stride, many = query_stride(dim), count * peek(op, GROUP_HEADS)
        if start // PAGE_TOKENS + 1 == last:
            ask_page(op, next_first)
        for number in range(start // PAGE_TOKENS, last):
            keys = head_address(op, peek(pages, number), head)
            ahead = next_first if number + 2 == last else next_second
            if number + 2 < last:
                ahead = head_address(op, peek(pages, number + 2), head)
            if not single and many > MANY:
                ahead = 0
            if number + 1 == last and seen == 1 and stores:
                store(op, run, row, head)
            attend(queries, stride, many, keys, keys + peek(op, VALUES_IN_HEAD), dim, ahead, number * PAGE_TOKENS, cap)
        finish_queries(op, queries, row, count, head)
        return 0

    return inline(unit)


def _attention_kernel(int8: bool, capped: bool, name: str, biased: bool = False) -> Any:
    unit = _unit_function(int8, capped, biased)

    def attention(op, run, member):  # type: ignore[no-untyped-def]
        heads, team, slot = peek(op, KV_HEADS), peek(run, RUN_TEAM), peek(op, SLOT)
        parts = parts_of(run, heads)
        units = peek(run, RUN_BLOCKS) * heads * parts
        mine = units * (member + 1) // team if peek(run, RUN_SINGLE) == 1 else 0
        chunk = usual_chunk(units, team) if mine else 1  # a prompt's differ in work
        claimed = claim_some(run, slot, member, team, units, chunk)
        if claimed >= 0 and claim_first(claimed) < mine:
            ask_page(op, page_of_unit(op, run, claim_first(claimed) // parts, 0))
            ask_page(op, page_of_unit(op, run, claim_first(claimed) // parts, 1))
        while claimed >= 0:
            for index in range(claim_first(claimed), claim_end(claimed)):
                whole, after = index // parts, (index + 1) // parts
                first = second = 0
                if index + 1 < mine and after != whole:
                    first = page_of_unit(op, run, after, 0)
                    second = page_of_unit(op, run, after, 1)
                unit(op, run, member, whole // heads, whole % heads, index % parts, parts, first, second)
            claimed = claim_some(run, slot, member, team, units, chunk)
        return 1

    attention.__name__ = attention.__qualname__ = name
    return kernel()(attention)


def _store_kernel(int8: bool, name: str) -> Any:
    store = _store_function(int8)

    def kv_store(op, run, member):  # type: ignore[no-untyped-def]
        """Store all keys and values of the pass before any row reads them.

        There is nothing to do when each unit stores its own.
        """
        if peek(run, RUN_SINGLE) == 1:
            return 0
        heads, team, slot = peek(op, KV_HEADS), peek(run, RUN_TEAM), peek(op, SLOT)
        units = peek(run, RUN_STORES) * heads
        claimed = claim(run, slot, member, team, units)
        while claimed >= 0:
            for index in range(claim_first(claimed), claim_end(claimed)):
                store(op, run, index // heads, index % heads)
            claimed = claim(run, slot, member, team, units)
        return 1

    kv_store.__name__ = kv_store.__qualname__ = name
    return kernel()(kv_store)


@kernel()
def kv_copy(op, run, member):  # type: ignore[no-untyped-def]
    """Copy pages for rows that see a tree of drafts: each path gets a private tail, in its true page order."""
    copies = peek(run, RUN_COPIES)
    if copies == 0:
        return 0
    heads, team, slot = peek(op, KV_HEADS), peek(run, RUN_TEAM), peek(op, SLOT)
    units = copies * heads
    claimed = claim(run, slot, member, team, units)
    while claimed >= 0:
        for index in range(claim_first(claimed), claim_end(claimed)):
            table = peek(run, RUN_COPY_TABLE) + 8 * COPY_FIELDS * (index // heads)
            head = index % heads
            source, target = head_address(op, peek(table, 0), head), head_address(op, peek(table, 1), head)
            copy(source, peek(op, HEAD_STRIDE) >> 2, target)
        claimed = claim(run, slot, member, team, units)
    return 1


kv_store_f16 = _store_kernel(int8=False, name="kv_store_f16")
kv_store_int8 = _store_kernel(int8=True, name="kv_store_int8")
attention_f16 = _attention_kernel(int8=False, capped=False, name="attention_f16")
attention_f16_capped = _attention_kernel(int8=False, capped=True, name="attention_f16_capped")
attention_int8 = _attention_kernel(int8=True, capped=False, name="attention_int8")
attention_int8_capped = _attention_kernel(int8=True, capped=True, name="attention_int8_capped")
attention_f16_biased = _attention_kernel(int8=False, capped=False, biased=True, name="attention_f16_biased")
attention_int8_biased = _attention_kernel(int8=True, capped=False, biased=True, name="attention_int8_biased")
