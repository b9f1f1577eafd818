"""Continuous batching: the decision which sequences compute which rows in each step.

Owns the queues of waiting, running and paused sequences. Does not know tensors, text, time or the rules by which a
token is chosen. Invariant: while any sequence has tokens to compute, a plan has rows, and the oldest running sequence
is in it; so every added sequence ends. Mixing prompt chunks into decode steps follows Agrawal et al., "Sarathi-Serve"
(2024); joining and leaving at every step follows Yu et al., "Orca" (2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from miaotui.errors import EngineError
from miaotui.schedule.pages import BlockTable
from miaotui.schedule.plan import (
    NO_ADAPTER,
    NO_LIMITS,
    PAGE_SIZE,
    Chunk,
    Draft,
    DraftTree,
    Plan,
    ScheduleConfig,
    StepLimits,
    pages_for,
    trunk_of,
)
from miaotui.schedule.sequence import NO_DRAFT, Queues, SequenceGroup, SequenceState, Stage, is_held, rank, share_rows

PATIENCE = 64  # plans that may pass over the eldest without a promise, before it comes first
OVERDUE_ROWS, OVERDUE_TURN = 16, 4  # prompt rows of such a one beside promises, in every 4th plan

_NO_DRAFTS: Mapping[int, Draft] = MappingProxyType({})


class SchedulerStats(NamedTuple):
    """A snapshot: pages add up to the pool, sequences to those that are not done."""

    pages_free: int
    pages_used: int  # held by running sequences
    pages_evictable: int  # stored prefixes that no request uses now
    running: int
    waiting: int
    paused: int
    reused_tokens: int  # not computed again thanks to stored prefixes, since the start
    pauses: int = 0  # how often a sequence lost its pages to another, since the start


class Scheduler:
    """Planner of steps for the sequences added to it; not thread-safe, the engine's loop owns it."""

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        self._ledger = BlockTable(config.n_pages, config.reuse_prefix)
        self.prefixes = self._ledger.tree  # for what reads it from outside
        self._lines = Queues()
        self._sequences: dict[int, SequenceState] = {}
        self._arrivals = 0
        self._latest: Plan | None = None
        self._passed_over = 0  # plans in a row without the eldest of those without a promise
        self._plans = self._pauses = 0
        self._scored_left = config.scored_rows  # of the plan that is being made
        self._refused = False  # the first in line found too few pages, and none came back since

    def add(
        self,
        sequence: int,
        tokens: Sequence[int],
        max_tokens: int,
        namespace: int = 0,
        due: int | None = None,
        score_from: int | None = None,
        adapter: int = NO_ADAPTER,
    ) -> None:
        """Queue a sequence: a prompt of at least one token, to get at most ``max_tokens`` more.

        Stored prefixes are shared within a namespace and an ``adapter`` only. One with a ``due`` (a number that grows
        with time) is served before those without, the earliest first. Prompt rows from position ``score_from`` on are
        computed with logits (None: the last row alone). Raises `PromptTooLongError` when prompt and answer exceed the
        context or could not fit the pages even alone, `RequestError` for an empty prompt or ``max_tokens`` below 1, and
        `EngineError` when the id is in use.
        """
        self.config.require_fitting(len(tokens), max_tokens)
        if sequence in self._sequences:
            raise EngineError(f"sequence {sequence} exists already; finish or cancel it first")
        state = SequenceState(
            id=sequence,
            tokens=list(tokens),
            max_length=len(tokens) + max_tokens,
            namespace=namespace,
            adapter=adapter,
            arrival=self._arrivals,
            node=self.prefixes.root,
            group=SequenceGroup.BEST_EFFORT if due is None else SequenceGroup.PROMISED,
            order=due or 0,
            score_from=0 if score_from is None else score_from,
            score_end=0 if score_from is None else len(tokens) - 1,
        )
        if due is not None:
            self._refused = False  # it may be first in line
        self._arrivals += 1
        self._sequences[sequence] = state
        self._lines.enter(state)

    def defer(self, sequence: int) -> None:
        """Drop the due time of a sequence, which cannot be kept: it is ranked with those that have none."""
        state = self._sequences.get(sequence)
        if state is not None and state.group is SequenceGroup.PROMISED:
            self._lines.regroup(state, SequenceGroup.BEST_EFFORT)

    def plan(self, drafts: Mapping[int, Draft] = _NO_DRAFTS, limits: StepLimits = NO_LIMITS, passes: int = 1) -> Plan:
        """Plan the next step: a row for each decoding sequence, then prompt chunks, by `rank`.

        ``drafts`` proposes next tokens of decoding sequences; they are cut to what rows, pages and the sequence's
        length allow (a tree without pages for its branches to its trunk), and ignored for other sequences. When pages
        run out the last sequences are paused. ``limits`` narrow the step, but never to nothing while there is work. At
        most ``passes`` follow each other where all running sequences decode, without drafts, and there are pages for
        it. A plan that was not committed is superseded: its rows count as never computed.
        """
        self._plans += 1
        self._withdraw()
        chunks = self._chunks(drafts, limits)
        if not chunks and limits is not NO_LIMITS:
            chunks = self._chunks(drafts, NO_LIMITS)
        self._age(chunks)
        if passes > 1 and chunks and not drafts:
            passes = self._extend(chunks, passes)
            self._latest = Plan(tuple(chunks), passes)
        else:
            self._latest = Plan(tuple(chunks))
        return self._latest

    def _extend(self, chunks: list[Chunk], passes: int) -> int:
        """Find how many passes may follow each other, and give the chunks pages for them."""
        if any(len(chunk.tokens) > 1 or not chunk.n_logits for chunk in chunks):
            return 1  # a row that only scores the prompt has no `n_logits`
        states = [self._sequences[chunk.sequence] for chunk in chunks]
        passes = self._ledger.reach(states, passes)
        for index, state in enumerate(states):
            if pages_for(state.computed + passes) > len(chunks[index].pages):
                chunks[index] = state.next_row(passes)
        return passes

    def _chunks(self, drafts: Mapping[int, Draft], limits: StepLimits) -> list[Chunk]:
        self._start_urgent(limits)
        running = self._lines.running
        holds = limits.hold_best_effort or limits.prompts_until is not None
        decoding = [
            state
            for state in running
            if len(state.tokens) - state.computed == 1 and not (holds and is_held(state, limits))
        ]
        left = self.config.max_rows - len(decoding)
        self._scored_left = self.config.scored_rows
        drafted: dict[int, Draft] = {}
        if drafts:
            prompts = len(decoding) < len(running) or bool(self._lines.queued)
            scoring = any(state.is_scoring for state in self._sequences.values())
            spare = min(left, self.config.scored_rows) if scoring else left
            drafted = share_rows(decoding, drafts, spare, prompts)
            taken = sum(map(len, drafted.values()))
            left -= taken
            self._scored_left -= taken
        if limits.prompt_rows is not None:
            left = min(left, limits.prompt_rows)
        chunks: list[Chunk] = []
        index = 0
        while index < len(running):  # not `for`: pausing shortens the line from its end
            state = running[index]
            index += 1
            if holds and is_held(state, limits):
                continue
            if len(state.tokens) - state.computed == 1:
                if state.id in drafted:
                    self._plan_rows(state, trunk_of(drafted[state.id]), chunks)
                elif state.computed < len(state.pages) * PAGE_SIZE:  # most decode steps
                    chunks.append(state.next_row())
                else:
                    self._plan_rows(state, NO_DRAFT, chunks)
            elif left:
                left -= self._plan_prompt(state, left, chunks)
        while left and (started := self._start_last(limits)):
            rows = self._plan_prompt(started, left, chunks)
            if not rows and started.stage is Stage.PAUSED:
                break  # starting it again in this plan would not end
            left -= rows
        self._add_branches(drafted, chunks)
        return chunks

    def _add_branches(self, drafted: Mapping[int, Draft], chunks: list[Chunk]) -> None:
        """Give trees whose trunk is whole their branches; last, so that they take no page that another row needs."""
        for index, chunk in enumerate(chunks if drafted else ()):
            tree = drafted.get(chunk.sequence)
            if isinstance(tree, DraftTree) and chunk.trunk == 1 + len(tree.trunk) < 1 + len(tree):
                branched = self._ledger.branch(self._sequences[chunk.sequence], tree)
                chunks[index] = branched or chunk

    def _withdraw(self) -> None:
        """Take the pages of branches back from a plan that was not committed."""
        for chunk in () if self._latest is None else self._latest.chunks:
            state = self._sequences.get(chunk.sequence)
            if chunk.branches and state is not None and state.planned is chunk:
                self._ledger.prune(state)
                state.planned = None

    def commit(self, plan: Plan, new_tokens: Mapping[int, Sequence[int]]) -> None:
        """Record that the plan was computed and which tokens each sequence got.

        A chunk with ``n_logits`` of n gets 1 to n tokens, all but the last of them equal to the drafted ones, or one
        from each of the plan's passes; a chunk without logits gets none. Sequences finished or cancelled since the plan
        are skipped; one that has all its tokens gives its pages back at once. Raises `EngineError`, changing nothing,
        for a plan that is not the latest or tokens that do not fit it.
        """
        if plan is not self._latest:
            raise EngineError("only the latest plan can be committed, and once; call plan() again")
        steps = []
        for chunk in plan.chunks:
            state = self._sequences.get(chunk.sequence)
            if state is not None and state.planned is chunk:
                steps.append((state, chunk, chunk.accepted(new_tokens, plan.passes)))
        self._latest = None
        for state, chunk, accepted in steps:
            state.planned = None
            state.computed = chunk.start + len(chunk.tokens) - chunk.n_logits + len(accepted)
            if chunk.n_scored:
                state.score_from = chunk.start + len(chunk.tokens) - chunk.n_logits
            state.tokens.extend(accepted)
            if state.branch_pages:
                self._ledger.graft(state, chunk, chunk.last_row(accepted))
            if plan.passes > 1 or len(chunk.tokens) > 1 or not state.computed % PAGE_SIZE:
                self._ledger.settle(state)
            if len(state.tokens) == state.max_length:
                self._stop(state, Stage.DONE)

    def finish(self, sequence: int) -> None:
        """Remove a sequence that has all its tokens. Raises `EngineError` for an unknown one."""
        self._stop(self._known(sequence), Stage.DONE)
        del self._sequences[sequence]

    def cancel(self, sequence: int) -> bool:
        """Remove a sequence in any stage and free its pages at once; True if there was one.

        Unlike `finish` it may come late: a cancel races with the end of the answer.
        """
        if sequence not in self._sequences:
            return False
        self.finish(sequence)
        return True

    def cached_tokens(self, sequence: int) -> int:
        """Return the prompt tokens it need not compute. Raises `EngineError` for an unknown sequence."""
        return self._known(sequence).cached_tokens

    def progress(self, sequence: int) -> tuple[int, int]:
        """Return its tokens that are computed, and those that are known; (0, 0) for an unknown one."""
        state = self._sequences.get(sequence)
        return (0, 0) if state is None else (state.computed, len(state.tokens))

    def stored_tokens(self, tokens: Sequence[int], namespace: int = 0, adapter: int = NO_ADAPTER) -> int:
        """Estimate how many of a prompt's tokens are in pages already.

        Any thread may ask at any time: a page that comes or goes meanwhile makes the estimate one page wrong.
        """
        return self._ledger.stored_tokens(tokens, namespace, adapter)

    def stats(self) -> SchedulerStats:
        """Count pages and sequences; O(1)."""
        pool, tree = self._ledger.pool, self.prefixes
        return SchedulerStats(
            pages_free=pool.n_free,
            pages_used=pool.n_pages - self._ledger.n_available,
            pages_evictable=tree.n_evictable,
            running=len(self._lines.running),
            waiting=len(self._lines.waiting),
            paused=len(self._lines.paused),
            reused_tokens=self._ledger.reused_tokens,
            pauses=self._pauses,
        )

    def check(self) -> None:
        """Verify that no page is lost or shared wrongly; reads everything. Raises `AssertionError` with the reason."""
        from miaotui.schedule.check import check_integrity  # noqa: PLC0415  (tests and `doctor` only)

        check_integrity(self._ledger, self._lines, self._sequences)

    def _known(self, sequence: int) -> SequenceState:
        state = self._sequences.get(sequence)
        if state is None:
            raise EngineError(f"sequence {sequence} is unknown or already finished")
        return state

    def _plan_rows(self, state: SequenceState, draft: Sequence[int], chunks: list[Chunk]) -> None:
        """Plan the row of its last token and those of its draft, as far as there are pages."""
        rows = self._secure(state, 1 + len(draft))
        if rows:
            chunks.append(state.next_chunk(rows, draft))

    def _plan_prompt(self, state: SequenceState, left: int, chunks: list[Chunk]) -> int:
        """Plan its next prompt chunk of at most ``left`` rows; return the rows that it has."""
        self._ledger.reuse(state)
        wanted = min(state.remaining, self.config.chunk_size, left)
        if state.group is SequenceGroup.OVERDUE and self._lines.running[-1] is not state:
            if self._plans % OVERDUE_TURN:
                return 0
            wanted = min(wanted, OVERDUE_ROWS)
        if state.is_scoring:
            wanted = state.within(wanted, self._scored_left)
        rows = self._secure(state, wanted) if wanted else 0
        if rows:
            chunk = state.next_chunk(rows, NO_DRAFT)
            self._scored_left -= chunk.n_scored
            chunks.append(chunk)
        return rows

    def _secure(self, state: SequenceState, wanted: int) -> int:
        """Return how many of the wanted rows it has pages for.

        Only for the first row are others paused, the newest first. 0: it was itself the newest.
        """
        start = state.computed
        if start + wanted <= len(state.pages) * PAGE_SIZE:
            return wanted  # most decode steps
        while (rows := self._ledger.grow(state, start + wanted) - start) < 1:
            newest = self._lines.running[-1]
            newest.was_paused = True
            self._pauses += 1
            self._stop(newest, Stage.PAUSED)
            if newest is state:
                return 0
        return rows

    def _age(self, chunks: Sequence[Chunk]) -> None:
        """Count how many plans have passed over the oldest sequence without a promise; at `PATIENCE` it comes first."""
        if len(chunks) == len(self._lines.running) and not self._lines.queued:
            self._passed_over = 0
            return
        eldest = self._lines.eldest(SequenceGroup.BEST_EFFORT)
        if eldest is None or any(chunk.sequence == eldest.id for chunk in chunks):
            self._passed_over = 0
            return
        self._passed_over += 1
        if self._passed_over > PATIENCE and self._lines.eldest(SequenceGroup.OVERDUE) is None:
            self._lines.regroup(eldest, SequenceGroup.OVERDUE)
            self._refused = False
            self._passed_over = 0

    def _start_urgent(self, limits: StepLimits) -> None:
        """Start queued sequences that rank before a running one; those without a due time make room."""
        running = self._lines.running
        while queued := self._lines.queued:
            first = queued[0]
            if first.group is SequenceGroup.BEST_EFFORT or is_held(first, limits):
                return
            if not running or rank(first) > rank(running[-1]):
                return
            self._refused = False
            while not self._start_next(limits):
                last = running[-1]  # alone, with no other running, it would have started
                if last.group is not SequenceGroup.BEST_EFFORT:
                    return
                last.was_paused = True
                self._stop(last, Stage.PAUSED)

    def _start_last(self, limits: StepLimits) -> SequenceState | None:
        """Start the first queued sequence if it ranks after all that run: those are planned already."""
        running, queued = self._lines.running, self._lines.queued
        if running and queued and rank(queued[0]) < rank(running[-1]):
            return None
        return self._start_next(limits)

    def _start_next(self, limits: StepLimits) -> SequenceState | None:
        """Start the first queued sequence if there is room for all it has to compute; None if not.

        Room is what is left when every running sequence has the pages of its known tokens and one more: else it would
        soon be paused again and its work lost. No sequence overtakes the first in the queue, so that none starves.
        """
        running, queued = self._lines.running, self._lines.queued
        width = min(limits.width or self.config.max_sequences, self.config.max_sequences)
        if not queued or self._refused or len(running) >= width:
            return None
        first = queued[0]
        if is_held(first, limits):
            return None
        if running:  # alone it always fits
            promised = sum(max(0, pages_for(len(state.tokens) + PAGE_SIZE) - len(state.pages)) for state in running)
            if self._ledger.price(first) + promised > self._ledger.n_available:
                self._refused = True
                return None
        self._lines.move(first, Stage.RUNNING)
        return first

    def _stop(self, state: SequenceState, stage: Stage) -> None:
        """Pause or end a sequence in whatever queue; all its pages are freed."""
        self._lines.move(state, stage)
        self._ledger.take_back(state)
        state.planned = None
        self._refused = False
