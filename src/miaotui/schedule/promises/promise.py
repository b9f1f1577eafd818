"""A request in the book of promises: its wishes, the work left of it, the times it is due.

Plain records. Know no policy, no engine and no clock. Invariant: an entry's times are seconds of the clock that the
caller of admission reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from miaotui.schedule.promises.forecast import Finish, Job
from miaotui.types import Deadline

HAND_OVER_S = 0.004  # from the last token in the engine to its bytes in the socket, at least

# Seconds to allow for, given those foreseen up to the first token and from there to the last.
Allowance = Callable[[float, float], float]


@dataclass(frozen=True)
class PromiseRequest:
    """A request as admission sees it. Times are seconds of the caller's clock."""

    number: int
    prompt: int  # tokens
    cached: int  # of them, likely in pages already
    limit: int  # the longest answer, in tokens
    named: bool  # whether the caller named that limit
    deadline: Deadline | None
    arrived_s: float
    is_scored: bool = False  # log-probabilities of its prompt are wanted


@dataclass(eq=False)
class PromiseEntry:
    """A request in the book."""

    job: Job
    wish: PromiseRequest
    first_due_s: float = math.inf
    promised: bool = False
    shortened: bool = False
    predicted_ms: float = 0.0
    first_s: float | None = None  # when the first token came

    @property
    def may_shorten(self) -> bool:
        """Return whether its caller prefers a shorter answer to a late one."""
        deadline = self.wish.deadline
        return deadline is not None and deadline.on_late == "shorten"

    def late_s(self, finish: Finish, now_s: float, allowed_s: Allowance) -> float:
        """Return seconds by which the promise is foreseen to be broken; negative: time to spare."""
        last = now_s + allowed_s(finish.first_s - now_s, finish.last_s - finish.first_s)
        late = last - self.job.due_s
        first = self.first_s
        if first is None:
            first = now_s + allowed_s(finish.first_s - now_s, 0.0)
            late = max(late, first - self.first_due_s)
        deadline = self.wish.deadline
        if deadline is not None and deadline.tpot_ms is not None:
            allowed = deadline.tpot_ms / 1e3 * max(self.wish.limit - 1, 1)
            late = max(late, last - first - allowed)
        return late
