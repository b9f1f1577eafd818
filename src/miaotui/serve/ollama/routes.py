"""``/api/chat``, ``/api/generate``, ``/api/embed`` and ``/api/embeddings``: Ollama's way to ask.

Owns the translation of messages. What lines look like is decided in `answers`. Invariants: the same question is the
same prompt here and on OpenAI's routes; a picture is refused, never left out. Source: Ollama's ``docs/api.md``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.encoders import tasks
from miaotui.serve.encoders.requests import check_count, find_encoder, run_task
from miaotui.serve.generation import GenerationRequest, OutputFormat, chat_tokens, deadline_of, text_tokens
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body, run
from miaotui.serve.http.errors import bad_value
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.ollama.answers import (
    NS,
    AnswerLines,
    LineStream,
    Shape,
    answer_lines,
    chat_shape,
    generate_shape,
    loaded,
)
from miaotui.serve.ollama.listing import chat_name
from miaotui.serve.ollama.wire import (
    FORMAT,
    AnswerFields,
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaMessage,
)
from miaotui.serve.openai.embeddings import written
from miaotui.serve.wire.fields import JsonMessage
from miaotui.serve.wire.infilling import ending_with, infiller_for
from miaotui.serve.wire.response_format import ReasoningOptions, form_of
from miaotui.served_model import ServedModel
from miaotui.text.tool_calls.tooling import Tooling, read_tooling
from miaotui.types import SamplingParams

_TEXT_ONLY = "pictures are not understood here: send text alone"


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint("/api/chat", "POST", chat, "Answer a conversation (Ollama)", body=OllamaChatRequest),
        Endpoint("/api/generate", "POST", generate, "Answer a prompt (Ollama)", body=OllamaGenerateRequest),
        Endpoint("/api/embed", "POST", embed, "Embed texts (Ollama)", body=OllamaEmbedRequest),
        Endpoint("/api/embeddings", "POST", embeddings, "Embed a text (Ollama)", body=OllamaEmbeddingsRequest),
    ]


async def chat(http: HttpRequest) -> Response:
    """Answer one request."""
    body = await read_body(received(http).body, OllamaChatRequest)
    model = _model(http, body)
    if not body.messages:
        return json_response(loaded(model.name, chat_shape, _reason(body)))
    said = [_message(message, f"messages[{at}]") for at, message in enumerate(body.messages)]
    tooling = read_tooling(model.dialect, body.tools or None, None, None)
    prompt = await chat_tokens(model, said, tooling.described, _template_options(model, body))
    return await _respond(http, model, body, prompt, tooling, chat_shape)


async def generate(http: HttpRequest) -> Response:
    """Answer one request."""
    body = await read_body(received(http).body, OllamaGenerateRequest)
    model = _model(http, body)
    _refuse(body)
    if not body.prompt:
        return json_response(loaded(model.name, generate_shape, _reason(body)))
    tooling = read_tooling(model.dialect, None, None, None)
    if body.suffix:
        infiller = infiller_for(model)
        prompt = await run(
            len(body.prompt) + len(body.suffix),
            partial(infiller.encode, body.prompt, body.suffix, at_most=model.context),
        )
        return await _respond(http, model, body, prompt, tooling, generate_shape, ending_with(infiller, body.params()))
    if body.raw:
        prompt = await text_tokens(model, body.prompt)
    else:
        system = [{"role": "system", "content": body.system}] if body.system else []
        said = [*system, {"role": "user", "content": body.prompt}]
        prompt = await chat_tokens(model, said, options=_template_options(model, body))
    return await _respond(http, model, body, prompt, tooling, generate_shape)


async def embed(http: HttpRequest) -> Response:
    """Answer with a vector of length 1 for each text."""
    body = await read_body(received(http).body, OllamaEmbedRequest)
    check_count("input", len(body.input))
    body.truncate = body.truncate is not False
    options = body.reading("input")
    answer = await run_task(
        http,
        find_encoder(http, _encoder_name(http, body.model), "embed"),
        body,
        body.input,
        lambda model: tasks.embed(model, body.input, options, dimensions=body.dimensions, normalize=True),
    )
    report = {"total_duration": round(answer.deadline["took_ms"] * NS / 1000), "load_duration": 0}
    vectors = [written(vector, "float") for vector in answer.result]
    around = {"model": answer.model, "embeddings": vectors, **report, "prompt_eval_count": answer.n_tokens}
    return json_response(around, headers=ignored_fields(body))


async def embeddings(http: HttpRequest) -> Response:
    """Answer with the vector of one text."""
    body = await read_body(received(http).body, OllamaEmbeddingsRequest)
    body.truncate = body.truncate is not False
    options = body.reading("prompt")
    answer = await run_task(
        http,
        find_encoder(http, _encoder_name(http, body.model), "embed"),
        body,
        [body.prompt],
        lambda model: tasks.embed(model, [body.prompt], options),
    )
    return json_response({"embedding": written(answer.result[0], "float")}, headers=ignored_fields(body))


async def _respond(
    http: HttpRequest,
    model: ServedModel,
    body: AnswerFields,
    prompt: list[int],
    tooling: Tooling,
    shape: Shape,
    params: tuple[SamplingParams, ...] = (),
) -> Response:
    form: OutputFormat = await form_of(model, tooling, body.form(), FORMAT, _reasoning(body, prompt))
    generation = GenerationRequest(http, model, [prompt], params or body.params(), deadline_of(http, body, model), form)
    if body.streams:
        ping_s = services_of(http).settings.ping_s
        return LineStream(answer_lines(generation, shape, ping_s), ping_s, body.ignored())
    batch = generation.submit()
    (completion,) = await generation.whole(batch)
    return json_response(AnswerLines(generation, shape, batch.answers).whole(completion), headers=body.ignored())


def _model(http: HttpRequest, body: AnswerFields) -> ServedModel:
    models = services_of(http).models
    model = models.find(chat_name({each.name for each in models.all()}, body.model), body.quality)
    if body.think and model.chat.reasoning is None:
        raise bad_value("think", f"{model.name} cannot think: leave it out, or choose another model")
    return model


def _encoder_name(http: HttpRequest, name: str | None) -> str | None:
    return None if name is None else chat_name(services_of(http).encoders, name)


def _template_options(model: ServedModel, body: AnswerFields) -> dict[str, bool]:
    """Return the template's options for ``think``, of a model that can."""
    if body.think is None or model.chat.reasoning is None:
        return {}
    return {"enable_thinking": bool(body.think)}


def _reasoning(body: AnswerFields, prompt: list[int]) -> ReasoningOptions:
    return ReasoningOptions(prompt, budget=0 if body.think is False else None)


def _reason(body: AnswerFields) -> str:
    return "unload" if body.keep_alive in (0, "0", "0s") else "load"


def _refuse(body: OllamaGenerateRequest) -> None:
    """Raise `ApiError` (400) for fields that would change the answer and cannot be followed."""
    if body.images:
        raise bad_value("images", _TEXT_ONLY)
    if body.suffix and (body.raw or body.system):
        raise bad_value("suffix", "does not go with raw or system: leave one of them out")
    if body.template:
        raise bad_value("template", "is not to be had here: send a prompt with raw, or leave it out")
    if body.context:
        raise bad_value("context", "is not to be had here: send the conversation to /api/chat")


def _message(message: OllamaMessage, where: str) -> JsonMessage:
    """Return a message in OpenAI's form. Raises `ApiError` (400) for one with pictures."""
    if message.images:
        raise bad_value(f"{where}.images", _TEXT_ONLY)
    said: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.thinking:
        said["reasoning_content"] = message.thinking
    if message.tool_calls:
        calls = (call.function for call in message.tool_calls)
        said["tool_calls"] = [
            {"id": "", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    if message.role == "tool":
        said |= {"tool_call_id": "", "name": message.tool_name or ""}
    return said
