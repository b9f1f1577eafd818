"""Continuous batching in three calls: plan which rows, run them, commit what was chosen.

Owns the requests in flight. Not safe for several threads at once: whoever holds it steps it. Invariant: every submitted
request ends exactly once, and its answer does not depend on what ran beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.engine.request import Request
from miaotui.engine.runner import Runner
from miaotui.engine.sampler import SequenceSampler, end_ids
from miaotui.engine.stopping import Ending
from miaotui.errors import EngineError, MiaotuiError, PromptTooLongError, RequestError
from miaotui.schedule.plan import Plan
from miaotui.schedule.scheduler import Scheduler
from miaotui.text.tokenizer import Tokenizer
from miaotui.types import SamplingParams


class Engine:
    """Runs many requests together. `submit`, then `step` until nothing is left; `cancel` at any time between."""

    def __init__(
        self, runner: Runner, scheduler: Scheduler, tokenizer: Tokenizer, context: int
    ) -> None:
        self.runner, self.scheduler, self.tokenizer = runner, scheduler, tokenizer
        self.context = context
        self._vocab_size = runner.program.config.vocab_size
        self._requests: dict[int, Request] = {}
        self._number = 0

    def submit(self, prompt: Sequence[int], params: SamplingParams, namespace: int = 0) -> Request:
        """Queue a request; prefixes are reused within a ``namespace`` only.

        Raises `PromptTooLongError`, or `RequestError` for tokens that the model does not have.
        """
        self._check(prompt)
        room = self.context - len(prompt)
        limit = min(params.max_tokens or room, room)
        ends = end_ids(params, self.tokenizer.eos_ids, self._vocab_size)
        sampler = SequenceSampler(params, prompt, self.tokenizer.eos_ids, self._vocab_size)
        request = Request(
            self._number,
            prompt,
            sampler,
            Ending(params, ends, limit, self.tokenizer.stream(start=True)),
        )
        self.scheduler.add(request.number, prompt, limit, namespace)
        self._number += 1
        self._requests[request.number] = request
        return request

    def _check(self, prompt: Sequence[int]) -> None:
        if not prompt:
            raise RequestError("the prompt has no tokens: give at least one")
        if len(prompt) >= self.context:
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} tokens and the context holds {self.context}, the answer included: "
                "shorten the prompt, or load the model with a larger context"
            )
        low, high = min(prompt), max(prompt)
        if low < 0 or high >= self._vocab_size:
            wrong = low if low < 0 else high
            raise RequestError(
                f"the prompt holds token id {wrong}, and this model's ids go from 0 to {self._vocab_size - 1}"
            )

    def step(self, drafts: Mapping[int, Sequence[int]] | None = None) -> bool:
        """Advance every running request by one pass; False when there was nothing to do.

        A fault in the pass fails the requests it touched, with the reason, and leaves the others.
        """
        plan = self.scheduler.plan(drafts or {})
        if not plan.chunks:
            return False
        try:
            logits = self.runner.run(plan.chunks)
        except Exception as error:
            self._fail(plan, error)
            return True
        self.scheduler.commit(plan, self._choose(plan, logits))
        for chunk in plan.chunks:
            self._retire(chunk.sequence)
        return True

    def _choose(self, plan: Plan, logits: NDArray[np.float32]) -> dict[int, list[int]]:
        """The tokens each sequence gets, from its rows of the logits."""
        chosen, row = {}, 0
        for chunk in plan.chunks:
            rows = logits[row : row + chunk.n_logits]
            row += chunk.n_logits
            request = self._requests.get(chunk.sequence)
            if request is None or not chunk.n_logits:
                continue
            request.cached_tokens = self.scheduler.cached_tokens(chunk.sequence)
            try:
                chosen[chunk.sequence] = request.take(
                    rows, chunk.tokens[len(chunk.tokens) - len(rows) + 1 :]
                )
            except MiaotuiError as error:
                self._drop(request, error)
        return chosen

    def _retire(self, number: int) -> None:
        request = self._requests.get(number)
        if request is not None and request.is_over:
            self.scheduler.cancel(number)
            del self._requests[number]

    def _fail(self, plan: Plan, error: Exception) -> None:
        for chunk in plan.chunks:
            request = self._requests.get(chunk.sequence)
            if request is not None:
                self._drop(
                    request, EngineError(f"request {request.number} failed in a pass: {error!r}")
                )

    def _drop(self, request: Request, error: MiaotuiError) -> None:
        self.scheduler.cancel(request.number)
        self._requests.pop(request.number, None)
        request.end("failed", error)

    def cancel(self, request: Request) -> None:
        """End a request now; its pages are free when this returns. Nothing happens if it has ended."""
        self.scheduler.cancel(request.number)
        self._requests.pop(request.number, None)
        request.end("cancelled")

    def cancel_all(self) -> None:
        """End every request now."""
        for request in list(self._requests.values()):
            self.cancel(request)

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)
