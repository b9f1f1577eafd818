"""A thread that steps one engine, for callers that must not wait: the server's event loop.

Owns the thread, the two boxes through which requests come in and go, and the promises it gives
(`schedule.promises.admission`). Knows nothing of HTTP. Invariant: every submitted request ends exactly once,
also when the loop stops or the engine fails; none is taken on whose promise could not be kept.
"""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from miaotui.engine.calibrate import calibrate
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request, RequestOptions
from miaotui.engine.slo_controller import SloController, order_of
from miaotui.errors import DeadlineUnattainableError, EngineError, MiaotuiError, OverloadedError
from miaotui.schedule.promises.admission import Admission, AdmissionLimits
from miaotui.schedule.promises.capacity import Capacity, capacity
from miaotui.schedule.promises.cost import CostModel
from miaotui.schedule.promises.forecast import SchedulingPolicy
from miaotui.schedule.promises.promise import PromiseRequest
from miaotui.types import SamplingParams

logger = logging.getLogger("miaotui.engine")

News = Callable[[Sequence[Request]], None]
_NOTHING_ASKED = RequestOptions()
SWITCH_S = 5e-4  # a pass that has ended waits no longer for another thread's Python
HELD_S = 0.01  # between looks at requests of which none may compute now
RESTARTS = (0.0, 0.1, 0.5, 1.0)  # seconds before each attempt to run again after a fault


class EngineLoop:
    """`submit` and `cancel` may be called from any thread and return at once.

    ``on_news`` is called in the loop's thread, once after each step, with the requests that have
    something to `Request.read`; it must not wait. Unless ``is_due`` it is not called after a step
    with which no request has ended: what there is to read can be read later.
    """

    def __init__(
        self,
        engine: Engine,
        on_news: News,
        *,
        is_due: Callable[[], bool] = lambda: True,
        cost: CostModel | None = None,
        limits: AdmissionLimits | None = None,
    ) -> None:
        self.engine = engine
        self.healthy = True
        self.cost = cost or CostModel(calibrate(engine.backend))
        config = engine.scheduler.config
        self.policy = SchedulingPolicy(config.max_sequences, config.chunk_size, scored_rows=config.scored_rows)
        self.admission = Admission(self.cost, self.policy, limits)
        self._steering = SloController(engine, self.cost, self.admission, time.perf_counter)
        self._on_news, self._is_due = on_news, is_due
        self._coming: deque[Request] = deque()
        self._leaving: deque[Request] = deque()
        self._active: dict[int, Request] = {}
        self._wake, self._stop = threading.Event(), threading.Event()
        self._stopping = self._probing = False
        self._thread = threading.Thread(target=self._run, name="miaotui-engine", daemon=True)
        self._thread.start()

    def submit(self, prompt: Sequence[int], params: SamplingParams, asked: RequestOptions = _NOTHING_ASKED) -> Request:
        """A request on its way, its `Request.promise` given.

        Raises what `Engine.prepare` raises, `DeadlineUnattainableError` when it could not be done
        in its time, and `OverloadedError`.
        """
        if self._stopping:
            raise OverloadedError("the engine is stopping: ask again in a moment", 1.0)
        if not self.healthy:
            raise OverloadedError("the engine is restarting after a fault: ask again", 1.0)
        request = self.engine.prepare(prompt, params, asked.namespace, asked.constraint)
        request.deadline, request.passages = asked.deadline, asked.passages
        if asked.arrived_s is not None:
            request.arrived_s = asked.arrived_s
        try:
            self._promise(request, params)
        except DeadlineUnattainableError:
            if not self._active:  # no step will tell how the machine runs
                self._probing = True
                self._wake.set()
            raise
        self._coming.append(request)
        self._call()
        if self._stopping and not self._thread.is_alive():
            self._turn_away()
        return request

    def cancel(self, request: Request) -> None:
        """Nobody waits for it any more: its pages are free before the next step."""
        self._leaving.append(request)
        self._call()

    def _call(self) -> None:
        """Something has come for the engine's thread: it looks after the pass under way."""
        self._wake.set()
        self.engine.backend.halt()

    def capacity(self) -> Capacity:
        """What this machine can promise when nothing else runs."""
        return capacity(self.cost, self.policy)

    def close(self) -> None:
        """Cancel what is running and end the thread. Closing twice does nothing."""
        self._stopping = True
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self._turn_away()

    def _turn_away(self) -> None:
        """End what came while the thread was ending: nobody else would."""
        while self._coming:
            try:
                late = self._coming.popleft()
            except IndexError:  # another thread was faster
                return
            late.end("cancelled")
            self._on_news([late])

    def _promise(self, request: Request, params: SamplingParams) -> None:
        stored = self.engine.scheduler.stored_tokens(request.prompt, request.namespace)
        if request.scores is not None:  # stored prefixes serve only up to the first token that is scored
            stored = min(stored, request.scores.score_from)
        wish = PromiseRequest(
            number=request.number,
            prompt=request.prompt_tokens,
            cached=stored,
            limit=request.ending.max_tokens,
            named=params.max_tokens is not None,
            deadline=request.deadline,
            arrived_s=request.arrived_s,
            is_scored=request.scores is not None,
        )
        admitted = self.admission.admit(wish, time.perf_counter())
        request.predicted_ms, request.shortened = admitted.predicted_ms, admitted.shortened
        request.ending.max_tokens = admitted.limit
        if admitted.promised:
            request.due = order_of(admitted.order_s)
        request.settled_listeners.append(self.admission.settle)

    # the engine's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        while not self._stopping:
            self._wake.clear()
            self._take_in()
            if not self._step():
                self._steering.rest()
                if not self._probing:  # what is held back is looked at again, whatever holds it
                    self._wake.wait(HELD_S if self._active else None)
        self._take_in()
        self.engine.cancel_all()
        self._tell()

    def _step(self) -> bool:
        """One step, and its news; False when there was nothing to do."""
        try:
            busy = self._advance()
        except Exception as error:
            self._fail_all(error)
            busy = True
        if self.engine.in_flight != len(self._active) or self._is_due():  # one has ended, or else
            self._tell()
        return busy

    def _advance(self) -> bool:
        if not self._active:
            if self._probing:
                self._probing = False
                self._steering.probe()
            return False
        self._steering.begin(self._active)
        faults = self.engine.faults
        busy = self.engine.step()
        if self.engine.faults > faults:  # its requests have failed, with the reason
            self._heal(self.engine.try_pass)
        elif busy:
            self._steering.learn(self._active)
        return busy

    def _take_in(self) -> None:
        while self._coming:
            request = self._coming.popleft()
            self._active[request.number] = request
            try:
                self.engine.enter(request)
            except MiaotuiError as error:
                request.end("failed", error)
        while self._leaving:
            self.engine.cancel(self._leaving.popleft())

    def _tell(self) -> None:
        news = [request for request in self._active.values() if request.has_news]
        for request in news:
            if request.finish_reason is not None:
                self._forget(request)
        if news:
            self._on_news(news)

    def _forget(self, request: Request) -> None:
        del self._active[request.number]
        self.admission.leave(request.number, failed=request.finish_reason == "failed")
        if request.finish_reason == "stop":
            self.admission.lengths.note(len(request.token_ids))

    def _fail_all(self, error: Exception) -> None:
        """The engine's state cannot be trusted: end what it had, and begin anew."""
        logger.error("the engine failed and begins anew", exc_info=error)
        self.healthy = False
        fault = EngineError(f"the engine failed: {type(error).__name__}: {error}. Ask again")
        for request in self._active.values():
            request.end("failed", fault)
        self._heal(self.engine.reset)

    def _heal(self, attempt: Callable[[], None]) -> None:
        """Red until ``attempt`` succeeds; nobody is taken on meanwhile."""
        self.healthy = False
        self._tell()
        for pause_s in itertools.chain(RESTARTS, itertools.repeat(RESTARTS[-1])):
            self._stop.wait(pause_s)
            if self._stopping:
                return
            try:
                attempt()
            except Exception:
                logger.exception("the engine does not run yet")
                continue
            self.healthy = True
            return
