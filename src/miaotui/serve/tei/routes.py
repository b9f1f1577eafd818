"""TEI's routes: ``/embed``, ``/embed_all``, ``/embed_sparse``, ``/rerank``, ``/predict``, ``/similarity``.

Owns the shapes of their answers, which are bare lists. Knows no scores. Invariant: a request that names no model is
answered by the only one that fits the route. Source: TEI's OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.encoders import ranking, tasks
from miaotui.engine.encoding.loaded import LoadedEncoder
from miaotui.serve.cohere import rerank as cohere
from miaotui.serve.encoders.answers import list_response
from miaotui.serve.encoders.requests import check_count, find_encoder, run_task
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body, read_object
from miaotui.serve.http.errors import bad_value
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received
from miaotui.serve.openai.embeddings import Floats, written
from miaotui.serve.tei.wire import EmbedRequest, PredictRequest, RankRequest, SimilarityRequest, TeiFields

DROPPED = "X-Dropped-Tokens"  # input=tokens of each that was cut
MAX_NAMED = 400


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint("/embed", "POST", embed, "Embed texts (TEI)", body=EmbedRequest),
        Endpoint("/embed_all", "POST", embed_all, "Give one vector of each token (TEI)", body=EmbedRequest),
        Endpoint("/embed_sparse", "POST", embed_sparse, "Give sparse vectors (TEI)", body=EmbedRequest),
        Endpoint("/rerank", "POST", rerank, "Rank texts (TEI), or documents (Cohere, Jina)", body=RankRequest),
        Endpoint("/predict", "POST", predict, "Classify texts (TEI)", body=PredictRequest),
        Endpoint("/similarity", "POST", similarity, "Say how alike texts are (TEI)", body=SimilarityRequest),
    ]


async def embed(http: HttpRequest) -> Response:
    """Answer with vectors, of length 1 unless ``normalize`` is false."""
    body = await read_body(received(http).body, EmbedRequest)
    check_count("inputs", len(body.inputs))
    options, unit = body.reading("inputs"), body.normalize is not False
    answer = await run_task(
        http,
        find_encoder(http, body.model, "embed"),
        body,
        body.inputs,
        lambda model: tasks.embed(
            model, body.inputs, options, prompt=body.prompt_name, dimensions=body.dimensions, normalize=unit
        ),
    )
    vectors = (written(each, "float") for each in answer.result)
    return await list_response(vectors, answer.result.size, answer_headers(body, answer.dropped))


async def embed_all(http: HttpRequest) -> Response:
    """Answer with the vectors of all tokens of each text."""
    body = await read_body(received(http).body, EmbedRequest)
    check_count("inputs", len(body.inputs))
    options = body.reading("inputs")
    answer = await run_task(
        http,
        find_encoder(http, body.model, "embed", "rerank", "tag", "classify", "fill_mask"),
        body,
        body.inputs,
        lambda model: tasks.token_vectors(model, body.inputs, options, prompt=body.prompt_name),
    )
    size, rows = sum(each.size for each in answer.result), map(_rows, answer.result)
    return await list_response(rows, size, answer_headers(body, answer.dropped))


async def embed_sparse(http: HttpRequest) -> Response:
    """Answer with the tokens and weights of sparse vectors (SPLADE)."""
    body = await read_body(received(http).body, EmbedRequest)
    check_count("inputs", len(body.inputs))
    options = body.reading("inputs")

    def make(model: LoadedEncoder) -> tasks.EncodeTask[Any]:
        if model.head.kind != "splade":
            raise bad_value("model", "gives no sparse vectors: choose a SPLADE model, or /embed")
        return tasks.sparse(model, body.inputs, options)

    answer = await run_task(http, find_encoder(http, body.model, "embed"), body, body.inputs, make)
    vectors = [[{"index": i, "value": v} for i, v in zip(*each, strict=True)] for each in answer.result]
    return json_response(vectors, headers=answer_headers(body, answer.dropped))


async def rerank(http: HttpRequest) -> Response:
    """Answer with places and scores, best first; a request with ``documents`` is Cohere's or Jina's."""
    if "documents" in read_object(received(http).body):
        return await cohere.create(http)
    body = await read_body(received(http).body, RankRequest)
    check_count("texts", len(body.texts))
    options, query, texts = body.reading("texts"), body.query, body.texts
    answer = await run_task(
        http,
        find_encoder(http, body.model, "rerank", "embed"),
        body,
        [query, *texts],
        lambda model: ranking.rerank(model, query, texts, options),
    )
    ranks: list[dict[str, Any]] = []
    for ranked in answer.result:
        rank: dict[str, Any] = {"index": ranked.index, "score": cohere.score_of(ranked, body.raw_scores)}
        if body.return_text:
            rank["text"] = texts[ranked.index]
        if ranked.error is not None:
            rank["error"] = ranked.error
        ranks.append(rank)
    return json_response(ranks, headers=answer_headers(body, answer.dropped))


async def predict(http: HttpRequest) -> Response:
    """Answer with labels and scores, best first, of one input or of each."""
    body = await read_body(received(http).body, PredictRequest)
    is_one, inputs = body.inputs
    check_count("inputs", len(inputs))
    options = body.reading("inputs")
    answer = await run_task(
        http,
        find_encoder(http, body.model, "classify", "rerank"),
        body,
        inputs,
        lambda model: tasks.label_scores(model, inputs, options, raw_scores=bool(body.raw_scores)),
    )
    found = [predictions(each) for each in answer.result]
    return json_response(found[0] if is_one else found, headers=answer_headers(body, answer.dropped))


async def similarity(http: HttpRequest) -> Response:
    """Answer with how alike each sentence is to the source, by the model's own measure."""
    body = await read_body(received(http).body, SimilarityRequest)
    source, sentences = body.inputs.source_sentence, body.inputs.sentences
    check_count("inputs.sentences", len(sentences))
    options = body.reading("inputs.sentences")
    answer = await run_task(
        http,
        find_encoder(http, body.model, "embed"),
        body,
        [source, *sentences],
        lambda model: ranking.score(model, [(source, sentence) for sentence in sentences], options),
    )
    return json_response([each.raw_score for each in answer.result], headers=answer_headers(body, answer.dropped))


def predictions(scores: dict[str, float]) -> list[dict[str, Any]]:
    """Return labels and scores, best first."""
    ordered = sorted(scores.items(), key=lambda each: -each[1])
    return [{"label": label, "score": score} for label, score in ordered]


def _rows(vectors: Floats) -> list[Any]:
    return [written(row, "float") for row in vectors]


def answer_headers(body: TeiFields, dropped: Sequence[int]) -> dict[str, str]:
    """Return headers: fields that were not understood, and, with truncation, the tokens that inputs have lost.

    Bare lists have no place for them. Raises `ApiError` (400) for more than a header can name.
    """
    lost = [f"{index}={count}" for index, count in enumerate(dropped) if count]
    if len(lost) > MAX_NAMED:
        text = f"of {len(lost)} inputs tokens would be lost, and this form can name {MAX_NAMED}: send fewer at once"
        raise bad_value("truncate", text)
    return {**ignored_fields(body), **({DROPPED: ",".join(lost)} if lost else {})}
