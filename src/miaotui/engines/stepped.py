"""Requests to an engine of another maker that is stepped like ours: one thread, all requests together.

Owns the thread and the requests that run. Knows neither text nor HTTP: `RemoteLoop` makes text, stop strings and ends
of the tokens that come. Invariants: the thread alone touches the engine; every request ends once, also when a step
fails; an engine that failed is made anew.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

from miaotui.engine.abilities import ModelAbilities
from miaotui.engine.adapters import Adapters
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.engine.remote.state import NO_RATES, RemoteState
from miaotui.engine.request import Request, RequestOptions
from miaotui.engine.sampling.sampler import Choice
from miaotui.engines.estimates import EstimatedPromises
from miaotui.engines.refusals import NoAdapters, tokens_alone
from miaotui.errors import EngineError, MiaotuiError, OverloadedError, RequestError
from miaotui.schedule.promises.admission import Quote
from miaotui.types import FinishReason, SamplingParams, TokenLogprobs

LOG = logging.getLogger("miaotui.engine")
REST_S = 0.5  # between looks for the end where nothing runs, and before another attempt to make the engine


class Progress(NamedTuple):
    """New tokens of one request. ``end``: why no more come; None while more do, or there is an ``error``."""

    number: int
    tokens: Sequence[int]
    end: Literal["length", "no_room"] | None = None
    error: MiaotuiError | None = None  # that ends this request alone
    logprobs: Sequence[TokenLogprobs] = ()  # of the tokens, if they were asked for


class SteppedEngine(Protocol):
    """An engine, for one thread."""

    def add(self, number: int, prompt: Sequence[int], params: SamplingParams, most: int) -> None:
        """Begin a request of at most ``most`` tokens, whose end in the text is found elsewhere.

        Raises `RequestError` for one that it cannot do.
        """

    def step(self) -> Iterable[Progress]:
        """Compute a step of all requests and return what came."""

    def cancel(self, number: int) -> None:
        """End a request; one that has ended stays as it is."""

    def close(self) -> None:
        """Give the memory back."""


class SteppedDispatcher:
    """A `Dispatcher` over one engine. ``make`` makes it, also anew after a fault; ``name`` is for errors.

    ``abilities`` are those of its requests (None: tokens and nothing else); ``estimate`` measures an engine that was
    just made, where times are promised.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], SteppedEngine],
        width: int,
        abilities: ModelAbilities | None = None,
        estimate: Callable[[SteppedEngine], EstimatedPromises] | None = None,
    ) -> None:
        self.adapters: Adapters = NoAdapters(name)
        self.abilities = abilities or tokens_alone(name)
        self.loop: RemoteLoop | None = None
        self._name, self._make, self._width = name, make, width
        self._engine: SteppedEngine | None = make()
        self._promises = None if estimate is None else estimate(self._engine)
        self._coming: deque[tuple[Request, SamplingParams]] = deque()
        self._leaving: deque[Request] = deque()
        self._active: dict[int, Request] = {}
        self._wakeup, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"miaotui-{name.lower()}", daemon=True)
        self._thread.start()

    # from any thread -----------------------------------------------------------------------------

    @property
    def state(self) -> RemoteState:
        """Return how much runs and waits."""
        active = len(self._active)
        return RemoteState(
            engines=int(self._engine is not None),
            promises=self._promises is not None,
            rates=NO_RATES if self._promises is None else self._promises.costs.rates,
            running=min(active, self._width),
            waiting=max(active - self._width, 0) + len(self._coming),
            width=self._width,
        )

    @property
    def may_sleep(self) -> bool:
        """Return that its engine stays."""
        return False

    def dispatch(self, request: Request, params: SamplingParams, options: RequestOptions) -> None:
        """Hand a request to the thread. Raises `DeadlineUnattainableError`, `OverloadedError`."""
        if self._stop.is_set() or self._engine is None:
            raise OverloadedError("the engine is starting again or stopping: ask again in a moment", 1.0)
        if self._promises is not None:
            self._promises.take(request, options)
        self._coming.append((request, params))
        self._wakeup.set()

    def quote(self, request: Request, params: SamplingParams) -> Quote:
        """Return the prediction for a request. Raises `RequestError` where nothing is promised."""
        if self._promises is not None:
            return self._promises.quote(request)
        raise RequestError(f"{self._name} promises no times here: leave the deadline out, or use backend='cpu'")

    def cancel(self, request: Request) -> None:
        """End a request before the next step."""
        self._leaving.append(request)
        self._wakeup.set()

    def close(self) -> None:
        """End everything and wait until the thread has ended."""
        self._stop.set()
        self._wakeup.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            engine = self._engine
            if engine is None:
                self._try_again()
                continue
            try:
                self._take_in(engine)
                if self._active:
                    for progress in engine.step():
                        self._hand_out(engine, progress)
                else:
                    self._wakeup.wait(REST_S)
                    self._wakeup.clear()
            except Exception as error:
                LOG.exception("%s failed and begins anew", self._name)
                self._engine = None
                with contextlib.suppress(Exception):  # it is in no order
                    engine.close()
                self._fail_all(error)
        for request in tuple(self._active.values()):
            self._end(request, "cancelled")
        if self._engine is not None:
            self._engine.close()

    def _take_in(self, engine: SteppedEngine) -> None:
        while self._coming:
            request, params = self._coming.popleft()
            if request.is_over:
                self._forget(request, is_whole=False)
                continue
            self._active[request.number] = request
            try:
                engine.add(request.number, request.prompt, params, request.ending.max_tokens)
            except MiaotuiError as error:
                self._end(request, "failed", error)
                continue
            if self.loop is not None:
                self.loop.begin(request, request.predicted_ms or 0.0, None)
        while self._leaving:
            request = self._leaving.popleft()
            if request.number in self._active:
                engine.cancel(request.number)
            self._end(request, "cancelled")

    def _hand_out(self, engine: SteppedEngine, progress: Progress) -> None:
        """Hand over what came of one request, and end it where it has ended."""
        request = self._active.get(progress.number)
        if request is None:
            return
        if progress.tokens and self.loop is not None:
            found = itertools.chain(progress.logprobs, itertools.repeat(None))
            choices = [Choice(int(token), each) for token, each in zip(progress.tokens, found, strict=False)]
            self.loop.receive(request, choices, 1)
        if self._promises is not None:
            self._promises.note(request.number, len(progress.tokens))
        if request.is_over:  # by its text, or its limit
            engine.cancel(request.number)
            self._forget(request, is_whole=True)
        elif progress.error is not None:
            self._end(request, "failed", progress.error)
        elif progress.end == "no_room":
            full = OverloadedError(f"{self._name} has no memory for this request now: ask again", 1.0)
            self._end(request, "failed", full)
        elif progress.end is not None:
            self._end(request, progress.end)

    def _end(self, request: Request, reason: FinishReason, error: MiaotuiError | None = None) -> None:
        self._forget(request, is_whole=reason == "length")
        if self.loop is not None:
            self.loop.finish(request, reason, error)

    def _forget(self, request: Request, *, is_whole: bool) -> None:
        self._active.pop(request.number, None)
        if self._promises is not None:
            self._promises.end(request.number, is_whole=is_whole)

    def _fail_all(self, error: Exception) -> None:
        fault = EngineError(f"{self._name} failed: {type(error).__name__}: {error}. Ask again")
        for request in tuple(self._active.values()):
            self._end(request, "failed", fault)

    def _try_again(self) -> None:
        try:
            self._engine = self._make()
        except Exception:
            LOG.exception("%s does not run yet", self._name)
            self._stop.wait(REST_S)
