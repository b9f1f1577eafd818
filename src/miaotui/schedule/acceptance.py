"""The check that a step's tokens fit the chunk they were computed from.

Pure: it reads a chunk and tokens, nothing else. Invariant: a token is accepted only if the rows before it saw exactly
the tokens that are now accepted before it; anything else would leave wrong keys and values in the pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from miaotui.errors import EngineError
from miaotui.schedule.plan import Chunk


def accepted_tokens(chunk: Chunk, new_tokens: Mapping[int, Sequence[int]], passes: int = 1) -> Sequence[int]:
    """Check and return the chunk's new tokens: none without logits, else 1 to ``n_logits`` or ``passes``.

    All but the last must be drafted ones, each after the one before it. Raises `EngineError` when they do not fit the
    chunk.
    """
    accepted = new_tokens.get(chunk.sequence, ())
    count = len(accepted)
    if (count == 1 and chunk.n_logits) or (count == 0 and not chunk.n_logits):
        return accepted  # no drafted token among them
    if chunk.n_logits == 1 <= count <= passes:
        return accepted  # one from each pass
    if not 1 <= count <= chunk.n_logits:
        expected = f"1 to {chunk.n_logits}" if chunk.n_logits else "no"
        raise EngineError(
            f"sequence {chunk.sequence} got {count} new tokens from {chunk.n_logits} rows of "
            f"logits; expected {expected}"
        )
    if last_row(chunk, accepted) < 0:
        first = len(chunk.tokens) - chunk.n_logits + 1
        raise EngineError(
            f"sequence {chunk.sequence} accepted tokens {list(accepted)} against the draft "
            f"{list(chunk.tokens[first:])}; all but the last must equal the draft"
        )
    return accepted


def last_row(chunk: Chunk, accepted: Sequence[int]) -> int:
    """Find the row, of those with logits, that the last accepted token came from; -1: none drafted it."""
    row = 0
    for token in accepted[:-1]:
        row = chunk.follow(row, token)
        if row < 0:
            break
    return row
