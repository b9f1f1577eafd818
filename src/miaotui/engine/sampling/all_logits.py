"""The logits after every token of a text, for callers that look at the model itself.

Owns the cutting of a text into passes. Knows no requests: the passes run over pages that no sequence uses.
Invariant: the logits are those that an answer would be drawn from, whatever runs beside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import Backend, probe_chunk
from miaotui.errors import PromptTooLongError, RequestError
from miaotui.schedule.plan import Plan


def all_logits(backend: Backend, token_ids: Sequence[int]) -> NDArray[np.float32]:
    """Compute the logits after each of the tokens, float32 ``[n, vocab]``.

    Raises `RequestError` for tokens that the model does not have, `PromptTooLongError` for more than the context
    holds. Must not be called while a step runs, see `EngineLoop.between_steps`.
    """
    tokens, limits = tuple(token_ids), backend.limits
    if len(tokens) > limits.context:
        raise PromptTooLongError(
            f"{len(tokens)} tokens exceed the context of {limits.context}: give fewer, or load "
            "the model with a larger context"
        )
    if not tokens or min(tokens) < 0 or max(tokens) >= limits.vocab_size:
        raise RequestError(f"token_ids must be 1 or more ids in [0, {limits.vocab_size})")
    result = np.empty((len(tokens), limits.vocab_size), np.float32)
    step = min(limits.logits_rows, limits.rows)
    for start in range(0, len(tokens), step):
        part = tokens[start : start + step]
        found = backend.run(Plan((probe_chunk(limits, part, start, len(part)),)))
        result[start : start + len(part)] = found.logits
    return result
