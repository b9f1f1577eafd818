"""What one step computes, as plain values: the only thing the scheduler tells the runner.

A plan knows token ids, positions and physical page numbers; it does not know tensors, and holding
one keeps nothing alive. Invariant: the rows of a chunk write only to pages that no other chunk of
the plan mentions.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """One sequence's share of a step: ``tokens`` at positions ``start, start + 1, ...``."""

    sequence: int
    start: int  # position of tokens[0]: everything before it is already in the pages
    tokens: tuple[int, ...]  # known tokens, then drafted ones
    pages: tuple[int, ...]  # physical pages of positions [0, start + len(tokens)), in order
    n_logits: int  # logits wanted for the last n rows: 0 in mid-prompt, 1, or 1 + drafted tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """The chunks of one step, the oldest sequence first; empty when there is nothing to compute."""

    chunks: tuple[Chunk, ...]

    @property
    def n_rows(self) -> int:
        """Rows of the step: tokens over all chunks."""
        return sum(len(chunk.tokens) for chunk in self.chunks)
