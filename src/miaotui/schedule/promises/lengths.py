"""Lengths of answers without a limit, learned from those that have ended.

Owns the latest lengths. Knows neither prompts nor clocks. Invariant: an estimate depends only on the lengths noted
before it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

KEPT = 512
PRIOR = (16, 32, 64, 96, 128, 160, 192, 256)  # until answers have been seen


class AnswerLengths:
    """Lengths of the last answers, in tokens, as a distribution."""

    def __init__(self) -> None:
        self._latest: deque[int] = deque(PRIOR)
        self._sorted = sorted(PRIOR)
        self._noted = 0

    def note(self, tokens: int) -> None:
        """Note an answer that ended by itself after ``tokens``."""
        self._latest.append(tokens)
        insort(self._sorted, tokens)
        if self._noted < len(PRIOR) or len(self._latest) > KEPT:  # the prior gives way first
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._noted += 1

    def quantile(self, share: float, beyond: int = 0) -> int:
        """Return the length that ``share`` of the answers longer than ``beyond`` do not exceed.

        An answer longer than all that were seen is expected to grow by half once more.
        """
        start = bisect_left(self._sorted, beyond + 1)
        left = self._sorted[start:]
        if not left:
            return beyond + max(16, beyond // 2)
        return left[min(int(share * len(left)), len(left) - 1)]
