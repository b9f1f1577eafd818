"""Turns of several models at the same cores: one at a time computes a step.

Owns the order of turns. All models of a process share one thread pool, so two passes never run side by side; here is
decided whose pass is next. Knows no engine, only what each sharer says of its promises. A loop that is alone needs no
turns. Invariants: once a loop shares the cores, no step of it begins without a turn; promised work of an encoder, which
is short and was admitted with the others' spare time, goes first; work without a promise waits while another model has
promises to keep, but never longer than `MOST_WAIT_S` for one turn; otherwise turns go round.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

MOST_WAIT_S = 0.25  # what has no promise gets a turn this often, whatever else was promised
FIRST, PROMISED, REST = 0, 1, 2  # ranks of work


class Sharer(Protocol):
    """A loop that computes on the cores that others use too. Called from any thread; nothing here may wait.

    ``shares_cores``: whether there are others, set by `CoreTurns`; while it is false, no step needs a turn.
    """

    shares_cores: bool

    def turn_rank(self) -> int:
        """Return the rank of its work now: `FIRST`, `PROMISED` or `REST`; `REST` if it has none."""

    def spare_s(self) -> float:
        """Return how long the cores may be taken, beyond what all have promised, without breaking one of its promises.

        Infinite without promises.
        """

    def ahead_s(self) -> float:
        """Return the seconds of its work that go before what others promise now."""

    def hurry(self) -> None:
        """End the turn under way as soon as that is possible."""


class PlainSharer:
    """A `Sharer` that promises nothing: what computes beside the models, such as measurements."""

    shares_cores = False

    def turn_rank(self) -> int:
        """Return `REST`."""
        return REST

    def spare_s(self) -> float:
        """Return infinity."""
        return math.inf

    def ahead_s(self) -> float:
        """Return 0."""
        return 0.0

    def hurry(self) -> None:
        """Do nothing."""


class CoreTurns:
    """The turns at one thread pool. A sharer that is alone never waits, and need not `enter`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._sharers: list[Sharer] = []
        self._holder: Sharer | None = None
        self._waiting: list[tuple[Sharer, float]] = []  # in the order in which they came

    def join(self, sharer: Sharer) -> None:
        """Let a loop take turns from now on.

        A step that another one began alone goes on beside it, up to the end of its pass.
        """
        with self._changed:
            self._share([*self._sharers, sharer])
            for each in self._sharers[:-1]:
                each.hurry()

    def leave(self, sharer: Sharer) -> None:
        """Forget a loop that has ended."""
        with self._changed:
            self._share([each for each in self._sharers if each is not sharer])
            self._changed.notify_all()

    def _share(self, sharers: list[Sharer]) -> None:
        self._sharers = sharers
        for each in sharers:
            each.shares_cores = len(sharers) > 1

    def others(self, sharer: Sharer) -> list[Sharer]:
        """Return the loops beside this one."""
        return [each for each in self._sharers if each is not sharer]

    def ahead_of_s(self, sharer: Sharer) -> float:
        """Return the seconds of the others' work that go before what this one promises."""
        return sum(other.ahead_s() for other in self.others(sharer))

    def enter(self, sharer: Sharer) -> float:
        """Wait for a turn; returns the seconds waited. Each `enter` is followed by one `done`."""
        if len(self._sharers) < 2 and self._holder is None:
            with self._changed:
                if self._holder is None:
                    self._holder = sharer
                    return 0.0
        start_s = self._clock()
        with self._changed:
            self._waiting.append((sharer, start_s))
            holder = self._holder
            if holder is not None and sharer.turn_rank() == FIRST:
                holder.hurry()
            try:
                while not self._is_next(sharer):
                    self._changed.wait(MOST_WAIT_S / 8)
            finally:
                self._waiting = [each for each in self._waiting if each[0] is not sharer]
            self._holder = sharer
        return self._clock() - start_s

    def done(self, sharer: Sharer) -> None:
        """End a turn."""
        with self._changed:
            if self._holder is sharer:
                self._holder = None
            if self._waiting:
                self._changed.notify_all()

    def _is_next(self, sharer: Sharer) -> bool:
        """Return whether the cores are free and no other sharer goes first."""
        if self._holder is not None:
            return False
        now_s = self._clock()
        best = min(self._waiting, key=lambda each: self._order(each[0], each[1], now_s))
        if best[0] is not sharer:
            return False
        since_s = now_s - best[1]
        if since_s >= MOST_WAIT_S or sharer.turn_rank() != REST:
            return True
        return all(each.turn_rank() == REST for each in self._sharers if each is not sharer)

    def _order(self, sharer: Sharer, came_s: float, now_s: float) -> int:
        return FIRST if now_s - came_s >= MOST_WAIT_S else sharer.turn_rank()


_shared = CoreTurns()


def shared_turns() -> CoreTurns:
    """Return the turns of this process: all its models use the same cores."""
    return _shared
