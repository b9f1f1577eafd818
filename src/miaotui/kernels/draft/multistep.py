"""Guessing within a run of passes: a draft head's tokens become rows of the next pass without Python in between.

One sequence. After each pass its tokens are taken as far as the guess held (`take_tokens`), then the head
guesses on, a step of the whole team for each token, while a token promises more than its row and its step
cost; what is worth verifying becomes the rows of the next pass. Where a text is likely to go on, Python is asked
for what it goes on with instead. The same rules as `speculation.controller` and
`speculation.draft_depth` apply, to numbers that they have put into a table (`guess_fields`). Invariant: as there,
a guess decides when tokens come, never which.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.draft.draft_fields import (
    BROKEN,
    CHAIN,
    CHANCE,
    CHANCES,
    CLASS_OF,
    CLASSES,
    COUNT,
    COUNTS,
    DEPTH,
    EVIDENCE,
    GUESSED,
    GUESSES,
    HEAD_ROWS,
    HEAD_RUN,
    IS_QUOTED,
    IS_WISHED,
    LEFT,
    LOG,
    LOG_CAME,
    LOG_DRAFTED,
    LOG_EVIDENCE,
    LOG_FIELDS,
    LOG_GUESSED,
    LOG_QUOTED,
    LOG_TOKENS,
    MEANS,
    MOST,
    MOST_EVIDENCE,
    PARTS_OF_OCTAVE,
    PASS_MARGIN,
    POSITION,
    QUOTE,
    RATIOS,
    ROW,
    SHARE,
    SOURCES,
    STEP_MARGIN,
    TABLE,
    TABLES,
    TOKEN,
    TOTAL,
)
from miaotui.kernels.runtime.compiler import inline
from miaotui.kernels.runtime.memory import call, load_float, peek, poke
from miaotui.kernels.runtime.ops import (
    BLOCK_COUNT,
    BLOCK_FIELDS,
    BLOCK_ROW,
    BLOCK_ROWS,
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

PASS, STEP = 1, 2  # what follows (`RUN_MORE`); 0: nothing
_INFINITY = np.float32(np.inf)
_PARTS = np.float32(PARTS_OF_OCTAVE)


@inline
def ends_with(choice, token):  # type: ignore[no-untyped-def]
    """Whether ``token`` ends the sequence."""
    count = 0 if choice == 0 else peek(choice, CHOICE_ENDS)
    found = False
    for index in range(count):
        found |= peek(choice, CHOICE_ENDS + 1 + index) == token
    return found


@inline
def _row(run: Any, index: Any) -> Any:
    return peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * index


@inline
def take_tokens(run, guess):  # type: ignore[no-untyped-def]
    """Take the tokens of a pass as far as its drafts hold; 1 if the sequence goes on."""
    out = peek(run, RUN_TOKENS) + 8 * peek(guess, TOTAL)
    rows, left = peek(run, RUN_ROWS), peek(guess, LEFT)
    row, count, going = 0, 0, 1
    while True:
        best = peek(run, RUN_BEST) + 8 * PEAK_FIELDS * row
        token, top = peek(best, PEAK_ID), load_float(best + 8 * PEAK_VALUE)
        if not (-_INFINITY < top < _INFINITY):
            poke(guess, BROKEN, row)
            going = 0
            break
        poke(out, count, token)
        count += 1
        poke(guess, ROW, row)
        poke(guess, TOKEN, token)
        if ends_with(peek(_row(run, 0), ROW_CHOICE), token) or count == left:
            going = 0
            break
        row += 1
        if row == rows or peek(_row(run, row), ROW_TOKEN) != token:
            break
    _log(run, guess, count)
    poke(guess, POSITION, peek(guess, POSITION) + count)
    poke(guess, LEFT, left - count)
    poke(guess, TOTAL, peek(guess, TOTAL) + count)
    return going


@inline
def _log(run: Any, guess: Any, came: Any) -> None:
    log = guess + 8 * (LOG + LOG_FIELDS * peek(run, RUN_DONE))
    depth, quoted = peek(guess, DEPTH), peek(guess, IS_QUOTED)
    poke(log, LOG_GUESSED, depth)
    poke(log, LOG_DRAFTED, peek(run, RUN_ROWS) - 1)
    poke(log, LOG_CAME, came)
    poke(log, LOG_QUOTED, quoted)
    for index in range(0 if quoted else depth):
        poke(log, LOG_TOKENS + index, peek(guess, GUESSES + index))
        poke(log, LOG_EVIDENCE + index, peek(guess, EVIDENCE + index))
    poke(run, RUN_DONE, peek(run, RUN_DONE) + 1)


@inline
def begin_guess(run, guess):  # type: ignore[no-untyped-def]
    """After the newest token: the next pass with what a text goes on with, or the head's first step, or neither."""
    quoted = call(peek(guess, QUOTE), run, 0, 0) if peek(guess, IS_WISHED) == 1 else 0
    poke(guess, DEPTH, quoted)
    poke(guess, IS_WISHED, min(quoted, 1))
    poke(guess, IS_QUOTED, min(quoted, 1))
    if quoted > 0:
        _set_rows(run, guess, _worth(doubles(guess, CLASS_OF), quoted))
        poke(run, RUN_MORE, PASS)
    else:
        doubles(guess, CHANCE + 1)[CHANCE] = 1.0
        _go_on(run, guess)


@inline
def deepen_guess(run, guess):  # type: ignore[no-untyped-def]
    """After a step of the head: take its token; one more, or the next pass."""
    numbers = doubles(guess, CLASS_OF)
    depth = peek(guess, DEPTH)
    found = peek(guess, GUESSED)
    ahead = load_float(found + 8 * PEAK_VALUE) * _PARTS
    evidence = 1 + np.int64(min(max(ahead, np.float32(0)), np.float32(MOST_EVIDENCE - 1)))
    poke(guess, GUESSES + depth, peek(found, PEAK_ID))
    poke(guess, EVIDENCE + depth, evidence)
    kind = peek(guess, CLASS_OF + evidence) + CLASSES * min(depth, 1)
    numbers[CHANCE] *= numbers[CHANCES + kind]
    numbers[CHAIN + depth] = numbers[CHANCE]
    poke(guess, DEPTH, depth + 1)
    _go_on(run, guess)


@inline
def _go_on(run: Any, guess: Any) -> None:
    """One more step of the head where it pays, else the rows of the next pass."""
    numbers = doubles(guess, CLASS_OF)
    depth = peek(guess, DEPTH)
    pays = False
    if peek(guess, ROW) >= 0 and depth < peek(guess, MOST) and depth + 1 < peek(guess, LEFT):
        price = numbers[RATIOS + depth + 2] - numbers[RATIOS + depth + 1] + numbers[SHARE]
        hope = numbers[CHANCE] * numbers[MEANS + min(depth, 1)]
        pays = hope * numbers[RATIOS + 1] > numbers[STEP_MARGIN] * price
    if pays:
        _set_step(run, guess, depth)
        poke(run, RUN_MORE, STEP)
    else:
        _set_rows(run, guess, _worth(numbers, depth))
        poke(run, RUN_MORE, PASS)


@inline
def _set_step(run: Any, guess: Any, depth: Any) -> None:
    row, head = peek(guess, HEAD_ROWS), peek(guess, HEAD_RUN)
    poke(peek(guess, SOURCES), 0, peek(guess, ROW))
    token = peek(guess, TOKEN) if depth == 0 else peek(guess, GUESSES + depth - 1)
    poke(row, ROW_TOKEN, token)
    poke(row, ROW_POSITION, peek(guess, POSITION) + depth)
    poke(row, ROW_CHOICE, peek(_row(run, 0), ROW_CHOICE))
    poke(row, ROW_PAGES, peek(_row(run, 0), ROW_PAGES))
    poke(row, ROW_VIEW_END, peek(guess, POSITION))
    poke(head, RUN_ROWS, 1)
    poke(head, RUN_BLOCKS, 1)
    poke(head, RUN_LOGIT_ROWS, 1)
    which = 0 if depth == 0 else 2 - depth % 2
    poke(guess, TABLE, peek(guess, TABLES + which))
    poke(guess, COUNT, peek(guess, COUNTS + which))


@inline
def _worth(numbers: Any, depth: Any) -> Any:
    """How many of the guessed tokens are worth a row (see ``Speculation._shares``)."""
    gain, cost, most = 1.0, numbers[RATIOS + 1], 0
    best = numbers[PASS_MARGIN] * gain / cost
    for index in range(depth):
        gain += numbers[CHAIN + index]
        cost = max(cost, numbers[RATIOS + index + 2])
        if gain > best * cost:
            best, most = gain / cost, index + 1
    return most


@inline
def _set_rows(run: Any, guess: Any, drafted: Any) -> None:
    """The tables of the newest token and of its draft."""
    first, pages = _row(run, 0), peek(_row(run, 0), ROW_PAGES)
    for index in range(drafted + 1):
        row, position = _row(run, index), peek(guess, POSITION) + index
        token = peek(guess, TOKEN) if index == 0 else peek(guess, GUESSES + index - 1)
        poke(row, ROW_TOKEN, token)
        poke(row, ROW_POSITION, position)
        poke(row, ROW_PAGES, pages)
        poke(row, ROW_VIEW_END, position + 1)
        poke(row, ROW_CHOICE, peek(first, ROW_CHOICE))
        store = peek(run, RUN_STORE_TABLE) + 8 * STORE_FIELDS * index
        poke(store, 0, index)
        poke(store, 1, peek(pages, position // PAGE_TOKENS))
        poke(store, 2, position % PAGE_TOKENS)
        poke(peek(run, RUN_LOGIT_TABLE), index, index)
    blocks = (drafted + BLOCK_ROWS) // BLOCK_ROWS
    for index in range(blocks):
        block, row = peek(run, RUN_BLOCK_TABLE) + 8 * BLOCK_FIELDS * index, BLOCK_ROWS * index
        poke(block, BLOCK_ROW, row)
        poke(block, BLOCK_COUNT, min(drafted + 1 - row, BLOCK_ROWS))
    poke(run, RUN_BLOCKS, blocks)
    poke(run, RUN_SINGLE, 1 if blocks == 1 else 0)
    poke(run, RUN_ROWS, drafted + 1)
    poke(run, RUN_LOGIT_ROWS, drafted + 1)
    poke(run, RUN_STORES, drafted + 1)
