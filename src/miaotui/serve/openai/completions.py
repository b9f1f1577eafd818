"""``POST /v1/completions``: texts or token ids in, what follows them out, whole or as it comes.

Owns OpenAI's text shapes of an answer. Knows nothing of conversations. Invariant: the pieces of a
streamed answer, joined, are the whole answer; with ``echo`` both begin with the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from json.encoder import encode_basestring as quoted
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.grammar.response_format import STRUCTURED, read_structured
from miaotui.errors import PromptTooLongError
from miaotui.serve.answer import ModelAnswer
from miaotui.serve.generation import GenerationRequest, deadline_of, respond, text_tokens
from miaotui.serve.http.bodies import event, ignored_fields, json_response, json_text, read_body, run
from miaotui.serve.http.errors import bad_value, context_exceeded
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.openai.completions_wire import CompletionRequest, TextCompletion
from miaotui.serve.openai.logprobs import TextLogprobs, joined, vllm_logprobs
from miaotui.serve.response_cache import lookup_for
from miaotui.serve.seq2seq.completions import complete
from miaotui.serve.wire.fields import Json
from miaotui.serve.wire.infilling import ending_with, infiller_for
from miaotui.serve.wire.params import check_choices, check_prompt_logprobs, params_for, wants_usage
from miaotui.serve.wire.response_format import form_of
from miaotui.served_model import ServedModel
from miaotui.text.infill import Infiller
from miaotui.text.tool_calls.tooling import Tooling
from miaotui.types import Completion, Delta

DEFAULT_MAX_TOKENS = 16  # OpenAI's


def routes() -> list[Endpoint]:
    """Return the route of this module."""
    return [
        Endpoint(
            "/v1/completions",
            "POST",
            create,
            "Continue texts",
            body=CompletionRequest,
            answer=TextCompletion,
            chunk=TextCompletion,
        )
    ]


async def create(http: HttpRequest) -> Response:
    """Answer one request."""
    body = await read_body(received(http).body, CompletionRequest)
    services = services_of(http)
    target = services.seq2seq.named(body.model, instead=not services.models)
    if target is not None:
        return await complete(http, target, body)
    model = services.models.find(body.model, body.quality)
    limit = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    params = params_for(body, limit, body.logprobs, _prompt_logprobs(body))
    infiller = _infiller(model, body) if body.suffix else None
    if infiller is not None:
        params = ending_with(infiller, params)
    deadline = deadline_of(http, body, model)
    check_choices(body.prompt, len(params))
    prompts = [await _tokens(model, prompt, body, infiller) for prompt in body.prompt]
    longest = max(map(len, prompts))
    if longest + min(limit, 1) > model.context:
        text = f"the prompt has {longest} tokens, and the context holds {model.context}, the answer"
        raise context_exceeded("prompt", f"{text} included: shorten it")
    check_prompt_logprobs(body, prompts, params)
    shape = read_structured(body.structured_outputs)
    form = await form_of(model, Tooling(model.dialect), shape, STRUCTURED)
    lookup = None
    if len(prompts) == 1:
        said = [{"role": "prompt", "content": prompts[0]}]
        extra = {"kind": "text", "format": body.structured_outputs, **({"suffix": body.suffix} if infiller else {})}
        seeded = body.seed is not None
        lookup = lookup_for(http, model, params, said, seed_given=seeded, tools=False, extra=extra)
    generation = GenerationRequest(http, model, prompts, params, deadline, form, lookup)
    echoes = [await _text(model, prompt) if body.echo else None for prompt in body.prompt]
    headers, streams, include_usage = ignored_fields(body), body.stream, wants_usage(body)
    shows_prompt = body.prompt_logprobs is not None
    del body  # it may hold megabytes that the answer does not need
    if not streams:
        batch = generation.submit()
        completions = await generation.whole(batch)
        size = sum(len(prompt) for prompt in prompts) if params[0].prompt_logprobs is not None else 0
        answer = await run(
            size, lambda: _answer(generation, batch.answers, completions, echoes, shows_prompt=shows_prompt)
        )
        return json_response(answer, headers=headers)
    return respond(generation, TextWriter(generation, echoes, include_usage), include_usage, headers)


def _infiller(model: ServedModel, body: CompletionRequest) -> Infiller:
    """Return what makes prompts that end before the suffix. Raises `ApiError` (400)."""
    infiller = infiller_for(model)
    if not all(isinstance(prompt, str) for prompt in body.prompt):
        raise bad_value("prompt", "must be text where there is a suffix: token ids are taken as they are")
    for field, given in (("echo", body.echo), ("prompt_logprobs", body.prompt_logprobs is not None)):
        if given:
            raise bad_value(field, "does not go with suffix: leave one of them out")
    return infiller


def _prompt_logprobs(body: CompletionRequest) -> int | None:
    """Return how many alternatives to score for each prompt token; None: the prompt need not be scored."""
    asked = [body.prompt_logprobs, body.logprobs if body.echo else None]
    if body.echo and body.max_tokens == 0:
        asked.append(0)  # nothing but the prompt is wanted
    return max((number for number in asked if number is not None), default=None)


async def _tokens(
    model: ServedModel, prompt: str | list[int], body: CompletionRequest, infiller: Infiller | None
) -> list[int]:
    if not isinstance(prompt, str):
        return prompt
    suffix = body.suffix or ""
    try:
        if infiller is None:
            return await text_tokens(model, prompt, body.parse_special)
        encode = partial(infiller.encode, prompt, suffix, at_most=model.context)
        return await run(len(prompt) + len(suffix), encode)
    except PromptTooLongError as error:
        raise context_exceeded("prompt", str(error)) from None


async def _text(model: ServedModel, prompt: str | list[int]) -> str:
    if isinstance(prompt, str):
        return prompt
    return await run(len(prompt), lambda: model.tokenizer.decode(prompt, skip_special=False))


def _answer(
    generation: GenerationRequest,
    answers: Sequence[ModelAnswer],
    completions: list[Completion],
    echoes: Sequence[str | None],
    *,
    shows_prompt: bool,
) -> dict[str, Any]:
    tokenizer, choices = generation.model.tokenizer, []
    for index, whole in enumerate(completions):
        echo, prompt = echoes[index // generation.n], generation.prompts[index // generation.n]
        choice = {
            "index": index,
            "text": (echo or "") + whole.text,
            "logprobs": _logprobs(generation, whole, echo, prompt),
            "finish_reason": whole.finish_reason,
        }
        if shows_prompt:
            choice["prompt_logprobs"] = vllm_logprobs(tokenizer, whole.prompt_logprobs)
        choices.append(choice)
    return {
        **identity(generation),
        "choices": choices,
        "usage": generation.usage(completions),
        "cache": generation.cache,
        "deadline": generation.deadline_report(answers),
    }


def _logprobs(
    generation: GenerationRequest, whole: Completion, echo: str | None, prompt: Sequence[int]
) -> dict[str, list[Any]] | None:
    """Return the choice's log-probabilities, those of its prompt first if that is repeated; None: not asked for."""
    top = generation.params[0].logprobs
    if top is None:
        return None
    writer = TextLogprobs(generation.model.tokenizer, top, echo or "")
    answer = writer.answer(whole.logprobs)
    return answer if echo is None else joined(writer.prompt(prompt, whole.prompt_logprobs), answer)


def identity(generation: GenerationRequest) -> dict[str, Any]:
    """Return the members that a text answer and all its chunks begin with."""
    return {
        "id": f"cmpl-{generation.token}",
        "object": "text_completion",
        "created": generation.created_s,
        "model": generation.model.name,
        "system_fingerprint": generation.model.fingerprint,
    }


class TextWriter:
    """Writes the events of one request, see `event_stream.EventWriter`.

    ``echoes`` are the texts of its prompts, each repeated in the first piece of its answers; None: not repeated.
    """

    def __init__(self, generation: GenerationRequest, echoes: Sequence[str | None], include_usage: bool) -> None:
        self._generation = generation
        self._head = event({**identity(generation), "choices": []}).removesuffix("]}\n\n") + '{"index":'
        self._usage = ',"usage":null' if include_usage else ""
        top, tokenizer, n = generation.params[0].logprobs, generation.model.tokenizer, generation.n
        self._echoes = [echo for echo in echoes for _ in range(n)]  # of each choice; None once it is written
        self._logprobs = None if top is None else [TextLogprobs(tokenizer, top, echo or "") for echo in self._echoes]

    def piece(self, index: int, delta: Delta, deadline: Json | None) -> str:
        """Return one event, or none if there is no text yet."""
        echo, self._echoes[index] = self._echoes[index], None
        text = (echo or "") + delta.text
        shape = None
        if self._logprobs is not None:
            shape = self._shape(self._logprobs[index], index, delta, echoed=echo is not None)
        if not (text or delta.finish_reason or shape):
            return ""
        logprobs = "null" if shape is None else json_text(shape)
        return self._chunk(index, text, logprobs, delta.finish_reason, deadline)

    def _shape(self, writer: TextLogprobs, index: int, delta: Delta, *, echoed: bool) -> Json | None:
        """Return the piece's log-probabilities, behind those of its prompt where that is repeated in it."""
        shape = writer.answer(delta.logprobs) if delta.logprobs else None
        if not (echoed and delta.prompt_logprobs):
            return shape
        prompt = writer.prompt(self._generation.prompts[index // self._generation.n], delta.prompt_logprobs)
        return prompt if shape is None else joined(prompt, shape)

    def identity(self) -> Json:
        """Return the members that every chunk begins with."""
        return identity(self._generation)

    def _chunk(
        self, index: int, text: str, logprobs: str = "null", reason: str | None = None, deadline: Json | None = None
    ) -> str:
        end = "null" if reason is None else quoted(reason)
        more = ""
        if deadline is not None:
            more = f',"cache":"{self._generation.cache}","deadline":{json_text(deadline)}'
        return (
            f'{self._head}{index},"text":{quoted(text)},"logprobs":{logprobs},'
            f'"finish_reason":{end}}}]{self._usage}{more}}}\n\n'
        )
