"""Promises in the book: what was asked, the work left, the times it is due, and the review of all of them.

The review is pure: it reads the book and the cost model, and returns what the next steps should hold back, whose
answers to shorten, and which promises are lost. Knows no engine. Invariants: an entry's times are seconds of the clock
that the caller of admission reads; a promise is given up only when it would be missed even by an optimistic forecast,
and then the one with the largest work goes, so that the fewest are missed (Moore and Hodgson 1968).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from miaotui.schedule.promises.cost import CostModel
from miaotui.schedule.promises.forecast import Finish, Job, SchedulingPolicy, forecast
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


GRACE, GRACE_S = 0.12, 0.03  # of the time left, and seconds: how far beyond its due time a promise may be foreseen
MOST_LOST = 4  # promises given up in one review


@dataclass(frozen=True)
class Review:
    """Instructions for the next steps."""

    hold_best_effort: bool = False
    prompts_until: float | None = None  # prompts that are due later wait, seconds
    lost: tuple[int, ...] = ()  # serve these without a promise from now on
    limits: Mapping[int, int] = field(default_factory=dict)  # shorten to so many more tokens


ALL_IS_WELL = Review()


def review(entries: Sequence[PromiseEntry], cost: CostModel, policy: SchedulingPolicy, now_s: float) -> Review:
    """Simulate from ``now_s``, which is when the entries' states held, and decide."""
    promised = [entry for entry in entries if entry.promised]
    if not promised:
        return ALL_IS_WELL
    beside = [entry for entry in entries if not entry.promised and entry.job.running]
    if not _late(promised, beside, cost, policy, now_s, cost.allowed_s):
        return ALL_IS_WELL
    if beside:
        policy = replace(policy, idle_rows=1)
    limits: dict[int, int] = {}
    late = _late(promised, [], cost, policy, now_s, cost.allowed_s)
    for entry in late:
        if entry.may_shorten:
            limits[entry.job.number] = _cut(entry, late[entry], now_s)
    if limits:
        promised = [_with_limit(entry, limits) for entry in promised]
        late = _late(promised, [], cost, policy, now_s, cost.allowed_s)
    if not late:
        return Review(hold_best_effort=bool(beside), limits=limits)
    until = min(entry.job.order_s for entry in late)
    lost = _lost(promised, cost, replace(policy, until_s=until), now_s)
    return Review(True, until, tuple(lost), limits)


def _late(
    promised: Sequence[PromiseEntry],
    beside: Sequence[PromiseEntry],
    cost: CostModel,
    policy: SchedulingPolicy,
    now_s: float,
    allowed_s: Allowance,
) -> dict[PromiseEntry, float]:
    """Return the entries that are foreseen to be late, with the seconds, when ``beside`` goes on as well."""
    jobs = [entry.job for entry in (*promised, *beside)]
    found = forecast(jobs, cost, policy, now_s)
    times = ((e, e.late_s(found[e.job.number], now_s, allowed_s)) for e in promised)
    return {entry: late for entry, late in times if late > 0}


def _cut(entry: PromiseEntry, late_s: float, now_s: float) -> int:
    """Return how many more tokens it may get, so that it is done in time."""
    left_s = max(entry.job.due_s - now_s, 0.0)
    share = left_s / (left_s + late_s) if left_s > 0 else 0.0
    return max(1, int(entry.job.answer_left * share))


def _with_limit(entry: PromiseEntry, limits: Mapping[int, int]) -> PromiseEntry:
    limit = limits.get(entry.job.number)
    return entry if limit is None else replace(entry, job=replace(entry.job, answer_left=limit))


def _lost(promised: list[PromiseEntry], cost: CostModel, policy: SchedulingPolicy, now_s: float) -> list[int]:
    """Choose the promises to give up so that the others can be kept."""
    lost: list[int] = []
    left, optimism = promised, cost.optimism
    while left and len(lost) < MOST_LOST:
        late = _late(left, [], cost, policy, now_s, lambda first_s, rest_s: (first_s + rest_s) * optimism)
        beyond = [entry for entry in late if late[entry] > _grace_s(entry, now_s)]
        if not beyond:
            break
        first = min(beyond, key=lambda entry: entry.job.rank)
        goes = first
        if now_s + _alone_s(first.job, cost) <= first.job.due_s:
            ahead = (e for e in left if e.job.rank <= first.job.rank and not e.may_shorten)
            goes = max(ahead, key=lambda entry: _alone_s(entry.job, cost), default=first)
        lost.append(goes.job.number)
        left = [entry for entry in left if entry is not goes]
    return lost


def _grace_s(entry: PromiseEntry, now_s: float) -> float:
    return GRACE_S + GRACE * max(entry.job.due_s - now_s, 0.0) if entry.job.due_s < 1e300 else 0.02


def _alone_s(job: Job, cost: CostModel) -> float:
    """Return the time it needs if nothing else runs."""
    logits = job.prompt_left if job.is_scored else 1
    prompt = cost.seconds(job.prompt_left, logits, 0.0) if job.prompt_left else 0.0
    return prompt + job.answer_left * cost.token_s(1, 1, job.length)
