"""What a draw would take if the logits of a few tokens were all there are: the guesses of a draft head.

`guess_rows` lets the head's tokens race with the very noise that the real draw at that position will
have. Filters are left out, since a guess may be wrong, and the head's logits are taken a little
further apart than they are: a head that is right about probabilities on the mean is unsure of each,
and a token that it holds unlikely is mostly less likely still. How far the winner leads, in octaves
of a score (a factor of 2 in probability each), is written beside it: the further, the likelier that
the real draw agrees.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import peek, poke, store_float
from miaotui.kernels.runtime.ops import (
    ROW_CHOICE,
    ROW_FIELDS,
    ROWS,
    RUN_DRAW,
    RUN_DRAW_STRIDE,
    RUN_ROW_TABLE,
    RUN_TEAM,
    SLOT,
)
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first
from miaotui.kernels.sampling.draw_fields import BLOCK, CHOICE_LEAST, CHOICE_NOISY, CHOICE_SCALE
from miaotui.kernels.sampling.gumbel import LOWEST_RANK, greatest, log2_wait, rank, token_noise, unrank
from miaotui.kernels.sampling.peaks_fields import LISTED, OUT, PEAK_FIELDS, PEAK_ID, PEAK_VALUE, WIDTH, X_STRIDE, X
from miaotui.kernels.sampling.sample import key_of
from miaotui.kernels.sampling.weights import doubles, floats, words

_SHARPER = np.float32(1.15)  # of 6,000 draws it meets 57.7% instead of 56.6%
_LOW = np.uint64(0xFFFFFFFF)


@inline
def _fill_scores(logits: Any, tokens: Any, scale: Any, key: Any, scores: Any) -> Any:
    """Write the scores of tokens that race; the greatest of them."""
    low, high = np.uint32(key & _LOW), np.uint32(key >> np.uint64(32))
    for j in range(logits.size):
        noise = token_noise(low, high, np.uint32(tokens[j]))
        scores[j] = rank(logits[j] * scale - log2_wait(noise))
    return greatest(scores, logits.size)


@inline
def _fill_plain(logits: Any, scale: Any, scores: Any) -> Any:
    """The same where the greatest logit wins."""
    for j in range(logits.size):
        scores[j] = rank(logits[j] * scale)
    return greatest(scores, logits.size)


@inline
def _guess(logits: Any, tokens: Any, row: Any, scores: Any, out: Any) -> None:
    """One row's token and its lead, to ``out``."""
    choice = peek(row, ROW_CHOICE)
    noisy, scale = peek(choice, CHOICE_NOISY), doubles(choice, CHOICE_LEAST)[CHOICE_SCALE]
    key = key_of(choice, row)
    found, best, second = 0, LOWEST_RANK, LOWEST_RANK
    for start in range(0, logits.size, BLOCK):
        block = logits[start : start + BLOCK]
        if noisy == 0:
            most = _fill_plain(block, np.float32(scale), scores)
        else:
            listed = tokens[start : start + BLOCK]
            most = _fill_scores(block, listed, _SHARPER * np.float32(scale), key, scores)
        if most <= second:
            continue
        for j in range(block.size):
            if scores[j] > best:
                found, second, best = start + j, best, scores[j]
            elif scores[j] > second:
                second = scores[j]
    poke(out, PEAK_ID, np.int64(tokens[found]))
    store_float(out + 8 * PEAK_VALUE, unrank(best) - unrank(second))


@kernel()
def guess_rows(op, run, member):  # type: ignore[no-untyped-def]
    """The guess of each row."""
    rows, width = peek(run, peek(op, ROWS)), peek(op, WIDTH)
    scores = words(peek(run, RUN_DRAW) + member * peek(run, RUN_DRAW_STRIDE), BLOCK)
    tokens = words(peek(op, LISTED), width)
    team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
    claimed = claim(run, slot, member, team, rows)
    while claimed >= 0:
        for index in range(claim_first(claimed), claim_end(claimed)):
            logits = floats(peek(op, X) + index * peek(op, X_STRIDE), width)
            row = peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * index
            _guess(logits, tokens, row, scores, peek(op, OUT) + 8 * PEAK_FIELDS * index)
        claimed = claim(run, slot, member, team, rows)
    return 1
