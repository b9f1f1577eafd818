"""The CPU backend: plans go into compiled passes (`Runner`), tokens and logits come out.

Owns the way from the seam's values to addresses and back. Knows nothing of requests. Invariant: nothing above this
module sees an address.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import (
    NO_ROW_STATES,
    NO_STATES,
    Backend,
    BackendIdentity,
    BackendLimits,
    BackendStats,
    Capabilities,
    Masks,
    RowStates,
    Sampling,
    StepResult,
    TokenChoice,
    probe_chunk,
    refuse_unable,
)
from miaotui.backends.cpu import draw
from miaotui.backends.cpu.draft_head import CpuDraftHead
from miaotui.backends.cpu.draw import ChoiceTable
from miaotui.backends.cpu.multistep import CompiledDraftRun
from miaotui.backends.cpu.runner import Runner
from miaotui.backends.cpu.workspace import KvPages
from miaotui.backends.drafting import DraftResult, DraftRun, Quotes
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.hub.store import PackedStore
from miaotui.model.draft_head.weights import FOLDER_NAME, HeadWeights, load_head, path_for
from miaotui.schedule.plan import Chunk, Plan, RowKind

ARITHMETIC = "int8 activations, float32 sums, 1"  # a new number whenever the same weights give other logits
CAPABILITIES: Final = Capabilities(draft_head=True, hidden_states=True)


class CpuBackend:
    """A `Backend` over one model's compiled program."""

    capabilities = CAPABILITIES
    sampling: Sampling = draw

    def __init__(self, runner: Runner, limits: BackendLimits) -> None:
        self.runner, self.limits = runner, limits
        program = runner.program
        self.weights, self._config = program.weights, program.config
        formats = tuple(sorted(form.value for form in self.weights.formats))
        self.identity = BackendIdentity("cpu", formats, program.pages.kind, ARITHMETIC)
        unread = 0 if self._config.tied_head else self.weights.matrix("embed").data.nbytes
        self._weight_bytes = self.weights.size_bytes - unread
        self._kv_token_bytes = KvPages.bytes_per_token(self._config, program.pages.kind)

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
        """Compute a plan's rows (see `Backend.run`)."""
        chunks, runner = plan.chunks, self.runner
        for chunk in chunks:
            if chunk.adapter or chunk.kind is RowKind.ENCODE:
                refuse_unable(self, plan, states)
        found = NO_STATES
        if states is not NO_ROW_STATES:
            refuse_unable(self, plan, states)
            width = self.limits.hidden_size
            found = {layer: runner.tap(layer).floats(plan.n_rows, width) for layer in states.layers}
        tables = cast("Sequence[ChoiceTable | None]", choices)
        addresses = [0 if table is None else table.address for table in tables]
        passes = plan.passes if addresses and all(addresses) else 1
        logits = runner.run(chunks, addresses, passes, masks)
        done = runner.done
        earlier = runner.earlier() if done > 1 else ()
        return StepResult(runner.peaks(), logits, runner.last_s, done, earlier, found)

    def run_drafting(
        self,
        chunk: Chunk,
        choice: TokenChoice | None,
        most: int,
        passes: int,
        draft_run: DraftRun,
        watch: Masks | None,
        quotes: Quotes,
    ) -> DraftResult:
        """See `Backend.run_drafting`."""
        runner, table = self.runner, cast("ChoiceTable | None", choice)
        address = 0 if table is None else table.address
        compiled_run = cast("CompiledDraftRun", draft_run)
        tokens = runner.run_drafting(chunk, address, most, passes, compiled_run, watch, quotes)
        broken = None if draft_run.broken < 0 else runner.peak(draft_run.broken)
        return DraftResult(tokens, runner.done, runner.last_s, broken)

    def find_draft_head(self, settings: Settings) -> CpuDraftHead | None:
        """Return the draft head that was trained for these weights; None: there is none.

        Raises `ModelFormatError` for a file that is no head.
        """
        path = path_for(self.weights, settings.folder(FOLDER_NAME))
        if path is None:
            return None
        store = PackedStore(settings.folder("packed"), settings.packed_max_bytes)
        head = load_head(path, self.weights, self._config.tied_head, store)
        return self.draft_head(head, self.limits.logits_rows - self.limits.draft_rows)

    def draft_head(self, weights: HeadWeights, most_rows: int) -> CpuDraftHead:
        """Return a draft head for up to ``most_rows`` sequences."""
        return CpuDraftHead(weights, self.runner, most_rows)

    def read_cache(self, layer: int, pages: Sequence[int], count: int) -> NDArray[np.float16]:
        """Return a layer's keys and values of the first tokens in ``pages``: ``[count, 2, heads, dim]``.

        Raises `RequestError` where they are kept as scaled integers.
        """
        if self.runner.program.pages.kind != "f16":
            raise RequestError("keys and values are kept as int8 and cannot be read: load the model with kv='f16'")
        return self.runner.program.pages.read(layer, pages, count)

    def stats(self) -> BackendStats:
        """Numbers for reports."""
        team = self.runner.team
        live = 1 if team.is_alone else team.size
        return BackendStats(team.size, live, self._weight_bytes, self._kv_token_bytes)

    def probe(self) -> None:
        """Run one row of no sequence. Raises what is wrong."""
        self.run(Plan((probe_chunk(self.limits, (0,)),)))

    def halt(self) -> None:
        """End a run of several passes after the pass under way."""
        self.runner.halt()

    def close(self) -> None:
        """Unmap the weights; the backend must not be used after."""
        self.weights.close()


def require_cpu(backend: Backend) -> CpuBackend:
    """Return the backend as the one whose packed weights can be read. Raises `RequestError` for another one."""
    if not isinstance(backend, CpuBackend):
        raise RequestError(
            f"this needs the cpu backend, not {backend.identity.name}: load the model with backend='cpu'"
        )
    return backend
