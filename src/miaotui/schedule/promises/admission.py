"""Admission of requests: at once and for good, from a list of all promises in flight.

Owns the list (the "book"), its bounds and the counts of promises kept. Knows no engine and no clock: times come in.
Invariant: a promise is given only if, with it, every promise in the book is foreseen to be kept, with a margin for the
errors of forecasts. Any thread may ask while a step runs; nothing here waits for one.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from miaotui.errors import DeadlineUnattainableError, OverloadedError
from miaotui.schedule.promises.cost import CostModel
from miaotui.schedule.promises.forecast import (
    ALONE,
    CROWDED,
    AnswerErrors,
    Job,
    JobForecast,
    SchedulingPolicy,
    forecast,
)
from miaotui.schedule.promises.lengths import AnswerLengths
from miaotui.schedule.promises.promise import HAND_OVER_S, Allowance, PromiseEntry, PromiseRequest
from miaotui.types import Deadline, Promise

LIKELY, SURE = 0.5, 0.95  # quantiles of answer lengths: for planning, for promising
SLOWER, FASTER, MOST_HAND_OVER_S = 0.2, 0.04, 0.06  # weights of a hand-over that took longer, or less long
CROWD_S = 0.012  # more where others hold promises: of many requests, those are admitted whose forecasts err
CAUTION_S, MOST_CAUTION_S = 0.05, 0.15  # of time that a missed promise adds to what the next ones allow for
FADES_S = 30.0  # in which most of that fades
MOST_PLAYED = 64  # best-effort jobs that a forecast looks at


@dataclass(frozen=True)
class AdmissionLimits:
    """The longest queue: requests, and tokens of their prompts and answers."""

    requests: int = 256
    tokens: int = 1 << 18


@dataclass
class AdmissionCounts:
    """Counts of requests by outcome, since the start."""

    met: int = 0
    missed: int = 0
    refused: int = 0
    shortened: int = 0
    overloaded: int = 0


@dataclass(frozen=True)
class Admitted:
    """An accepted request: the longest answer it may get, and the time that was foreseen."""

    limit: int
    predicted_ms: float
    promised: bool
    shortened: bool
    order_s: float  # the time by which it is ranked; infinite: it has no due time


@dataclass(frozen=True)
class Quote:
    """The prediction for a request that was not taken on."""

    predicted_ms: float  # from its arrival
    cached_tokens: int  # of the prompt, whose work would be reused
    answer_tokens: int  # that were reckoned with
    fits: bool  # whether it would be promised; True without a deadline
    fitting_tokens: int | None  # the longest answer that fits, if this one does not; None: none does


@dataclass(frozen=True)
class _Clock:
    """The moment at which the engine's state was last known, and the foreseen time of the step since."""

    policy: SchedulingPolicy
    as_of_s: float = 0.0
    step_s: Callable[[], float] | None = None  # None: no step is running


class Admission:
    """The book of promises. Call ``admit`` before a request enters; the engine's thread reports progress."""

    def __init__(
        self,
        cost: CostModel,
        policy: SchedulingPolicy,
        limits: AdmissionLimits | None = None,
        forecast: JobForecast = forecast,
    ) -> None:
        self.cost, self._forecast = cost, forecast
        self.counts = AdmissionCounts()
        self.lengths = AnswerLengths()
        self.limits = limits or AdmissionLimits()
        self._clock = _Clock(policy)
        self._book: dict[int, PromiseEntry] = {}
        self.version = 0  # grows whenever a request comes or goes
        self.promised = 0  # promises in the book
        self.errors = AnswerErrors()
        self.caution_s = 0.0  # what promises allow for beyond the cost model's margin
        self._faded_s = 0.0  # up to when it has faded
        self.hand_over_s = HAND_OVER_S  # from the last token to the socket, at most lately
        self.reserved_s: Callable[[], float] = lambda: 0.0  # of the cores, for what other models have promised
        self._arrivals = 0
        self._lock = threading.Lock()

    # from any thread -----------------------------------------------------------------------------

    def admit(self, wish: PromiseRequest, now_s: float) -> Admitted:
        """Take the request into the book, or raise at once.

        Raises `DeadlineUnattainableError` when it cannot be done in its time without breaking
        another promise, and `OverloadedError` when the line is full.
        """
        with self._lock:
            self._require_room(wish, now_s)
            entry = self._entry(wish)
            if entry.promised:
                entry = self._promise(entry, now_s)
            if not entry.promised:
                entry.predicted_ms = self._outlook(entry, now_s)
            if self._book:
                self._crowd()
            elif entry.wish.named and not entry.shortened:
                entry.foreseen_s = self._alone_s(entry, now_s)
            self._arrivals += 1
            self._book[wish.number] = entry
            self.version += 1
            self.promised += entry.promised
        limit = entry.wish.limit
        return Admitted(limit, entry.predicted_ms, entry.promised, entry.shortened, entry.job.order_s)

    def quote(self, wish: PromiseRequest, now_s: float) -> Quote:
        """Return the prediction that `admit` would make now; the book stays as it is."""
        with self._lock:
            entry = self._entry(wish)
            tokens = entry.job.answer_left
            if not entry.promised:
                return Quote(self._outlook(entry, now_s), wish.cached, tokens, True, None)
            late, predicted_ms = self._lateness(entry, now_s)
            shorter = self._shorten(entry, now_s) if late > 0 else None
        fitting = None if shorter is None else shorter.wish.limit
        return Quote(predicted_ms, wish.cached, tokens, late <= 0, fitting)

    def leave(self, number: int, failed: bool = False, done_s: float | None = None) -> None:
        """Remove a request that is over; one that ``failed`` has missed its deadline, if it had one.

        ``done_s`` is the moment of the last token of an answer that became as long as was foreseen.
        """
        with self._lock:
            entry = self._book.pop(number, None)
            if entry is not None:
                if entry.foreseen_s is not None and done_s is not None:
                    self.errors.add(entry.foreseen_s, done_s - entry.wish.arrived_s)
                self.counts.missed += failed and entry.wish.deadline is not None
                self.version += 1
                self.promised -= entry.promised

    def settle(self, promise: Promise, hand_over_s: float = 0.0, given: bool = True) -> None:
        """Count an answer that was handed over ``hand_over_s`` after its last token.

        A promise that was ``given`` and missed makes the next ones more cautious for some seconds.
        """
        if given and promise.met is False:
            self.caution_s = min(self.caution_s + CAUTION_S, MOST_CAUTION_S)
        longer = min(hand_over_s, MOST_HAND_OVER_S) - self.hand_over_s
        self.hand_over_s = max(self.hand_over_s + (SLOWER if longer > 0 else FASTER) * longer, HAND_OVER_S)
        if promise.met is not None:
            with self._lock:
                self.counts.met += promise.met
                self.counts.missed += not promise.met

    def spare_s(self, now_s: float) -> float:
        """Return how long the step after this one may wait without a promise being broken; infinite without any."""
        with self._lock:
            others = [each for each in self._book.values() if each.promised]
            if not others:
                return math.inf
            start, allowed_s = self._start_s(now_s), self._allowed_s(now_s, True)
            found = self._forecast([each.job for each in others], self.cost, self._promised_policy(), start)
            return -max(each.late_s(found[each.job.number], start, allowed_s) for each in others)

    def step_left_s(self, now_s: float) -> float:
        """Return the seconds that the running step is foreseen to take yet."""
        clock = self._clock
        return 0.0 if clock.step_s is None else max(clock.as_of_s + clock.step_s() - now_s, 0.0)

    def __len__(self) -> int:
        return len(self._book)

    # from the engine's thread --------------------------------------------------------------------

    def begin_step(self, now_s: float, step_s: Callable[[], float], policy: SchedulingPolicy) -> None:
        """Note that a step begins whose outcome the book does not know yet; ``step_s`` gives its time."""
        self._clock = _Clock(policy, now_s, step_s)

    def update(self, progress: Iterable[tuple[int, int, int, int]], now_s: float, is_shown: bool = True) -> None:
        """Enter (number, prompt tokens left, tokens computed and answered); ``is_shown``: the first one answered."""
        with self._lock:
            for number, prompt_left, length, answered in progress:
                entry = self._book.get(number)
                if entry is None:
                    continue
                job = entry.job
                job.running = True
                job.prompt_left, job.length = prompt_left, length
                job.answer_left = max(self._expected(entry, answered) - answered, 1)
                if answered and is_shown and entry.first_s is None:
                    entry.first_s = now_s
            self._clock = _Clock(self._clock.policy, self._clock.as_of_s)

    def give_up(self, number: int) -> None:
        """Drop a promise that cannot be kept, so that it no longer limits admission."""
        with self._lock:
            entry = self._book.get(number)
            if entry is not None and entry.promised:
                entry.promised, entry.job.order_s = False, math.inf
                self.promised -= 1
                self.version += 1

    def shorten(self, number: int, limit: int) -> None:
        """End its answer after ``limit`` tokens, so that it is in time."""
        with self._lock:
            entry = self._book.get(number)
            if entry is not None:
                answered = entry.wish.limit - entry.job.answer_left
                entry.wish = replace(entry.wish, limit=limit)
                entry.job.answer_left = max(1, limit - max(answered, 0))
                entry.foreseen_s = None
                if not entry.shortened:
                    entry.shortened = True
                    self.counts.shortened += 1

    def entries(self) -> list[PromiseEntry]:
        """Copy the entries of the book."""
        with self._lock:
            return list(self._book.values())

    # how it decides ------------------------------------------------------------------------------

    def _entry(self, wish: PromiseRequest) -> PromiseEntry:
        deadline = wish.deadline
        left = wish.prompt - wish.cached
        kind = {"is_scored": wish.is_scored, "is_adapted": wish.is_adapted}
        job = Job(wish.number, left, 1, wish.cached, arrival=self._arrivals, **kind)
        entry = PromiseEntry(job, wish)
        if deadline is not None:
            if deadline.total_ms is not None:
                job.due_s = wish.arrived_s + deadline.total_ms / 1e3 - self.hand_over_s
            if deadline.ttft_ms is not None:
                entry.first_due_s = wish.arrived_s + deadline.ttft_ms / 1e3 - self.hand_over_s
            job.order_s = min(job.due_s, entry.first_due_s)
            if deadline.tpot_ms is not None:
                steady = wish.arrived_s + deadline.tpot_ms / 1e3 * wish.limit
                job.order_s = min(job.order_s, steady)
        entry.promised = job.order_s < math.inf
        job.answer_left = self._expected(entry, 0)
        return entry

    def _alone_s(self, entry: PromiseEntry, now_s: float) -> float:
        """Return the time from the arrival of this request to its last token, when nothing else runs."""
        start = self._start_s(now_s)
        found = self._forecast([entry.job], self.cost, self._clock.policy, start)
        return found[entry.job.number].last_s - entry.wish.arrived_s

    def _crowd(self) -> None:
        """Note that the requests in the book are no longer alone: their times are not those foreseen."""
        for entry in self._book.values():
            entry.foreseen_s = None

    def _expected(self, entry: PromiseEntry, answered: int) -> int:
        """Return the length of the answer to plan with."""
        wish = entry.wish
        if wish.named or entry.shortened:
            return wish.limit
        share = SURE if entry.promised else LIKELY
        return min(wish.limit, self.lengths.quantile(share, answered))

    def _promise(self, entry: PromiseEntry, now_s: float) -> PromiseEntry:
        """Return the entry with its promise, shortened or without one, as the caller allows."""
        deadline = entry.wish.deadline
        assert deadline is not None
        late, predicted_ms = self._lateness(entry, now_s)
        entry.predicted_ms = predicted_ms
        if late <= 0:
            return entry
        if deadline.on_late == "best_effort":
            entry.promised, entry.job.order_s = False, math.inf
            return entry
        if deadline.on_late == "shorten" and (shorter := self._shorten(entry, now_s)):
            self.counts.shortened += 1
            return shorter
        self.counts.refused += 1
        asked = _asked_ms(deadline)
        raise DeadlineUnattainableError(
            f"this request would take {predicted_ms:.0f} ms beside what is promised already, and "
            f"it allows {asked:.0f} ms: allow more, ask for fewer tokens, or try again later",
            retry_after_s=max(0.05, late),
            predicted_ms=predicted_ms,
        )

    def _shorten(self, entry: PromiseEntry, now_s: float) -> PromiseEntry | None:
        """Return the request with the longest answer that fits; None: not even one token does."""
        low, high, found = 1, entry.job.answer_left - 1, None
        while low <= high:
            limit = (low + high) // 2
            wish = replace(entry.wish, limit=limit)
            shorter = replace(entry, job=replace(entry.job, answer_left=limit), wish=wish, shortened=True)
            late, shorter.predicted_ms = self._lateness(shorter, now_s)
            if late <= 0:
                low, found = limit + 1, shorter
            else:
                high = limit - 1
        return found

    def _lateness(self, entry: PromiseEntry, now_s: float) -> tuple[float, float]:
        """Return the seconds by which this request breaks a promise, its own or another's, and its time in ms."""
        others = [each for each in self._book.values() if each.promised]
        start, allowed_s = self._start_s(now_s), self._allowed_s(now_s, bool(others))
        jobs = [each.job for each in others]
        policy = self._promised_policy()
        found = self._forecast([*jobs, entry.job], self.cost, policy, start)
        late = entry.late_s(found[entry.job.number], start, allowed_s)
        harmed = [(o, by) for o in others if (by := o.late_s(found[o.job.number], start, allowed_s)) > 0]
        if harmed:
            before = self._forecast(jobs, self.cost, policy, start)
            for other, by in harmed:
                if other.late_s(before[other.job.number], start, _as_foreseen) <= 0:  # not lost anyway
                    late = max(late, by)
        mine = found[entry.job.number]
        own = start + allowed_s(mine.first_s - start, mine.last_s - mine.first_s) + self.hand_over_s
        if late > 0 and entry.job.due_s < math.inf:  # if others would be harmed: by waiting so long
            own = max(own, entry.job.due_s + late)
        return late, (own - entry.wish.arrived_s) * 1e3

    def _allowed_s(self, now_s: float, crowded: bool) -> Allowance:
        """Return the allowance for errors of steps and of whole answers, and what missed promises have added to it."""
        self.caution_s *= math.exp(-max(now_s - self._faded_s, 0.0) / FADES_S)
        self._faded_s = now_s
        allowed_s, deviations = self.cost.allowed_s, CROWDED if crowded else ALONE
        more_s = self.caution_s + (CROWD_S if crowded else 0.0) + self.reserved_s()

        def allowance(first_s: float, rest_s: float) -> float:
            whole_s = self.errors.allowed_s(first_s + rest_s) if rest_s else 0.0
            return max(allowed_s(first_s, rest_s, deviations), whole_s) + more_s

        return allowance

    def _outlook(self, entry: PromiseEntry, now_s: float) -> float:
        """Return when a request without a promise is likely done, in ms from its arrival."""
        start = self._start_s(now_s)
        others = sorted((each.job for each in self._book.values()), key=lambda job: job.rank)
        played = [*others[:MOST_PLAYED], entry.job]
        last = self._forecast(played, self.cost, self._clock.policy, start)[entry.job.number].last_s
        if len(others) > MOST_PLAYED:
            last = start + (last - start) * len(others) / MOST_PLAYED
        return (last + self.hand_over_s - entry.wish.arrived_s) * 1e3

    def _promised_policy(self) -> SchedulingPolicy:
        """Return the policy for promised work: the oldest other request still gets its row."""
        idle = any(not each.promised for each in self._book.values())
        return replace(self._clock.policy, idle_rows=int(idle))

    def _start_s(self, now_s: float) -> float:
        """Return the moment at which the book's state held: when the running step began."""
        clock = self._clock
        if clock.step_s is None:
            return now_s
        return min(now_s, max(clock.as_of_s, now_s - clock.step_s()))

    def _require_room(self, wish: PromiseRequest, now_s: float) -> None:
        tokens = sum(e.job.prompt_left + e.job.answer_left for e in self._book.values())
        wanted = wish.prompt - wish.cached + (wish.limit if wish.named else 1)
        full = len(self._book) >= self.limits.requests
        if not full and (not self._book or tokens + wanted <= self.limits.tokens):
            return
        self.counts.overloaded += 1
        what = f"{len(self._book)} requests with {tokens} tokens are in line"
        bound = f"{self.limits.requests} requests and {self.limits.tokens} tokens"
        rate = self.cost.seconds(8, 8, 0.0) / 8  # of one token, about
        wait = min(max(0.5, tokens * rate / max(len(self._book), 1)), 60.0)
        raise OverloadedError(f"{what}, of at most {bound}: try again in a moment", wait)


def _as_foreseen(first_s: float, rest_s: float) -> float:
    return first_s + rest_s


def _asked_ms(deadline: Deadline) -> float:
    for value in (deadline.total_ms, deadline.ttft_ms, deadline.tpot_ms):
        if value is not None:
            return value
    return math.inf
