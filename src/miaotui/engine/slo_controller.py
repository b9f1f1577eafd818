"""The promises of one engine and the controller that keeps them: it learns from each step and limits the next ones.

Owns the cost model, the admission of requests and the controller of steps, as one unit that is made when the first
deadline needs it; and the moments at which the book of promises is brought up to date and reviewed. Knows the engine
and its requests; `schedule.promises.promise` decides what promises need, and the bounds that follow the load. Used in
the engine's thread alone, but for `promise`, which any thread may call. Invariants: every request of the engine is in
the book of `Admission` while it runs, so that a new promise reckons with all of them; an answer's tokens never depend
on the controller, only when they come and how many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from miaotui.backends.backend import probe_chunk
from miaotui.engine.calibrate import calibrate
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.schedule.plan import NO_ADAPTER, Chunk, Plan, RowKind, StepLimits
from miaotui.schedule.promises.admission import Admission, AdmissionLimits, Quote
from miaotui.schedule.promises.capacity import Capacity, capacity
from miaotui.schedule.promises.cost import SMALL_PROBE, Answered, CostModel, StepShape
from miaotui.schedule.promises.forecast import SchedulingPolicy
from miaotui.schedule.promises.promise import ALL_IS_WELL, LoadTuner, PromiseRequest, Review, review

PROBES = (1, 4, 1)  # rows of the passes that show how fast the machine is
MOST_PROBED = 64  # rows of a pass after a refusal
REFUSED_S = 0.04  # of rest between a refusal and the probe that follows it
CORRECT_S = 10.0  # between two of those
PROBE_S, MOST_PROBE_S = 0.5, 16.0  # of rest before the first probe and before later ones
ADJUST_S = 0.02
STEPS = 4  # that are learned from together
REVIEW_S = 0.04  # between two looks through the book, when no request came or went

UNBOUNDED = AdmissionLimits(1 << 60, 1 << 60)
CHUNK = 128  # rows of a step that reads a prompt
PLANNED = 0.8  # share of a deadline that a prompt's budget plans with; other requests take time too


class SloController:
    """The controller of one engine: call `begin` before a step, `learn` after it."""

    def __init__(self, engine: Engine, cost: CostModel, admission: Admission, clock: Callable[[], float]) -> None:
        self._engine, self._cost, self._admission, self._clock = engine, cost, admission, clock
        self._adjuster = LoadTuner(engine.scheduler.config, cost)
        self._free_s: float | None = None  # since when this step could have begun
        self._reviewed_s = float("-inf")
        self._known = -1  # the book's version at the last review
        self._choosing_s = 0.0  # spent on logits by the end of the last step
        self._probed = 0  # times since the last step
        self._corrected, self._corrected_s = 0, float("-inf")  # larger passes since the start; when the last one ran
        self._is_refused = False  # a request, since the last probe
        config = engine.scheduler.config
        self._most_probed = min(MOST_PROBED, config.context, config.max_rows)
        self._adjusted_s = float("-inf")
        self._view = ALL_IS_WELL
        self._beside_s = 3e-4  # of a step, in Python
        self._steps: list[tuple[StepShape, float, float, Answered]] = []  # not learned from yet
        self._seen: dict[int, int] = {}  # tokens that answers had after the last step, by request number
        self._reading = 0  # tokens before the prompt rows that were read last

    def begin(self, active: Mapping[int, Request], waited_s: float = 0.0) -> None:
        """Prepare for a step that is about to be planned, after ``waited_s`` in which other models computed."""
        now_s = self._clock()
        self._free_s = now_s if self._free_s is None else self._free_s + waited_s
        version = self._admission.version
        if version != self._known or now_s - self._reviewed_s > REVIEW_S:
            self._known, self._reviewed_s = version, now_s
            self._adjust(now_s)
            self._look(active, now_s)
        self._admission.begin_step(now_s, self._running_s, self._adjuster.policy)

    def rest(self) -> None:
        """Note that there was nothing to do: the time until the next step is not a step's."""
        self._free_s = None
        self._observe()

    @property
    def until_probe_s(self) -> float:
        """Return seconds of rest before the next `probe`: the longer nothing has come, the more."""
        return REFUSED_S if self._is_refused else min(PROBE_S * 2.0**self._probed, MOST_PROBE_S)

    def expect_probe(self) -> bool:
        """Note, from any thread, that a request was refused while nothing ran; True if that is news.

        The probe comes `REFUSED_S` later: at once it would take the processor from the thread that sends the refusal.
        """
        is_news, self._is_refused = not self._is_refused, True
        return is_news

    def probe(self, is_wanted: Callable[[], bool]) -> None:
        """Run some small passes while there is nothing to do, and learn from them; stop when the thread ``is_wanted``.

        Nothing else shows that a machine which seemed slow has recovered. After a refusal a larger pass, each time
        of another size, corrects the curve, so that nothing is refused for ever; a request may come to wait for it,
        hence its bounds. The fastest of some passes counts: what disturbs one seldom disturbs all. After a refusal it
        counts only if it was faster than predicted: the caller that was refused may be busy on the same cores, and
        each refusal would make the next one likelier.
        """
        refused, self._is_refused = self._is_refused, False
        self._probed += 1
        self._probe([[(0,)] * rows for rows in PROBES], refused, is_wanted)
        larger = [rows for rows in self._cost.knots if SMALL_PROBE < rows <= self._most_probed]
        if refused and larger and not is_wanted() and self._clock() - self._corrected_s > CORRECT_S:
            self._corrected, self._corrected_s = self._corrected + 1, self._clock()
            rows = larger[self._corrected % len(larger)]
            self._probe([[(0,) * rows]] * 2, refused, is_wanted)

    def _probe(self, passes: Sequence[Sequence[tuple[int, ...]]], refused: bool, is_wanted: Callable[[], bool]) -> None:
        backend = self._engine.backend
        times = list[tuple[float, StepShape, float]]()
        for texts in passes:
            if is_wanted():
                return
            plan = Plan(tuple(probe_chunk(backend.limits, tokens) for tokens in texts))
            begun_s, shape = self._clock(), StepShape.of(plan.chunks)
            backend.run(plan)
            took_s = self._clock() - begun_s + self._beside_s
            times.append((self._cost.slowness(shape, took_s), shape, took_s))
        slowness, shape, took_s = min(times, key=lambda each: each[0])
        if slowness <= 1.0 or not refused:
            self._cost.probe(shape, took_s)

    def learn(self, active: Mapping[int, Request]) -> None:
        """Learn from a step that has ended: its time, and the progress of its requests.

        While nothing is promised and no prompt is read, some steps are processed together: their result is not urgent,
        and code that runs once in a step mostly waits for memory.
        """
        chunks, self._probed = self._engine.latest.chunks, 0
        now_s = self._clock()
        if self._free_s is not None:
            took_s, choosing_s = now_s - self._free_s, self._engine.choosing_s
            pass_s = self._engine.pass_s + choosing_s - self._choosing_s
            self._choosing_s = choosing_s
            answered = self._answered(chunks, active)
            if answered is not None:
                self._steps.append((StepShape.of(chunks), took_s, pass_s, answered))
        self._free_s = now_s
        reading = any(chunk.kind is RowKind.PREFILL for chunk in chunks)
        if self._admission.promised or reading or len(self._steps) >= STEPS:
            self._observe()
            self._update(active, now_s)

    def _observe(self) -> None:
        """Pass the times of the latest steps to the cost model."""
        for shape, took_s, pass_s, answered in self._steps:
            self._cost.observe(shape, took_s, pass_s, answered)
            self._beside_s += (min(max(took_s - pass_s, 0.0), 2e-3) - self._beside_s) / 16
        self._steps.clear()

    def _answered(self, chunks: Sequence[Chunk], active: Mapping[int, Request]) -> Answered | None:
        """Return tokens that the step brought the answers which went on in it; None if its rows are not known."""
        count = tokens = prompt_rows = decoding = 0
        seen, self._seen = self._seen, {}
        for chunk in chunks:
            request = active.get(chunk.sequence)
            have = 0 if request is None else len(request.token_ids)
            if have:
                self._seen[chunk.sequence] = have
            if chunk.kind is RowKind.PREFILL:
                prompt_rows += len(chunk.tokens)
                continue
            decoding += 1
            if chunk.sequence in seen:
                count += 1
                tokens += max(have - seen[chunk.sequence], 0)
        done, drafted = self._engine.passes, self._engine.drafted_in_run
        if count == decoding:
            return Answered(count, tokens, done, drafted, prompt_rows)
        return None if drafted else Answered(0, 0, done)  # some have just begun or gone on again

    def _update(self, active: Mapping[int, Request], now_s: float) -> None:
        """Bring the book up to date."""
        chunks, scheduler = self._engine.latest.chunks, self._engine.scheduler
        progress = []
        before = [chunk.start for chunk in chunks if chunk.kind is RowKind.PREFILL]
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
        """Predict the time of the running step; called from any thread."""
        shape = StepShape.of(self._engine.latest.chunks)
        return self._cost.seconds(shape.rows, shape.logits, shape.attended, shape.adapted)

    def _adjust(self, now_s: float) -> None:
        self._adjusted_s = now_s
        stats = self._engine.scheduler.stats()
        promised = self._admission.promised > 0
        self._adjuster.follow(now_s, promised, stats.running, stats.pauses)
        self._adjuster.tell_threads(now_s, self._engine.backend.stats().threads_live)
        self._limit(self._view)

    def _look(self, active: Mapping[int, Request], now_s: float) -> None:
        """Review the book, and do what the promises need."""
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
        """Return the policy's chunk, less as the prompt that is being read has become long."""
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
    """Convert a due time to the scheduler's order: whole microseconds."""
    return max(0, int(due_s * 1e6))


class Promises:
    """Promises of one engine. Without ``cost``, passes of the engine measure it here (at most 0.6 s)."""

    def __init__(self, engine: Engine, cost: CostModel | None = None, limits: AdmissionLimits | None = None) -> None:
        self._engine = engine
        self.cost = cost or CostModel(calibrate(engine.backend))
        config = engine.scheduler.config
        self.policy = SchedulingPolicy(config.max_sequences, config.chunk_size, scored_rows=config.scored_rows)
        self.admission = Admission(self.cost, self.policy, limits or UNBOUNDED)
        self.controller = SloController(engine, self.cost, self.admission, time.perf_counter)

    def promise(self, request: Request, *, is_length_named: bool) -> None:
        """Take a request into the book; its `Request.promise` is given with that.

        Raises `DeadlineUnattainableError` and `OverloadedError`.
        """
        asked = self._asked(request, is_length_named)
        admitted = self.admission.admit(asked, time.perf_counter())
        request.predicted_ms, request.shortened = admitted.predicted_ms, admitted.shortened
        request.ending.max_tokens = admitted.limit
        if admitted.promised:
            request.due = order_of(admitted.order_s)
        request.settled_listeners.append(self.admission.settle)

    def quote(self, request: Request, *, is_length_named: bool) -> Quote:
        """Return what `promise` would promise now; nothing is taken into the book."""
        return self.admission.quote(self._asked(request, is_length_named), time.perf_counter())

    def _asked(self, request: Request, is_length_named: bool) -> PromiseRequest:
        stored = self._engine.scheduler.stored_tokens(request.prompt, request.namespace, request.adapter)
        if request.scores is not None:  # stored prefixes serve only up to the first token that is scored
            stored = min(stored, request.scores.score_from)
        return PromiseRequest(
            number=request.number,
            prompt=request.prompt_tokens,
            cached=stored,
            limit=request.ending.max_tokens,
            named=is_length_named,
            deadline=request.deadline,
            arrived_s=request.timeline.arrived_s,
            is_scored=request.scores is not None,
            is_adapted=request.adapter != NO_ADAPTER,
        )

    def adopt(self, active: Mapping[int, Request]) -> None:
        """Take requests into the book that were submitted before there was one; they have no deadline."""
        for request in active.values():
            if not request.is_over:
                self.promise(request, is_length_named=False)

    def forget(self, request: Request) -> None:
        """Take a request that has ended out of the book, and learn from its length."""
        done_s = time.perf_counter() if request.finish_reason == "length" else None
        self.admission.leave(request.number, request.finish_reason == "failed", done_s)
        if request.finish_reason == "stop":
            self.admission.lengths.note(len(request.token_ids))

    def capacity(self) -> Capacity:
        """Return the answers that this machine can promise when nothing else runs."""
        return capacity(self.cost, self.policy)

    def prompt_budget(self, deadline_ms: float, answer_tokens: int) -> int:
        """Return tokens of a prompt that can be read with time left for an answer of ``answer_tokens``."""
        left_s = PLANNED * deadline_ms / 1e3 / self.cost.margin
        left_s -= answer_tokens * self.cost.token_s(1, 1, 2 * CHUNK)
        step_s = self.cost.seconds(CHUNK, 0, CHUNK * CHUNK)
        return max(0, int(left_s / step_s * CHUNK))
