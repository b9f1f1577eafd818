"""The time at which each masked text will be done, when texts are computed one pass at a time.

Pure but for the pass under way, which is asked for. Texts with a due time are served first, the earliest due first;
the others share what is left in equal turns. Invariants: with a due time a text counts at worst, a pass for each token,
so that no acceptance breaks a promise; more work never gets less time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from miaotui.dmlm.promises.cost import MaskedCost
from miaotui.schedule.promises.cost import CostModel
from miaotui.schedule.promises.forecast import Finish, Job, SchedulingPolicy

UnderWay = Callable[[], tuple[int, float]]  # the number of the text in the running pass, and the pass's seconds


def _nothing() -> tuple[int, float]:
    return -1, 0.0


@dataclass
class MaskedForecast:
    """Forecasts of one engine; ``hopeful``: every text brings as many tokens a pass as texts did so far."""

    under_way: UnderWay = _nothing
    hopeful: bool = False

    def __call__(
        self, jobs: Sequence[Job], cost: CostModel, policy: SchedulingPolicy, now_s: float
    ) -> dict[int, Finish]:
        """Return the times at which each job is done, by number, when nothing else comes (see `forecast`)."""
        assert isinstance(cost, MaskedCost), "the model of masked passes"
        running, ahead_s = self.under_way()
        now_s += ahead_s
        found: dict[int, Finish] = {}
        shared: list[tuple[Job, float, float]] = []
        for job in sorted(jobs, key=lambda job: job.rank):
            is_promised = job.order_s < math.inf
            rate = cost.tokens_a_pass if self.hopeful or not is_promised else 1.0
            first_s, rest_s = cost.first_and_rest_s(job, rate)
            if job.number == running:  # part of its work is the pass under way
                done_s = min(ahead_s, first_s)
                first_s, rest_s = first_s - done_s, max(rest_s - (ahead_s - done_s), 0.0)
            if is_promised:
                found[job.number] = Finish(now_s + first_s, now_s + first_s + rest_s)
                now_s += first_s + rest_s
            else:
                shared.append((job, first_s, rest_s))
        works = [first_s + rest_s for _, first_s, rest_s in shared]
        for index, (job, first_s, rest_s) in enumerate(shared):
            others = works[:index] + works[index + 1 :]
            found[job.number] = Finish(now_s + _in_turns(first_s, others), now_s + _in_turns(first_s + rest_s, others))
        return found


def _in_turns(work_s: float, others: Sequence[float]) -> float:
    """Return when ``work_s`` is done in equal turns with others' work."""
    return work_s + sum(min(work_s, other) for other in others)
