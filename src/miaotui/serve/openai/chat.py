"""``POST /v1/chat/completions``: a conversation in, an answer out, whole or as it comes.

Owns OpenAI's chat shapes of an answer. What formats and tools make of its text is decided in `wire.output_format`.
Invariant: the pieces of a streamed answer, joined, are the whole answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.grammar.response_format import FORMAT, STRUCTURED, read_format, read_structured
from miaotui.serve.answer import ModelAnswer
from miaotui.serve.generation import GenerationRequest, deadline_of
from miaotui.serve.http.errors import json_response
from miaotui.serve.http.json_body import ignored_fields, read_body
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.http.scope import received
from miaotui.serve.openai.chat_events import ChatWriter, identity
from miaotui.serve.openai.chat_wire import ChatChunk, ChatCompletion, ChatRequest
from miaotui.serve.openai.logprobs import chat_logprobs, vllm_logprobs
from miaotui.serve.response_cache import lookup_for
from miaotui.serve.services import services_of
from miaotui.serve.wire.chat_message import ChatShaper
from miaotui.serve.wire.conflicts import limit_of, one_form
from miaotui.serve.wire.event_stream import respond, wants_usage
from miaotui.serve.wire.params import check_choices, check_prompt_logprobs, params_for
from miaotui.serve.wire.prompts import chat_tokens, run
from miaotui.serve.wire.response_format import ReasoningOptions, form_of
from miaotui.serve.wire.usage import deadline_report, usage
from miaotui.text.tool_calls.tooling import read_tooling
from miaotui.types import Completion


def routes() -> list[Endpoint]:
    """Return the route of this module."""
    return [
        Endpoint(
            "/v1/chat/completions",
            "POST",
            create,
            "Answer a conversation",
            body=ChatRequest,
            answer=ChatCompletion,
            chunk=ChatChunk,
        )
    ]


async def create(http: HttpRequest) -> Response:
    """Answer one request."""
    body = await read_body(received(http).body, ChatRequest)
    generation = await _generation(http, body)
    headers, streams, include_usage = ignored_fields(body), body.stream, wants_usage(body)
    del body  # it may hold megabytes that the answer does not need
    if not streams:
        batch = generation.submit()
        completions = await generation.whole(batch)
        scored = generation.params[0].prompt_logprobs is not None
        size = len(generation.prompts[0]) if scored else 0
        answer = await run(size, lambda: _answer(generation, batch.answers, completions))
        return json_response(answer, headers=headers)
    return respond(generation, ChatWriter(generation, include_usage), include_usage, headers)


async def _generation(http: HttpRequest, body: ChatRequest) -> GenerationRequest:
    """Check everything about the request that can be wrong."""
    model = services_of(http).models.find(body.model)
    params = params_for(body, limit_of(body), (body.top_logprobs or 0) if body.logprobs else None, body.prompt_logprobs)
    deadline = deadline_of(http, body)
    tooling = read_tooling(model.dialect, body.tools, body.tool_choice, body.parallel_tool_calls)
    forms = {FORMAT: read_format(body.response_format), STRUCTURED: read_structured(body.structured_outputs)}
    said = [message.model_dump(exclude_unset=True) for message in body.messages]
    prompt = await chat_tokens(model, said, tooling.described, body.chat_template_kwargs)
    form = await form_of(model, tooling, *one_form(forms), ReasoningOptions.of(prompt, body))
    check_choices([prompt], len(params))
    check_prompt_logprobs(body, [prompt], params)
    formats = [body.response_format, body.structured_outputs, body.max_reasoning_tokens]
    extra = {"template": body.chat_template_kwargs, "format": formats}
    seeded, tools_named = body.seed is not None, bool(body.tools)
    lookup = lookup_for(http, model, params, said, seed_given=seeded, tools=tools_named, extra=extra)
    return GenerationRequest(http, model, [prompt], params, deadline, form, lookup)


def _answer(
    generation: GenerationRequest, answers: Sequence[ModelAnswer], completions: list[Completion]
) -> dict[str, Any]:
    choices = [_choice(generation, index, whole) for index, whole in enumerate(completions)]
    scored = {}
    if generation.params[0].prompt_logprobs is not None:
        scored["prompt_logprobs"] = vllm_logprobs(generation.model.tokenizer, completions[0].prompt_logprobs)
    return {
        **identity(generation, "chat.completion"),
        "choices": choices,
        "usage": usage(completions, generation.n, generation.reasoning_tokens(completions)),
        **scored,
        "cache": generation.cache,
        "deadline": deadline_report(answers, generation.arrived_s),
    }


def _choice(generation: GenerationRequest, index: int, whole: Completion) -> dict[str, Any]:
    shaper = None if generation.form.syntax is None else ChatShaper(generation.form.syntax)
    reason: str = whole.finish_reason
    message: dict[str, Any] = {"role": "assistant", "content": whole.text, "refusal": None}
    if shaper is not None:
        shaper.push(whole.text)
        _, reason = shaper.finish(reason)
        message |= shaper.message()
    logprobs = None
    if generation.params[0].logprobs is not None:
        logprobs = chat_logprobs(generation.model.tokenizer, whole.logprobs)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}
