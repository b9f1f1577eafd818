"""One step's rows as plain values: all that the scheduler tells a backend; and the tokens that they bring.

A plan knows token ids, positions and physical page numbers; it does not know tensors, and holding
one keeps nothing alive. Invariant: the rows of a chunk write only to pages that no other chunk of
the plan mentions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from miaotui.errors import EngineError
from miaotui.schedule.tree import Branch

NO_ADAPTER = 0


class RowKind(Enum):
    """The purpose of a chunk's rows."""

    DECODE = "decode"  # a sequence's newest token, and drafted ones after it
    PREFILL = "prefill"  # known tokens: of a prompt, or of a sequence that was paused
    ENCODE = "encode"  # a whole text; each row sees those after it too
    PROBE = "probe"  # rows of no sequence, in pages that none is given; ``sequence`` means nothing


class Chunk(NamedTuple):
    """One sequence's share of a step: ``tokens`` at positions ``start, start + 1, ...``.

    Rows of ``branches`` are the last ones, and have their own positions and pages.
    """

    sequence: int
    start: int  # position of tokens[0]: everything before it is already in the pages
    tokens: tuple[int, ...]  # known tokens, then drafted ones
    pages: tuple[int, ...]  # physical pages of positions [0, start + trunk), in order
    n_logits: int  # the last n rows choose tokens: 0 in mid-prompt, 1, or 1 + drafted tokens
    branches: tuple[Branch, ...] = ()  # of a tree of drafts; then there is one known token
    n_scored: int = 0  # rows before those whose logits score the known tokens that follow them
    kind: RowKind = RowKind.DECODE
    adapter: int = NO_ADAPTER  # number of the low-rank adapter that its rows go through

    @property
    def trunk(self) -> int:
        """Number of rows at positions ``start, start + 1, ...`` in ``pages``: all but those of branches."""
        return self.branches[0].row if self.branches else len(self.tokens)

    def follow(self, row: int, token: int) -> int:
        """Find the first row that drafts ``token`` after ``row``, -1 for none; both of those with logits."""
        known = len(self.tokens) - self.n_logits
        after = row + 1
        if not self.branches:
            return after if after < self.n_logits and self.tokens[known + after] == token else -1
        if (
            after < self.n_logits
            and self.tokens[known + after] == token
            and all(branch.row != after for branch in self.branches)
        ):
            return after
        for branch in self.branches:
            if branch.parent == row and self.tokens[branch.row] == token:
                return branch.row
        return -1

    def pages_of(self, row: int) -> tuple[int, ...]:
        """Return the pages that a row sees."""
        for branch in self.branches:
            if branch.row <= row < branch.row + branch.count:
                return branch.pages
        return self.pages


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Limits of the next steps, so that promises are kept; None: no limit."""

    prompt_rows: int | None = None  # of one step, over all prompts
    width: int | None = None  # sequences that may run at once
    hold_best_effort: bool = False  # only the promised ones go on, and who was passed over for long
    prompts_until: int | None = None  # prompts due later than this order wait


NO_LIMITS = StepLimits()


@dataclass(frozen=True, slots=True)
class Plan:
    """The chunks of one step, the oldest sequence first; empty when there is nothing to compute.

    Up to ``passes`` may follow each other, with each row's token as the input of the next pass: then every chunk is one
    row, and has pages for all of them.
    """

    chunks: tuple[Chunk, ...]
    passes: int = 1

    @property
    def n_rows(self) -> int:
        """Number of rows of the step: tokens over all chunks."""
        return sum(len(chunk.tokens) for chunk in self.chunks)

    @property
    def prompt_rows(self) -> int:
        """Number of rows of prompts that are not read to their end by this step."""
        return sum(len(chunk.tokens) for chunk in self.chunks if not chunk.n_logits)


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
