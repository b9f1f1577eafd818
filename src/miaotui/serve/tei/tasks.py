"""``POST /models/{model}`` and ``/``: a task of whatever kind the encoder is for, as Hugging Face's clients send it.

Owns the shapes that ``huggingface_hub.InferenceClient`` reads, which for a single text differ from TEI's. Knows no
scores. Invariant: the model's own kind decides what is answered; ``/`` is for a server of one encoder. Source: the task
pages of Hugging Face's Inference Providers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.encoders import ranking, tasks
from miaotui.encoders.results import MaskFill, TaggedSpan
from miaotui.engine.encoding.loaded import Ability
from miaotui.serve.encoders.answers import list_response
from miaotui.serve.encoders.registry import EncoderEntry
from miaotui.serve.encoders.requests import check_count, find_encoder, run_task
from miaotui.serve.http.bodies import json_response, read_body
from miaotui.serve.http.errors import bad_value
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received
from miaotui.serve.openai.embeddings import written
from miaotui.serve.tei.routes import answer_headers, predictions
from miaotui.serve.tei.wire import SimilarityInputs, TaskParameters, TaskRequest

ABILITIES: tuple[Ability, ...] = ("embed", "classify", "tag", "fill_mask", "rerank")
DEFAULT_TOP_K = 5


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    named = {"model": "The model's id; it may contain slashes."}
    text = "Run an encoder's own task (Hugging Face)"
    return [
        Endpoint("/", "POST", run_own_task, text, body=TaskRequest),
        Endpoint("/models/{model:path}", "POST", run_own_task, text, body=TaskRequest, parameters=named),
    ]


async def run_own_task(http: HttpRequest) -> Response:
    """Answer in the form of the model's task."""
    body = await read_body(received(http).body, TaskRequest)
    entry = find_encoder(http, http.path_params.get("model") or body.model, *ABILITIES)
    if isinstance(body.inputs, SimilarityInputs):
        return await _compare(http, entry, body, body.inputs)
    check_count("inputs", len(body.inputs))
    answer = _ANSWERS.get(entry.abilities[0])
    if answer is None:
        raise bad_value("model", f"{entry.name} ranks pairs of texts: use /rerank")
    return await answer(http, entry, body, body.inputs)


async def _embed(http: HttpRequest, entry: EncoderEntry, body: TaskRequest, texts: list[str]) -> Response:
    options, more = body.reading("inputs"), _parameters(body)
    prompt = body.prompt_name or more.prompt_name
    unit = body.normalize if body.normalize is not None else more.normalize
    answer = await run_task(
        http, entry, body, texts, lambda model: tasks.embed(model, texts, options, prompt=prompt, normalize=unit)
    )
    vectors = (written(each, "float") for each in answer.result)
    return await list_response(vectors, answer.result.size, answer_headers(body, answer.dropped))


async def _compare(http: HttpRequest, entry: EncoderEntry, body: TaskRequest, inputs: SimilarityInputs) -> Response:
    check_count("inputs.sentences", len(inputs.sentences))
    options, pairs = body.reading("inputs.sentences"), [(inputs.source_sentence, each) for each in inputs.sentences]
    answer = await run_task(
        http,
        entry,
        body,
        [inputs.source_sentence, *inputs.sentences],
        lambda model: ranking.score(model, pairs, options),
    )
    return json_response([each.raw_score for each in answer.result], headers=answer_headers(body, answer.dropped))


async def _classify(http: HttpRequest, entry: EncoderEntry, body: TaskRequest, texts: list[str]) -> Response:
    options, top_k = body.reading("inputs"), _parameters(body).top_k
    answer = await run_task(http, entry, body, texts, lambda model: tasks.label_scores(model, texts, options))
    found = [predictions(each)[:top_k] for each in answer.result]
    return json_response(found, headers=answer_headers(body, answer.dropped))


async def _tag(http: HttpRequest, entry: EncoderEntry, body: TaskRequest, texts: list[str]) -> Response:
    options, aggregation = body.reading("inputs"), _parameters(body).aggregation_strategy or "simple"
    answer = await run_task(
        http, entry, body, texts, lambda model: tasks.tag(model, texts, options, aggregation=aggregation)
    )
    name = "entity" if aggregation == "none" else "entity_group"
    found = [[_span(each, name) for each in spans] for spans in answer.result]
    return json_response(_single(found), headers=answer_headers(body, answer.dropped))


async def _fill(http: HttpRequest, entry: EncoderEntry, body: TaskRequest, texts: list[str]) -> Response:
    options, top_k = body.reading("inputs"), _parameters(body).top_k or DEFAULT_TOP_K
    answer = await run_task(http, entry, body, texts, lambda model: tasks.fill_mask(model, texts, options, top_k=top_k))
    found = [_single([[_fill_of(each) for each in fills] for fills in masks]) for masks in answer.result]
    return json_response(_single(found), headers=answer_headers(body, answer.dropped))


_ANSWERS: dict[Ability, Callable[[HttpRequest, EncoderEntry, TaskRequest, list[str]], Awaitable[Response]]] = {
    "embed": _embed,
    "classify": _classify,
    "tag": _tag,
    "fill_mask": _fill,
}


def _parameters(body: TaskRequest) -> TaskParameters:
    return body.parameters or TaskParameters.model_validate({})


def _single(found: list[Any]) -> Any:
    """Return the only result by itself."""
    return found[0] if len(found) == 1 else found


def _span(span: TaggedSpan, name: str) -> dict[str, Any]:
    return {name: span.label, "score": span.score, "word": span.text, "start": span.start, "end": span.end}


def _fill_of(fill: MaskFill) -> dict[str, Any]:
    return {"score": fill.score, "token": fill.token_id, "token_str": fill.token, "sequence": fill.text}
