"""A thread that steps one engine, for callers that must not wait: the server's event loop.

Owns the thread, the two boxes through which requests come in and go, and the promises it gives
(`schedule.admission`). Knows nothing of HTTP. Invariant: every submitted request ends exactly once,
also when the loop stops or the engine fails; none is taken on whose promise could not be kept.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from miaotui.engine.calibrate import calibrate
from miaotui.engine.engine import Engine
from miaotui.engine.request import Asked, Request
from miaotui.errors import EngineError, MiaotuiError, OverloadedError
from miaotui.schedule.admission import Admission, Limits, Wish
from miaotui.schedule.capacity import Capacity, capacity
from miaotui.schedule.cost import CostModel, Shape
from miaotui.schedule.forecast import Policy
from miaotui.types import SamplingParams

News = Callable[[Sequence[Request]], None]
_NOTHING_ASKED = Asked()
CHUNK_S = 0.06  # a step that reads prompts takes about so long, that answers flow beside it
RESTARTS = (0.0, 0.1, 0.5, 1.0)  # seconds before each attempt to run again after a fault


class EngineLoop:
    """`submit` and `cancel` may be called from any thread and return at once.

    ``on_news`` is called in the loop's thread, once after each step, with the requests that have
    something to `Request.read`; it must not wait.
    """

    def __init__(
        self,
        engine: Engine,
        on_news: News,
        *,
        cost: CostModel | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.engine = engine
        self.healthy = True
        self.cost = cost or CostModel(calibrate(engine.parts))
        self.policy = self._first_policy()
        self.admission = Admission(self.cost, self.policy, limits)
        self._on_news = on_news
        self._coming: deque[Request] = deque()
        self._leaving: deque[Request] = deque()
        self._active: dict[int, Request] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._step_s = 0.0  # what the next step is foreseen to take
        self._free_s: float | None = None  # since when the thread could have begun this step
        self._thread = threading.Thread(target=self._run, name="miaotui-engine", daemon=True)
        self._thread.start()

    def submit(
        self, prompt: Sequence[int], params: SamplingParams, asked: Asked = _NOTHING_ASKED
    ) -> Request:
        """A request on its way, its `Request.promise` given.

        Raises what `Engine.prepare` raises, `DeadlineUnattainableError` when it could not be done
        in its time, and `OverloadedError`.
        """
        if self._stopping:
            raise OverloadedError("the engine is stopping: ask again in a moment", 1.0)
        if not self.healthy:
            raise OverloadedError("the engine is restarting after a fault: ask again", 1.0)
        request = self.engine.prepare(prompt, params, asked.namespace, asked.constraint)
        request.deadline = asked.deadline
        if asked.arrived_s is not None:
            request.arrived_s = asked.arrived_s
        self._promise(request, params)
        self._coming.append(request)
        self._wake.set()
        return request

    def cancel(self, request: Request) -> None:
        """Nobody waits for it any more: its pages are free before the next step."""
        self._leaving.append(request)
        self._wake.set()

    def capacity(self) -> Capacity:
        """What this machine can promise when nothing else runs."""
        return capacity(self.cost, self.policy)

    def close(self) -> None:
        """Cancel what is running and end the thread. Closing twice does nothing."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _first_policy(self) -> Policy:
        config = self.engine.scheduler.config
        return Policy(config.max_sequences, min(config.chunk_size, 128))

    def _promise(self, request: Request, params: SamplingParams) -> None:
        stored = self.engine.scheduler.stored_tokens(request.prompt, request.namespace)
        wish = Wish(
            number=request.number,
            prompt=request.prompt_tokens,
            cached=stored,
            limit=request.ending.max_tokens,
            named=params.max_tokens is not None,
            deadline=request.deadline,
            arrived_s=request.arrived_s,
        )
        admitted = self.admission.admit(wish, time.perf_counter())
        request.predicted_ms, request.shortened = admitted.predicted_ms, admitted.shortened
        request.ending.max_tokens = admitted.limit
        request.on_settled = self.admission.settle

    # the engine's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self._take_in()
            if not self._step():
                self._free_s = None
                self._wake.wait()
        self._take_in()
        self.engine.cancel_all()
        self._tell()

    def _step(self) -> bool:
        """One step, and its news; False when there was nothing to do."""
        start_s = time.perf_counter()
        if self._active:
            self.admission.begin_step(start_s, self._step_s, self.policy)
        try:
            busy = self.engine.step()
        except Exception as error:
            self._fail_all(error)
            busy = True
        else:
            if busy:
                self._learn(start_s if self._free_s is None else self._free_s)
        self._tell()
        return busy

    def _learn(self, since_s: float) -> None:
        """Note what the step took and what it brought; news and arrivals before it count in."""
        chunks = self.engine.latest.chunks
        now_s = time.perf_counter()
        self._free_s = now_s
        shape = Shape.of(chunks)
        self.cost.observe(shape, now_s - since_s)
        self._step_s = self.cost.seconds(shape.rows, shape.logits, shape.attended)
        progress = []
        for chunk in chunks:
            request = self._active.get(chunk.sequence)
            if request is not None and not request.is_over:
                computed, known = self.engine.scheduler.progress(chunk.sequence)
                answered = len(request.token_ids)
                left = known - computed
                progress.append(
                    (chunk.sequence, left if left > 1 or not answered else 0, computed, answered)
                )
        self.admission.update(progress, now_s)

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
            if request.is_over:
                self._forget(request)
        if news:
            self._on_news(news)

    def _forget(self, request: Request) -> None:
        del self._active[request.number]
        self.admission.leave(request.number)
        if request.finish_reason == "stop":
            self.admission.lengths.note(len(request.token_ids))

    def _fail_all(self, error: Exception) -> None:
        """The engine's state cannot be trusted: end what it had, and begin anew."""
        self.healthy = False
        fault = EngineError(f"the engine failed: {type(error).__name__}: {error}. Ask again")
        for request in self._active.values():
            request.end("failed", fault)
        self._tell()
        for pause_s in RESTARTS:
            time.sleep(pause_s)
            try:
                self.engine.reset()
            except Exception:  # noqa: S112  the next attempt, or red health, tells
                continue
            self.healthy = True
            return
