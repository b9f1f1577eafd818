"""The promises of one engine of masked texts, and the controller that keeps them.

Owns the book of promises, what is learned from each pass, and how much time promises leave to texts without one. The
rules of admission, of review and of the pace are those of other models (`engine.slo_controller`). Invariant: a promise
is given only if it is kept even when each pass of every promised text brings one token.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from miaotui.dmlm.decoding.decode import BLOCK
from miaotui.dmlm.engine import MaskedEngine
from miaotui.dmlm.promises.cost import MaskedCost, calibrate_masked, probe_pass, shape_of
from miaotui.dmlm.promises.forecast import MaskedForecast
from miaotui.engine.request import Request
from miaotui.engine.slo_controller import REVIEW_S, UNBOUNDED, Promises, SloController
from miaotui.schedule.plan import Plan
from miaotui.schedule.promises.admission import Admission, AdmissionLimits
from miaotui.schedule.promises.capacity import Capacity, capacity
from miaotui.schedule.promises.cost import CostModel
from miaotui.schedule.promises.forecast import Job, SchedulingPolicy
from miaotui.schedule.promises.promise import PromiseEntry, PromiseRequest, review

PROBES = 3  # passes that show how fast the machine is; the fastest counts


class MaskedAdmission(Admission):
    """The book of promises of masked texts: where lengths are not named, answers end with a block."""

    def __init__(
        self, cost: MaskedCost, policy: SchedulingPolicy, limits: AdmissionLimits, forecast: MaskedForecast
    ) -> None:
        super().__init__(cost, policy, limits, forecast)
        self._block = cost.block

    def note(self, state: Job, accepted: int, shown: int, now_s: float) -> None:
        """Enter the state of a text, of whose answer ``accepted`` tokens stay and ``shown`` were handed over."""
        self.update([(state.number, state.prompt_left, state.length, accepted)], now_s, is_shown=shown > 0)

    def _expected(self, entry: PromiseEntry, answered: int) -> int:
        expected = super()._expected(entry, answered)
        if entry.wish.named or entry.shortened or not self._block:
            return expected
        end = -(-(entry.wish.prompt + expected) // self._block) * self._block
        return min(end - entry.wish.prompt, entry.wish.limit)


class MaskedController(SloController):
    """The controller of one `MaskedEngine` (see `SloController`)."""

    def __init__(
        self, engine: MaskedEngine, cost: MaskedCost, admission: MaskedAdmission, clock: Callable[[], float]
    ) -> None:
        super().__init__(engine, cost, admission, clock)
        self._texts, self._pass_cost, self._book = engine, cost, admission
        self._least_rows = min(cost.block or BLOCK, engine.backend.limits.rows)
        self._hopeful = MaskedForecast(hopeful=True)

    def begin(self, active: Mapping[int, Request], waited_s: float = 0.0) -> None:
        """Prepare for a step (see `SloController.begin`)."""
        now_s = self._clock()
        self._free_s = now_s if self._free_s is None else self._free_s + waited_s
        version = self._book.version
        if version != self._known or now_s - self._reviewed_s > REVIEW_S:
            self._known, self._reviewed_s = version, now_s
            self._review(active, now_s)
        spare_s = self._book.spare_s(now_s) if self._book.promised else math.inf
        self._texts.spares = lambda job: self._cost.allowed_s(self._pass_cost.next_s(job)) < spare_s
        self._book.begin_step(now_s, self.running_s, self._adjuster.policy)

    def learn(self, active: Mapping[int, Request]) -> None:
        """Learn from a step that has ended: the times of its passes, and what it brought its text."""
        now_s, self._probed = self._clock(), 0
        began_s, self._free_s = self._free_s, now_s
        step = self._texts.latest_step
        if step is None or began_s is None:
            return
        pass_s = sum(seconds for _, seconds in step.passes)
        for index, (chunk, seconds) in enumerate(step.passes):
            took_s = seconds + (now_s - began_s - pass_s if index == len(step.passes) - 1 else 0.0)
            self._pass_cost.observe_pass(shape_of(chunk), max(took_s, seconds), seconds, step.is_first)
        self._pass_cost.note_tokens(step.tokens)
        self._book.update((), now_s)
        for text in self._texts.texts:
            if text is step.text or text.is_moved:
                self._book.note(text.job(), text.accepted, text.shown, now_s)

    def running_s(self) -> float:
        """Predict the time of the running step; called from any thread."""
        job = self._texts.job_under_way
        return 0.0 if job is None else self._pass_cost.next_s(job)

    def under_way(self) -> tuple[int, float]:
        """Return the text of the running step and the step's seconds; called from any thread."""
        job = self._texts.job_under_way
        return (-1, 0.0) if job is None else (job.number, self._pass_cost.next_s(job))

    def probe(self, is_wanted: Callable[[], bool]) -> None:
        """Run some small passes while there is nothing to do, and learn the pace from them (see `SloController`)."""
        refused, self._is_refused = self._is_refused, False
        self._probed += 1
        chunk = probe_pass(self._texts.backend, self._texts.masked, self._least_rows)
        shape, best_s = shape_of(chunk), math.inf
        for _ in range(PROBES):
            if is_wanted():
                return
            begun_s = self._clock()
            self._texts.backend.run(Plan((chunk,)))
            best_s = min(best_s, self._clock() - begun_s + self._beside_s)
        if self._pass_cost.slowness(shape, best_s) <= 1.0 or not refused:
            self._pass_cost.probe(shape, best_s)

    def _review(self, active: Mapping[int, Request], now_s: float) -> None:
        """Review the book, and do what the promises need. An answer is shortened to the end of a block."""
        if not self._book.promised:
            return
        policy, forecast = self._adjuster.policy, MaskedForecast()
        view = review(self._book.entries(), self._cost, policy, now_s, forecast, self._hopeful)
        for number in view.lost:
            self._book.give_up(number)
            self._texts.texts.defer(number)
        for number, more in view.limits.items():
            request = active.get(number)
            if request is not None and not request.is_over:
                request.shorten(self._texts.whole_blocks(request, more))
                self._book.shorten(number, request.ending.max_tokens)


class MaskedPromises(Promises):
    """Promises of one engine of masked texts (see `Promises`)."""

    def __init__(
        self, engine: MaskedEngine, cost: CostModel | None = None, limits: AdmissionLimits | None = None
    ) -> None:
        self._engine, masked = engine, engine.masked
        self._is_whole = not masked.block  # then all masks of the longest answer are there from the beginning
        if not isinstance(cost, MaskedCost):  # measured for other models: it does not fit these
            cost = MaskedCost(calibrate_masked(engine.backend, masked), masked, engine.backend.limits.rows)
        self.cost = cost
        config = engine.scheduler.config
        self.policy = SchedulingPolicy(config.max_sequences, config.chunk_size)
        self._forecast = MaskedForecast()
        admission = MaskedAdmission(cost, self.policy, limits or UNBOUNDED, self._forecast)
        controller = MaskedController(engine, cost, admission, time.perf_counter)
        self.admission, self.controller = admission, controller
        self._forecast.under_way = controller.under_way

    def capacity(self) -> Capacity:
        """Return the answers that this machine can promise when nothing else runs."""
        return capacity(self.cost, self.policy, forecast=MaskedForecast())

    def forget(self, request: Request) -> None:
        """Take a request that has ended out of the book. Its time is no error: it was foreseen at worst."""
        self.admission.leave(request.number, request.finish_reason == "failed")
        if request.finish_reason == "stop":
            self.admission.lengths.note(len(request.token_ids))

    def _asked(self, request: Request, is_length_named: bool) -> PromiseRequest:
        asked = super()._asked(request, is_length_named)
        return replace(asked, cached=0, named=asked.named or self._is_whole)
