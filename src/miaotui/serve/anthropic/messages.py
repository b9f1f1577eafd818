"""``POST /v1/messages`` and ``/v1/messages/count_tokens``: Anthropic's way to ask.

Owns the two routes. What blocks and events look like is decided in the modules beside it.
Invariant: the same question is the same prompt here and on OpenAI's routes. Source: Anthropic's API
reference, "Messages".
"""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.grammar.response_format import STRUCTURED, read_structured
from miaotui.serve.anthropic.events import events, whole_message
from miaotui.serve.anthropic.prompt import read_messages, read_thinking, read_tools
from miaotui.serve.anthropic.wire import (
    AnthropicMessage,
    Count,
    CountRequest,
    MessageEvent,
    MessagesBody,
    MessagesRequest,
)
from miaotui.serve.generation import GenerationRequest, chat_tokens, deadline_of
from miaotui.serve.http.bodies import EventStream, ignored_fields, json_response, read_body
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.response_cache import CacheLookup, lookup_for
from miaotui.serve.wire.params import one_form, params_for
from miaotui.serve.wire.response_format import ReasoningOptions, form_of, read_output_config
from miaotui.served_model import ServedModel
from miaotui.text.tool_calls.tooling import Tooling
from miaotui.types import SamplingParams


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint(
            "/v1/messages",
            "POST",
            create,
            "Answer a conversation, in Anthropic's form",
            body=MessagesRequest,
            answer=AnthropicMessage,
            chunk=MessageEvent,
        ),
        Endpoint(
            "/v1/messages/count_tokens",
            "POST",
            count_tokens,
            "Count a conversation's tokens",
            body=CountRequest,
            answer=Count,
        ),
    ]


async def create(http: HttpRequest) -> Response:
    """Answer one request."""
    body = await read_body(received(http).body, MessagesRequest)
    model = services_of(http).models.find(body.model, body.quality)
    tooling = read_tools(model.dialect, body)
    params = params_for(body, body.max_tokens, None)
    deadline = deadline_of(http, body, model)
    forms = {
        "output_config": read_output_config(body.output_config),
        STRUCTURED: read_structured(body.structured_outputs),
    }
    prompt = await _prompt(model, tooling, body)
    reasoning = ReasoningOptions.of(prompt, body, read_thinking(body)[1])
    form = await form_of(model, tooling, *one_form(forms), reasoning)
    lookup = _lookup(http, model, params, body)
    generation = GenerationRequest(http, model, [prompt], params, deadline, form, lookup)
    headers = {**ignored_fields(body), "request-id": received(http).request_id}
    if body.stream:
        ping_s = services_of(http).settings.ping_s
        return EventStream(events(generation, ping_s), ping_s, headers)
    batch = generation.submit()
    (completion,) = await generation.whole(batch)
    return json_response(whole_message(generation, batch.answers[0], completion), headers=headers)


async def count_tokens(http: HttpRequest) -> Response:
    """Answer with the length of the prompt that `create` would make."""
    body = await read_body(received(http).body, CountRequest)
    model = services_of(http).models.find(body.model)
    prompt = await _prompt(model, read_tools(model.dialect, body), body)
    return json_response({"input_tokens": len(prompt)}, headers=ignored_fields(body))


def _lookup(
    http: HttpRequest, model: ServedModel, params: tuple[SamplingParams, ...], body: MessagesRequest
) -> CacheLookup | None:
    """Look the request up in the cache of answers; None if it has no part in it."""
    said, begun = read_messages(body)
    exactly = list(begun.encode("utf-8", "surrogatepass"))  # a text's margins would not tell apart
    extra = {"kind": "messages", "begun": exactly, "format": [body.output_config, body.structured_outputs]}
    extra["reasoning"] = [body.thinking, body.max_reasoning_tokens]
    seeded, tools = body.seed is not None, bool(body.tools)
    return lookup_for(http, model, params, said, seed_given=seeded, tools=tools, extra=extra)


async def _prompt(model: ServedModel, tooling: Tooling, body: MessagesBody) -> list[int]:
    said, begun = read_messages(body)
    return await chat_tokens(model, said, tooling.described, read_thinking(body)[0], begun=begun)
