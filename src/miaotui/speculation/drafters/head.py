"""Guessing with a draft head: several requests side by side, one token deeper with each call.

Owns the states of the guesses under way. Knows token ids, rows of the last pass and noise, not
requests. Invariant: a guess is what the model would draw if its distribution were the head's, with
the very noise of that position, so a good head agrees often at any temperature.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from miaotui.backends.backend import Backend
from miaotui.backends.drafting import DraftHeadSteps
from miaotui.config import Settings
from miaotui.kernels.draft.draft_fields import MOST_EVIDENCE, PARTS_OF_OCTAVE
from miaotui.speculation.acceptance_rates import class_of
from miaotui.speculation.drafters.protocol import HeadToken, Lead


class DraftHead:
    """A `Head` over one model's engine; used by the engine's thread alone, right after a pass."""

    name = "head"

    def __init__(self, steps: DraftHeadSteps) -> None:
        self._steps = steps
        self.most_rows, self.guessing = steps.most_rows, steps.drafting
        self._leads: list[Lead] = []
        self._chosen: list[int] = []
        self._depth = 0
        self.computing_s = 0.0

    def begin(self, leads: Sequence[Lead]) -> None:
        """Start from the rows of the last pass that ``leads`` name, at most ``most_rows``."""
        self._leads = list(leads)
        self._chosen = [lead.token for lead in leads]
        self._depth = 0
        self._steps.begin([(lead.row, lead.position) for lead in leads])

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows alone, in this order (ascending)."""
        if len(rows) < len(self._leads):
            self._leads = [self._leads[row] for row in rows]
            self._chosen = [self._chosen[row] for row in rows]
            self._steps.keep(self._depth, rows)

    def deepen(self) -> list[HeadToken]:
        """The next guessed token of each row."""
        started_s, depth = time.perf_counter(), self._depth
        rows = [
            (token, lead.position + depth, lead.choice) for token, lead in zip(self._chosen, self._leads, strict=True)
        ]
        found = [
            HeadToken(token, min(1 + int(PARTS_OF_OCTAVE * ahead), MOST_EVIDENCE))
            for token, ahead in self._steps.step(depth, rows)
        ]
        self._depth = depth + 1
        self.computing_s += time.perf_counter() - started_s
        self._chosen = [each.token for each in found]
        return found


def classes_of_evidence() -> list[int]:
    """The class of each evidence from 0, as backends need them."""
    return [class_of(evidence) for evidence in range(MOST_EVIDENCE + 1)]


def head_for(backend: Backend, settings: Settings) -> DraftHead | None:
    """The draft head of a model, ready to guess; None: there is none, or the backend knows none.

    Raises `ModelFormatError` for a file that is no head.
    """
    if not backend.capabilities.draft_head:
        return None
    steps = backend.find_draft_head(settings, classes_of_evidence())
    return None if steps is None else DraftHead(steps)
