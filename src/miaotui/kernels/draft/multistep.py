"""Drafting within a run of passes: a draft becomes rows of the next pass without Python in between.

It serves one sequence. After each pass `take_tokens` accepts tokens as far as the draft holds. Then the head drafts
(`begin_draft`, `extend_draft`): the whole team runs one step of it for each token, while the policy finds one more
step worth its cost. The policy also says how many of the drafted tokens become rows of the next pass. Where a text
is likely to go on, Python is asked for a draft instead (`QUOTE`). Owns the loop; knows the policy's rules only as
calls (`policy`), and chances and costs as numbers of a table (`draft_fields`). Invariant: a draft changes when tokens
come, never which.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.draft import policy_fields
from miaotui.kernels.draft.draft_fields import (
    BROKEN,
    CHANCE,
    CHANCES,
    COSTS,
    COUNT,
    COUNTS,
    DRAFTED_EVIDENCE,
    DRAFTED_TOKEN,
    EVIDENCE,
    HEAD_DRAFTED,
    HEAD_ROWS,
    HEAD_RUN,
    HEAD_SOURCES,
    HEAD_STEP,
    IS_QUOTE_REQUESTED,
    IS_QUOTED,
    LEFT,
    LENGTH,
    LOG,
    LOG_BROUGHT,
    LOG_EVIDENCE,
    LOG_FIELDS,
    LOG_LENGTH,
    LOG_QUOTED,
    LOG_TOKENS,
    LOG_VERIFIED,
    MAX_DRAFT,
    MAX_LENGTH,
    MEAN_RATES,
    POSITION,
    QUOTE,
    RATES,
    ROW,
    TABLE,
    TABLES,
    TOKEN,
    TOKENS,
    TOTAL,
)
from miaotui.kernels.draft.policy import rows_worth, step_worth
from miaotui.kernels.draft.policy_fields import EVIDENCE_CLASSES, PASS_MARGIN, STEP_MARGIN
from miaotui.kernels.runtime.compiler import inline
from miaotui.kernels.runtime.memory import call, load_float, peek, poke
from miaotui.kernels.runtime.ops import (
    BLOCK_COUNT,
    BLOCK_FIELDS,
    BLOCK_ROW,
    BLOCK_ROWS,
    ROW_ADAPTER,
    ROW_CHOICE,
    ROW_FIELDS,
    ROW_PAGES,
    ROW_POSITION,
    ROW_TOKEN,
    ROW_VIEW_END,
    RUN_BEST,
    RUN_BLOCK_TABLE,
    RUN_BLOCKS,
    RUN_DONE,
    RUN_LOGIT_ROWS,
    RUN_LOGIT_TABLE,
    RUN_MORE,
    RUN_ROW_TABLE,
    RUN_ROWS,
    RUN_SINGLE,
    RUN_STORE_TABLE,
    RUN_STORES,
    RUN_TOKENS,
    STORE_FIELDS,
)
from miaotui.kernels.sampling.draw_fields import CHOICE_ENDS
from miaotui.kernels.sampling.peaks_fields import PEAK_FIELDS, PEAK_ID, PEAK_VALUE
from miaotui.kernels.sampling.weights import doubles

PASS, STEP = 1, 2  # what follows (`RUN_MORE`): a pass, or a step of the head; 0: nothing
_INFINITY = np.float32(np.inf)
_evidence_class = inline(policy_fields.evidence_class)


@inline
def ends_with(choice, token):  # type: ignore[no-untyped-def]
    """Tell whether ``token`` ends the sequence."""
    count = 0 if choice == 0 else peek(choice, CHOICE_ENDS)
    found = False
    for index in range(count):
        found |= peek(choice, CHOICE_ENDS + 1 + index) == token
    return found


@inline
def _row(run: Any, index: Any) -> Any:
    return peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * index


@inline
def take_tokens(run, draft):  # type: ignore[no-untyped-def]
    """Accept the tokens of a pass as far as its draft holds; returns 1 if the sequence goes on."""
    out = peek(run, RUN_TOKENS) + 8 * peek(draft, TOTAL)
    rows, left = peek(run, RUN_ROWS), peek(draft, LEFT)
    row, count, going = 0, 0, 1
    while True:
        best = peek(run, RUN_BEST) + 8 * PEAK_FIELDS * row
        token, top = peek(best, PEAK_ID), load_float(best + 8 * PEAK_VALUE)
        if not (-_INFINITY < top < _INFINITY):
            poke(draft, BROKEN, row)
            going = 0
            break
        poke(out, count, token)
        count += 1
        poke(draft, ROW, row)
        poke(draft, TOKEN, token)
        if ends_with(peek(_row(run, 0), ROW_CHOICE), token) or count == left:
            going = 0
            break
        row += 1
        if row == rows or peek(_row(run, row), ROW_TOKEN) != token:
            break
    _log(run, draft, count)
    poke(draft, POSITION, peek(draft, POSITION) + count)
    poke(draft, LEFT, left - count)
    poke(draft, TOTAL, peek(draft, TOTAL) + count)
    return going


@inline
def _log(run: Any, draft: Any, brought: Any) -> None:
    """Write down what the pass verified and brought."""
    log = draft + 8 * (LOG + LOG_FIELDS * peek(run, RUN_DONE))
    length, quoted = peek(draft, LENGTH), peek(draft, IS_QUOTED)
    poke(log, LOG_LENGTH, length)
    poke(log, LOG_VERIFIED, peek(run, RUN_ROWS) - 1)
    poke(log, LOG_BROUGHT, brought)
    poke(log, LOG_QUOTED, quoted)
    for index in range(0 if quoted else length):
        poke(log, LOG_TOKENS + index, peek(draft, TOKENS + index))
        poke(log, LOG_EVIDENCE + index, peek(draft, EVIDENCE + index))
    poke(run, RUN_DONE, peek(run, RUN_DONE) + 1)


@inline
def begin_draft(run, draft):  # type: ignore[no-untyped-def]
    """Begin the draft after the newest token: the next pass with a quote, or the head's first step, or neither."""
    quoted = call(peek(draft, QUOTE), run, 0, 0) if peek(draft, IS_QUOTE_REQUESTED) == 1 else 0
    poke(draft, LENGTH, quoted)
    poke(draft, IS_QUOTE_REQUESTED, min(quoted, 1))
    poke(draft, IS_QUOTED, min(quoted, 1))
    if quoted > 0:
        _set_pass(run, draft)
    else:
        doubles(draft, LOG)[CHANCE] = 1.0
        _go_on(run, draft)


@inline
def extend_draft(run, draft):  # type: ignore[no-untyped-def]
    """Take the token of the head's step; then follows one more step, or the next pass."""
    numbers, length, drafted = doubles(draft, LOG), peek(draft, LENGTH), peek(draft, HEAD_DRAFTED)
    evidence = peek(drafted, DRAFTED_EVIDENCE)
    poke(draft, TOKENS + length, peek(drafted, DRAFTED_TOKEN))
    poke(draft, EVIDENCE + length, evidence)
    kind = _evidence_class(evidence) + EVIDENCE_CLASSES * min(length, 1)
    numbers[CHANCE] *= numbers[RATES + kind]
    numbers[CHANCES + length] = numbers[CHANCE]
    poke(draft, LENGTH, length + 1)
    _go_on(run, draft)


@inline
def _go_on(run: Any, draft: Any) -> None:
    """Set up one more step of the head where it is worth it, else the next pass."""
    numbers, length = doubles(draft, LOG), peek(draft, LENGTH)
    worth = False
    if peek(draft, ROW) >= 0 and length < peek(draft, MAX_LENGTH) and length + 1 < peek(draft, LEFT):
        price = numbers[COSTS + length + 1] - numbers[COSTS + length] + numbers[HEAD_STEP]
        promised = numbers[CHANCE] * numbers[MEAN_RATES + min(length, 1)]
        worth = step_worth(promised, price, 1.0, numbers[COSTS], STEP_MARGIN)
    if worth:
        _set_step(run, draft, length)
        poke(run, RUN_MORE, STEP)
    else:
        _set_pass(run, draft)


@inline
def _set_step(run: Any, draft: Any, length: Any) -> None:
    """Fill the tables of the head's next step."""
    row, head = peek(draft, HEAD_ROWS), peek(draft, HEAD_RUN)
    poke(peek(draft, HEAD_SOURCES), 0, peek(draft, ROW))
    token = peek(draft, TOKEN) if length == 0 else peek(draft, TOKENS + length - 1)
    poke(row, ROW_TOKEN, token)
    poke(row, ROW_POSITION, peek(draft, POSITION) + length)
    poke(row, ROW_CHOICE, peek(_row(run, 0), ROW_CHOICE))
    poke(row, ROW_PAGES, peek(_row(run, 0), ROW_PAGES))
    poke(row, ROW_VIEW_END, peek(draft, POSITION))
    poke(head, RUN_ROWS, 1)
    poke(head, RUN_BLOCKS, 1)
    poke(head, RUN_LOGIT_ROWS, 1)
    which = 0 if length == 0 else 2 - length % 2
    poke(draft, TABLE, peek(draft, TABLES + which))
    poke(draft, COUNT, peek(draft, COUNTS + which))


@inline
def _set_pass(run: Any, draft: Any) -> None:
    """Fill the tables of the next pass: the newest token, and what is worth a row of the draft."""
    numbers = doubles(draft, LOG)
    chances, costs = numbers[CHANCES : CHANCES + MAX_DRAFT], numbers[COSTS : COSTS + MAX_DRAFT + 1]
    worth, _ = rows_worth(chances, costs, peek(draft, LENGTH), 1.0, PASS_MARGIN, 0.0)
    _set_rows(run, draft, worth)
    poke(run, RUN_MORE, PASS)


@inline
def _set_rows(run: Any, draft: Any, count: Any) -> None:
    """Fill the tables of the newest token and of ``count`` tokens of its draft."""
    first, pages = _row(run, 0), peek(_row(run, 0), ROW_PAGES)
    for index in range(count + 1):
        row, position = _row(run, index), peek(draft, POSITION) + index
        token = peek(draft, TOKEN) if index == 0 else peek(draft, TOKENS + index - 1)
        poke(row, ROW_TOKEN, token)
        poke(row, ROW_POSITION, position)
        poke(row, ROW_PAGES, pages)
        poke(row, ROW_VIEW_END, position + 1)
        poke(row, ROW_CHOICE, peek(first, ROW_CHOICE))
        poke(row, ROW_ADAPTER, peek(first, ROW_ADAPTER))
        store = peek(run, RUN_STORE_TABLE) + 8 * STORE_FIELDS * index
        poke(store, 0, index)
        poke(store, 1, peek(pages, position // PAGE_TOKENS))
        poke(store, 2, position % PAGE_TOKENS)
        poke(peek(run, RUN_LOGIT_TABLE), index, index)
    blocks = (count + BLOCK_ROWS) // BLOCK_ROWS
    for index in range(blocks):
        block, row = peek(run, RUN_BLOCK_TABLE) + 8 * BLOCK_FIELDS * index, BLOCK_ROWS * index
        poke(block, BLOCK_ROW, row)
        poke(block, BLOCK_COUNT, min(count + 1 - row, BLOCK_ROWS))
    poke(run, RUN_BLOCKS, blocks)
    poke(run, RUN_SINGLE, 1 if blocks == 1 else 0)
    poke(run, RUN_ROWS, count + 1)
    poke(run, RUN_LOGIT_ROWS, count + 1)
    poke(run, RUN_STORES, count + 1)
