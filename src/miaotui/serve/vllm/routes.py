"""vLLM's routes for encoders: ``/score``, ``/classify``, ``/pooling``.

Owns the shapes of their answers. Knows no scores. Invariant: results are in the order of the inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.encoders import ranking, tasks
from miaotui.encoders.inputs import ReadOptions
from miaotui.engine.encoding.loaded import LoadedEncoder
from miaotui.serve.cohere.rerank import score_of
from miaotui.serve.encoders.answers import list_response
from miaotui.serve.encoders.requests import EncoderAnswer, check_count, find_encoder, run_task
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body
from miaotui.serve.http.errors import bad_value
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received
from miaotui.serve.openai.embeddings import Encoding, Floats, written
from miaotui.serve.vllm.wire import (
    ClassifyList,
    ClassifyRequest,
    PoolingList,
    PoolingRequest,
    PoolingTask,
    ScoreList,
    ScoreRequest,
)

_Item = dict[str, Any]


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        *(
            Endpoint(path, "POST", score, "Score pairs of texts (vLLM)", body=ScoreRequest, answer=ScoreList)
            for path in ("/score", "/v1/score")
        ),
        Endpoint("/classify", "POST", classify, "Classify texts (vLLM)", body=ClassifyRequest, answer=ClassifyList),
        Endpoint("/pooling", "POST", pooling, "Give vectors or scores (vLLM)", body=PoolingRequest, answer=PoolingList),
    ]


async def score(http: HttpRequest) -> Response:
    """Answer with a score of each pair."""
    body = await read_body(received(http).body, ScoreRequest)
    field, first, second = _sides(body)
    check_count(field, len(second))
    if len(first) not in (1, len(second)):
        raise bad_value(field, f"has {len(second):,} texts for {len(first):,}: give as many of both, or one for all")
    pairs = list(zip(first * len(second) if len(first) == 1 else first, second, strict=True))
    options = body.reading(field)
    entry = find_encoder(http, body.model, "rerank", "embed")
    answer = await run_task(http, entry, body, [*first, *second], lambda model: ranking.score(model, pairs, options))
    is_raw = body.raw_scores or "rerank" not in entry.abilities
    items: list[_Item] = [{"object": "score", "score": score_of(each, is_raw)} for each in answer.result]
    return json_response(_listed(answer, items, options), headers=ignored_fields(body))


async def classify(http: HttpRequest) -> Response:
    """Answer with each text's label and the probabilities of all labels."""
    body = await read_body(received(http).body, ClassifyRequest)
    check_count("input", len(body.input))
    options = body.reading("input")
    entry = find_encoder(http, body.model, "classify")
    answer = await run_task(http, entry, body, body.input, lambda model: tasks.classify(model, body.input, options))
    items: list[_Item] = [
        {"label": each.label, "probs": list(each.scores.values()), "num_classes": len(each.scores)}
        for each in answer.result
    ]
    return json_response(_listed(answer, items, options), headers=ignored_fields(body))


async def pooling(http: HttpRequest) -> Response:
    """Answer with vectors or scores of texts, or of their tokens."""
    body = await read_body(received(http).body, PoolingRequest)
    check_count("input", len(body.input))
    options, encoding = body.reading("input"), body.encoding_format or "float"
    entry = find_encoder(http, body.model, "embed", "classify", "tag", "rerank", "fill_mask")
    answer = await run_task(http, entry, body, body.input, lambda model: _pooled(model, body, options))
    around, size = _listed(answer, (), options), sum(each.size for each in answer.result)
    del around["data"]
    numbers = ({"object": "pooling", "data": _numbers(each, encoding)} for each in answer.result)
    return await list_response(_numbered(answer, numbers, options), size, ignored_fields(body), around)


def _pooled(model: LoadedEncoder, body: PoolingRequest, options: ReadOptions) -> tasks.EncodeTask[Any]:
    """Return the task of a request to ``/pooling``."""
    task: PoolingTask = body.task or _task_of(model)
    if task == "embed":
        return tasks.embed(model, body.input, options, normalize=body.normalize)
    if task == "classify":
        return tasks.class_scores(model, body.input, options)
    if task == "token_classify":
        return tasks.token_scores(model, body.input, options)
    return tasks.token_vectors(model, body.input, options)


def _task_of(model: LoadedEncoder) -> PoolingTask:
    for ability, task in _TASKS.items():
        if ability in model.abilities:
            return task
    return "token_embed"


_TASKS: dict[str, PoolingTask] = {"classify": "classify", "tag": "token_classify", "embed": "embed"}


def _sides(body: ScoreRequest) -> tuple[str, list[str], list[str]]:
    """Return the second side's name, and both sides. Raises `ApiError` (400)."""
    for first, second in (("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")):
        one, two = getattr(body, first), getattr(body, second)
        if one is not None or two is not None:
            if not one or not two:
                raise bad_value(second if one else first, f"must not be empty: {first} and {second} go together")
            return second, one, two
    raise bad_value("text_1", "give text_1 and text_2, or queries and documents")


def _numbers(values: Floats, encoding: Encoding) -> Any:
    """Return a vector, or rows of them, as JSON has them; base64 holds all rows one after the other."""
    if values.ndim == 1 or encoding == "base64":
        return written(values.reshape(-1), encoding)
    return [written(row, encoding) for row in values]


def _listed(answer: EncoderAnswer[Any], items: Sequence[_Item], options: ReadOptions) -> _Item:
    """Return an answer with its items numbered."""
    return {
        "id": answer.id,
        "object": "list",
        "created": answer.created_s,
        "model": answer.model,
        "data": list(_numbered(answer, items, options)),
        "usage": answer.usage,
        "deadline": answer.deadline,
    }


def _numbered(answer: EncoderAnswer[Any], items: Iterable[_Item], options: ReadOptions) -> Iterator[_Item]:
    """Yield items with their numbers, and what each has lost where inputs may be cut."""
    for index, item in enumerate(items):
        lost = {"dropped_tokens": answer.dropped[index]} if options.truncate else {}
        yield {"index": index, **item, **lost}
