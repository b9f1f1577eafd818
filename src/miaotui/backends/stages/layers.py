"""The choice of layers for each stage, and of the pieces in which a step goes through them.

Knows bytes and rows, no processes. Invariants: every layer belongs to one stage; each stage has at least one; a step
cut into pieces stores and computes what the whole step does, because a row depends on those before it alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from miaotui.errors import RequestError
from miaotui.schedule.plan import Chunk, RowKind

MOST_STAGES = 64
PIECE_ROWS = 128  # of a prompt: stages compute side by side from twice as many on


def cut_layers(outer: int, layers: Sequence[int], stages: int) -> tuple[range, ...]:
    """Return ranges of layers, one for each of ``stages``, so that the largest share of memory is as small as can be.

    ``outer`` are the bytes of embedding and head, which the first stage has; ``layers`` are the bytes of each layer.
    Raises `RequestError` for more stages than layers.
    """
    if not 1 <= stages <= min(len(layers), MOST_STAGES):
        raise RequestError(
            f"stages must be 1 to {min(len(layers), MOST_STAGES)} for a model of {len(layers)} layers, not {stages}"
        )
    low, high = max(layers), outer + sum(layers)
    while low < high:
        middle = (low + high) // 2
        if _cut(outer, layers, stages, middle) is None:
            low = middle + 1
        else:
            high = middle
    found = _cut(outer, layers, stages, low)
    assert found is not None, "one stage holds everything"
    return found


def _cut(outer: int, layers: Sequence[int], stages: int, most: int) -> tuple[range, ...] | None:
    """Return ranges whose bytes do not exceed ``most``; the first stage's least share is one layer."""
    found: list[range] = []
    start, held = 0, outer
    for layer, size in enumerate(layers):
        is_last_chance = len(layers) - layer == stages - len(found) - 1  # one layer for each stage that is left
        if layer > start and (held + size > most or is_last_chance):
            found.append(range(start, layer))
            start, held = layer, 0
        held += size
        if held > most and (found or layer > 0):
            return None
    found.append(range(start, len(layers)))
    return tuple(found) if len(found) == stages else None


def pieces(chunks: Sequence[Chunk], rows: int = PIECE_ROWS) -> list[tuple[Chunk, ...]]:
    """Return a step's chunks in pieces of about ``rows`` rows, in order; one piece where there is nothing to gain.

    The second stage computes a piece while the first computes the next one. Only prompts are cut.
    """
    whole = tuple(chunks)
    is_cut = all(chunk.kind is not RowKind.ENCODE and not chunk.branches for chunk in whole)
    if not is_cut or sum(len(chunk.tokens) for chunk in whole) < 2 * rows:
        return [whole]
    found: list[tuple[Chunk, ...]] = []
    piece: list[Chunk] = []
    room = rows
    for chunk in whole:
        rest = chunk
        while len(rest.tokens) > room:
            begin, rest = _split(rest, room)
            found.append((*piece, begin))
            piece, room = [], rows
        piece.append(rest)
        room -= len(rest.tokens)
        if not room:
            found.append(tuple(piece))
            piece, room = [], rows
    return [*found, tuple(piece)] if piece else found


def _split(chunk: Chunk, count: int) -> tuple[Chunk, Chunk]:
    """Return the first ``count`` rows of a chunk, and the others; the rows that have logits keep them."""
    wanted, tail = chunk.n_logits + chunk.n_scored, len(chunk.tokens) - count
    after = min(wanted, tail)
    first = chunk._replace(tokens=chunk.tokens[:count], n_logits=wanted - after, n_scored=0)
    return first, chunk._replace(start=chunk.start + count, tokens=chunk.tokens[count:], n_logits=after, n_scored=0)
