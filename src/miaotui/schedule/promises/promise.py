"""Promises in the book, their review, and the bounds of the next steps that follow from both and from the load.

Owns what was asked, the work left and the times it is due; `review`, which returns what the next steps should hold
back, whose answers to shorten, and which promises are lost; and `LoadTuner`: how many requests run at once, how much of
a prompt a step reads. The review is pure: it reads the book and the cost model. Knows no engine. Invariants: an entry's
times are seconds of the clock that the caller of admission reads; a promise is given up only when it would be missed
even by an optimistic forecast, and then the one with the largest work goes, so that the fewest are missed (Moore and
Hodgson 1968); no bound changes more than once in `CALM_S`, and each change is logged under ``miaotui.adjust`` with its
reason. `kernels.runtime.thread_pool` chooses the number of threads; its changes are logged here as well.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from miaotui.schedule.plan import ScheduleConfig
from miaotui.schedule.promises.cost import CostModel
from miaotui.schedule.promises.forecast import Finish, Job, JobForecast, SchedulingPolicy, forecast
from miaotui.types import Deadline

HAND_OVER_S = 0.004  # from the last token in the engine to its bytes in the socket, at least

CALM_S = 0.5
CHUNK_S = 0.06  # a step that reads prompts takes about so long: answers flow beside it
CHUNK_STEPS = 4.0  # but not less than so many of the smallest steps: it would read weights for little
PROMISES_S = 10.0  # so long after the last promise, the next one is expected
WIDEN_S = 2.0  # without a shortage of pages, before one more sequence may run

THREADS_S = 1.0  # so long a number of threads must last to be logged
FLUTTER_S = 10.0  # if none lasts, changes are logged so often

logger = logging.getLogger("miaotui.adjust")

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
    is_adapted: bool = False  # it goes through a low-rank adapter


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
    foreseen_s: float | None = None  # from arrival to last token; None: it was not alone, or its length is not known

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


def review(
    entries: Sequence[PromiseEntry],
    cost: CostModel,
    policy: SchedulingPolicy,
    now_s: float,
    forecast: JobForecast = forecast,
    hopeful: JobForecast | None = None,
) -> Review:
    """Simulate from ``now_s``, which is when the entries' states held, and decide.

    A promise is lost when ``hopeful`` (None: ``forecast``) foresees that too.
    """
    promised = [entry for entry in entries if entry.promised]
    if not promised:
        return ALL_IS_WELL
    beside = [entry for entry in entries if not entry.promised and entry.job.running]
    if not _late(promised, beside, forecast, cost, policy, now_s, cost.allowed_s):
        return ALL_IS_WELL
    if beside:
        policy = replace(policy, idle_rows=1)
    limits: dict[int, int] = {}
    late = _late(promised, [], forecast, cost, policy, now_s, cost.allowed_s)
    for entry in late:
        if entry.may_shorten:
            limits[entry.job.number] = _cut(entry, late[entry], now_s)
    if limits:
        promised = [_with_limit(entry, limits) for entry in promised]
        late = _late(promised, [], forecast, cost, policy, now_s, cost.allowed_s)
    if not late:
        return Review(hold_best_effort=bool(beside), limits=limits)
    until = min(entry.job.order_s for entry in late)
    lost = _lost(promised, hopeful or forecast, cost, replace(policy, until_s=until), now_s)
    return Review(True, until, tuple(lost), limits)


def _late(
    promised: Sequence[PromiseEntry],
    beside: Sequence[PromiseEntry],
    forecast: JobForecast,
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


def _lost(
    promised: list[PromiseEntry], forecast: JobForecast, cost: CostModel, policy: SchedulingPolicy, now_s: float
) -> list[int]:
    """Choose the promises to give up so that the others can be kept."""
    lost: list[int] = []
    left, optimism = promised, cost.optimism
    while left and len(lost) < MOST_LOST:
        late = _late(left, [], forecast, cost, policy, now_s, lambda first_s, rest_s: (first_s + rest_s) * optimism)
        beyond = [entry for entry in late if late[entry] > _grace_s(entry, now_s)]
        if not beyond:
            break
        first = min(beyond, key=lambda entry: entry.job.rank)
        goes = first
        if now_s + _alone_s(first.job, forecast, cost, policy) <= first.job.due_s:
            ahead = (e for e in left if e.job.rank <= first.job.rank and not e.may_shorten)
            goes = max(ahead, key=lambda entry: _alone_s(entry.job, forecast, cost, policy), default=first)
        lost.append(goes.job.number)
        left = [entry for entry in left if entry is not goes]
    return lost


def _grace_s(entry: PromiseEntry, now_s: float) -> float:
    return GRACE_S + GRACE * max(entry.job.due_s - now_s, 0.0) if entry.job.due_s < 1e300 else 0.02


def _alone_s(job: Job, forecast: JobForecast, cost: CostModel, policy: SchedulingPolicy) -> float:
    """Return the time it needs if nothing else runs."""
    return forecast([job], cost, replace(policy, idle_rows=0), 0.0)[job.number].last_s


class LoadTuner:
    """A `SchedulingPolicy` that follows the load."""

    def __init__(self, config: ScheduleConfig, cost: CostModel) -> None:
        self._config, self._cost = config, cost
        self._most = config.chunk_size
        self._promised_s = float("-inf")  # when promised work was last seen
        self._changed_s = float("-inf")
        self._short_s = float("-inf")  # when pages last ran out
        self._pauses = 0
        self._threads = Threads()
        self.policy = SchedulingPolicy(config.max_sequences, self._most, scored_rows=config.scored_rows)

    def follow(self, now_s: float, promised: bool, running: int, pauses: int) -> SchedulingPolicy:
        """Return the bounds for the next steps, after one that ended at ``now_s``.

        ``promised``: whether promised work is in flight; ``pauses``: how often, since the start, a sequence lost its
        pages to another.
        """
        if promised:
            self._promised_s = now_s
        if pauses > self._pauses:
            self._pauses, self._short_s = pauses, now_s
            if running < self.policy.width:
                self._change(now_s, max(1, running), self.policy.chunk, "pages ran out")
        if now_s - self._changed_s < CALM_S:
            return self.policy
        width, chunk = self.policy.width, self.policy.chunk
        if width < self._config.max_sequences and now_s - self._short_s > WIDEN_S:
            self._short_s = now_s
            self._change(now_s, width + 1, chunk, "pages have sufficed for a while")
        elif (wanted := self._chunk(now_s)) > 1.25 * chunk or wanted < 0.8 * chunk:
            expected = now_s - self._promised_s < PROMISES_S
            reason = "answers have due times" if expected else "no answer has a due time"
            self._change(now_s, width, wanted, reason)
        return self.policy

    def tell_threads(self, now_s: float, count: int) -> None:
        """Note that so many threads compute now."""
        self._threads.see(now_s, count)

    def _chunk(self, now_s: float) -> int:
        """Return the prompt rows of a step: all there is room for, unless answers with a due time flow."""
        if now_s - self._promised_s >= PROMISES_S:
            return self._most
        cost = self._cost
        allowed_s = max(CHUNK_S, CHUNK_STEPS * cost.seconds(1, 1, 0.0))
        rows = cost.affordable_rows(allowed_s, 1, 0.0, self._most)
        return max(min(rows, self._most), min(16, self._most))

    def _change(self, now_s: float, width: int, chunk: int, reason: str) -> None:
        before, self.policy = self.policy, replace(self.policy, width=width, chunk=chunk)
        self._changed_s = now_s
        if before.width != width:
            logger.info("batch width: %d -> %d (%s)", before.width, width, reason)
        if before.chunk != chunk:
            pace = self._cost.pace
            text = "chunk size: %d -> %d rows (%s; the machine runs at %.2f of its calibrated pace)"
            logger.info(text, before.chunk, chunk, reason, 1 / pace)


class Threads:
    """Log of the number of threads at work. It may change many times a second: see `THREADS_S`."""

    def __init__(self) -> None:
        self._count = self._told = 0  # 0: not seen yet
        self._changes = 0  # that the log knows nothing of
        self._first_s = self._last_s = float("-inf")  # when the first and the last of them came

    def see(self, now_s: float, count: int) -> None:
        """Note that ``count`` threads work at ``now_s``."""
        if not self._told:
            self._count = self._told = count
        if count != self._count:
            self._count, self._last_s = count, now_s
            self._first_s = self._first_s if self._changes else now_s
            self._changes += 1
        if self._changes and now_s - self._last_s >= THREADS_S:
            self._tell_lasting()
        elif self._changes and now_s - self._first_s >= FLUTTER_S:
            text = "threads: %d changes in %.0f s, %d now (other work comes and goes)"
            logger.info(text, self._changes, now_s - self._first_s, count)
            self._told, self._changes = count, 0

    def _tell_lasting(self) -> None:
        """Log a number that has lasted, unless the log has it already."""
        if self._count != self._told:
            fewer = self._count < self._told
            reason = "other work keeps a core busy" if fewer else "the cores are free again"
            more = f"; {self._changes - 1} more changes before" if self._changes > 1 else ""
            logger.info("threads: %d -> %d (%s%s)", self._told, self._count, reason, more)
        self._told, self._changes = self._count, 0
