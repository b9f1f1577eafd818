"""A draft head on the CPU: its compiled steps, started from what the model's last pass has left.

Owns the head's program and the table of its runs. Knows rows, tokens and choices, neither requests nor chances.
Invariant: a head drafts the token that the model would draw if its distribution were the head's, with the noise of
that very position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from miaotui.backends.backend import TokenChoice
from miaotui.backends.cpu.draw import ChoiceTable
from miaotui.backends.cpu.head_program import HeadProgram
from miaotui.backends.cpu.multistep import CompiledDraftRun
from miaotui.backends.cpu.runner import Runner
from miaotui.model.draft_head.weights import HeadWeights


class CpuDraftHead:
    """The `DraftHeadSteps` of one model's runner, for up to ``most_rows`` sequences."""

    def __init__(self, weights: HeadWeights, runner: Runner, most_rows: int) -> None:
        middle = runner.tap(weights.layer)
        program = runner.program
        last, embedding = program.workspace.residual[0], program.weights.matrix("embed")
        attention = program.attention(weights.layer)
        self._program = HeadProgram(weights, embedding, last, middle, attention, most_rows, runner.team)
        self._runner = runner
        self.most_rows = most_rows
        self.draft_run = CompiledDraftRun(self._program.tables, program.config.vocab_size)

    def begin(self, starts: Sequence[tuple[int, int]]) -> None:
        """See `DraftHeadSteps.begin`."""
        self._runner.reach(max(position for _, position in starts))
        pages_of = self._runner.pages_of
        self._program.begin([(row, pages_of(row), position - 1) for row, position in starts])

    def keep(self, depth: int, rows: Sequence[int]) -> None:
        """See `DraftHeadSteps.keep`."""
        self._program.keep(depth, rows)

    def step(self, depth: int, rows: Sequence[tuple[int, int, TokenChoice]]) -> list[tuple[int, int]]:
        """See `DraftHeadSteps.step`."""
        choices = cast("Sequence[tuple[int, int, ChoiceTable]]", rows)
        return self._program.step(depth, [(token, position, choice.address) for token, position, choice in choices])
