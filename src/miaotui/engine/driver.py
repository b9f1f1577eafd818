"""An engine that several threads share: whoever waits for an answer drives it, in turns.

Owns the turns, and what becomes of requests that nobody waits for any more. Knows nothing of text
beyond what requests hold. Invariant: a request is cancelled as soon as nobody waits for it, and
everybody's requests advance together in each step.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from miaotui.backends.options import Built
from miaotui.engine.engine import Engine
from miaotui.engine.fair_lock import FairLock
from miaotui.engine.request import Request
from miaotui.engine.sigint import DeferredSigint
from miaotui.engine.speculator import Speculator
from miaotui.errors import EngineError
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import Completion, Delta, SamplingParams


@dataclass(frozen=True)
class Opened:
    """What is gone once the model is closed."""

    parts: Built
    engine: Engine


class Driver:
    """`answers` and `pieces` may be called from any thread, at once."""

    def __init__(self, parts: Built, tokenizer: Tokenizer, speculation: Speculator | None = None) -> None:
        self._opened: Opened | None = Opened(parts, Engine(parts, tokenizer, speculation))
        self._turns = FairLock()
        self._left: deque[Request] = deque()  # nobody waits for them any more

    def answers(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[Completion]:
        """Run prompts together to their ends, each with its own parameters or all with the same.

        Raises what submitting does, or what one of them failed with.
        """
        requests: list[Request] = []
        each = itertools.repeat(params) if isinstance(params, SamplingParams) else params
        try:
            for prompt, own in zip(prompts, each, strict=False):
                with DeferredSigint():  # what is submitted is known here, and will be left
                    requests.append(self._submit(prompt, own))
            for request in requests:
                while not request.is_over:
                    self._advance(request)
            return [request.completion() for request in requests]
        finally:
            self._leave(requests)

    def pieces(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[Delta]:
        """One prompt's answer as it comes; dropping the iterator cancels the request.

        Raises at once what submitting raises, later what the request failed with.
        """
        with DeferredSigint():
            pieces = self._read(self._submit(prompt, params))
            next(pieces)  # into its `try`, without which dropping it would do nothing
        return pieces

    def _read(self, request: Request) -> Iterator[Delta]:
        try:
            yield Delta("", ())
            while True:
                while not request.has_news:
                    self._advance(request)
                with self._turns:
                    delta = request.read()
                yield delta
                if delta.completion is not None:
                    return
        finally:
            self._leave([request])

    @property
    def opened(self) -> Opened:
        """The parts. Raises `EngineError` when the model is closed."""
        if self._opened is None:
            raise EngineError("this model is closed: load it again")
        return self._opened

    @contextmanager
    def turn(self) -> Iterator[Opened]:
        """The parts, for this thread alone. Raises `EngineError` when the model is closed."""
        with self._turns, DeferredSigint():
            yield self.opened
        self._sweep()

    def close(self) -> None:
        """Cancel every request and drop the parts. Closing twice does nothing."""
        with self._turns, DeferredSigint():
            if self._opened is not None:
                opened, self._opened = self._opened, None
                opened.engine.cancel_all()
                opened.parts.backend.close()

    def _submit(self, prompt: Sequence[int], params: SamplingParams) -> Request:
        self.opened.parts.backend.halt()  # whoever has the turn
        with self.turn() as opened:
            return opened.engine.submit(prompt, params)

    def _advance(self, request: Request) -> None:
        """One step of the engine, unless others' steps have ended the request meanwhile."""
        with self._turns, DeferredSigint():
            if not request.is_over and not self.opened.engine.step():
                raise EngineError(f"request {request.number} is neither running nor over: please report this")
        self._sweep()

    def _leave(self, requests: Sequence[Request]) -> None:
        """Nobody waits for these any more: cancel those that are not over.

        Python may close a generator, and so come here, at any moment: in the middle of a step, in
        the very thread that makes it. So this never waits; whoever has the turn sweeps after it.
        """
        self._left.extend(request for request in requests if not request.is_over)
        self._sweep()

    def _sweep(self) -> None:
        while self._left and self._turns.try_take():
            try:
                with DeferredSigint():
                    while self._left:
                        request = self._left.popleft()
                        if self._opened is not None:
                            self._opened.engine.cancel(request)
            finally:
                self._turns.give()
