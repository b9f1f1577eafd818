"""``/v1/responses``: create, stream, read again, cancel, delete.

Owns the routes and the work in the background. What items and events look like is decided in the
modules beside it. Invariant: a response that is kept has ended, or a task works on it. Source:
OpenAI's API reference, "Responses".
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.grammar.response_format import STRUCTURED, read_structured
from miaotui.serve.answer import ModelAnswer
from miaotui.serve.generation import GenerationRequest, chat_tokens, deadline_of
from miaotui.serve.http.bodies import EventStream, ignored_fields, json_response, read_body
from miaotui.serve.http.errors import ApiError, bad_value, from_error
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import caller_of, received, services_of
from miaotui.serve.openai.responses.events import ResponseBody, ResponsesWriter, completed, events, failed
from miaotui.serve.openai.responses.prompt import read_effort, read_input, read_text, read_tools, said_in
from miaotui.serve.openai.responses.store import StoredResponse
from miaotui.serve.openai.responses.wire import DeletedResponse, ResponseEvent, ResponseObject, ResponsesRequest
from miaotui.serve.response_cache import CacheLookup, lookup_for
from miaotui.serve.wire.params import limit_of, one_form, params_for
from miaotui.serve.wire.response_format import ReasoningOptions, form_of
from miaotui.served_model import ServedModel
from miaotui.text.tool_calls.tooling import Tooling
from miaotui.types import SamplingParams

_RESPONSE_PATH = "/v1/responses/{response_id}"
_RESPONSE_PARAMETER = {"response_id": "The id of a response that is kept here."}


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    one: dict[str, Any] = {"answer": ResponseObject, "parameters": _RESPONSE_PARAMETER}
    gone: dict[str, Any] = {"answer": DeletedResponse, "parameters": _RESPONSE_PARAMETER}
    return [
        Endpoint(
            "/v1/responses",
            "POST",
            create,
            "Answer an input",
            body=ResponsesRequest,
            answer=ResponseObject,
            chunk=ResponseEvent,
        ),
        Endpoint(_RESPONSE_PATH, "GET", show, "Show a response again", **one),
        Endpoint(_RESPONSE_PATH, "DELETE", delete, "Keep a response no more", **gone),
        Endpoint(f"{_RESPONSE_PATH}/cancel", "POST", cancel, "Cancel work in the background", **one),
    ]


async def create(http: HttpRequest) -> Response:
    """Answer one request."""
    body = await read_body(received(http).body, ResponsesRequest)
    model = services_of(http).models.find(body.model, body.quality)
    tooling = read_tools(model.dialect, body)
    said = _said(http, body)
    first = [{"role": "system", "content": body.instructions}] if body.instructions else []
    params = params_for(body, limit_of(body), None)
    deadline = deadline_of(http, body, model)
    forms = {"text.format": read_text(body.text), STRUCTURED: read_structured(body.structured_outputs)}
    whole = [*first, *said]
    prompt = await chat_tokens(model, whole, tooling.described, read_effort(body.reasoning))
    form = await form_of(model, tooling, *one_form(forms), ReasoningOptions.of(prompt, body))
    lookup = _lookup(http, model, params, body, whole)
    generation = GenerationRequest(http, model, [prompt], params, deadline, form, lookup)
    begun = _begun(generation, tooling, body)

    def keep(done: ResponseBody) -> None:
        if body.store is not False:
            forget = lookup.forget if lookup is not None else lambda: None
            services_of(http).responses.keep(caller_of(http).owner, StoredResponse(done, said, forget=forget))

    headers = ignored_fields(body)
    if body.stream:
        ping_s = services_of(http).settings.ping_s
        return EventStream(events(generation, begun, keep, ping_s), ping_s, headers)
    if body.background:
        return json_response(_start(generation, begun, said), headers=headers)
    batch = generation.submit()
    await generation.whole(batch)
    done = _whole(generation, begun, batch.answers[0])
    keep(done)
    return json_response(done, headers=headers)


async def show(http: HttpRequest) -> Response:
    """Answer with a response as it is now."""
    return json_response(_kept(http).body)


async def delete(http: HttpRequest) -> Response:
    """Forget a response, in the cache of answers too."""
    identity = http.path_params["response_id"]
    kept = services_of(http).responses.drop(caller_of(http).owner, identity)
    await run_in_threadpool(kept.forget)
    return json_response({"id": identity, "object": "response", "deleted": True})


async def cancel(http: HttpRequest) -> Response:
    """End the work on a response; nothing happens if it has ended."""
    kept = _kept(http)
    if not kept.body["background"]:
        text = "Only a response with background=true can be cancelled; leave others by closing"
        raise ApiError(400, text, code="not_in_background")
    if kept.runs and kept.work is not None:
        kept.work.cancel()
        await asyncio.wait((kept.work,))
    return json_response(kept.body)


def _kept(http: HttpRequest) -> StoredResponse:
    return services_of(http).responses.find(caller_of(http).owner, http.path_params["response_id"])


def _lookup(
    http: HttpRequest, model: ServedModel, params: tuple[SamplingParams, ...], body: ResponsesRequest, said: list[Any]
) -> CacheLookup | None:
    """Look the request up in the cache of answers; None if it has no part in it."""
    if body.store is False:
        return None
    extra: dict[str, Any] = {"kind": "responses", "format": [body.text, body.structured_outputs]}
    extra["reasoning"] = [body.reasoning, body.max_reasoning_tokens]
    seeded, tools = body.seed is not None, bool(body.tools)
    return lookup_for(http, model, params, said, seed_given=seeded, tools=tools, extra=extra)


def _said(http: HttpRequest, body: ResponsesRequest) -> list[Any]:
    """Return the messages so far: those of the response that this one goes on from, and the new ones."""
    said = read_input(body.input)
    if body.previous_response_id is None:
        return said
    owner = caller_of(http).owner
    before = services_of(http).responses.find(owner, body.previous_response_id, "previous_response_id")
    if before.runs:
        raise bad_value("previous_response_id", "names a response that is still on its way")
    return [*before.said, *said_in(before.body["output"]), *said]


def _start(generation: GenerationRequest, begun: ResponseBody, said: list[Any]) -> ResponseBody:
    """Work on it in the background; the response as it is now."""
    store, owner = services_of(generation.http).responses, caller_of(generation.http).owner
    store.require_room(owner)
    batch = generation.submit()
    lookup = generation.lookup
    kept = StoredResponse(begun, said, forget=lookup.forget if lookup is not None else lambda: None)

    def ended(work: asyncio.Task[None]) -> None:
        if work.cancelled():  # perhaps before it took its first step
            batch.cancel()
            kept.body = {**begun, "status": "cancelled"}
        store.renew(owner, kept)

    async def work() -> None:
        try:
            await batch.whole()
            kept.body = _whole(generation, begun, batch.answers[0])
        except Exception as error:
            kept.body = failed(begun, from_error(error, received(generation.http).request_id))

    kept.work = asyncio.create_task(work())
    kept.work.add_done_callback(ended)
    store.keep(owner, kept)
    return begun


def _whole(generation: GenerationRequest, begun: ResponseBody, answer: ModelAnswer) -> ResponseBody:
    completion = answer.completion()
    writer = ResponsesWriter(generation.form.syntax)
    writer.push(completion.text)
    return completed(begun, generation, answer, completion, writer)[0]


def _begun(generation: GenerationRequest, tooling: Tooling, body: ResponsesRequest) -> ResponseBody:
    """Return the response before anything is known of its answer."""
    tools = [{"type": "function", **tool.as_openai()["function"], "strict": tool.strict} for tool in tooling.tools]
    return {
        "id": f"resp_{generation.token}",
        "object": "response",
        "created_at": generation.created_s,
        "status": "in_progress",
        "background": bool(body.background),
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": generation.model.name,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": body.text or {"format": {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": tools,
        "reasoning": body.reasoning,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "metadata": body.metadata or {},
        "usage": None,
        "cache": None,
        "deadline": None,
    }
