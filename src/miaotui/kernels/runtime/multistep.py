"""Runs of several passes without Python in between: chosen tokens become inputs of the next pass.

`step_on` is one thread's work between two passes of a run whose rows are one token of a sequence each. Owns the rule
for the end of such a run: the last pass, an ended sequence, a row of logits that is not finite, a halt request
(`RUN_HALT`), or the answer of the callback for masks (`ask`). Invariant: the results equal those of as many runs of
one pass (multi-step scheduling, as in vLLM 0.6 and TensorRT-LLM; here a run can be cut short at any pass).
"""

from __future__ import annotations

import numpy as np

from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.draft.multistep import begin_draft, ends_with, take_tokens
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import atomic_load, call, load_float, peek, poke
from miaotui.kernels.runtime.ops import (
    ROW_CHOICE,
    ROW_FIELDS,
    ROW_PAGES,
    ROW_POSITION,
    ROW_TOKEN,
    ROW_VIEW_END,
    RUN_ASK,
    RUN_BEST,
    RUN_DONE,
    RUN_DRAFT,
    RUN_GOING,
    RUN_HALT,
    RUN_MORE,
    RUN_PASSES,
    RUN_ROW_TABLE,
    RUN_ROWS,
    RUN_STORE_TABLE,
    RUN_TOKENS,
    STORE_FIELDS,
)
from miaotui.kernels.sampling.peaks_fields import PEAK_FIELDS, PEAK_ID, PEAK_VALUE

_INFINITY = np.float32(np.inf)


@kernel()
def ask(op, run, member):  # type: ignore[no-untyped-def]
    """Let the leader call back for the masks of this pass, while the other threads begin the head's product.

    Masks change from token to token. Computing one takes as long as a good part of a layer.
    """
    if member == 0 and peek(run, RUN_ASK) != 0:
        poke(run, RUN_GOING, call(peek(run, RUN_ASK), run, 0, 0))
    return 0


@inline
def note_tokens(run):  # type: ignore[no-untyped-def]
    """Store the chosen tokens. Returns 1 if every sequence continues after them."""
    rows, done = peek(run, RUN_ROWS), peek(run, RUN_DONE)
    out = peek(run, RUN_TOKENS) + 8 * done * rows
    going = 1
    for row in range(rows):
        best = peek(run, RUN_BEST) + 8 * PEAK_FIELDS * row
        token, top = peek(best, PEAK_ID), load_float(best + 8 * PEAK_VALUE)
        poke(out, row, token)
        choice = peek(peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * row, ROW_CHOICE)
        if not (-_INFINITY < top < _INFINITY) or ends_with(choice, token):
            going = 0
    poke(run, RUN_DONE, done + 1)
    return going


@inline
def step_on(run):  # type: ignore[no-untyped-def]
    """Decide after a pass whether another one follows, and if so fill its tables."""
    draft = peek(run, RUN_DRAFT)
    going = note_tokens(run) if draft == 0 else take_tokens(run, draft)
    if peek(run, RUN_DONE) >= peek(run, RUN_PASSES) or atomic_load(run + 8 * RUN_HALT) == 1:
        going = 0
    if peek(run, RUN_ASK) != 0 and peek(run, RUN_GOING) == 0:
        going = 0
    poke(run, RUN_MORE, going)
    if going == 0:
        return 0
    if draft != 0:
        begin_draft(run, draft)
        return 0
    for index in range(peek(run, RUN_ROWS)):
        row = peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * index
        store = peek(run, RUN_STORE_TABLE) + 8 * STORE_FIELDS * index
        position = peek(row, ROW_POSITION) + 1
        poke(row, ROW_TOKEN, peek(peek(run, RUN_BEST) + 8 * PEAK_FIELDS * index, PEAK_ID))
        poke(row, ROW_POSITION, position)
        poke(row, ROW_VIEW_END, position + 1)
        poke(store, 1, peek(peek(row, ROW_PAGES), position // PAGE_TOKENS))
        poke(store, 2, position % PAGE_TOKENS)
    return 0
