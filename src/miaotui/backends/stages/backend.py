"""The first process of a model whose layers are shared out: embedding, first layers, head and choice of tokens.

Owns the order of a step: the first layers here, the states of its rows through every stage, the head here. The last
stage returns only rows whose logits are wanted. Knows pages as the plan gives them. Invariants: what comes out is, bit
for bit, what one process with all layers computes; after a stage was lost, nothing is computed before the engine has
begun anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import (
    NO_ROW_STATES,
    BackendIdentity,
    BackendLimits,
    BackendStats,
    Masks,
    NoDraftHead,
    RowStates,
    Sampling,
    StepResult,
    TokenChoice,
    lacking,
    probe_chunk,
    refuse_unable,
)
from miaotui.backends.cpu import draw
from miaotui.backends.cpu.backend import ARITHMETIC, CAPABILITIES, Runner
from miaotui.backends.cpu.pass_tables import ChoiceTable
from miaotui.backends.cpu.program import Program
from miaotui.backends.stages.layers import pieces
from miaotui.backends.stages.link import StageLink, StageNumbers, close_all
from miaotui.backends.stages.wire import Floats, chunk_fields, logit_rows
from miaotui.errors import StageLostError
from miaotui.kernels.runtime.thread_pool import ThreadPool
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.schedule.plan import Chunk, Plan
from miaotui.types import Progress


class StagedRunner(Runner):
    """Passes whose middle layers other processes compute; ``front`` and ``rear`` are what this one computes."""

    def __init__(self, front: Program, rear: Program, team: ThreadPool, links: Sequence[StageLink]) -> None:
        super().__init__(rear, team)
        self._front, self._links = front, links
        self._steps = itertools.count(1)
        self._hidden = rear.config.hidden_size

    def _compute(self, program: Program, chunks: Sequence[Chunk], choices: Sequence[int], passes: int) -> None:
        """Run the first layers, the stages, and the head."""
        parts, space = pieces(chunks), program.workspace
        sent = [self._begin(part, is_filled=len(parts) == 1) for part in parts]
        found = np.concatenate([self._through(*each) for each in sent])
        if len(parts) > 1:
            self._tables.fill(chunks, choices, passes)
        rows = list(logit_rows(chunks))
        if rows:
            space.residual[0].floats(sum(len(chunk.tokens) for chunk in chunks), self._hidden)[rows] = found
        self.team.run(program.address, program.count, self._run, passes)

    def _begin(self, part: Sequence[Chunk], *, is_filled: bool) -> tuple[int, bytes]:
        """Compute the first layers of a step's part, and send its rows on; return its number and fields."""
        front, count = self._front, sum(len(chunk.tokens) for chunk in part)
        if not is_filled:
            self._tables.fill(part, (), 1)
        self.team.run(front.address, front.count, self._run, 1)
        number, fields = next(self._steps), chunk_fields(part)
        states = front.left.floats(count, self._hidden)
        self._links[0].send(number, fields, states, only_logits=len(self._links) == 1)
        return number, fields

    def _through(self, number: int, fields: bytes) -> Floats:
        """Take a part's states from stage to stage; return those that the head needs."""
        last = len(self._links) - 1
        for index, link in enumerate(self._links[:-1]):
            states = link.receive(number, self._hidden)
            self._links[index + 1].send(number, fields, states, only_logits=index + 1 == last)
        return self._links[last].receive(number, self._hidden)


class StagedBackend(NoDraftHead):
    """A `Backend` over stages. ``begin`` lets a link compute its layers, also again after it was lost."""

    capabilities = replace(CAPABILITIES, draft_head=False, adapters=False, hidden_states=False)
    sampling: Sampling = draw

    def __init__(
        self,
        runner: StagedRunner,
        limits: BackendLimits,
        links: Sequence[StageLink],
        numbers: Sequence[StageNumbers],
        begin: Callable[[StageLink], None],
    ) -> None:
        self.runner, self.links, self._begin = runner, links, begin
        program = runner.program
        self.limits = replace(limits, passes=1, run_tokens=1)
        self.weights = program.weights
        formats = {form.value for form in self.weights.formats}.union(*(each.formats for each in numbers))
        self.identity = BackendIdentity("cpu", tuple(sorted(formats)), program.pages.kind, ARITHMETIC)
        unread = 0 if program.config.tied_head else self.weights.matrix("embed").data.nbytes
        self._weight_bytes = self.weights.size_bytes - unread + sum(each.weight_bytes for each in numbers)
        front = program.pages.page_bytes // 16
        self._kv_token_bytes = front + sum(each.kv_token_bytes for each in numbers)
        self._is_reported = False  # that a stage was lost

    @property
    def is_tuning(self) -> bool:
        """Return whether the threads are trying which number of them is faster."""
        return self.runner.team.is_trying

    def run(
        self,
        plan: Plan,
        choices: Sequence[TokenChoice | None] = (),
        masks: Masks | None = None,
        states: RowStates = NO_ROW_STATES,
    ) -> StepResult:
        """Compute a plan's rows (see `Backend.run`). Raises `StageLostError`."""
        self._require_all()
        if states is not NO_ROW_STATES or any(chunk.adapter for chunk in plan.chunks):
            refuse_unable(self, plan, states)
        tables = cast("Sequence[ChoiceTable | None]", choices)
        addresses = [0 if table is None else table.address for table in tables]
        try:
            logits = self.runner.run(plan.chunks, addresses, 1, masks)
        except StageLostError:
            self._is_reported = True
            raise
        return StepResult(self.runner.peaks(), logits, self.runner.last_s)

    def _require_all(self) -> None:
        lost = next((link for link in self.links if link.is_lost), None)
        if lost is not None:
            self._is_reported = True
            raise StageLostError(f"{lost.place.name} has ended, or can no longer be reached")

    def probe(self) -> None:
        """Run one row of no sequence. Raises what is wrong.

        The first call after a stage was lost says so, unless `run` did; the next one starts it again.
        """
        if self._is_reported:
            for link in self.links:
                if link.is_lost:
                    self._begin(link)
            self._is_reported = False
        self.run(Plan((probe_chunk(self.limits, (0,)),)))

    def add_adapter(self, number: int, pairs: Mapping[str, LowRankPair], progress: Progress | None = None) -> None:
        """Refuse. Raises `RequestError`."""
        raise lacking(self, "adapters")

    def remove_adapter(self, number: int) -> None:
        """Do nothing: there is none."""

    def read_cache(self, layer: int, pages: Sequence[int], count: int) -> NDArray[np.float16]:
        """Refuse: other processes hold them. Raises `RequestError`."""
        raise lacking(self, "hidden_states")

    def stats(self) -> BackendStats:
        """Return numbers for reports: weights and keys of all processes, threads of this one."""
        team = self.runner.team
        live = 1 if team.is_alone else team.size
        return BackendStats(team.size, live, self._weight_bytes, self._kv_token_bytes)

    def halt(self) -> None:
        """Do nothing: a run is one pass."""

    def close(self) -> None:
        """End the stages and unmap the weights."""
        close_all(self.links)
        self.weights.close()
