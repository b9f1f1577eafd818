"""Drafting with a draft head: several requests side by side, one token more with each step.

Owns the states of the drafts under way. Knows token ids, rows of the last pass and noise, not requests. Invariant: a
head drafts what the model would draw if its distribution were the head's, with the very noise of that position, so
a good head is often right at any temperature.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from miaotui.backends.backend import Backend
from miaotui.backends.drafting import DraftHeadSteps
from miaotui.config import Settings
from miaotui.speculation.drafters.protocol import HeadInput, HeadToken


class DraftHead:
    """A `Head` over one model's engine; used by the engine's thread alone, right after a pass."""

    name = "head"

    def __init__(self, steps: DraftHeadSteps) -> None:
        self._steps = steps
        self.most_rows, self.draft_run = steps.most_rows, steps.draft_run
        self._inputs: list[HeadInput] = []
        self._newest: list[int] = []  # token of each row
        self._depth = 0
        self.computing_s = 0.0

    def begin(self, inputs: Sequence[HeadInput]) -> None:
        """See `Head.begin`; at most ``most_rows`` inputs."""
        self._inputs = list(inputs)
        self._newest = [each.token for each in inputs]
        self._depth = 0
        self._steps.begin([(each.row, each.position) for each in inputs])

    def keep(self, rows: Sequence[int]) -> None:
        """See `Head.keep`."""
        if len(rows) < len(self._inputs):
            self._inputs = [self._inputs[row] for row in rows]
            self._newest = [self._newest[row] for row in rows]
            self._steps.keep(self._depth, rows)

    def step(self) -> list[HeadToken]:
        """See `Head.step`."""
        started_s, depth = time.perf_counter(), self._depth
        rows = [
            (token, each.position + depth, each.choice) for token, each in zip(self._newest, self._inputs, strict=True)
        ]
        drafted = [HeadToken(token, evidence) for token, evidence in self._steps.step(depth, rows)]
        self._depth = depth + 1
        self.computing_s += time.perf_counter() - started_s
        self._newest = [each.token for each in drafted]
        return drafted


def head_for(backend: Backend, settings: Settings) -> DraftHead | None:
    """Load the draft head of a model; None if there is none, or if the backend has no draft heads.

    Raises `ModelFormatError` for a file that is no head.
    """
    if not backend.capabilities.draft_head:
        return None
    steps = backend.find_draft_head(settings)
    return None if steps is None else DraftHead(steps)
