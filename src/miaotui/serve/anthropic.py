"""``POST /v1/messages`` and ``/v1/messages/count_tokens``: Anthropic's way to ask.

Owns the two routes. What blocks and events look like is decided in the modules beside it.
Invariant: the same question is the same prompt here and on OpenAI's routes. Source: Anthropic's API
reference, "Messages".
"""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.serve.anthropic_events import events, whole_message
from miaotui.serve.anthropic_prompt import read_messages, read_tools
from miaotui.serve.anthropic_wire import (
    Conversation,
    Count,
    CountRequest,
    Message,
    MessageEvent,
    MessagesRequest,
)
from miaotui.serve.asking import Asking, deadline_of
from miaotui.serve.constrained import form_of, read_output_config
from miaotui.serve.errors import json_response
from miaotui.serve.hosting import Hosted
from miaotui.serve.json_body import ignored_fields, read_body
from miaotui.serve.params import params_for
from miaotui.serve.prompts import chat_tokens
from miaotui.serve.recall import Recall, recall_for
from miaotui.serve.routing import Endpoint
from miaotui.serve.state import arrival_of, state_of
from miaotui.serve.stream import EventStream
from miaotui.serve.tooling import Tooling
from miaotui.types import SamplingParams


def routes() -> list[Endpoint]:
    """The routes of this module."""
    return [
        Endpoint(
            "/v1/messages",
            "POST",
            create,
            "Answer a conversation, in Anthropic's form",
            body=MessagesRequest,
            answer=Message,
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
    body = await read_body(arrival_of(http).body, MessagesRequest)
    hosted = state_of(http).hosted(body.model)
    tooling = read_tools(hosted.dialect, body)
    sampling = body.model_copy(update={"stop": body.stop_sequences})
    params = params_for(sampling, body.max_tokens, None)
    deadline = deadline_of(http, body)
    form = await form_of(hosted, tooling, read_output_config(body.output_config), "output_config")
    prompt = await _prompt(hosted, tooling, body)
    recall = _recall(http, hosted, params, body)
    asking = Asking(http, hosted, [prompt], params, deadline, form, recall)
    headers = {**ignored_fields(body), "request-id": arrival_of(http).request_id}
    if body.stream:
        ping_s = state_of(http).settings.ping_s
        return EventStream(events(asking, tooling, ping_s), ping_s, headers)
    requests = asking.submit()
    (completion,) = await asking.whole(requests)
    return json_response(whole_message(asking, tooling, requests[0], completion), headers=headers)


async def count_tokens(http: HttpRequest) -> Response:
    """The length of the prompt that `create` would make."""
    body = await read_body(arrival_of(http).body, CountRequest)
    hosted = state_of(http).hosted(body.model)
    prompt = await _prompt(hosted, read_tools(hosted.dialect, body), body)
    return json_response({"input_tokens": len(prompt)}, headers=ignored_fields(body))


def _recall(
    http: HttpRequest, hosted: Hosted, params: tuple[SamplingParams, ...], body: MessagesRequest
) -> Recall | None:
    """The request as the cache of answers knows it."""
    said, begun = read_messages(body)
    exactly = list(begun.encode("utf-8", "surrogatepass"))  # a text's margins would not tell apart
    extra = {"kind": "messages", "begun": exactly, "format": body.output_config}
    seeded, tools = body.seed is not None, bool(body.tools)
    return recall_for(http, hosted, params, said, seed_given=seeded, tools=tools, extra=extra)


async def _prompt(hosted: Hosted, tooling: Tooling, body: Conversation) -> list[int]:
    said, begun = read_messages(body)
    messages, tools = tooling.conversation(said)
    return await chat_tokens(hosted, messages, tools, begun=begun)
