"""Cost of a pass by its number of rows, learned from the passes themselves.

Owns ratios of times: a machine that slows down slows all passes alike. A running scale follows that at once; the
ratios follow slowly. Knows nothing of the purpose of rows. Invariant: more rows never cost less. A measurement may
say so, because passes are few and machines noisy; each is therefore followed by an isotonic regression (pool adjacent
violators; Barlow et al. 1972), weighted by how often each number of rows was measured. Costs decide speed alone, so a
clock may enter here.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_ROWS = 128  # ratios are kept for so many; beyond, each row costs the same again
_START = (1.0, 1.05, 1.11, 1.18, 1.42, 1.47, 1.55, 1.65)  # rows 1 to 8, before anything is measured
_SLOPE = 0.13  # of each row after that
_FAST, _SLOW, _NEAR = 0.2, 0.03, 0.01  # shares of a surprise that go into the scale, the ratio and its neighbours
_MAX_SURPRISE = 2.0
_START_WEIGHT, _MAX_WEIGHT = 1.0, 100.0  # measurements


class RowCost:
    """Relative costs of passes; `note` learns from one pass."""

    def __init__(self) -> None:
        more = range(1, MAX_ROWS - len(_START) + 1)
        self._ratios = [0.0, *_START, *(_START[-1] + _SLOPE * row for row in more)]
        self._weights = [_START_WEIGHT] * len(self._ratios)
        self._scale_s = 0.0  # seconds of a pass of ratio 1, lately; 0: no pass was measured

    def note(self, rows: int, seconds: float) -> None:
        """Learn that a pass of ``rows`` rows took ``seconds``, with the Python around it."""
        if seconds <= 0.0 or not 0 < rows <= MAX_ROWS:
            return
        if self._scale_s == 0.0:
            self._scale_s = seconds / self._ratios[rows]
            return
        surprise = seconds / (self._scale_s * self._ratios[rows])
        surprise = min(max(surprise, 1 / _MAX_SURPRISE), _MAX_SURPRISE)
        more = surprise - 1.0 if surprise < 1.0 else 1.0 - 1.0 / surprise  # twice undoes half
        self._scale_s *= 1.0 + _FAST * more
        first, last = max(rows - 1, 1), min(rows + 1, MAX_ROWS)
        for near in range(first, last + 1):
            share = _SLOW if near == rows else _NEAR
            self._ratios[near] *= 1.0 + share * more
            self._weights[near] = min(self._weights[near] + share / _SLOW, _MAX_WEIGHT)
        pool_violators(self._ratios, self._weights, first, last)

    def ratio(self, rows: int) -> float:
        """Relative cost of a pass (arbitrary units)."""
        if rows <= MAX_ROWS:
            return self._ratios[rows]
        return self._ratios[MAX_ROWS] * rows / MAX_ROWS

    def costs(self, rows: int, more: int) -> list[float]:
        """Relative costs of passes with ``rows``, ``rows + 1``, ... ``rows + more`` rows."""
        return [self.ratio(count) for count in range(rows, rows + more + 1)]

    def seconds(self, rows: int) -> float:
        """About how long a pass takes now; 0 before any was measured."""
        return self._scale_s * self.ratio(rows)


def pool_violators(values: list[float], weights: Sequence[float], first: int, last: int) -> None:
    """Make ``values`` ascend again after those from ``first`` to ``last`` have changed; index 0 is left out.

    Values that descend are replaced by their weighted mean, and so are their neighbours as far as that mean does
    not fit between them.
    """
    for at in range(max(first - 1, 1), last + 1):
        if at + 1 < len(values) and values[at] > values[at + 1]:
            _pool(values, weights, at)


def _pool(values: list[float], weights: Sequence[float], at: int) -> None:
    """Replace the values around ``at`` and ``at + 1``, which descend, by one mean that fits between its neighbours."""
    start, end = at, at + 1
    weight = weights[start] + weights[end]
    mean = (values[start] * weights[start] + values[end] * weights[end]) / weight
    while True:
        if start > 1 and values[start - 1] > mean:
            start = added = start - 1
        elif end + 1 < len(values) and values[end + 1] < mean:
            end = added = end + 1
        else:
            break
        mean = (mean * weight + values[added] * weights[added]) / (weight + weights[added])
        weight += weights[added]
    values[start : end + 1] = [mean] * (end + 1 - start)
