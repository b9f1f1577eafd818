"""Drafting with a head's logits: each row's token, and the evidence for it.

`draft_rows` lets the head's tokens race with the very noise that the model's own draw at that position will have
(see `sampling.gumbel`). Filters are left out, since a draft may be wrong. The head's logits are sharpened a little: a
head whose probabilities are right on average is unsure of each single one, and a token that it holds unlikely is
mostly less likely still. The evidence is how far the winner leads the second, in parts of an octave of probability
(a factor of 2): the further it leads, the more probably the model draws the same token.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from miaotui.kernels.draft.draft_fields import DRAFTED_EVIDENCE, DRAFTED_FIELDS, DRAFTED_TOKEN
from miaotui.kernels.draft.policy_fields import EVIDENCE_PER_OCTAVE, MAX_HEAD_EVIDENCE
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import peek, poke
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
from miaotui.kernels.sampling.peaks_fields import LISTED, OUT, WIDTH, X_STRIDE, X
from miaotui.kernels.sampling.sample import key_of
from miaotui.kernels.sampling.weights import doubles, floats, words

_SHARPER = np.float32(1.15)  # of 6,000 draws it meets 57.7% instead of 56.6%
_PER_OCTAVE, _MAX_LEAD = np.float32(EVIDENCE_PER_OCTAVE), np.float32(MAX_HEAD_EVIDENCE - 1)
_LOW = np.uint64(0xFFFFFFFF)


@inline
def _fill_scores(logits: Any, tokens: Any, scale: Any, key: Any, scores: Any) -> Any:
    """Write the scores of tokens that race; returns the greatest."""
    low, high = np.uint32(key & _LOW), np.uint32(key >> np.uint64(32))
    for j in range(logits.size):
        noise = token_noise(low, high, np.uint32(tokens[j]))
        scores[j] = rank(logits[j] * scale - log2_wait(noise))
    return greatest(scores, logits.size)


@inline
def _fill_plain(logits: Any, scale: Any, scores: Any) -> Any:
    """Write the scores of tokens where the greatest logit wins; returns the greatest."""
    for j in range(logits.size):
        scores[j] = rank(logits[j] * scale)
    return greatest(scores, logits.size)


@inline
def evidence_of(lead: Any) -> Any:
    """The evidence of a token that leads the second by ``lead`` octaves, from 1 to `MAX_HEAD_EVIDENCE`."""
    return 1 + np.int64(min(max(lead * _PER_OCTAVE, np.float32(0)), _MAX_LEAD))


@inline
def _draft(logits: Any, tokens: Any, row: Any, scores: Any, out: Any) -> None:
    """Write one row's token and the evidence for it to ``out``."""
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
    poke(out, DRAFTED_TOKEN, np.int64(tokens[found]))
    poke(out, DRAFTED_EVIDENCE, evidence_of(unrank(best) - unrank(second)))


@kernel()
def draft_rows(op, run, member):  # type: ignore[no-untyped-def]
    """Draft a token for each row of logits."""
    rows, width = peek(run, peek(op, ROWS)), peek(op, WIDTH)
    scores = words(peek(run, RUN_DRAW) + member * peek(run, RUN_DRAW_STRIDE), BLOCK)
    tokens = words(peek(op, LISTED), width)
    team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
    claimed = claim(run, slot, member, team, rows)
    while claimed >= 0:
        for index in range(claim_first(claimed), claim_end(claimed)):
            logits = floats(peek(op, X) + index * peek(op, X_STRIDE), width)
            row = peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * index
            _draft(logits, tokens, row, scores, peek(op, OUT) + 8 * DRAFTED_FIELDS * index)
        claimed = claim(run, slot, member, team, rows)
    return 1
