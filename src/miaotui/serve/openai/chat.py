"""``POST /v1/chat/completions``: a conversation in, an answer out, whole or as it comes.

Owns OpenAI's chat shapes of an answer, and its chunks as text: members that do not change between chunks are written
once, so that a chunk costs little more than quoting its characters. The effect of formats and tools on its text is
decided in `wire.response_format`. Invariant: the pieces of a streamed answer, joined, are the whole answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring as quoted
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.grammar.response_format import FORMAT, STRUCTURED, read_format, read_structured
from miaotui.serve.answer import ModelAnswer
from miaotui.serve.generation import FREE, GenerationRequest, OutputFormat, chat_tokens, deadline_of, respond
from miaotui.serve.http.bodies import event, ignored_fields, json_response, json_text, read_body, run
from miaotui.serve.http.errors import bad_value
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.openai.chat_wire import ChatChunk, ChatCompletion, ChatRequest
from miaotui.serve.openai.explanation import timeline, token_notes
from miaotui.serve.openai.logprobs import chat_logprobs, vllm_logprobs
from miaotui.serve.response_cache import lookup_for
from miaotui.serve.services import Services
from miaotui.serve.wire.chat_message import ChatShaper
from miaotui.serve.wire.fields import Json
from miaotui.serve.wire.params import check_choices, check_prompt_logprobs, limit_of, one_form, params_for, wants_usage
from miaotui.serve.wire.response_format import ReasoningOptions, form_of
from miaotui.served_model import ServedModel
from miaotui.text.tool_calls.tooling import read_tooling
from miaotui.types import Completion, Delta

CHUNK = "chat.completion.chunk"


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
    generation = await read_generation(http, services_of(http), body)
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


async def read_generation(http: HttpRequest, services: Services, body: ChatRequest) -> GenerationRequest:
    """Check everything about a request that can be wrong. Raises `ApiError` (400) and `RequestError`."""
    model = services.models.find(body.model, body.quality)
    params = params_for(body, limit_of(body), (body.top_logprobs or 0) if body.logprobs else None, body.prompt_logprobs)
    deadline = deadline_of(http, body, model)
    said, begun = _said(body)
    if _wants_a_form(body) or model.chat.reasoning is not None:
        prompt, form = await _with_form(model, body, said, begun)
    else:
        prompt, form = await chat_tokens(model, said, options=body.chat_template_kwargs, begun=begun), FREE
    check_choices([prompt], len(params))
    check_prompt_logprobs(body, [prompt], params)
    lookup = None
    if services.response_cache is not None and not (begun or body.answer_token_ids):
        formats = [body.response_format, body.structured_outputs, body.max_reasoning_tokens]
        extra = {"template": body.chat_template_kwargs, "format": formats}
        seeded, tools_named = body.seed is not None, bool(body.tools)
        lookup = lookup_for(http, model, params, said, seed_given=seeded, tools=tools_named, extra=extra)
    known, explains = body.answer_token_ids or (), bool(body.explain)
    return GenerationRequest(http, model, [prompt], params, deadline, form, lookup, begun=known, explains=explains)


def _said(body: ChatRequest) -> tuple[list[Json], str]:
    """Return the messages, and the beginning of the answer if the last message is one. Raises `ApiError` (400)."""
    said: list[Json] = [message.model_dump(exclude_unset=True) for message in body.messages]
    if not body.continue_final_message:
        return said, ""
    last = body.messages[-1]
    if last.role != "assistant" or last.tool_calls or not isinstance(last.content, str) or len(said) < 2:
        raise bad_value("continue_final_message", "needs a last message of the assistant with text, and one before it")
    return said[:-1], last.content


def _wants_a_form(body: ChatRequest) -> bool:
    """Return whether the request names tools or a format; if not, its answer is text, but for a thought."""
    return bool(body.tools) or any(
        field is not None for field in (body.tool_choice, body.response_format, body.structured_outputs)
    )


async def _with_form(
    model: ServedModel, body: ChatRequest, said: Sequence[Json], begun: str
) -> tuple[list[int], OutputFormat]:
    """Return the prompt, with the tools described, and the form of its answer."""
    tooling = read_tooling(model.dialect, body.tools, body.tool_choice, body.parallel_tool_calls)
    forms = {FORMAT: read_format(body.response_format), STRUCTURED: read_structured(body.structured_outputs)}
    prompt = await chat_tokens(model, said, tooling.described, body.chat_template_kwargs, begun=begun)
    return prompt, await form_of(model, tooling, *one_form(forms), ReasoningOptions.of(prompt, body))


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
        "usage": generation.usage(completions),
        **scored,
        "cache": generation.cache,
        "deadline": generation.deadline_report(answers),
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
    explained: dict[str, Any] = {}
    if generation.explains:
        explained = {"tokens": token_notes(generation.model.tokenizer, whole), "timeline": timeline(whole)}
    return {"index": index, "message": message, "logprobs": logprobs, **explained, "finish_reason": reason}


def identity(generation: GenerationRequest, kind: str) -> dict[str, Any]:
    """Return the members that a chat answer and all its chunks begin with."""
    return {
        "id": f"chatcmpl-{generation.token}",
        "object": kind,
        "created": generation.created_s,
        "model": generation.model.name,
        "system_fingerprint": generation.model.fingerprint,
    }


class ChatWriter:
    """Writes the events of one chat request, see `events.Writer`."""

    def __init__(self, generation: GenerationRequest, include_usage: bool) -> None:
        self._generation = generation
        self._choices = [_ChoiceStream(generation, index, include_usage) for index in range(generation.n)]

    def piece(self, index: int, delta: Delta, deadline: Json | None) -> str:
        """Often one event; at the end one more, with the reason."""
        choice = self._choices[index]
        text = choice.piece(delta)
        if self._generation.explains and delta.token_ids:
            text += choice.explained(delta)
        return text if delta.completion is None else text + choice.end(delta, deadline)

    def identity(self) -> Json:
        """Return what every chunk begins with."""
        return identity(self._generation, CHUNK)


class _ChoiceStream:
    """The events of one of n answers."""

    def __init__(self, generation: GenerationRequest, index: int, include_usage: bool) -> None:
        empty = event({**identity(generation, CHUNK), "choices": []})
        self._head = empty.removesuffix("]}\n\n") + f'{{"index":{index},"delta":'
        self._usage = ',"usage":null' if include_usage else ""
        self._tail = f',"logprobs":null,"finish_reason":null}}]{self._usage}}}\n\n'
        self._last = f',"cache":"{generation.cache}","deadline":'
        syntax = generation.form.syntax
        self._shaper = None if syntax is None else ChatShaper(syntax)
        self._with_logprobs = generation.params[0].logprobs is not None
        self._tokenizer, self._explains = generation.model.tokenizer, generation.explains
        self._role = '"role":"assistant",'  # of the first event, which comes with the first token; then ""

    def piece(self, delta: Delta) -> str:
        if self._shaper is not None:
            return self._parts(delta, self._shaper)
        if self._with_logprobs and (delta.token_ids or delta.text):
            return self._with(delta)
        if not delta.text:
            return ""
        return f'{self._head}{{{self._role_once()}"content":{quoted(delta.text)}}}{self._tail}'

    def end(self, delta: Delta, deadline: Json | None) -> str:
        """Return what was held back, and why the answer ended."""
        held, reason = "", str(delta.finish_reason)
        if self._shaper is not None:
            deltas, reason = self._shaper.finish(reason)
            held = "".join(map(self._shaped, deltas))
        more = "" if deadline is None else self._last + json_text(deadline)
        role = self._role_once()
        last = f'{{{role}"content":""}}' if role else "{}"
        times = ""
        if self._explains and delta.completion is not None:
            times = f',"timeline":{json_text(timeline(delta.completion))}'
        end = f',"logprobs":null{times},"finish_reason":{quoted(reason)}}}]{self._usage}{more}}}\n\n'
        return held + self._head + last + end

    def explained(self, delta: Delta) -> str:
        """Return the event that explains a piece's tokens; it follows the piece's text."""
        notes = json_text(token_notes(self._tokenizer, delta))
        return f'{self._head}{{}},"logprobs":null,"tokens":{notes},"finish_reason":null}}]{self._usage}}}\n\n'

    def _role_once(self) -> str:
        """Return the member that names the role, for the choice's first event only."""
        role, self._role = self._role, ""
        return role

    def _shaped(self, delta: Json) -> str:
        return f"{self._head}{{{self._role_once()}{json_text(delta)[1:]}{self._tail}"

    def _parts(self, delta: Delta, shaper: ChatShaper) -> str:
        """Return the events of a piece; its log-probabilities, if asked for, come with the first."""
        deltas = shaper.push(delta.text)
        if not self._with_logprobs or not delta.token_ids:
            return "".join(map(self._shaped, deltas))
        first, *rest = deltas or [{}]
        logprobs = json_text(chat_logprobs(self._tokenizer, delta.logprobs))
        members = json_text(first)[1:]
        role = self._role_once()
        head = f"{self._head}{{{role if members != '}' else role.rstrip(',')}{members}"
        begun = f'{head},"logprobs":{logprobs},"finish_reason":null}}]{self._usage}}}\n\n'
        return begun + "".join(map(self._shaped, rest))

    def _with(self, delta: Delta) -> str:
        logprobs = json_text(chat_logprobs(self._tokenizer, delta.logprobs))
        return (
            f'{self._head}{{{self._role_once()}"content":{quoted(delta.text)}}},"logprobs":{logprobs},'
            f'"finish_reason":null}}]{self._usage}}}\n\n'
        )
