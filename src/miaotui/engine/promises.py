"""The promises of one engine: what passes cost, which deadlines are granted, and the parts that keep them.

Owns the cost model, the admission of requests and the controller of steps, as one unit that is made when the first
deadline needs it. Knows no thread but for `promise`, which any thread may call. Invariant: every request of the
engine is in the book of `Admission` while it runs, so that a new promise reckons with all of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from miaotui.engine.calibrate import calibrate
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.engine.slo_controller import SloController, order_of
from miaotui.schedule.promises.admission import Admission, AdmissionLimits
from miaotui.schedule.promises.capacity import Capacity, capacity
from miaotui.schedule.promises.cost import CostModel
from miaotui.schedule.promises.forecast import SchedulingPolicy
from miaotui.schedule.promises.promise import PromiseRequest

UNBOUNDED = AdmissionLimits(1 << 60, 1 << 60)
CHUNK = 128  # rows of a step that reads a prompt
PLANNED = 0.8  # share of a deadline that a prompt's budget plans with; other requests take time too


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
        stored = self._engine.scheduler.stored_tokens(request.prompt, request.namespace)
        if request.scores is not None:  # stored prefixes serve only up to the first token that is scored
            stored = min(stored, request.scores.score_from)
        asked = PromiseRequest(
            number=request.number,
            prompt=request.prompt_tokens,
            cached=stored,
            limit=request.ending.max_tokens,
            named=is_length_named,
            deadline=request.deadline,
            arrived_s=request.timeline.arrived_s,
            is_scored=request.scores is not None,
        )
        admitted = self.admission.admit(asked, time.perf_counter())
        request.predicted_ms, request.shortened = admitted.predicted_ms, admitted.shortened
        request.ending.max_tokens = admitted.limit
        if admitted.promised:
            request.due = order_of(admitted.order_s)
        request.settled_listeners.append(self.admission.settle)

    def adopt(self, active: Mapping[int, Request]) -> None:
        """Take requests into the book that were submitted before there was one; they have no deadline."""
        for request in active.values():
            if not request.is_over:
                self.promise(request, is_length_named=False)

    def forget(self, request: Request) -> None:
        """Take a request that has ended out of the book, and learn from its length."""
        self.admission.leave(request.number, failed=request.finish_reason == "failed")
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
