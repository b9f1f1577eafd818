"""Chooses the number of replicas of a model by offered work and refused promises.

Owns the count of offered work and the decision. Knows no clock, process or Ray: times come in, in seconds. Invariants:
the number stays within its range; it rises at once and falls by one after a time in which fewer would have done; while
a request runs or came a moment ago it is not zero.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from miaotui.errors import RequestError

WINDOW_S = 10.0  # over which offered work is averaged
SHARE = 0.7  # of a replica's time that work may take: above it, deadlines are refused more and more
MOST_REPLICAS = 1000


@dataclass(frozen=True)
class ScaleRange:
    """The range in which a pool's replicas are counted. Raises `RequestError` for one that is none."""

    least: int = 1  # 0: none runs after ``idle_s`` without a request; the next one waits for a start
    most: int = 1
    calm_s: float = 60.0  # that fewer must have been enough for before one ends
    idle_s: float = 600.0  # without a request, before the last one ends

    def __post_init__(self) -> None:
        for name in ("least", "most"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise RequestError(f"autoscale.{name}: expected a whole number, not {value!r}")
        if not 0 <= self.least <= self.most <= MOST_REPLICAS or self.most < 1:
            raise RequestError(
                f"autoscale: expected 0 <= least <= most <= {MOST_REPLICAS} and most >= 1, not least {self.least} and "
                f"most {self.most}"
            )
        for name in ("calm_s", "idle_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e6:
                raise RequestError(f"autoscale.{name}: expected seconds above 0, not {value!r}")


class Scaler:
    """The number of replicas that one pool wants."""

    def __init__(self, limits: ScaleRange, now_s: float) -> None:
        self._limits = limits
        self._offered: deque[tuple[float, float, bool]] = deque()  # (at, work in seconds, refused)
        self._asked_s = self._needed_s = now_s  # of the last request; when so many as now were needed last

    def note(self, work_s: float, refused: bool, now_s: float) -> None:
        """Note a request: the seconds of one replica that it takes, and whether it was refused for its deadline."""
        self._offered.append((now_s, work_s, refused))
        self._asked_s = now_s

    def wanted(self, now_s: float, count: int, in_flight: int, queue_s: float) -> int:
        """Return how many replicas there should be.

        ``count`` is how many were wanted last, ``queue_s`` the work in line over all of them.
        """
        limits = self._limits
        while self._offered and now_s - self._offered[0][0] > WINDOW_S:
            self._offered.popleft()
        if in_flight:
            self._asked_s = now_s
        offered_s = sum(work_s for _, work_s, _ in self._offered) + queue_s
        needed = math.ceil(offered_s / (WINDOW_S * SHARE))
        if any(refused for _, _, refused in self._offered):
            needed = max(needed, count + (needed >= count))  # the load is low, and the deadlines are still too short
        if now_s - self._asked_s < limits.idle_s:
            needed = max(needed, 1)
        needed = min(max(needed, limits.least), limits.most)
        if needed >= count:
            self._needed_s = now_s
            return needed
        if count == 1 or now_s - self._needed_s >= limits.calm_s:
            self._needed_s = now_s
            return count - 1
        return count
