"""The thread that steps one engine. Everything that runs a model goes through it.

Owns the thread, the boxes through which requests and other work come in, and, from the first deadline on, the
`Promises` of the engine. Knows neither text nor HTTP. Invariants: only this thread touches the engine between
`EngineLoop` and `close`; every submitted request ends exactly once, also when the loop stops or the engine fails;
no request is taken on whose promise could not be kept.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from miaotui.backends.backend import require
from miaotui.engine.abilities import abilities_of
from miaotui.engine.adapters import AdapterRegistry
from miaotui.engine.engine import Engine
from miaotui.engine.loaded_model import LoadedModel
from miaotui.engine.reading.readers import Readers, ReadLoop, Wakeup
from miaotui.engine.reading.work import ThreadWork
from miaotui.engine.request import Request, RequestOptions
from miaotui.engine.sampling.all_logits import all_logits
from miaotui.engine.turns import PROMISED, REST, CoreTurns, shared_turns
from miaotui.errors import (
    DeadlineUnattainableError,
    EngineError,
    MiaotuiError,
    OverloadedError,
    RefusedError,
    StageLostError,
)
from miaotui.types import SamplingParams

if TYPE_CHECKING:  # imported by the first deadline: a start without one need not wait for them
    import logging

    import numpy as np
    from numpy.typing import NDArray

    from miaotui.engine.slo_controller import Promises
    from miaotui.schedule.promises.admission import Admission, AdmissionLimits
    from miaotui.schedule.promises.capacity import Capacity
    from miaotui.schedule.promises.cost import CostModel

Result = TypeVar("Result")

_NO_OPTIONS = RequestOptions()
SWITCH_S = 5e-4  # a pass that has ended waits no longer for another thread's Python
HELD_S = 0.01  # between looks at requests of which none may compute now
RESTARTS = (0.0, 0.1, 0.5, 1.0)  # seconds before each attempt to run again after a fault


class EngineLoop(ReadLoop):
    """One model that runs. `submit`, `leave` and `cancel` may be called from any thread and return at once.

    Threads and tasks wait with `readers`; see `engine.reading.readers`.
    """

    may_sleep = False  # its engine is here

    def __init__(
        self, engine: Engine, model: LoadedModel, readers: Readers | None = None, turns: CoreTurns | None = None
    ) -> None:
        super().__init__(readers or Readers())
        self.engine, self.model = engine, model
        self.abilities = abilities_of(engine.backend, is_masked=model.config.masked is not None)
        self._has_all = self.abilities.has_all
        self.promises: Promises | None = None  # None: no deadline was asked for yet
        self.healthy = True
        self._coming: deque[Request] = deque()
        self._leaving: deque[Request] = deque()
        self._work: deque[ThreadWork[object]] = deque()  # to be done between two steps
        self._active: dict[int, Request] = {}
        self.adapters = AdapterRegistry(
            engine.backend, model.config, self.between_steps, self._adapters_in_use, self._known_cost
        )
        self._wakeup, self._stop = Wakeup(), threading.Event()
        self._is_probing = False
        self._calibrating = threading.Lock()
        self._closing = threading.Lock()
        self.shares_cores = False
        self._turns = turns or shared_turns()
        self._turns.join(self)
        self._thread = threading.Thread(target=self._run, name="miaotui-engine", daemon=True)
        self._thread.start()

    # from any thread -----------------------------------------------------------------------------

    def submit(self, prompt: Sequence[int], params: SamplingParams, options: RequestOptions = _NO_OPTIONS) -> Request:
        """Take a request on, its `Request.promise` given. End it with `leave`.

        The first deadline of all makes the loop `calibrate`, and counts from then on unless it names its arrival.
        Raises what `Engine.prepare` raises, `DeadlineUnattainableError` when it could not be done in its time, and
        `OverloadedError`; `RequestError` for a deadline where the backend cannot promise.
        """
        try:
            request = self._submit(prompt, params, options)
        except RefusedError as error:
            if self.observer is not None:
                self.observer.refused(error)
            raise
        self.expect_reader(request)
        return request

    def _submit(self, prompt: Sequence[int], params: SamplingParams, options: RequestOptions) -> Request:
        if self._stop.is_set():
            raise OverloadedError("the engine is stopping: ask again in a moment", 1.0)
        if not self.healthy:
            raise OverloadedError("the engine is restarting after a fault: ask again", 1.0)
        if not self._has_all:
            self.abilities.require(params, options)
        if options.deadline is not None and self.promises is None:
            self.calibrate()
        request = self.engine.prepare(prompt, params, options.namespace, options.constraint, options.begun)
        if options.adapter is not None:
            request.adapter = self.adapters.number_of(options.adapter)
        request.follow(options)
        if self.promises is not None:
            try:
                self.promises.promise(request, is_length_named=params.max_tokens is not None)
            except DeadlineUnattainableError:
                if not self._active and self.promises.controller.expect_probe():  # no step shows how fast it is
                    self._wakeup.call()
                raise
        self._coming.append(request)
        self._call()
        if self._stop.is_set() and not self._thread.is_alive():
            self._turn_away()
        return request

    def cancel(self, request: Request) -> None:
        """End a request early: its pages are free before the next step. Safe in a finalizer."""
        self._leaving.append(request)
        self._call()

    def between_steps(self, work: Callable[[], Result]) -> Result:
        """Call ``work`` in the engine's thread between two steps; return its result or raise its error.

        Raises `EngineError` if the loop has ended.
        """
        if threading.current_thread() is self._thread:
            return work()
        job = ThreadWork(work)
        self._work.append(job)  # type: ignore[arg-type]  # jobs of any result in one queue
        self._call()
        return job.wait(self._thread.is_alive)

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each of the tokens, see `all_logits`."""
        return self.between_steps(lambda: all_logits(self.engine.backend, token_ids))

    def _call(self) -> None:
        """Let the engine's thread look at what has come, right after the pass under way."""
        self._wakeup.call()
        self.engine.backend.halt()

    def calibrate(self, cost: CostModel | None = None, limits: AdmissionLimits | None = None) -> None:
        """Measure what passes cost, which promises are made from; returns at once if that is known.

        ``limits`` bound how much may stand in line; without, nothing is refused for that.
        """
        if self.promises is not None:
            return
        require(self.engine.backend, "promises")
        with self._calibrating:
            if self.promises is None:
                self.between_steps(lambda: self._make_promises(cost, limits))

    def _make_promises(self, cost: CostModel | None, limits: AdmissionLimits | None) -> None:
        promises = self.engine.make_promises(cost, limits)
        promises.admission.reserved_s = lambda: self._turns.ahead_of_s(self) if self.shares_cores else 0.0
        promises.adopt(self._active)
        self.adapters.price(promises.cost)
        self.promises = promises

    @property
    def can_promise(self) -> bool:
        """Return whether deadlines can be promised; without that there is no cost, admission or capacity."""
        return self.engine.backend.capabilities.promises

    @property
    def cost(self) -> CostModel:
        """Return the times of passes. Measures them if that was not done yet."""
        return self._promised().cost

    @property
    def admission(self) -> Admission:
        """Return the promises that were made. Measures what passes cost if that was not done yet."""
        return self._promised().admission

    def capacity(self) -> Capacity:
        """Return the answers that this machine can promise when nothing else runs."""
        return self._promised().capacity()

    def prompt_budget(self, deadline_ms: float, answer_tokens: int) -> int:
        """Return tokens of a prompt that can be read with time left for an answer; at most half the context."""
        budget = self._promised().prompt_budget(deadline_ms, answer_tokens)
        return min(budget, self.model.context // 2)

    def _promised(self) -> Promises:
        self.calibrate()
        assert self.promises is not None
        return self.promises

    def holds(self, request: Request) -> bool:
        """Return whether a request that was taken in has pages, or a place in the book of promises.

        For a moment that is so after its end too, until the step that ended it is over; its reader is woken then.
        """
        return request.number in self._active

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._coming) + self.engine.in_flight

    def close(self) -> None:
        """Cancel what is running, end the thread and give the memory back. Closing twice does nothing."""
        self._stop.set()
        self._wakeup.call()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._turns.leave(self)
        self._turn_away()
        with self._closing:
            self.model.close()

    def _turn_away(self) -> None:
        """End what came while the thread was ending."""
        while self._coming:
            try:
                late = self._coming.popleft()
            except IndexError:  # another thread was faster
                return
            late.end("cancelled")
            self.readers.tell([late])

    # as one of several models (see `engine.turns`) -------------------------------------------------

    def turn_rank(self) -> int:
        """Return `PROMISED` while an answer is promised."""
        return PROMISED if self.promises is not None and self.promises.admission.promised else REST

    def spare_s(self) -> float:
        """Return how long the cores may be taken, beyond what all have promised, without breaking a promise."""
        return math.inf if self.promises is None else self.promises.admission.spare_s(time.perf_counter())

    def ahead_s(self) -> float:
        """Return the seconds that the step under way still takes."""
        return 0.0 if self.promises is None else self.promises.admission.step_left_s(time.perf_counter())

    def hurry(self) -> None:
        """End a run of several passes after the pass under way."""
        self.engine.backend.halt()

    # the engine's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        while not self._stop.is_set():
            self._take_in()
            if not self._step():
                if self.promises is not None:
                    self.promises.controller.rest()
                if not self._is_probing:  # what is held back is looked at again, whatever holds it
                    self._rest()
        self._take_in()
        self.engine.cancel_all()
        self._tell()

    def _rest(self) -> None:
        """Wait until there is something to do, or until it is time to see how fast the machine is."""
        if self.promises is None or self._active:
            self._wakeup.wait(HELD_S if self._active else None)
            return
        is_due = not self._wakeup.wait(self.promises.controller.until_probe_s)
        self._is_probing = is_due and not self._is_wanted()

    def _is_wanted(self) -> bool:
        return bool(self._coming or self._leaving or self._work or self._stop.is_set())

    def _step(self) -> bool:
        """Step once and tell the readers; False when there was nothing to do."""
        try:
            is_busy = self._advance()
        except Exception as error:
            self._fail_all(error)
            is_busy = True
        if self.engine.in_flight != len(self._active) or self.readers.is_due():  # one has ended, or else
            self._tell()
        return is_busy

    def _advance(self) -> bool:
        promises = self.promises
        if not self._active:
            if self._is_probing and promises is not None:
                self._is_probing = False
                promises.controller.probe(self._is_wanted)
            return False
        shares = self.shares_cores
        waited_s = self._turns.enter(self) if shares else 0.0
        try:
            if promises is not None:
                promises.controller.begin(self._active, waited_s)
            faults = self.engine.faults
            is_busy = self.engine.step()
        finally:
            if shares:
                self._turns.done(self)
        if self.engine.faults > faults:  # its requests have failed, with the reason
            self._heal(self.engine.try_pass)
        elif is_busy and promises is not None:
            promises.controller.learn(self._active)
        return is_busy

    def _take_in(self) -> None:
        while self._coming:
            request = self._coming.popleft()
            self._active[request.number] = request
            try:
                if request.adapter:
                    self.adapters.require_held(request.adapter)
                self.engine.enter(request)
            except MiaotuiError as error:
                request.end("failed", error)
        if self._leaving:
            while self._leaving:
                self.engine.cancel(self._leaving.popleft())
            self._tell()  # before the next step: a reader may wait for the end
        while self._work:
            self._work.popleft().do()

    def _tell(self) -> None:
        news = [request for request in self._active.values() if request.has_news]
        for request in news:
            if request.finish_reason is not None:
                del self._active[request.number]
                if self.promises is not None:
                    self.promises.forget(request)
        if news:
            self.readers.tell(news)
            if self.adapters.leaving:
                self.adapters.release()

    def _known_cost(self) -> CostModel | None:
        return None if self.promises is None else self.promises.cost

    def _adapters_in_use(self) -> set[int]:
        return {request.adapter for request in (*self._active.values(), *self._coming)}

    def _fail_all(self, error: Exception) -> None:
        """End all requests and begin anew: the engine's state cannot be trusted."""
        self._end_all(error)
        self._heal(self.engine.reset)

    def _end_all(self, error: Exception) -> None:
        _logger().error("the engine failed and begins anew", exc_info=error)
        self.healthy = False
        fault = EngineError(f"the engine failed: {type(error).__name__}: {error}. Ask again")
        for request in self._active.values():
            request.end("failed", fault)
        self._tell()

    def _heal(self, attempt: Callable[[], None]) -> None:
        """Mark the loop unhealthy and retry ``attempt`` with pauses; submissions are rejected meanwhile."""
        self.healthy = False
        self._tell()
        for pause_s in itertools.chain(RESTARTS, itertools.repeat(RESTARTS[-1])):
            self._stop.wait(pause_s)
            if self._stop.is_set():
                return
            try:
                attempt()
            except StageLostError as lost:
                self._end_all(lost)
                attempt = self.engine.reset
            except Exception:
                _logger().exception("the engine does not run yet")
            else:
                self.healthy = True
                return


def _logger() -> logging.Logger:
    import logging  # noqa: PLC0415  (a program that answers once logs nothing)

    return logging.getLogger("miaotui.engine")
