"""A loop whose engines run in other processes: what a server needs of an `EngineLoop`, without a pass.

Owns the requests of this process: they are checked here, their tokens come in by `receive`, and their text, stop
strings and ends are made here as for an engine in this process. Knows no process and no network; a `Dispatcher` does.
Invariants: every submitted request ends exactly once; nothing that needs the model's arithmetic here is imitated, but
refused by name.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from miaotui.engine.abilities import ModelAbilities
from miaotui.engine.adapters import Adapters
from miaotui.engine.engine import RequestPreparation
from miaotui.engine.reading.readers import Readers, ReadLoop
from miaotui.engine.remote.state import RemoteAdmission, RemoteMachines, RemoteScheduler, RemoteState
from miaotui.engine.request import Request, RequestOptions
from miaotui.engine.sampling.sampler import Choice
from miaotui.errors import DeadlineUnattainableError, MiaotuiError, OverloadedError, RefusedError, RequestError
from miaotui.model.config import ModelConfig
from miaotui.schedule.plan import NO_LIMITS
from miaotui.schedule.promises.admission import AdmissionLimits, Quote
from miaotui.schedule.promises.capacity import Capacity, capacity
from miaotui.schedule.promises.cost import CostModel
from miaotui.schedule.promises.forecast import SchedulingPolicy
from miaotui.text.chat import ChatEncoder, ChatTemplate
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import FinishReason, SamplingParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PLANNED = 0.8  # share of a deadline that a prompt's budget plans with

_NO_OPTIONS = RequestOptions()


class Dispatcher(Protocol):
    """Sender of requests to engines elsewhere; any thread may call it, and nothing here waits."""

    @property
    def abilities(self) -> ModelAbilities:
        """Return what requests to the engines can have."""

    @property
    def adapters(self) -> Adapters:
        """Return the adapters of the engines."""

    @property
    def state(self) -> RemoteState:
        """Return the state of the engines."""

    @property
    def may_sleep(self) -> bool:
        """Return whether there may be no engine until a request comes."""

    def dispatch(self, request: Request, params: SamplingParams, options: RequestOptions) -> None:
        """Send a request on its way. Raises `RefusedError` at once where no engine can keep its deadline."""

    def quote(self, request: Request, params: SamplingParams) -> Quote:
        """Return the prediction for a request that is not sent."""

    def cancel(self, request: Request) -> None:
        """End a request early, soon."""

    def close(self) -> None:
        """End everything and wait until it has ended."""


@dataclass(frozen=True)
class RemoteModel:
    """The parts of a model that belong to its text, and the digest of its files."""

    path: Path
    digest: str
    config: ModelConfig
    tokenizer: Tokenizer
    chat: ChatEncoder
    context: int

    @property
    def template(self) -> ChatTemplate:
        """Return the model's chat template."""
        return self.chat.template

    def identity(self, engine: str) -> str:
        """Return a digest of the model's files and of ``engine``."""
        return f"{self.digest}-{engine}"


class RemoteLoop(ReadLoop):
    """One model that runs elsewhere (see `ModelLoop`)."""

    def __init__(self, model: RemoteModel, preparation: RequestPreparation, dispatcher: Dispatcher) -> None:
        super().__init__(Readers())
        self.model = model
        self.admission = RemoteAdmission()
        self.adapters = dispatcher.adapters
        self.shares_cores = False
        self.engine = _RemoteEngine(preparation, dispatcher)
        self.promises = self
        self._dispatcher = dispatcher
        self._active: dict[int, Request] = {}
        self._lock = threading.Lock()
        self._cost = CostModel(dispatcher.state.rates)
        self._known = dispatcher.state

    # from any thread -----------------------------------------------------------------------------

    @property
    def abilities(self) -> ModelAbilities:
        """Return what requests to the engines can have."""
        return self._dispatcher.abilities

    @property
    def can_promise(self) -> bool:
        """Return whether the engines can promise deadlines."""
        return self.abilities.promises != "none"

    def submit(self, prompt: Sequence[int], params: SamplingParams, options: RequestOptions = _NO_OPTIONS) -> Request:
        """Take a request on, see `EngineLoop.submit`.

        Raises `RequestError`, `DeadlineUnattainableError` where no engine could do it in its time, and
        `OverloadedError`.
        """
        self.abilities.require(params, options)
        request = self.engine.prepare(prompt, params, options.namespace, options.constraint, options.begun)
        if options.adapter is not None:
            request.adapter = self.adapters.number_of(options.adapter)
        request.follow(options)
        with self._lock:
            self._active[request.number] = request
        try:
            self._require_room()
            self._dispatcher.dispatch(request, params, options)
        except RefusedError as error:
            self._forget(request)
            self._refused(error)
            raise
        except BaseException:
            self._forget(request)
            raise
        request.settled_listeners.append(self.admission.settle)
        self.expect_reader(request)
        return request

    def _require_room(self) -> None:
        limit = self.admission.limits.requests
        if len(self._active) > limit:
            raise OverloadedError(f"{limit} requests are waiting or running: ask again later", 1.0)

    def _refused(self, error: RefusedError) -> None:
        counts = self.admission.counts
        if isinstance(error, DeadlineUnattainableError):
            counts.refused += 1
        else:
            counts.overloaded += 1
        if self.observer is not None:
            self.observer.refused(error)

    def cancel(self, request: Request) -> None:
        """End a request early, soon."""
        self._dispatcher.cancel(request)

    def holds(self, request: Request) -> bool:
        """Return whether a request that was taken in has not ended."""
        return request.number in self._active

    def quote(self, request: Request, *, is_length_named: bool) -> Quote:
        """Return the prediction for a request that is not run, see `Promises.quote`."""
        length = request.ending.max_tokens if is_length_named else None
        return self._dispatcher.quote(request, SamplingParams(max_tokens=length))

    def calibrate(self, cost: CostModel | None = None, limits: AdmissionLimits | None = None) -> None:
        """Bound what may be under way by ``limits``; the engines measure their own costs."""
        if limits is not None:
            self.admission.limits = limits

    @property
    def healthy(self) -> bool:
        """Return whether an engine takes requests, or is started by one."""
        state = self._dispatcher.state
        return state.engines > 0 or state.asleep

    @property
    def may_sleep(self) -> bool:
        """Return whether there may be no engine until a request comes."""
        return self._dispatcher.may_sleep

    @property
    def cost(self) -> CostModel:
        """Return the times of passes as an engine has published them."""
        state = self._dispatcher.state
        if state is not self._known:
            if state.rates != self._known.rates:
                self._cost = CostModel(state.rates)
            self._known = state
            self._cost.pace = state.pace
        return self._cost

    def capacity(self) -> Capacity:
        """Return the answers that one engine can promise when nothing else runs."""
        state = self._dispatcher.state
        return capacity(self.cost, SchedulingPolicy(max(state.width, 1), max(state.chunk_rows, 1)))

    def prompt_budget(self, deadline_ms: float, answer_tokens: int) -> int:
        """Return tokens of a prompt that can be read with time left for an answer; at most half the context."""
        cost, rows = self.cost, 128
        left_s = PLANNED * deadline_ms / 1e3 / cost.margin - answer_tokens * cost.token_s(1, 1, 2 * rows)
        budget = max(0, int(left_s / cost.seconds(rows, 0, rows * rows) * rows))
        return min(budget, self.model.context // 2)

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._active)

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Raise `RequestError`: there is no engine here."""
        raise RequestError("this model runs in other processes: load it with miaotui.load for work on its logits")

    def close(self) -> None:
        """End what is running, and the way to the engines. Closing twice does nothing."""
        self._dispatcher.close()
        for request in tuple(self._active.values()):
            self.finish(request, "cancelled")

    # from the dispatcher's thread ----------------------------------------------------------------

    def begin(self, request: Request, predicted_ms: float, max_tokens: int | None) -> None:
        """Note that an engine has taken the request on; ``max_tokens``: it shortened the answer to so many."""
        request.timeline.begin()
        request.predicted_ms = predicted_ms
        if max_tokens is not None:
            request.shorten(max_tokens)

    def receive(self, request: Request, choices: Sequence[Choice], passes: int) -> None:
        """Take tokens in that an engine has chosen; the request ends with them where its answer does."""
        if request.is_over:
            return
        request.receive(choices, passes)
        if request.is_over:
            self._forget(request)
        self._tell(request)

    def finish(self, request: Request, reason: FinishReason, error: MiaotuiError | None = None) -> None:
        """End a request from outside; one that has ended stays as it is."""
        if isinstance(error, RefusedError) and not request.is_over:
            self._refused(error)
        request.end(reason, error)
        self._forget(request)
        self._tell(request)

    def _forget(self, request: Request) -> None:
        with self._lock:
            self._active.pop(request.number, None)

    def _tell(self, request: Request) -> None:
        """Wake readers: of this request, and of others whose news could wait."""
        with self._lock:
            others = [each for each in self._active.values() if each.has_news and each is not request]
        self.readers.tell([request, *others])


class _RemoteEngine:
    """The numbers of engines elsewhere, under the names of `Engine`."""

    speculation = None
    limits = NO_LIMITS
    pass_s = 0.0  # no pass runs here

    def __init__(self, preparation: RequestPreparation, dispatcher: Dispatcher) -> None:
        self.prepare, self._dispatcher = preparation.prepare, dispatcher
        self.tokenizer, self.context = preparation.tokenizer, preparation.context

    @property
    def backend(self) -> RemoteMachines:
        """Return the machines."""
        return RemoteMachines(self._dispatcher.state, self._dispatcher.abilities)

    @property
    def scheduler(self) -> RemoteScheduler:
        """Return the schedules."""
        return RemoteScheduler(self._dispatcher.state)
