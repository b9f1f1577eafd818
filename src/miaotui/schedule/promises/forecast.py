"""The time at which each job will be done, and by how much such forecasts err.

`forecast` simulates the scheduler's policy, without its pages. It is pure: it reads jobs and a cost model and changes
neither. Between two events (a job starts, a prompt is read, an answer ends) all steps have equal rows, so that they are
one sum: a forecast takes as many turns as there are events, not steps. `ForecastErrors` keeps mean and spread of what
steps took over what was foreseen: apart for steps that read prompts and steps that only answer, whose drafts are right
more or less often from text to text, and for three lengths of time each. Errors of single steps partly cancel: a second
is foreseen better, in relation, than a twentieth of one. The statistics are exponentially weighted, with surprises cut
off, so that one stall counts as one and is forgotten within seconds. Knows nothing of threads or clocks. Invariants:
equal jobs and costs give equal forecasts; more work never gets less time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from miaotui.schedule.promises.cost import CostModel

DONE = 1e-6  # tokens: less than this is left of an answer that has ended
LENGTHS_S = (0.05, 0.2, 0.8)  # of forecasts that are judged
WEIGHT = (1 / 40, 1 / 16, 1 / 10)  # of the newest error: some seconds of work count
ALONE, CROWDED = 1.0, 1.4  # spreads above the mean error that a promise allows for, alone and beside others
FIRST_SPREAD, LEAST_SPREAD, MOST_SPREAD = 0.04, 0.01, 0.35  # relative
SURPRISE = 3.0  # spreads: what is further off counts as just so much
MOST_BIAS = 0.2
MOST_ALLOWED = 0.6  # beyond the time foreseen, relative
# of whole answers: the logarithm of real over foreseen time
ANSWER_FIRST_SPREAD, ANSWER_LEAST_SPREAD, ANSWER_MOST_SPREAD = 0.045, 0.03, 0.3
ANSWER_FIRST_COUNT, ANSWER_MOST_COUNT = 4, 12  # answers that the first spread counts for; older ones fade
ANSWER_SURPRISE = 1.5  # spreads: what is further off counts as just so much; normal errors lose a sixth by that
ANSWER_MOST_BIAS = 0.15
ANSWER_DEVIATIONS = 2.6  # spreads above the mean error that a promise allows for


@dataclass(slots=True)
class Job:
    """The work left of one request. Times are seconds of the caller's clock."""

    number: int
    prompt_left: int  # prompt tokens still to be computed
    answer_left: int  # tokens still to come, at most or as expected
    length: int = 0  # tokens that are computed: what the next row looks at
    due_s: float = math.inf  # infinite: nothing was promised
    order_s: float = math.inf  # the time by which it is ranked: the first that it has to keep
    arrival: int = 0
    running: bool = False  # it has a place in the steps already
    is_scored: bool = False  # each row of its prompt needs logits
    is_adapted: bool = False  # each of its rows goes through a low-rank adapter

    @property
    def rank(self) -> tuple[float, int]:
        """Return the order in which jobs are served: the earliest due time first."""
        return (self.order_s, self.arrival)


@dataclass(frozen=True, slots=True)
class SchedulingPolicy:
    """The bounds within which steps are filled."""

    width: int  # jobs that run at once
    chunk: int  # prompt rows of a step
    idle_rows: int = 0  # rows of a step that work without a promise takes beside the jobs
    until_s: float | None = None  # prompts due later wait for the jobs due by then
    scored_rows: int = 64  # rows of a step that score prompts, at most


@dataclass(slots=True)
class Finish:
    """The times at which a job is foreseen to have its first and its last token."""

    first_s: float
    last_s: float


class JobForecast(Protocol):
    """A simulation of how an engine serves its jobs: `forecast`, or that of another kind of engine."""

    def __call__(
        self, jobs: Sequence[Job], cost: CostModel, policy: SchedulingPolicy, now_s: float, /
    ) -> dict[int, Finish]:
        """Return the time at which each job is done, by number, when nothing else comes."""


def forecast(jobs: Sequence[Job], cost: CostModel, policy: SchedulingPolicy, now_s: float) -> dict[int, Finish]:
    """Return the time at which each job is done, by number, when nothing else comes.

    Takes about 10 us a job. Those that run keep their places; the others follow by rank.
    """
    return _Play(jobs, cost, policy, now_s).run()


class _Left:
    """A job in the simulation."""

    __slots__ = ("answer", "is_adapted", "is_scored", "length", "number", "order_s", "prompt")

    def __init__(self, job: Job) -> None:
        self.number, self.order_s = job.number, job.order_s
        self.prompt, self.answer, self.length = job.prompt_left, float(job.answer_left), float(job.length)
        self.is_scored, self.is_adapted = job.is_scored, job.is_adapted


class _Play:
    """One run of the simulation."""

    def __init__(self, jobs: Sequence[Job], cost: CostModel, policy: SchedulingPolicy, now_s: float) -> None:
        ordered = sorted(jobs, key=lambda job: job.rank)
        started = [job for job in ordered if job.running]
        self._queue = [_Left(job) for job in ordered if not job.running]
        self._queue.reverse()
        self._reading = [_Left(job) for job in started if job.prompt_left > 0]
        self._answering = [_Left(job) for job in started if job.prompt_left <= 0]
        self._cost, self._policy, self._now = cost, policy, now_s
        self._found: dict[int, Finish] = {job.number: Finish(now_s, now_s) for job in started if job.prompt_left <= 0}

    def run(self) -> dict[int, Finish]:
        """Simulate until nothing is left."""
        self._retire()
        while self._start() or self._reading or self._answering:
            allowed = self._allowed()
            if allowed:
                self._read(allowed)
            else:
                self._answer()
            self._retire()
        return self._found

    def _start(self) -> bool:
        places = self._policy.width - len(self._reading) - len(self._answering)
        while places > 0 and self._queue:
            self._reading.append(self._queue.pop())
            places -= 1
        return bool(self._reading)

    def _allowed(self) -> list[_Left]:
        """Return the prompts that may be read now."""
        until = self._policy.until_s
        if until is None:
            return self._reading
        first = [job for job in self._reading if job.order_s <= until]
        urgent = first or any(job.order_s <= until for job in self._answering)
        return first if urgent else self._reading

    def _read(self, reading: list[_Left]) -> None:
        """Simulate steps in which prompts take up the chunk, and answers get their tokens."""
        answering, shares = self._answering, self._shares(reading)
        steps = min(job.prompt // take - 1 for job, take in shares)
        if steps > 1 and answering:  # long prompts: many equal steps at once
            steps = int(min(steps, *(job.answer for job in answering)))
        steps = max(steps, 1)
        rows = logits = len(answering) + self._policy.idle_rows
        attended = sum(job.length for job in answering) + len(answering) * (steps + 1) / 2
        adapted = sum(job.is_adapted for job in answering)
        done: list[_Left] = []
        for job, take in shares:
            attended += take * (job.length + take * steps / 2)
            rows += take
            adapted += take if job.is_adapted else 0
            logits += take if job.is_scored else 0
            job.prompt -= take * steps
            job.length += take * steps
            if job.prompt <= 0:
                done.append(job)
        logits += len(done)
        step_s, tokens = self._cost.seconds(rows, logits, attended, adapted), 1.0
        if answering:
            count = len(answering)
            step_s *= self._cost.gain.pass_cost(count, True)
            tokens = self._cost.gain.tokens(count, True)
        self._now += steps * step_s
        for job in answering:
            job.answer -= steps * tokens
            job.length += steps
        for job in done:
            self._reading.remove(job)
            job.answer -= 1
            self._found[job.number] = Finish(self._now, self._now)
            answering.append(job)

    def _shares(self, reading: list[_Left]) -> list[tuple[_Left, int]]:
        """Return the rows of the next step that each prompt gets, in order of rank; none without rows."""
        left, scored = self._policy.chunk, self._policy.scored_rows
        shares: list[tuple[_Left, int]] = []
        for job in reading:
            take = min(left, job.prompt)
            if job.is_scored:
                take = min(take, scored)
                scored -= take
            if take:
                shares.append((job, take))
                left -= take
            if not left:
                break
        return shares

    def _answer(self) -> None:
        """Simulate steps of answers only, up to the end of the shortest."""
        answering = self._answering
        steps = min(job.answer for job in answering)
        count = len(answering) + self._policy.idle_rows
        attended = sum(job.length for job in answering) + len(answering) * (steps + 1) / 2
        adapted = sum(job.is_adapted for job in answering)
        self._now += steps * self._cost.token_s(len(answering), count, attended, adapted)
        for job in answering:
            job.answer -= steps
            job.length += steps

    def _retire(self) -> None:
        for job in self._answering:
            if job.answer <= DONE:
                self._found[job.number].last_s = self._now
        self._answering = [job for job in self._answering if job.answer > DONE]


@dataclass(slots=True)
class _Window:
    """A stretch of steps: seconds as foreseen when it began, and as they were."""

    pace: float
    foreseen_s: float = 0.0
    took_s: float = 0.0


@dataclass(slots=True)
class _Errors:
    """Logarithms of real over foreseen time, for one length of forecast."""

    length_s: float
    weight: float
    mean: float = 0.0
    variance: float = FIRST_SPREAD**2
    window: _Window | None = None

    def add(self, foreseen_s: float, took_s: float, pace: float) -> None:
        """Count a step, foreseen in ``foreseen_s`` at the present ``pace``."""
        window = self.window
        if window is None:
            window = self.window = _Window(pace)
        window.foreseen_s += foreseen_s * window.pace / pace
        window.took_s += took_s
        if window.foreseen_s >= self.length_s:
            self._judge(math.log(window.took_s / window.foreseen_s))
            self.window = None

    def _judge(self, error: float) -> None:
        spread = math.sqrt(self.variance)
        off = min(max(error - self.mean, -SURPRISE * spread), SURPRISE * spread)
        self.mean = min(max(self.mean + self.weight * off, -MOST_BIAS), MOST_BIAS)
        variance = self.variance + self.weight * (off * off - self.variance)
        self.variance = min(max(variance, LEAST_SPREAD**2), MOST_SPREAD**2)

    @property
    def spread(self) -> float:
        """Return the standard deviation of the error, relative."""
        return math.sqrt(self.variance)


class _Kind:
    """Errors of one kind of step."""

    def __init__(self) -> None:
        self._lengths = [*map(_Errors, LENGTHS_S, WEIGHT)]

    def add(self, foreseen_s: float, took_s: float, pace: float) -> None:
        for errors in self._lengths:
            errors.add(foreseen_s, took_s, pace)

    def at(self, foreseen_s: float) -> tuple[float, float]:
        """Return mean and spread of the error of a forecast of this length."""
        shorter = self._lengths[0]
        if foreseen_s <= shorter.length_s:
            return shorter.mean, shorter.spread
        for longer in self._lengths[1:]:
            if foreseen_s < longer.length_s:
                share = math.log(foreseen_s / shorter.length_s) / math.log(longer.length_s / shorter.length_s)
                mean = shorter.mean + share * (longer.mean - shorter.mean)
                return mean, shorter.spread + share * (longer.spread - shorter.spread)
            shorter = longer
        return shorter.mean, shorter.spread


class ForecastErrors:
    """Errors by kind of step and length of forecast; one thread adds, any may ask."""

    def __init__(self) -> None:
        self._reading, self._answering = _Kind(), _Kind()

    def add(self, reading: bool, foreseen_s: float, took_s: float, pace: float) -> None:
        """Count a step that took ``took_s`` and was foreseen, at the present ``pace``, to take ``foreseen_s``."""
        if foreseen_s > 0.0 and took_s > 0.0:
            (self._reading if reading else self._answering).add(foreseen_s, took_s, pace)

    def allowed_s(self, reading_s: float, answering_s: float, deviations: float = ALONE) -> float:
        """Return the time to allow for, where so much is foreseen up to the first token and so much from there on.

        The errors of the two parts are independent: their squares add up.
        """
        mean_r, spread_r = self._reading.at(reading_s)
        mean_a, spread_a = self._answering.at(answering_s)
        foreseen_s = reading_s + answering_s
        more_s = reading_s * mean_r + answering_s * mean_a
        more_s += deviations * math.hypot(reading_s * spread_r, answering_s * spread_a)
        return foreseen_s + min(max(more_s, 0.0), MOST_ALLOWED * foreseen_s)


class AnswerErrors:
    """Mean and spread of the logarithm of real over foreseen time of whole answers; one thread adds, any may ask.

    Only answers beside which nothing else ran are counted. Beside the errors of steps they hold what steps do not show:
    drafts that are right more or less often in this text, and changes of the machine's speed that last as long as an
    answer. One error counts for at most ``ANSWER_SURPRISE`` spreads.
    """

    def __init__(self) -> None:
        self._count = ANSWER_FIRST_COUNT
        self.mean, self._variance = 0.0, ANSWER_FIRST_SPREAD**2

    @property
    def spread(self) -> float:
        """Return the standard deviation of the logarithm."""
        return math.sqrt(self._variance)

    def add(self, foreseen_s: float, took_s: float) -> None:
        """Count an answer that took ``took_s`` and was foreseen to take ``foreseen_s``."""
        if foreseen_s <= 0.0 or took_s <= 0.0:
            return
        self._count = min(self._count + 1, ANSWER_MOST_COUNT)
        weight, most = 1 / self._count, ANSWER_SURPRISE * self.spread
        off = min(max(math.log(took_s) - math.log(foreseen_s) - self.mean, -most), most)
        self.mean = min(max(self.mean + weight * off, -ANSWER_MOST_BIAS), ANSWER_MOST_BIAS)
        variance = (1 - weight) * (self._variance + weight * off * off)
        self._variance = min(max(variance, ANSWER_LEAST_SPREAD**2), ANSWER_MOST_SPREAD**2)

    def allowed_s(self, foreseen_s: float, deviations: float = ANSWER_DEVIATIONS) -> float:
        """Return the time to allow for an answer that is foreseen to take ``foreseen_s``; never less than that."""
        return foreseen_s * math.exp(max(self.mean + deviations * self.spread, 0.0))
