"""Whether a pass should run on the whole team or on one thread, judged by how long passes take.

When another process keeps a core busy, a team waits for its slowest member at every meeting, and one
thread alone is faster. Nothing tells a process this, so `Pace` tries: when team passes become much
slower than they were, and now and then anyway, a few passes run alone, and the faster way is kept
for a while. Only small passes of one kind are compared with each other; large ones follow.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TROUBLE = 1.4  # a pass this much slower than the best is one sign of trouble
SIGNS = 4  # signs that start a trial
TRIAL = 6  # passes of a trial
KEEP = 64  # passes between trials while alone
CALM = 512  # passes between trials while nothing is wrong
DRIFT = 1.002  # the best time is forgotten this fast: contexts grow, machines change
SMALL_ROWS = 8


@dataclass
class _Kind:
    """Times of one kind of pass, in seconds: the best with the team, and recent means either way."""

    best_s: float = float("inf")
    team_s: float = 0.0
    alone_s: float = 0.0


@dataclass
class Pace:
    """Chooses between the team and one thread; `choose` before each pass, `note` after it."""

    alone: bool = False
    _left: int = 32  # passes until the next decision or trial
    _trying: bool = False
    _signs: int = 0
    _kinds: dict[tuple[int, int], _Kind] = field(default_factory=dict)

    def note(self, kind: tuple[int, int], seconds: float) -> None:
        """Learn how long a pass of ``kind`` (program, rows) took."""
        if kind[1] > SMALL_ROWS:
            return
        times = self._kinds.setdefault(kind, _Kind())
        if self.alone:
            times.alone_s = _mean(times.alone_s, seconds)
        else:
            times.team_s = _mean(times.team_s, seconds)
            times.best_s = min(times.best_s * DRIFT, seconds)
            slow = seconds > TROUBLE * times.best_s
            self._signs = self._signs + 1 if slow else max(0, self._signs - 1)
        self._left -= 1
        if self._left <= 0 or (self._signs >= SIGNS and not self.alone and not self._trying):
            self._decide(times)

    def _decide(self, times: _Kind) -> None:
        """End a trial by keeping the faster way, or begin one of the other way."""
        if self._trying:
            self._trying = False
            self.alone = 0 < times.alone_s < times.team_s
            self._left = KEEP if self.alone else CALM
        else:
            self._trying = True
            self.alone = not self.alone
            self._left = TRIAL
            if self.alone:
                times.alone_s = 0.0
            else:
                times.team_s = 0.0
        self._signs = 0


def _mean(before: float, now: float) -> float:
    """A running mean of about the last four."""
    return now if before == 0.0 else before + (now - before) / 4
