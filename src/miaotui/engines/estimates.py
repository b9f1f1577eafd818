"""Promises of time for an engine that plans its own passes: what it took so far, forecast with a wide margin.

Owns the measured costs, the book of requests under way and the refusals. Knows no engine beyond tokens that come.
Invariants: a request is taken on only if, by the forecast, it and all that were promised before keep their deadlines;
a forecast is never multiplied by less than `LEAST_MARGIN`, and by more where the engine was slower than foreseen.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from miaotui.engine.request import Request, RequestOptions
from miaotui.errors import DeadlineUnattainableError, EngineError, OverloadedError
from miaotui.schedule.promises.admission import Quote
from miaotui.schedule.promises.cost import CostRates
from miaotui.types import SamplingParams

if TYPE_CHECKING:
    from miaotui.engines.stepped import SteppedEngine

LEAST_MARGIN = 1.5  # of our own engine it is about 1.1: it knows its passes
ALLOWANCE = 1.1  # over what nearly all requests took beyond their forecast
REMEMBERED = 64  # requests
SHORT, LONG, ANSWER, REPEATS = 16, 144, 17, 3  # tokens of probes, and how often prompts are read
RETRY_S = 1.0
PROBE_S = 120.0  # that one probe may take


@dataclass(frozen=True)
class MeasuredCosts:
    """Seconds that an engine took: to read a prompt's token, and for a token of each of so many answers at once."""

    read_s: float
    token_s: Sequence[tuple[int, float]]  # (answers at once, seconds), ascending

    def step_s(self, width: int) -> float:
        """Return the seconds between two tokens of an answer beside ``width - 1`` others; never fewer for more."""
        before = self.token_s[0]
        for point in self.token_s:
            if width <= point[0]:
                span = point[0] - before[0]
                share = (width - before[0]) / span if span else 0.0
                return max(before[1] + share * (point[1] - before[1]), self.token_s[0][1])
            before = point
        return before[1] * width / before[0]

    @property
    def rates(self) -> CostRates:
        """Return the costs as those of passes, for capacities and metrics."""
        points = [(width, seconds) for width, seconds in self.token_s]
        rows = max(points[-1][0] * 2, LONG)
        return CostRates((*points, (rows, max(rows * self.read_s, points[-1][1]))), 0.0, 0.0)


def measure(engine: SteppedEngine, vocab_size: int, width: int) -> MeasuredCosts:
    """Time prompts and answers of an engine that has nothing else to do. Raises `EngineError` for one that hangs."""
    seeds = iter(range(1, 1 << 20))

    def timed(length: int, answer: int, count: int = 1) -> float:
        params = SamplingParams(max_tokens=answer, ignore_eos=True)
        start_s = time.perf_counter()
        left = set()
        for _ in range(count):
            seed = next(seeds)
            prompt = [(seed * 7919 + 104729 * at) % vocab_size for at in range(length)]  # none begins as another
            engine.add(-seed, prompt, params, answer)
            left.add(-seed)
        while left:
            for progress in engine.step():
                if progress.error is not None:
                    raise progress.error
                if progress.end is not None:
                    left.discard(progress.number)
            if time.perf_counter() - start_s > PROBE_S:
                raise EngineError(f"the engine took more than {PROBE_S:.0f} s for {count} short requests")
        return time.perf_counter() - start_s

    timed(SHORT, 2)  # the first one makes what others find
    reading = [timed(LONG, 1) - timed(SHORT, 1) for _ in range(REPEATS)]
    read_s = max(statistics.median(reading) / (LONG - SHORT), 1e-7)
    points: list[tuple[int, float]] = []
    for each in sorted({1, min(4, width), width}):
        spent_s = timed(SHORT, ANSWER, each) - timed(SHORT, 1, each)
        least_s = points[-1][1] if points else 1e-6  # more answers at once never cost less
        points.append((each, max(spent_s / (ANSWER - 1), least_s)))
    return MeasuredCosts(read_s, points)


@dataclass
class _Job:
    """A request under way."""

    prompt_left: int
    answer_left: int
    due_s: float | None  # of the whole answer, by the clock
    begun_s: float
    foreseen_s: float  # without margin
    width: int = field(default=1)


class EstimatedPromises:
    """The book of one engine's requests; any thread may call it. ``clock`` is that of `time.perf_counter`."""

    def __init__(self, name: str, costs: MeasuredCosts, width: int, clock: Callable[[], float] = time.perf_counter):
        self.costs, self._name, self._width, self._clock = costs, name, width, clock
        self._jobs: dict[int, _Job] = {}
        self._ratios: deque[float] = deque(maxlen=REMEMBERED)
        self._lock = threading.Lock()

    @property
    def margin(self) -> float:
        """Return the factor of a forecast before it is promised."""
        ratios = sorted(self._ratios)
        if not ratios:
            return LEAST_MARGIN
        return max(LEAST_MARGIN, ALLOWANCE * ratios[int(0.95 * (len(ratios) - 1))])

    def take(self, request: Request, options: RequestOptions) -> None:
        """Enter a request, shortened if that lets it keep its deadline and it may be.

        With nothing entered it raises `DeadlineUnattainableError` if it would be late, and `OverloadedError` if one
        that was promised would.
        """
        now_s, deadline = self._clock(), options.deadline
        arrived_s = request.timeline.arrived_s
        with self._lock:
            first_s, step_s = self._forecast(len(request.prompt))
            most = request.ending.max_tokens
            foreseen_s = first_s + (most - 1) * step_s
            due_s = None
            if deadline is not None:
                if deadline.total_ms is not None:
                    due_s = arrived_s + deadline.total_ms / 1e3
                fits = self._fitting(request, options, now_s, first_s, step_s)
                if fits < most and deadline.on_late == "shorten" and fits > 0:
                    request.shorten(fits)
                    most, foreseen_s = fits, first_s + (fits - 1) * step_s
                elif fits < most and deadline.on_late != "best_effort":
                    self._refuse(now_s - arrived_s + self.margin * foreseen_s)
                elif fits < most:
                    due_s = None  # it may be late, so it holds nothing up
            if self._breaks_one(len(request.prompt), most, now_s):
                raise OverloadedError(f"{self._name} would break a promise for this request: ask again", RETRY_S)
            request.predicted_ms = 1e3 * (now_s - arrived_s + self.margin * foreseen_s)
            self._jobs[request.number] = _Job(len(request.prompt), most, due_s, now_s, foreseen_s)

    def quote(self, request: Request) -> Quote:
        """Return the prediction for a request that is not taken on."""
        with self._lock:
            first_s, step_s = self._forecast(len(request.prompt))
            most = request.ending.max_tokens
            predicted_s = self.margin * (first_s + (most - 1) * step_s)
            return Quote(
                1e3 * predicted_s, 0, most, not self._breaks_one(len(request.prompt), most, self._clock()), None
            )

    def note(self, number: int, tokens: int) -> None:
        """Take in that a request has got tokens."""
        with self._lock:
            job = self._jobs.get(number)
            if job is not None and tokens:
                job.prompt_left = 0
                job.answer_left = max(job.answer_left - tokens, 0)

    def end(self, number: int, *, is_whole: bool) -> None:
        """Forget a request; one that went to its limit says how far the forecast was off."""
        with self._lock:
            job = self._jobs.pop(number, None)
            if job is not None and is_whole and not job.answer_left:
                self._ratios.append((self._clock() - job.begun_s) / max(job.foreseen_s, 1e-6))

    def clear(self) -> None:
        """Forget all requests: the engine has begun anew."""
        with self._lock:
            self._jobs.clear()

    def _forecast(self, prompt: int) -> tuple[float, float]:
        """Return the seconds to a new request's first token, and between two tokens after it; without margin."""
        unread = sum(job.prompt_left for job in self._jobs.values()) + prompt
        step_s = self.costs.step_s(min(len(self._jobs) + 1, self._width))
        waiting_s = 0.0
        if len(self._jobs) >= self._width:  # so many have to end before it begins
            left = sorted(job.answer_left for job in self._jobs.values())
            waiting_s = left[len(self._jobs) - self._width] * step_s
        return waiting_s + unread * self.costs.read_s + step_s, step_s

    def _fitting(self, request: Request, options: RequestOptions, now_s: float, first_s: float, step_s: float) -> int:
        """Return how many tokens of an answer keep its deadline; 0 if not even its first one does."""
        deadline, most = options.deadline, request.ending.max_tokens
        assert deadline is not None, "called only with one"
        spent_s, margin = now_s - request.timeline.arrived_s, self.margin
        if deadline.ttft_ms is not None and spent_s + margin * first_s > deadline.ttft_ms / 1e3:
            return 0
        if deadline.tpot_ms is not None and margin * step_s > deadline.tpot_ms / 1e3:
            return 0
        if deadline.total_ms is None:
            return most
        left_s = (deadline.total_ms / 1e3 - spent_s) / margin - first_s
        return 0 if left_s < 0 else min(most, 1 + int(left_s / step_s))

    def _breaks_one(self, prompt: int, answer: int, now_s: float) -> bool:
        """Return whether one more request lets a promised one be late; it slows others down for as long as it runs."""
        unread = sum(job.prompt_left for job in self._jobs.values())
        step_s, slower_s = (self.costs.step_s(min(len(self._jobs) + more, self._width)) for more in (0, 1))
        for job in self._jobs.values():
            if job.due_s is None:
                continue
            before_s = unread * self.costs.read_s + job.answer_left * step_s
            more_s = prompt * self.costs.read_s + min(answer, job.answer_left) * (slower_s - step_s)
            is_kept = now_s + self.margin * before_s <= job.due_s
            if is_kept and now_s + self.margin * (before_s + more_s) > job.due_s:
                return True
        return False

    def _refuse(self, predicted_s: float) -> None:
        raise DeadlineUnattainableError(
            f"{self._name} would take about {1e3 * predicted_s:,.0f} ms by estimate: allow more time, ask for a "
            "shorter answer, or ask again later",
            max(0.1, predicted_s / 2),
            1e3 * predicted_s,
        )
