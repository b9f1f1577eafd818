"""What a pass costs by its number of rows, learned from the passes themselves.

Owns ratios of times, not times: a machine that slows down slows all passes alike, which a running
scale takes up at once, while the ratios follow slowly. Knows nothing of what rows are for.
Invariant: more rows never cost less. Used for speed alone, so that clocks may decide here.
"""

from __future__ import annotations

MOST_ROWS = 128  # ratios are kept for so many; beyond, each row costs the same again
_START = (1.0, 1.05, 1.11, 1.18, 1.42, 1.47, 1.55, 1.65)  # rows 1 to 8, before anything is measured
_SLOPE = 0.13  # of each row after that
_FAST, _SLOW, _NEAR = 0.2, 0.03, 0.01  # what scale, ratio and its neighbours take up of a surprise
_MOST_SURPRISE = 2.0


class RowCost:
    """`ratio` compares passes; `note` learns from one."""

    def __init__(self) -> None:
        more = range(1, MOST_ROWS - len(_START) + 1)
        self._ratios = [0.0, *_START, *(_START[-1] + _SLOPE * row for row in more)]
        self._scale_s = 0.0  # seconds of a pass of ratio 1, lately; 0: none seen

    def note(self, rows: int, seconds: float) -> None:
        """A pass of ``rows`` rows took ``seconds``, with all that belongs to it."""
        if seconds <= 0.0 or not 0 < rows <= MOST_ROWS:
            return
        if self._scale_s == 0.0:
            self._scale_s = seconds / self._ratios[rows]
            return
        surprise = seconds / (self._scale_s * self._ratios[rows])
        surprise = min(max(surprise, 1 / _MOST_SURPRISE), _MOST_SURPRISE)
        more = surprise - 1.0 if surprise < 1.0 else 1.0 - 1.0 / surprise  # twice undoes half
        self._scale_s *= 1.0 + _FAST * more
        ratios = self._ratios
        ratios[rows] *= 1.0 + _SLOW * more
        if rows > 1:
            ratios[rows - 1] *= 1.0 + _NEAR * more
        if rows < MOST_ROWS:
            ratios[rows + 1] *= 1.0 + _NEAR * more

    def ratio(self, rows: int) -> float:
        """The cost of a pass in units that only mean something beside each other."""
        if rows <= MOST_ROWS:
            return self._ratios[rows]
        return self._ratios[MOST_ROWS] * rows / MOST_ROWS

    def seconds(self, rows: int) -> float:
        """About how long a pass takes now; 0 before any was seen."""
        return self._scale_s * self.ratio(rows)
