"""The queues of sequences: running, paused, waiting; each sorted by rank.

Knows which sequence is in which queue, not why one moves. Invariant: a sequence is in the queue of its stage, or in
none when it is done. A move costs a bisection and a shift of a list.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from miaotui.schedule.sequence import SequenceGroup, SequenceState, Stage, rank


class Queues:
    """Sequences by stage, the first to be served first."""

    def __init__(self) -> None:
        self.running: list[SequenceState] = []
        self.paused: list[SequenceState] = []
        self.waiting: list[SequenceState] = []
        self.by_stage = {Stage.RUNNING: self.running, Stage.PAUSED: self.paused, Stage.WAITING: self.waiting}

    @property
    def queued(self) -> list[SequenceState]:
        """The queue whose first sequence starts next. Of equal rank, a paused one came before a waiting one."""
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
