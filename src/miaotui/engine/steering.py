"""Keeps the promises: learns from each step and sets bounds to the next ones.

Owns the moments at which the book is brought up to date and looked through. Knows the engine and
its requests, and decides nothing itself: `schedule.review` says what promises need, `adjust` what
the load needs. Used in the engine's thread alone. Invariant: nothing here can change an answer's
tokens, only when they come and how many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from miaotui.engine.adjust import Adjuster
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.schedule.admission import Admission
from miaotui.schedule.cost import SMALL_PROBE, CostModel, Shape
from miaotui.schedule.pages import pages_for
from miaotui.schedule.plan import Chunk, StepLimits
from miaotui.schedule.review import ALL_IS_WELL, Review, review

PROBES = (1, 1, 4, 1, 4)  # rows of the passes that look how the machine runs
MOST_PROBED = 128  # rows of a pass that looks how the machine runs
ADJUST_S = 0.02
STEPS = 4  # that are learned from together
REVIEW_S = 0.04  # between two looks through the book, when nobody came or went


class Steering:
    """One engine's: `begin` before a step, `learn` after it."""

    def __init__(
        self, engine: Engine, cost: CostModel, admission: Admission, clock: Callable[[], float]
    ) -> None:
        self._engine, self._cost, self._admission, self._clock = engine, cost, admission, clock
        self._adjuster = Adjuster(engine.scheduler.config, cost)
        self._free_s: float | None = None  # since when this step could have begun
        self._reviewed_s = float("-inf")
        self._known = -1  # the book's version at the last review
        self._choosing_s = 0.0  # spent on logits by the end of the last step
        self._probed = 0
        config = engine.scheduler.config
        self._most_probed = min(MOST_PROBED, config.context, config.max_rows)
        self._adjusted_s = float("-inf")
        self._view = ALL_IS_WELL
        self._beside_s = 3e-4  # of a step, in Python
        self._steps: list[tuple[Sequence[Chunk], float, float]] = []  # not learned from yet
        self._reading = 0  # tokens before the prompt rows that were read last

    def begin(self, active: Mapping[int, Request]) -> None:
        """A step is about to be planned."""
        now_s = self._clock()
        if self._free_s is None:
            self._free_s = now_s
        version = self._admission.version
        if version != self._known or now_s - self._reviewed_s > REVIEW_S:
            self._known, self._reviewed_s = version, now_s
            self._adjust(now_s)
            self._look(active, now_s)
        self._admission.begin_step(now_s, self._running_s, self._adjuster.policy)

    def rest(self) -> None:
        """There was nothing to do: time until the next step is nobody's."""
        self._free_s = None
        self._observe()

    def probe(self) -> None:
        """Look how the machine runs, when nothing else would tell: some passes that nobody needs.

        Without them, whoever is refused while the machine seems slow would never see it recover.
        """
        pages = tuple(self._engine.parts.spare_pages[:1])
        for count in PROBES:
            chunks = [Chunk(-1, 0, (0,), pages, 1)] * count
            start_s = self._clock()
            self._engine.runner.run(chunks)
            took_s = self._clock() - start_s + self._beside_s
            self._cost.probe(Shape.of(chunks), took_s)
        larger = [rows for rows in self._cost.knots if SMALL_PROBE < rows <= self._most_probed]
        if larger:  # each time another one: nothing else corrects what is refused for ever
            self._probed += 1
            rows = larger[self._probed % len(larger)]
            pages = tuple(self._engine.parts.spare_pages[: pages_for(rows)])
            chunk = Chunk(-1, 0, (0,) * rows, pages, 1)
            start_s = self._clock()
            self._engine.runner.run([chunk])
            self._cost.probe(Shape.of([chunk]), self._clock() - start_s + self._beside_s)

    def learn(self, active: Mapping[int, Request]) -> None:
        """A step has ended: what it took, and how far it brought whom.

        While nothing is promised and no prompt is read, some steps are looked at together: nobody
        waits for what they tell, and code that runs once in a step mostly waits for memory.
        """
        chunks = self._engine.latest.chunks
        now_s = self._clock()
        if self._free_s is not None:
            took_s, choosing_s = now_s - self._free_s, self._engine.choosing_s
            pass_s = self._engine.runner.last_s + choosing_s - self._choosing_s
            self._choosing_s, done = choosing_s, self._engine.runner.done
            if not self._engine.went_ahead:  # of its passes nobody knows the rows
                self._steps.append((chunks, took_s / done, pass_s / done))
        self._free_s = now_s
        reading = any(len(chunk.tokens) > chunk.n_logits for chunk in chunks)
        if self._admission.promised or reading or len(self._steps) >= STEPS:
            self._observe()
            self._update(active, now_s)

    def _observe(self) -> None:
        """Learn what the latest steps took."""
        for chunks, took_s, pass_s in self._steps:
            self._cost.observe(Shape.of(chunks), took_s, pass_s)
            self._beside_s += (min(max(took_s - pass_s, 0.0), 2e-3) - self._beside_s) / 16
        self._steps.clear()

    def _update(self, active: Mapping[int, Request], now_s: float) -> None:
        """Bring the book up to date."""
        chunks, scheduler = self._engine.latest.chunks, self._engine.scheduler
        progress = []
        before = [chunk.start for chunk in chunks if len(chunk.tokens) > chunk.n_logits]
        self._reading = max(before) if before else self._reading
        for chunk in chunks:
            number = chunk.sequence
            request = active.get(number)
            if request is not None and not request.is_over:
                computed, known = scheduler.progress(number)
                answered = len(request.token_ids)
                left = known - computed
                left = left if left > 1 or not answered else 0
                progress.append((number, left, computed, answered))
        self._admission.update(progress, now_s)
        if now_s - self._adjusted_s > ADJUST_S:
            self._adjust(now_s)

    def _running_s(self) -> float:
        """What the step that runs now is foreseen to take; asked from any thread."""
        shape = Shape.of(self._engine.latest.chunks)
        return self._cost.seconds(shape.rows, shape.logits, shape.attended)

    def _adjust(self, now_s: float) -> None:
        self._adjusted_s = now_s
        stats = self._engine.scheduler.stats()
        promised = self._admission.promised > 0
        team = self._engine.runner.team
        self._adjuster.follow(now_s, promised, stats.running, stats.pauses)
        self._adjuster.tell_threads(now_s, team.is_alone, team.size)
        self._limit(self._view)

    def _look(self, active: Mapping[int, Request], now_s: float) -> None:
        """Look through the book, and do what the promises need."""
        if not self._admission.promised:
            self._limit(ALL_IS_WELL)
            return
        view = review(self._admission.entries(), self._cost, self._adjuster.policy, now_s)
        for number in view.lost:
            self._admission.give_up(number)
            self._engine.scheduler.defer(number)
        for number, more in view.limits.items():
            request = active.get(number)
            if request is not None and not request.is_over:
                request.shorten(len(request.token_ids) + more)
                self._admission.shorten(number, request.ending.max_tokens)
        self._limit(view)

    def _chunk(self, rows: int) -> int:
        """The policy's chunk, less as the prompt that is being read has become long."""
        if rows >= self._engine.scheduler.config.chunk_size:
            return rows
        row_s = self._cost.seconds(rows, 0, 0.0) / rows
        look_s = self._cost.seconds(rows, 0, float(self._reading)) - row_s * rows
        return max(min(rows, 16), int(rows * row_s / (row_s + look_s)))

    def _limit(self, view: Review) -> None:
        policy = self._adjuster.policy
        until = view.prompts_until
        self._view = view
        self._engine.limits = StepLimits(
            prompt_rows=self._chunk(policy.chunk),
            width=policy.width,
            hold_best_effort=view.hold_best_effort,
            prompts_until=None if until is None or until > 1e300 else order_of(until),
        )


def order_of(due_s: float) -> int:
    """A due time as the scheduler's order: whole microseconds."""
    return max(0, int(due_s * 1e6))
