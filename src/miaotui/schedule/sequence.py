"""The scheduler's record of one sequence, the queues in which sequences are served, and how decoding ones share rows.

A plain record: the block table changes its pages, the scheduler everything else. Knows no policy but `rank` and who
is held. Invariants: ``tokens[:computed]`` are in ``pages``; the last token is computed only when its logits are needed.
Every decoding sequence has one row, and while prompts need rows they have at least one; drafts, which can only save
time, get the rows that are left.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from miaotui.schedule.plan import NO_ADAPTER, Chunk, Draft, DraftTree, RowKind, StepLimits, pages_for

if TYPE_CHECKING:
    from miaotui.schedule.pages import PageNode
NO_DRAFT: Sequence[int] = ()


class Stage(Enum):
    """The queue in which a sequence is; only running ones hold pages."""

    WAITING = "waiting"  # not started
    RUNNING = "running"
    PAUSED = "paused"  # gave its pages back; its tokens are computed again when it resumes
    DONE = "done"  # has all its tokens; known until `finish`


class SequenceGroup(IntEnum):
    """The classes of sequences, the first to be served first."""

    OVERDUE = 0  # without a promise, but passed over for too long
    PROMISED = 1
    BEST_EFFORT = 2


@dataclass(slots=True, eq=False)
class SequenceState:
    """One request's tokens, how many of them are computed, and the pages that hold those."""

    id: int
    tokens: list[int]  # prompt and generated
    max_length: int  # tokens at which it is done
    namespace: int
    arrival: int
    node: PageNode  # the deepest page it shares with the prefix tree; the root: none
    stage: Stage = Stage.WAITING
    computed: int = 0  # tokens
    pages: list[int] = field(default_factory=list)  # pages[:node.depth] are the tree's, shared
    planned: Chunk | None = None  # planned and not yet committed
    branch_pages: list[int] = field(default_factory=list)  # its alone, until that commit
    cached_tokens: int = 0  # prompt tokens it did not have to compute on its first run
    was_paused: bool = False
    group: SequenceGroup = SequenceGroup.BEST_EFFORT
    adapter: int = NO_ADAPTER  # number of the low-rank adapter that all its rows go through
    order: int = 0  # within its group, before the order of arrival: when it must be done
    score_from: int = 0  # rows [score_from, score_end) still have to be computed with logits
    score_end: int = 0
    _table: tuple[int, ...] = ()

    @property
    def remaining(self) -> int:
        """Return the number of known tokens still to be computed: 1 while decoding, more in a prompt."""
        return len(self.tokens) - self.computed

    @property
    def is_scoring(self) -> bool:
        """Return whether logits of its prompt are still wanted."""
        return self.score_from < self.score_end

    def scored_rows(self, rows: int) -> int:
        """Return how many of its next ``rows`` rows score the prompt with their logits."""
        return max(0, min(self.computed + rows, self.score_end) - max(self.computed, self.score_from))

    def within(self, rows: int, scored: int) -> int:
        """Return ``rows``, cut to those among which at most ``scored`` score the prompt."""
        surplus = self.scored_rows(rows) - scored
        if surplus <= 0:
            return rows
        return min(self.computed + rows, self.score_end) - surplus - self.computed

    def page_table(self, n_tokens: int) -> tuple[int, ...]:
        """Return the pages of the first ``n_tokens`` positions; one tuple object until it changes."""
        n_pages = pages_for(n_tokens)
        if len(self._table) != n_pages:
            self._table = tuple(self.pages[:n_pages])
        return self._table

    def next_row(self, passes: int = 1) -> Chunk:
        """Plan the row of its last token and the passes that follow it; it has pages for them."""
        start, table = self.computed, self.page_table(self.computed + passes)
        self.planned = Chunk(self.id, start, (self.tokens[-1],), table, 1, adapter=self.adapter)
        return self.planned

    def next_chunk(self, rows: int, draft: Sequence[int]) -> Chunk:
        """Plan its next ``rows`` rows: known tokens, then drafted ones."""
        end, known = self.computed + rows, len(self.tokens)
        kind = RowKind.DECODE if known - self.computed == 1 else RowKind.PREFILL
        if end < known:
            tokens, n_logits = tuple(self.tokens[self.computed : end]), 0
        else:
            tokens = (*self.tokens[self.computed :], *draft[: end - known])
            n_logits = 1 + end - known
        scored = self.scored_rows(rows) if self.is_scoring else 0
        table = self.page_table(end)
        self.planned = Chunk(self.id, self.computed, tokens, table, n_logits, (), scored, kind, self.adapter)
        return self.planned

    def forget_page_table(self) -> None:
        """Drop the cached tuple of pages; needed after a replacement or removal in ``pages``, not after growth."""
        self._table = ()


def rank(state: SequenceState) -> tuple[int, int, int]:
    """Return the sort key: the lowest starts and resumes first, the highest is paused first.

    Earliest deadline first (Liu and Layland 1973); without deadlines, first come first served.
    """
    return (int(state.group), state.order, state.arrival)


class Queues:
    """Sequences by stage, the first to be served first."""

    def __init__(self) -> None:
        self.running: list[SequenceState] = []
        self.paused: list[SequenceState] = []
        self.waiting: list[SequenceState] = []
        self.by_stage = {Stage.RUNNING: self.running, Stage.PAUSED: self.paused, Stage.WAITING: self.waiting}

    @property
    def queued(self) -> list[SequenceState]:
        """Return the queue whose first sequence starts next. Of equal rank, a paused one came before a waiting one."""
        paused, waiting = self.paused, self.waiting
        if paused and waiting and rank(waiting[0]) < rank(paused[0]):
            return waiting
        return paused or waiting

    def eldest(self, group: SequenceGroup) -> SequenceState | None:
        """Find the first to arrive of a group, in whatever queue."""
        found = None
        for line in self.by_stage.values():
            index = bisect_left(line, (int(group), 0, 0), key=rank)
            if index < len(line) and line[index].group == group:
                state = line[index]
                if found is None or state.arrival < found.arrival:
                    found = state
        return found

    def regroup(self, state: SequenceState, group: SequenceGroup) -> None:
        """Move a sequence to ``group``, ordered by its arrival."""
        stage = state.stage
        if stage is not Stage.DONE:
            self.move(state, Stage.DONE)
        state.group, state.order, state.stage = group, 0, stage
        if stage is not Stage.DONE:
            self.enter(state)

    def enter(self, state: SequenceState) -> None:
        """Put a new sequence into the queue of its stage."""
        insort(self.by_stage[state.stage], state, key=rank)

    def move(self, state: SequenceState, stage: Stage) -> None:
        """Move a sequence to the queue of ``stage``; a done one is in none."""
        if state.stage is not Stage.DONE:
            line = self.by_stage[state.stage]
            del line[bisect_left(line, rank(state), key=rank)]
        state.stage = stage
        if stage is not Stage.DONE:
            self.enter(state)


def share_rows(
    decoding: Iterable[SequenceState], drafts: Mapping[int, Draft], spare: int, prompts: bool
) -> dict[int, Draft]:
    """Cut each decoding sequence's draft to its length limit, and all of them to ``spare`` rows.

    While ``prompts`` wait for rows, drafts leave half of the spare ones to them. Sequences without a draft are absent.
    """
    left = spare // 2 if prompts else spare
    shares: dict[int, Draft] = {}
    for state in decoding:
        # The last token it may get comes from the row before it and needs no row of its own.
        allowed = state.max_length - len(state.tokens) - 1
        draft = drafts.get(state.id, NO_DRAFT)
        short = min(left, allowed)
        draft = draft.cut(left, allowed) if isinstance(draft, DraftTree) else draft[:short]
        if draft:
            shares[state.id] = draft
            left -= len(draft)
    return shares


def is_held(state: SequenceState, limits: StepLimits) -> bool:
    """Decide whether a sequence must wait so that others keep their promises."""
    if state.group is SequenceGroup.BEST_EFFORT:
        return limits.hold_best_effort
    until = limits.prompts_until
    reading = len(state.tokens) - state.computed > 1
    return until is not None and reading and state.group is SequenceGroup.PROMISED and state.order > until
