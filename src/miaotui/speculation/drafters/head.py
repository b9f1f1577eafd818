"""Guessing with a draft head: several requests side by side, one token deeper with each call.

Owns the states of the guesses under way. Knows token ids, rows of the last pass and noise, not
requests. Invariant: a guess is what the model would draw if its distribution were the head's, with
the very noise of that position, so a good head agrees often at any temperature.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from miaotui.backends.cpu.build import Built
from miaotui.backends.cpu.head_program import HeadProgram
from miaotui.backends.cpu.multistep import DraftRun
from miaotui.backends.cpu.runner import Runner
from miaotui.config import Settings
from miaotui.hub.store import PackedStore
from miaotui.kernels.draft.draft_fields import MOST_EVIDENCE, PARTS_OF_OCTAVE
from miaotui.model.draft_head.weights import FOLDER_NAME, HeadWeights, load_head, path_for
from miaotui.speculation.acceptance_rates import class_of
from miaotui.speculation.drafters.protocol import HeadToken, Lead


class DraftHead:
    """A `Head` over one model's engine; used by the engine's thread alone, right after a pass."""

    name = "head"

    def __init__(self, weights: HeadWeights, runner: Runner, most_rows: int) -> None:
        middle = runner.tap(weights.layer)
        last = runner.program.workspace.residual[0]
        embedding = runner.program.weights.matrix("embed")
        attention = runner.program.attention(weights.layer)
        self._program = HeadProgram(weights, embedding, last, middle, attention, most_rows, runner.team)
        self._runner = runner
        self.most_rows = most_rows
        classes = [class_of(evidence) for evidence in range(MOST_EVIDENCE + 1)]
        vocabulary = runner.program.config.vocab_size
        self.guessing = DraftRun(self._program.tables, classes, vocabulary)
        self._leads: list[Lead] = []
        self._chosen: list[int] = []
        self._depth = 0
        self.computing_s = 0.0

    def begin(self, leads: Sequence[Lead]) -> None:
        """Start from the rows of the last pass that ``leads`` name, at most ``most_rows``."""
        self._leads = list(leads)
        self._chosen = [lead.token for lead in leads]
        self._depth = 0
        self._runner.reach(max(lead.position for lead in leads))
        pages_of = self._runner.pages_of
        self._program.begin([(lead.row, pages_of(lead.row), lead.position - 1) for lead in leads])

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows alone, in this order (ascending)."""
        if len(rows) < len(self._leads):
            self._leads = [self._leads[row] for row in rows]
            self._chosen = [self._chosen[row] for row in rows]
            self._program.keep(self._depth, rows)

    def deepen(self) -> list[HeadToken]:
        """The next guessed token of each row."""
        started_s, depth = time.perf_counter(), self._depth
        rows = [
            (token, lead.position + depth, lead.choice) for token, lead in zip(self._chosen, self._leads, strict=True)
        ]
        found = [
            HeadToken(token, min(1 + int(PARTS_OF_OCTAVE * ahead), MOST_EVIDENCE))
            for token, ahead in self._program.step(depth, rows)
        ]
        self._depth = depth + 1
        self.computing_s += time.perf_counter() - started_s
        self._chosen = [each.token for each in found]
        return found


def head_for(parts: Built, settings: Settings) -> DraftHead | None:
    """The draft head of a model, ready to guess; None: there is none.

    Raises `ModelFormatError` for a file that is no head.
    """
    program = parts.runner.program
    path = path_for(program.weights, settings.folder(FOLDER_NAME))
    if path is None:
        return None
    store = PackedStore(settings.folder("packed"), settings.packed_max_bytes)
    weights = load_head(path, program.weights, program.config.tied_head, store)
    most = program.workspace.max_logits - parts.draft_rows
    return DraftHead(weights, parts.runner, most)
