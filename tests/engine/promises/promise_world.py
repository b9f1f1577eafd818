"""Promises under load in virtual time: the real scheduler, admission and steering, no model.

A step takes what a true cost (which the cost model does not know exactly) says, times noise; then
the clock jumps. Answers are counted, not computed, so that minutes of load pass in a second.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from miaotui.backends.backend import BackendStats
from miaotui.engine.slo_controller import SloController, order_of
from miaotui.errors import RefusedError
from miaotui.schedule import Plan, ScheduleConfig, Scheduler
from miaotui.schedule.plan import NO_LIMITS, Chunk
from miaotui.schedule.promises.admission import Admission, AdmissionLimits
from miaotui.schedule.promises.cost import CostModel, CostRates, StepShape
from miaotui.schedule.promises.forecast import SchedulingPolicy
from miaotui.schedule.promises.promise import PromiseRequest
from miaotui.types import Deadline, Promise

# A small model on two cores: seconds by rows, of a row of logits, of a key looked at.
RATES = CostRates(((1, 3.1e-3), (4, 3.3e-3), (8, 4.2e-3), (16, 7.4e-3), (64, 25.5e-3), (256, 105e-3)), 60e-6, 0.7e-6)
SECOND = Deadline(total_ms=1000.0)


@dataclass
class Ask:
    """One request of a scripted load."""

    at_s: float
    prompt: int
    answer: int
    deadline: Deadline | None = SECOND
    named: bool = True
    actual: int | None = None  # the length it comes to by itself


@dataclass
class _Ending:
    max_tokens: int


@dataclass
class Job:
    """A request on its way, as far as steering looks at it."""

    number: int
    ask: Ask
    ending: _Ending
    predicted_ms: float
    shortened: bool
    is_promised: bool
    token_ids: list[int] = field(default_factory=list)
    first_s: float | None = None
    over_s: float | None = None

    @property
    def is_over(self) -> bool:
        return self.over_s is not None

    @property
    def took_ms(self) -> float:
        assert self.over_s is not None
        return (self.over_s - self.ask.at_s) * 1e3

    @property
    def met(self) -> bool:
        deadline = self.ask.deadline
        assert deadline is not None
        assert self.first_s is not None
        first_ms = (self.first_s - self.ask.at_s) * 1e3
        in_time = deadline.total_ms is None or self.took_ms <= deadline.total_ms
        return in_time and (deadline.ttft_ms is None or first_ms <= deadline.ttft_ms)

    def shorten(self, max_tokens: int) -> None:
        least = len(self.token_ids) + 1
        self.ending.max_tokens = max(least, min(max_tokens, self.ending.max_tokens))
        self.shortened = True


class _Backend:
    def stats(self) -> BackendStats:
        return BackendStats(2, 2, 0, 0)


class ScriptedEngine:
    """What steering sees of an engine."""

    def __init__(self, config: ScheduleConfig) -> None:
        self.scheduler = Scheduler(config)
        self.latest, self.limits = Plan(()), NO_LIMITS
        self.backend, self.choosing_s, self.drafted_in_run = _Backend(), 0.0, False
        self.pass_s, self.passes = 0.0, 1


@dataclass
class Guesses:
    """Guessed tokens: how likely one holds, which differs between texts, and how many are tried.

    While one answer goes on alone its tokens are drafted within a run of passes, of whose rows steering knows
    nothing; beside others each answer has one drafted row.
    """

    holds: float = 0.45  # of the first tokens of all texts
    spread: float = 0.05  # between texts
    tried: int = 3
    passes: int = 3  # of a run
    head_s: float = 1.5e-3  # of a pass: what guessing takes
    source: random.Random = field(default_factory=lambda: random.Random(0))

    def accepted(self, number: int, most: int) -> int:
        """How many of a pass's guesses hold."""
        chance = min(max(random.Random(number).gauss(self.holds, self.spread), 0.02), 0.9)
        count = 0
        while count < min(self.tried, most) and self.source.random() < chance:
            count += 1
        return count


class World:
    """Plays a load; ``true_s`` says what a step takes, given its shape and the time."""

    def __init__(
        self,
        true_s: Callable[[StepShape, float], float],
        *,
        rates: CostRates = RATES,
        limits: AdmissionLimits | None = None,
        guesses: Guesses | None = None,
        **config: int,
    ) -> None:
        schedule = {"n_pages": 1024, "context": 8192, "max_rows": 512, "max_sequences": 16}
        self.now_s = 1.0
        self.true_s, self.guesses = true_s, guesses
        self.engine = ScriptedEngine(ScheduleConfig(**{**schedule, **config}))
        self.cost = CostModel(rates)
        policy = SchedulingPolicy(self.engine.scheduler.config.max_sequences, 512)
        self.admission = Admission(self.cost, policy, limits)
        clock = lambda: self.now_s  # noqa: E731
        self.steering = SloController(self.engine, self.cost, self.admission, clock)
        self.active: dict[int, Job] = {}
        self.done: list[Job] = []
        self.refused: list[tuple[Ask, RefusedError]] = []
        self.steps = 0

    def play(self, load: list[Ask], check: bool = False) -> None:
        """Let the load come at its times, and run until nothing is left."""
        coming = sorted(load, key=lambda ask: ask.at_s)[::-1]
        while coming or self.active:
            if not self.active and coming:
                self.steering.rest()
                self.now_s = max(self.now_s, coming[-1].at_s)
            self._arrive(coming, self.now_s)
            if self.active:
                self._step(coming)
                if check:
                    self.engine.scheduler.check()

    def _arrive(self, coming: list[Ask], until_s: float) -> None:
        while coming and coming[-1].at_s <= until_s:
            self._ask(coming.pop())

    def _ask(self, ask: Ask) -> None:
        number = len(self.done) + len(self.active) + len(self.refused)
        wish = PromiseRequest(number, ask.prompt, 0, ask.answer, ask.named, ask.deadline, ask.at_s)
        try:
            admitted = self.admission.admit(wish, max(self.now_s, ask.at_s))
        except RefusedError as error:
            self.refused.append((ask, error))
            return
        job = Job(number, ask, _Ending(admitted.limit), admitted.predicted_ms, admitted.shortened, admitted.promised)
        due = order_of(admitted.order_s) if admitted.promised else None
        tokens = [number * 7919 + i for i in range(ask.prompt)]
        self.engine.scheduler.add(number, tokens, admitted.limit, due=due)
        self.active[number] = job

    def _step(self, coming: list[Ask]) -> None:
        engine = self.engine
        self.steering.begin(self.active)
        drafts, passes = self._drafts()
        plan = engine.latest = engine.scheduler.plan(drafts, engine.limits, passes)
        assert plan.chunks, "while there is work, a plan has rows"
        engine.drafted_in_run = plan.passes > 1
        took_s, tokens = self._run(plan)
        end_s = self.now_s + took_s
        meanwhile = []
        while coming and coming[-1].at_s <= end_s:
            meanwhile.append(coming.pop())
        before_s = self.now_s
        for ask in meanwhile:  # admitted while the step runs
            self.now_s = max(before_s, ask.at_s)
            self._ask(ask)
        self.now_s = end_s
        engine.scheduler.commit(plan, tokens)
        for number, new in tokens.items():
            for _ in new:
                self._token(self.active[number])
        self.steps += 1
        self.steering.learn(self.active)
        for number in [n for n, job in self.active.items() if job.is_over]:
            job = self.active.pop(number)
            self.done.append(job)
            if job.ask.deadline is not None:
                promise = Promise(None, job.predicted_ms, job.took_ms, job.met, job.shortened)
                self.admission.settle(promise, 0.0, job.is_promised)
            self.admission.leave(number, done_s=job.over_s if job.ask.actual is None else None)

    def _drafts(self) -> tuple[dict[int, list[int]], int]:
        """Drafted tokens by number, and the passes that may follow each other."""
        if self.guesses is None:
            return {}, 1
        left = {n: self._left(job) for n, job in self.active.items() if job.token_ids}
        if len(left) == len(self.active) == 1:
            return {}, min(self.guesses.passes * (1 + self.guesses.tried), *left.values())
        return {n: [1] for n, most in left.items() if most > 1}, 1

    def _left(self, job: Job) -> int:
        length = job.ending.max_tokens if job.ask.actual is None else min(job.ending.max_tokens, job.ask.actual)
        return length - len(job.token_ids)

    def _run(self, plan: Plan) -> tuple[float, dict[int, list[int]]]:
        """What the step takes, and the tokens that it brings."""
        engine, shape = self.engine, StepShape.of(plan.chunks)
        engine.passes = 1
        if plan.passes == 1:
            tokens = {c.sequence: [1] * (1 + self._accepted(c)) for c in plan.chunks if c.n_logits}
            return self.true_s(shape, self.now_s), tokens
        assert self.guesses is not None, "only guesses let passes follow each other here"
        (chunk,), count, took_s = plan.chunks, 0, 0.0
        tried = self.guesses.tried
        engine.passes = 0
        while count < plan.passes and engine.passes < self.guesses.passes:
            each = StepShape(1 + tried, 1 + tried, (1 + tried) * (shape.attended + count))
            took_s += self.true_s(each, self.now_s) + self.guesses.head_s
            count += 1 + self.guesses.accepted(chunk.sequence, plan.passes - count - 1)
            engine.passes += 1
        return took_s, {chunk.sequence: [1] * count}

    def _accepted(self, chunk: Chunk) -> int:
        if self.guesses is None or chunk.n_logits == 1:
            return 0
        return self.guesses.accepted(chunk.sequence, chunk.n_logits - 1)

    def _token(self, job: Job) -> None:
        job.token_ids.append(1)
        if job.first_s is None:
            job.first_s = self.now_s
        length = job.ending.max_tokens
        if job.ask.actual is not None:
            length = min(length, job.ask.actual)
        if len(job.token_ids) >= length:
            job.over_s = self.now_s
            self.engine.scheduler.cancel(job.number)


def poisson(rate: float, seconds: float, seed: int, deadline: Deadline | None = SECOND) -> list[Ask]:
    """An open load: prompts of 40 to 400 tokens, answers of 16 to 128."""
    return list(_poisson(rate, seconds, random.Random(seed), deadline))


def _poisson(rate: float, seconds: float, source: random.Random, deadline: Deadline | None) -> Iterator[Ask]:
    at_s = 1.0
    while (at_s := at_s + source.expovariate(rate)) < 1.0 + seconds:
        yield Ask(at_s, source.randint(40, 400), source.randint(16, 128), deadline)


def noisy(noise: float, seed: int, slower: float = 1.0) -> Callable[[StepShape, float], float]:
    """True times: the rates, ``slower`` by a factor, with noise of that deviation and rare jolts."""
    truth, source = CostModel(RATES), random.Random(seed)

    def true_s(shape: StepShape, now_s: float) -> float:
        jolt = 0.03 if source.random() < 0.002 else 0.0
        took = truth.seconds(shape.rows, shape.logits, shape.attended) * slower
        return took * source.lognormvariate(0.0, noise) + jolt

    return true_s


def drifting(share: float, period_s: float, seed: int) -> Callable[[StepShape, float], float]:
    """True times that slowly become longer and shorter by ``share``, with a little noise."""
    quick = noisy(0.04, seed)
    return lambda shape, now_s: quick(shape, now_s) * (1 + share * math.sin(2 * math.pi * now_s / period_s))


def bursts(slower: float, begin_s: float, end_s: float) -> Callable[[StepShape, float], float]:
    """True times while another process takes a share of the machine for some seconds."""
    quick = noisy(0.02, 0)
    return lambda shape, now_s: quick(shape, now_s) * (slower if begin_s <= now_s < end_s else 1.0)


def alone(world: World, count: int, seed: int) -> list[tuple[float, float]]:
    """Requests one after another, with a deadline that is no limit: (took, promised) in ms."""
    source, found = random.Random(seed), []
    for _ in range(count):
        ask = Ask(world.now_s + 0.2, source.randint(80, 300), source.randint(24, 96), Deadline(total_ms=60_000.0))
        world.play([ask])
        found.append((world.done[-1].took_ms, world.done[-1].predicted_ms))
    return found
