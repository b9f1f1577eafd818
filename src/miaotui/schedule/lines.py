"""The lines in which sequences stand: running, paused, waiting; each sorted by rank.

It knows who stands where, not why anyone moves. Invariant: a sequence stands in the line of its
stage, or in none when it is done. Moving costs a bisection and a shift of a list.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from miaotui.schedule.sequence import SequenceState, Stage, rank


class Lines:
    """Sequences by stage, the first to be served first."""

    def __init__(self) -> None:
        self.running: list[SequenceState] = []
        self.paused: list[SequenceState] = []
        self.waiting: list[SequenceState] = []
        self.by_stage = {
            Stage.RUNNING: self.running,
            Stage.PAUSED: self.paused,
            Stage.WAITING: self.waiting,
        }

    @property
    def queued(self) -> list[SequenceState]:
        """The line that starts next: the paused ones before the waiting ones."""
        return self.paused or self.waiting

    def enter(self, state: SequenceState) -> None:
        """Put a new sequence into the line of its stage."""
        insort(self.by_stage[state.stage], state, key=rank)

    def move(self, state: SequenceState, stage: Stage) -> None:
        """Take it out of its line and put it into that of ``stage``; done ones stand in none."""
        if state.stage is not Stage.DONE:
            line = self.by_stage[state.stage]
            del line[bisect_left(line, rank(state), key=rank)]
        state.stage = stage
        if stage is not Stage.DONE:
            self.enter(state)
