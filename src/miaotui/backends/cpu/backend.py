"""The CPU backend: plans go into compiled passes, tokens and logits come out.

Owns how passes are run (`Runner`) and the way from the seam's values to addresses and back. Knows pages and positions
as the plan gives them, and nothing of requests. A step takes no memory: every table is reserved for the largest pass.
Invariants: nothing above this module sees an address; a row's logits depend on its tokens and positions alone, not on
the plan.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
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
    require_room,
)
from miaotui.backends.cpu import draw
from miaotui.backends.cpu.adapters import AdapterSpace, PackedAdapter, packed_size
from miaotui.backends.cpu.draft_head import CpuDraftHead
from miaotui.backends.cpu.pass_tables import MOST_TOKENS, ChoiceTable, CompiledDraftRun, PassTables
from miaotui.backends.cpu.program import Program
from miaotui.backends.cpu.workspace import KvPages, Rows, float_rows, peaks_of
from miaotui.backends.drafting import DraftResult, DraftRun, Quotes
from miaotui.backends.options import MOST_PASSES
from miaotui.config import Settings
from miaotui.errors import EngineError, RequestError
from miaotui.hub.store import PackedStore
from miaotui.kernels.platform.cpu import probe
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.thread_pool import ThreadPool, aligned_int64, fields_of
from miaotui.kernels.sampling.draw_fields import NUMBERS, scratch_fields
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.model.draft_head.weights import FOLDER_NAME, HeadWeights, load_head, note_unused, path_for
from miaotui.schedule.plan import NO_ADAPTER, Chunk, Plan
from miaotui.types import Progress

_ASK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
ARITHMETIC = "int8 activations, float32 sums, 2"  # a new number whenever the same weights give other logits
CAPABILITIES: Final = Capabilities(draft_head=True, adapters=True, hidden_states=True, encode=True)


class Runner:
    """One model's passes. `run` may be called by one thread at a time, `halt` by any.

    ``last_s`` is what the last run took, of ``done`` passes.
    """

    def __init__(self, program: Program, team: ThreadPool) -> None:
        self.program, self.team = program, team
        self.last_s, self.done = 0.0, 1
        space = program.workspace
        rows, logits = space.max_rows, space.max_logits
        self._tables = tables = PassTables(rows, logits, program.pages.n_pages)
        self._run, self._run_fields = tables.run, tables.run_fields
        self.pages_of = tables.pages_of
        self._taps: dict[int, Rows] = {}
        self._adapted: Program | None = None  # of passes in which rows have adapters
        self._adapters: dict[int, PackedAdapter] = {}
        vocab = program.config.vocab_size
        self._set_choosing(space.peaks, NUMBERS + scratch_fields(vocab), logits)
        self._logits = space.logits.floats(logits, vocab)
        self._best, self._tops = peaks_of(space.peaks)
        self._wanted = 0
        self._masks: Masks | None = None
        self._fault: BaseException | None = None
        self._draft_run: CompiledDraftRun | None = None
        self._seen = 0  # tokens of the current run that `_new_tokens` has returned
        self._ask = _ASK(self._asked)
        self._ask_address = ctypes.cast(self._ask, ctypes.c_void_p).value or 0
        self._quotes: Quotes | None = None
        self._ask_quote = _ASK(self._asked_to_quote)
        self._quote_address = ctypes.cast(self._ask_quote, ctypes.c_void_p).value or 0
        self._rotations = list({id(t): t for t in program.rotations.values()}.values())
        self._reached = 0  # positions that all of them are ready for

    def _set_choosing(self, peaks: NDArray[np.int64], fields: int, logits: int) -> None:
        """Return where tokens chosen in the pass go, and the memory in which each thread draws them."""
        self._draws = aligned_int64(self.team.size * fields)
        self._chosen = aligned_int64(max(MOST_PASSES * logits, MOST_TOKENS))
        self._chosen_fields = fields_of(self._chosen)
        run = self._run
        run[ops.RUN_BEST], run[ops.RUN_TOKENS] = peaks.ctypes.data, self._chosen.ctypes.data
        run[ops.RUN_DRAW], run[ops.RUN_DRAW_STRIDE] = self._draws.ctypes.data, 8 * fields

    def run(
        self,
        chunks: Sequence[Chunk],
        choices: Sequence[int] = (),
        passes: int = 1,
        masks: Masks | None = None,
        cut: int | None = None,
    ) -> NDArray[np.float32]:
        """Run a pass over the chunks, or up to ``passes`` where each is one row (see `kernels.runtime.multistep`).

        ``choices`` are addresses of how each chunk's tokens are chosen in the pass (`draw.choice_table`), 0
        for one whose logits are only looked at; none: all. Returns the last pass's logits, float32
        ``[logits, vocab]`` in the chunks' order, valid until the next call; rows that were drawn from are
        written over.

        ``masks``, if given, is called in each pass before it chooses, with the tokens of the pass before in
        this run, if any, a row each: it sets the masks of the choices, and says whether another pass may
        follow. What it raises is raised here. ``cut`` is the number of passes where they bring several tokens.
        """
        wanted, end = self._tables.fill(chunks, choices, passes)
        self._wanted = wanted
        program = self._program_for(chunks)
        if end > self._reached:
            self.reach(end)
        run = self._run_fields
        run[ops.RUN_PASSES], run[ops.RUN_DONE] = cut or passes, 0
        run[ops.RUN_ASK] = 0 if masks is None else self._ask_address
        self._masks = masks
        start_s = time.perf_counter()
        self._compute(program, chunks, choices, passes)
        self.last_s = time.perf_counter() - start_s
        run[ops.RUN_HALT] = 0
        self.done = run[ops.RUN_DONE] if passes > 1 else 1
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault
        return self._logits[:wanted]

    def _compute(self, program: Program, chunks: Sequence[Chunk], choices: Sequence[int], passes: int) -> None:
        """Run the operations; the tables are filled."""
        beside = None if self._draft_run is None else self._draft_run.run
        self.team.run(program.address, program.count, self._run, passes, beside=beside)

    def run_drafting(
        self,
        chunk: Chunk,
        choice: int,
        most: int,
        passes: int,
        draft_run: CompiledDraftRun,
        watch: Masks | None,
        quotes: Quotes,
    ) -> list[int]:
        """Run up to ``passes`` passes over one sequence, which bring up to ``most`` tokens; draft between them.

        ``draft_run`` has begun. ``watch`` is called like ``masks`` of `run`, with all the tokens since the last call.
        So is ``quotes``, between two passes where `DraftRun.request_quote` was called: it puts a draft into
        ``draft_run`` and returns its number of tokens. Logits of the last pass that are no numbers are
        `DraftRun.broken`.
        """
        self._draft_run, self._seen, self._quotes = draft_run, 0, quotes
        draft_run.bound(min(self._tables.rows, self._tables.logits), self._quote_address)
        try:
            run = self._run_fields
            run[ops.RUN_DRAFT] = draft_run.address
            self.run([chunk], [choice], most, watch, passes)
        finally:
            self._draft_run, run[ops.RUN_DRAFT] = None, 0
        return self._chosen_fields[: draft_run.total].tolist()

    def _asked(self, *_: int) -> int:
        """Call back from compiled code, in the thread that runs it, which holds the interpreter lock meanwhile."""
        assert self._masks is not None, "called only in runs with masks"
        try:
            if self._draft_run is not None:
                return int(self._masks(self._new_tokens(self._draft_run)))
            end = self._wanted * self._run_fields[ops.RUN_DONE]
            start = max(end - self._wanted, 0)
            return int(self._masks(self._chosen_fields[start:end].tolist()))
        except BaseException as fault:  # compiled code knows no exceptions: it goes on from `run`
            self._fault = fault
            return 0

    def _asked_to_quote(self, *_: int) -> int:
        """Let `Quotes` draft; called by compiled code between two passes."""
        assert self._quotes is not None, "called only in runs that draft"
        assert self._draft_run is not None, "called only in runs that draft"
        try:
            return self._quotes(self._new_tokens(self._draft_run))
        except BaseException as fault:  # as above; the run ends with its next pass
            self._fault = fault
            self.halt()
            return 0

    def _new_tokens(self, draft_run: CompiledDraftRun) -> list[int]:
        """Return the tokens that the run has brought since the last call."""
        start, self._seen = self._seen, draft_run.total
        return self._chosen_fields[start : self._seen].tolist()

    def tap(self, layer: int) -> Rows:
        """Let passes store the states before ``layer`` from now on, one row for each of theirs."""
        if layer not in self._taps:
            program = self.program
            space = program.workspace
            self._taps[layer] = float_rows(space.max_rows, program.config.state_size)
            self.program = program.changed(self._taps, None)
            if self._adapted is not None:
                self._adapted = program.changed(self._taps, self._adapted.adapters)
        return self._taps[layer]

    @property
    def adapter_bytes(self) -> int:
        """Return the bytes of all adapters."""
        return sum(adapter.size_bytes for adapter in self._adapters.values())

    def add_adapter(self, number: int, adapter: PackedAdapter, progress: Progress | None = None) -> None:
        """Let chunks name an adapter. The first one makes the program of such passes, whose kernels may be compiled."""
        if self._adapted is None:
            program = self.program
            space = AdapterSpace(program.config, program.workspace.max_rows)
            self._adapted = program.changed(self._taps, space, progress)
        self._adapters[number] = adapter

    def remove_adapter(self, number: int) -> None:
        """Give an adapter's memory back; no chunk may name it any more."""
        self._adapters.pop(number, None)

    def _program_for(self, chunks: Sequence[Chunk]) -> Program:
        """Return the program of a pass over ``chunks``, with each row's adapter written into its table, if any has one.

        Raises `EngineError` for an adapter that is not here.
        """
        if not any(chunk.adapter for chunk in chunks):
            return self.program
        missing = {chunk.adapter for chunk in chunks} - self._adapters.keys() - {NO_ADAPTER}
        if missing or self._adapted is None:
            raise EngineError(f"adapter {min(missing)} was removed, or never added: add it first")
        self._tables.name_adapters(
            chunks, [self._adapters[chunk.adapter].address if chunk.adapter else 0 for chunk in chunks]
        )
        return self._adapted

    def reach(self, end: int) -> None:
        """Make ready to rotate what is at positions below ``end``. Raises `EngineError` beyond the context."""
        for rotation in self._rotations:
            rotation.reach(end)
        self._reached = min((rotation.known for rotation in self._rotations), default=end)

    def halt(self) -> None:
        """End a run of several passes with the pass under way, because a caller waits for it."""
        self._run_fields[ops.RUN_HALT] = 1

    def earlier(self) -> list[list[int]]:
        """Return, for each row of the last run, the tokens of all its passes but the last."""
        count, end = self._wanted, self._wanted * (self.done - 1)
        tokens = self._chosen_fields[:end].tolist()
        return [tokens[row::count] for row in range(count)]

    def peak(self, row: int) -> tuple[int, float]:
        """Return the peak of one row of the last pass."""
        return int(self._best[row]), float(self._tops[row])

    def peaks(self) -> list[tuple[int, float]]:
        """Return, for each row of the last pass, the token chosen and the highest logit.

        Unless a choice says otherwise the token is the best one: the first of equals, and the first NaN
        if there is one.
        """
        count = self._wanted
        return list(zip(self._best[:count].tolist(), self._tops[:count].tolist(), strict=True))


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
        found = NO_STATES
        if states is not NO_ROW_STATES:
            refuse_unable(self, plan, states)
            width = self.limits.state_size
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

    def add_adapter(self, number: int, pairs: Mapping[str, LowRankPair], progress: Progress | None = None) -> None:
        """Let chunks name a low-rank adapter (see `Backend.add_adapter`)."""
        require_room(self.runner.adapter_bytes, packed_size(self._config, pairs), probe().memory_bytes)
        self.runner.add_adapter(number, PackedAdapter(self._config, pairs), progress)

    def remove_adapter(self, number: int) -> None:
        """Give an adapter's memory back."""
        self.runner.remove_adapter(number)

    def find_draft_head(self, settings: Settings) -> CpuDraftHead | None:
        """Return the draft head that was trained for these weights; None: there is none, or the model takes none.

        A head that lies there for such a model is named in one line of the log. Raises `ModelFormatError` for a file
        that is no head.
        """
        path = path_for(self.weights, settings.folder(FOLDER_NAME))
        if path is None:
            return None
        if not self._config.has_one_stream:
            note_unused(path, self._config.architecture)
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
        """Return numbers for reports."""
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
