"""One HTTP request for generated text, between its parsed body and its answers, whole or streamed.

Owns what all text routes share: the prompts as token ids, their parameters, the deadline, the identity of the answer,
where the answers come from, the reports on them, and the order of a stream's events (pieces, one end for each answer,
usage if asked for, [DONE]). Knows no wire format; an `EventWriter` does. Invariants: a prompt that cannot fit the
model's context is refused before it is cut into tokens; all answers of a request are on their way, or it is refused as
a whole; all that a step brought goes out in one write, and the deadline is in the last event.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request as HttpRequest

from miaotui.engine.constraint import Constraint
from miaotui.engine.request import Request, RequestOptions
from miaotui.errors import RequestError
from miaotui.retrieval.answers.cache import CacheState
from miaotui.serve.answer import AnswerBatch, ModelAnswer
from miaotui.serve.http.bodies import DONE, Events, EventStream, event, run, unless_gone
from miaotui.serve.middleware.access import caller_of, received, services_of
from miaotui.serve.response_cache import CacheLookup
from miaotui.serve.wire.fields import Json, PromiseFields
from miaotui.serve.wire.params import deadline_for
from miaotui.served_model import ServedModel
from miaotui.text.answers import AnswerSyntax
from miaotui.types import Completion, Deadline, Delta, SamplingParams

_RESERVED = frozenset({"self", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})


@dataclass(frozen=True)
class OutputFormat:
    """Maker of the constraint of one answer, and its syntax. ``syntax`` None: the answer is text alone."""

    constraint: Callable[[], Constraint | None] = lambda: None
    syntax: AnswerSyntax | None = None


FREE = OutputFormat()


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
    begun: Sequence[int] = ()  # tokens of the answer that are known already
    explains: bool = False  # whether to note who proposed each token
    created_s: int = field(default_factory=lambda: int(time.time()))
    token: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def n(self) -> int:
        """Return the number of answers to each prompt."""
        return len(self.params)

    @property
    def arrived_s(self) -> float:
        """Return when the request's last byte came, in `time.perf_counter` seconds."""
        return received(self.http).arrived_s

    @property
    def cache(self) -> CacheState:
        """Return whether the answer was given before."""
        return "miss" if self.lookup is None else self.lookup.state

    @property
    def tier(self) -> str | None:
        """Return the model that answers, of several behind the request's name; None for one model."""
        kept = None if self.lookup is None else self.lookup.tier
        return self.model.tier and (kept or self.model.tier)

    def submit(self) -> AnswerBatch:
        """Return the answers, found in the cache or on their way. Raises what `ServedModel.submit` raises."""
        received(self.http).drop_body()
        kept = None if self.lookup is None else self.lookup.kept_answers(self.deadline)
        if kept is not None:
            return kept
        requests = self._submit_all()
        if self.lookup is not None:
            self.lookup.keep_from(requests[0], self.model)
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
            **({} if self.tier is None else {"tier": self.tier}),
        }

    async def whole(self, batch: AnswerBatch) -> list[Completion]:
        """Return the whole answers. Raises `ClientGoneError`, with all cancelled, or what an answer failed with."""
        return await unless_gone(self.http.receive, batch.whole())

    def options(self) -> RequestOptions:
        """Return the options of one answer; each has a constraint of its own."""
        return RequestOptions(
            caller_of(self.http).namespace,
            self.form.constraint(),
            self.deadline,
            self.arrived_s,
            begun=self.begun,
            explains=self.explains,
        )

    def _submit_all(self) -> list[Request]:
        return self.model.submit_all(
            (prompt, params, self.options()) for prompt in self.prompts for params in self.params
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


def deadline_of(http: HttpRequest, body: PromiseFields, model: ServedModel | None = None) -> Deadline | None:
    """Return the deadline that a request names in its body or headers, or the server's default.

    The default is for models that can promise: others have none unless the request names one, which they refuse.
    """
    default_ms = services_of(http).settings.deadline_ms if model is None or model.loop.can_promise else None
    return deadline_for(body.deadline_ms, body.on_late, http.headers, default_ms)


async def chat_tokens(
    model: ServedModel,
    messages: Sequence[Json],
    tools: Sequence[Json] | None = None,
    options: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = True,
    begun: str = "",
) -> list[int]:
    """Return a conversation as token ids, ready for the assistant's turn.

    ``options`` are names that the chat template knows; ``begun`` is how the answer begins.
    Raises `RequestError`, `TemplateError` and `PromptTooLongError`.
    """
    extra = dict(options or {})
    wrong = [name for name in extra if name in _RESERVED or not name.isidentifier()]
    if wrong:
        raise RequestError(f"chat_template_kwargs must not hold {wrong[0][:64]!r}")

    def work() -> list[int]:
        return model.chat.encode(
            messages,
            tools,
            options=extra,
            add_generation_prompt=add_generation_prompt,
            begun=begun,
            at_most=model.context,
        )

    return await run(_size(messages) + (_size(tools) if tools else 0), work)


async def text_tokens(model: ServedModel, text: str, special: bool = True, whole: bool = True) -> list[int]:
    """Return a text as token ids. Raises `RequestError` and `PromptTooLongError`."""
    return await run(len(text), lambda: model.tokenizer.encode(text, special, whole=whole, at_most=model.context))


def _size(value: Any) -> int:
    """Return about how many characters of text are in a JSON value; the body's depth is bounded."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if isinstance(value, Sequence):
        return sum(map(_size, value))
    return 0


class EventWriter(Protocol):
    """Writes the events of one HTTP request."""

    def piece(self, index: int, delta: Delta, deadline: Json | None) -> str:
        """Return the events of a piece of answer ``index``; none if there is nothing to show yet.

        ``deadline`` is the report for the very last one.
        """

    def identity(self) -> Json:
        """Return what all events of the request have in common."""


def respond(
    generation: GenerationRequest, writer: EventWriter, include_usage: bool, headers: Mapping[str, str]
) -> EventStream:
    """Return the response that streams the answers."""
    ping_s = services_of(generation.http).settings.ping_s
    return EventStream(_events(generation, writer, include_usage, ping_s), ping_s, headers)


async def _events(generation: GenerationRequest, writer: EventWriter, include_usage: bool, ping_s: float) -> Events:
    batch = generation.submit()
    answers = batch.answers
    wholes: dict[int, Completion] = {}
    text = ""
    async with aclosing(batch.pieces(ping_s)) as steps:
        async for step in steps:
            for index, delta in step:
                report = None
                if delta.completion is not None:
                    wholes[index] = delta.completion
                    if len(wholes) == len(answers) and not include_usage:
                        report = generation.deadline_report(answers)
                text += writer.piece(index, delta, report)
            if len(wholes) == len(answers):
                if include_usage:
                    text += _last(generation, writer, answers, [wholes[i] for i in sorted(wholes)])
                text += DONE
            if step:
                yield text
                text = ""
            else:
                yield ""


def _last(
    generation: GenerationRequest, writer: EventWriter, answers: Sequence[ModelAnswer], wholes: Sequence[Completion]
) -> str:
    """Return the event with the usage, which has no choices."""
    return event(
        {
            **writer.identity(),
            "choices": [],
            "usage": generation.usage(wholes),
            "cache": generation.cache,
            "deadline": generation.deadline_report(answers),
        }
    )
