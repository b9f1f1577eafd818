"""The controller that keeps promises: it learns from each step and limits the next ones.

Owns the moments at which the book of promises is brought up to date and reviewed, and the bounds that follow the
measured load (how many requests run at once, how much of a prompt a step reads). Knows the engine and its requests;
`promises.promise.review` decides what promises need. Used in the engine's thread alone. Invariants: an answer's
tokens never depend on it, only when they come and how many; no bound changes more than once in `CALM_S`, and each
change is logged under ``miaotui.adjust`` with its reason. `kernels.runtime.thread_pool` chooses the number of threads;
its changes are logged here as well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from miaotui.backends.backend import probe_chunk
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.schedule.plan import Chunk, Plan, RowKind, ScheduleConfig, StepLimits
from miaotui.schedule.promises.admission import Admission
from miaotui.schedule.promises.cost import SMALL_PROBE, Answered, CostModel, StepShape
from miaotui.schedule.promises.forecast import SchedulingPolicy
from miaotui.schedule.promises.promise import ALL_IS_WELL, Review, review

PROBES = (1, 4, 1)  # rows of the passes that show how fast the machine is
MOST_PROBED = 64  # rows of a pass after a refusal
REFUSED_S = 0.04  # of rest between a refusal and the probe that follows it
CORRECT_S = 10.0  # between two of those
PROBE_S, MOST_PROBE_S = 0.5, 16.0  # of rest before the first probe and before later ones
ADJUST_S = 0.02
STEPS = 4  # that are learned from together
REVIEW_S = 0.04  # between two looks through the book, when no request came or went

CALM_S = 0.5
CHUNK_S = 0.06  # a step that reads prompts takes about so long: answers flow beside it
CHUNK_STEPS = 4.0  # but not less than so many of the smallest steps: it would read weights for little
PROMISES_S = 10.0  # so long after the last promise, the next one is expected
WIDEN_S = 2.0  # without a shortage of pages, before one more sequence may run

THREADS_S = 1.0  # so long a number of threads must last to be logged
FLUTTER_S = 10.0  # if none lasts, changes are logged so often

logger = logging.getLogger("miaotui.adjust")


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
        return self._cost.seconds(shape.rows, shape.logits, shape.attended)

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
        """Prompt rows of a step: all there is room for, unless answers with a due time flow."""
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
