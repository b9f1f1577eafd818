"""One HTTP request for generated text, between its parsed body and its answers.

Owns what all text routes share: the prompts, their parameters, the deadline, the identity of the answer, where the
answers come from, and the reports on them. Knows no wire format. Invariant: all answers of a request are on their way,
or it is refused as a whole.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest

from miaotui.engine.request import Request, RequestOptions
from miaotui.retrieval.answers.cache import CacheState
from miaotui.serve.answer import AnswerBatch, ModelAnswer
from miaotui.serve.http.stream import unless_gone
from miaotui.serve.middleware.accounting import caller_of, received
from miaotui.serve.response_cache import CacheLookup
from miaotui.serve.services import services_of
from miaotui.serve.wire.fields import SamplingFields
from miaotui.serve.wire.params import deadline_for
from miaotui.serve.wire.response_format import FREE, OutputFormat
from miaotui.served_model import ServedModel
from miaotui.types import Completion, Deadline, Delta, SamplingParams


@dataclass
class GenerationRequest:
    """Prompts and ``n`` answers to each, in the order of prompts, then of seeds."""

    http: HttpRequest
    model: ServedModel
    prompts: Sequence[Sequence[int]]
    params: Sequence[SamplingParams]  # one for each of n
    deadline: Deadline | None
    form: OutputFormat = FREE
    lookup: CacheLookup | None = None  # in the cache of answers; None: this request has no part in it
    created_s: int = field(default_factory=lambda: int(time.time()))
    token: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def n(self) -> int:
        """Number of answers to each prompt."""
        return len(self.params)

    @property
    def arrived_s(self) -> float:
        """When the request's last byte came, in `time.perf_counter` seconds."""
        return received(self.http).arrived_s

    @property
    def cache(self) -> CacheState:
        """Return whether the answer was given before."""
        return "miss" if self.lookup is None else self.lookup.state

    def submit(self) -> AnswerBatch:
        """Return the answers, found in the cache or on their way. Raises what `ServedModel.submit` raises."""
        received(self.http).drop_body()
        kept = None if self.lookup is None else self.lookup.kept_answers(self.deadline)
        if kept is not None:
            return kept
        requests = self._submit_all()
        if self.lookup is not None:
            self.lookup.keep_from(requests[0])
        return RunningAnswers(self.model, requests)

    def reasoning_tokens(self, completions: Sequence[Completion]) -> int | None:
        """Return how many tokens of these answers belong to thoughts; None: the model has none."""
        syntax = self.form.syntax
        if syntax is None or syntax.reasoning is None:
            return None
        return sum(syntax.reasoning_tokens(self.model.tokenizer, each.token_ids) for each in completions)

    def usage(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """Return OpenAI's usage of all answers; a prompt counts once."""
        prompts = completions[:: self.n]
        asked = sum(completion.prompt_tokens for completion in prompts)
        answered = sum(len(completion.token_ids) for completion in completions)
        cached = sum(completion.cached_tokens for completion in prompts)
        thought = self.reasoning_tokens(completions)
        details = {} if thought is None else {"completion_tokens_details": {"reasoning_tokens": thought}}
        return {
            "prompt_tokens": asked,
            "completion_tokens": answered,
            "total_tokens": asked + answered,
            "prompt_tokens_details": {"cached_tokens": cached},
            **details,
        }

    def deadline_report(self, answers: Sequence[ModelAnswer]) -> dict[str, Any]:
        """Return how the answers stood to the deadline; milliseconds from the request's arrival.

        ``took_ms`` is measured now, so make the report right before the answer's last bytes are handed over.
        """
        promises = [answer.promise for answer in answers]
        asked_ms = promises[0].asked_ms
        took_ms = (time.perf_counter() - self.arrived_s) * 1e3
        verdicts = [promise.met for promise in promises]
        met = None if None in verdicts else all(verdicts)
        if met and asked_ms is not None:
            met = took_ms <= asked_ms
        return {
            "asked_ms": asked_ms,
            "predicted_ms": round(max(promise.predicted_ms for promise in promises), 1),
            "took_ms": round(took_ms, 1),
            "met": met,
            "shortened": any(promise.shortened for promise in promises),
        }

    async def whole(self, batch: AnswerBatch) -> list[Completion]:
        """Return the whole answers. Raises `ClientGoneError`, with all cancelled, or what an answer failed with."""
        return await unless_gone(self.http.receive, batch.whole())

    def _submit_all(self) -> list[Request]:
        namespace = caller_of(self.http).namespace
        return self.model.submit_all(
            (prompt, params, RequestOptions(namespace, self.form.constraint(), self.deadline, self.arrived_s))
            for prompt in self.prompts
            for params in self.params
        )


class RunningAnswers:
    """Answers that a model makes now, as an `AnswerBatch`."""

    def __init__(self, model: ServedModel, requests: Sequence[Request]) -> None:
        self._model, self.answers = model, requests

    def pieces(self, silence_s: float) -> AsyncGenerator[list[tuple[int, Delta]], None]:
        """Yield pieces as `ServedModel.pieces_of` does."""
        return self._model.pieces_of(self.answers, silence_s)

    async def whole(self) -> list[Completion]:
        """Return all answers when they are whole."""
        return await self._model.whole(self.answers)

    def cancel(self) -> None:
        """Cancel what still runs."""
        self._model.leave_all(self.answers)


def deadline_of(http: HttpRequest, body: SamplingFields) -> Deadline | None:
    """Return the deadline that a request names in its body or headers, or the server's default."""
    default_ms = services_of(http).settings.deadline_ms
    return deadline_for(body.deadline_ms, body.on_late, http.headers, default_ms)
