"""A lock that serves in order of arrival, so that whoever drives the engine cannot starve the rest.

Owns the line, and knows nothing of what is done in a turn. `threading.Lock` lets a thread that
releases and takes it in a loop win every time; here the one that has waited longest comes next.
Invariant: at most one thread has the turn, and one that gives up waiting never gets it.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class FairLock:
    """A mutual exclusion like `threading.Lock`, first come first served; a context manager."""

    def __init__(self) -> None:
        self._guard = threading.Lock()  # held for a moment, to change what follows
        self._taken = False
        self._line: deque[threading.Lock] = deque()  # one closed gate per thread that waits

    def take(self) -> None:
        """Wait for the turn."""
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._line.append(gate)
        try:
            gate.acquire()  # opened by the one before, together with the turn
        except BaseException:
            self._give_up(gate)
            raise

    def try_take(self) -> bool:
        """Take the turn if nobody has it; never waits, not even a moment."""
        if not self._guard.acquire(blocking=False):
            return False
        try:
            free = not self._taken
            self._taken = True
        finally:
            self._guard.release()
        return free

    def give(self) -> None:
        """End the turn; whoever has waited longest has the next."""
        with self._guard:
            if self._line:
                self._line.popleft().release()
            else:
                self._taken = False

    def _give_up(self, gate: threading.Lock) -> None:
        """Leave the line after an interrupt; a turn that has just come is passed on."""
        with self._guard:
            waiting = gate in self._line
            if waiting:
                self._line.remove(gate)
        if not waiting:
            self.give()

    def __enter__(self) -> FairLock:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give()
