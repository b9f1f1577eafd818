"""Choice between all threads and one thread for a pass, from the times of passes.

If another process keeps a core busy, all threads wait for the slowest one at every barrier, and one thread alone is
faster. The operating system does not report this. So `Pace` runs trials: when passes become much slower than before,
and now and then anyway, a few passes run with one thread and with all threads in turns. The faster way is kept for a
while. Both are timed in the same period, because the cause of slow passes may be over by the time of a trial. Only
small passes of one kind are compared; large ones follow the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

TROUBLE = 1.4  # a pass this much slower than the best is one sign of trouble
DISTRESS = 2.5  # and this much slower are two
SIGNS = 4  # signs that start a trial; twice as many after each trial in vain
MOST_SIGNS = 64
TRIAL = 6  # passes of a trial, either way
BETTER = 0.92  # of the team's time: what one thread alone must take to be kept
PLAIN = 1.5  # times slower: what ends a trial early
KEEP = 64  # passes between trials while alone
CALM = 512  # passes between trials while nothing is wrong
DRIFT = 1.002  # the best time is forgotten this fast: contexts grow, machines change
SMALL_ROWS = 8

_Kind = tuple[int, int]


@dataclass
class Pace:
    """Choice between all threads and one. Read `alone` before each pass; call `note` after it."""

    alone: bool = False
    _left: int = 32  # passes until the next decision or trial
    _signs: int = 0
    _needed: int = SIGNS
    _best_s: dict[_Kind, float] = field(default_factory=dict)  # with the team
    _trial: dict[_Kind, tuple[list[float], list[float]]] | None = None  # seconds: team's, alone
    _before: bool = False  # how passes ran before the trial

    @property
    def kept(self) -> bool:
        """Return whether passes run on one thread, trials aside."""
        return self.alone if self._trial is None else self._before

    @property
    def is_trying(self) -> bool:
        """Return whether a trial is running."""
        return self._trial is not None

    def note(self, kind: _Kind, seconds: float, passes: int = 1) -> None:
        """Learn how long a pass of ``kind`` (program, rows) took: the mean of ``passes``."""
        if kind[1] > SMALL_ROWS:
            return
        self._left -= passes
        if self._trial is not None:
            self._trial.setdefault(kind, ([], []))[self.alone].append(seconds)
            self.alone = not self.alone
            if self._left <= 0 or self._is_plain(self._trial):
                self._judge(self._trial)
            return
        if not self.alone:
            best_s = min(self._best_s.get(kind, seconds) * DRIFT, seconds)
            self._best_s[kind] = best_s
            slow = (seconds > TROUBLE * best_s) + (seconds > DISTRESS * best_s)
            self._signs = self._signs + slow * passes if slow else max(0, self._signs - passes)
        if self._left <= 0 or self._signs >= self._needed:
            self._trial, self._left, self._signs = {}, 2 * TRIAL, 0
            self._before, self.alone = self.alone, not self.alone

    def _is_plain(self, trial: dict[_Kind, tuple[list[float], list[float]]]) -> bool:
        """Return whether a few passes already show that one thread is much faster."""
        return any(
            len(team) > 1 and len(alone) > 1 and PLAIN * max(alone) < min(team) for team, alone in trial.values()
        )

    def _judge(self, trial: dict[_Kind, tuple[list[float], list[float]]]) -> None:
        """End a trial: keep the faster way."""
        both = [times for times in trial.values() if times[0] and times[1]]
        team_s = sum(median(team) * len(alone) for team, alone in both)
        alone_s = sum(median(alone) * len(alone) for _, alone in both)
        self.alone = alone_s < BETTER * team_s if both else self._before
        self._needed = SIGNS if self.alone else min(2 * self._needed, MOST_SIGNS)
        self._left = KEEP if self.alone else CALM
        self._trial, self._signs = None, 0
