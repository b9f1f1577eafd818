"""``POST /v1/rerank``, ``/v2/rerank`` and ``/rerank`` with ``documents``: a query and documents in, a ranking out.

Owns Cohere's and Jina's shapes, which differ in what they tell beside the results: the answer has both. Knows no
scores. Invariant: a document that cannot be ranked is named in ``errors`` and missing from ``results``; the others are
ranked. Source: Cohere's API reference, "Rerank"; Jina's, "Reranker".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.encoders import ranking
from miaotui.encoders.results import RankedDocument
from miaotui.serve.encoders.fields import MAX_LISTED, EncoderFields, Flag
from miaotui.serve.encoders.requests import MAX_INPUT_TOKENS, EncoderAnswer, check_count, find_encoder, run_task
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body, run
from miaotui.serve.http.errors import bad_value
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received
from miaotui.serve.wire.fields import MAX_TOKENS, JsonField, Name, Wire

MAX_RANK_FIELDS = 64


class RerankRequest(EncoderFields):
    """A query and the documents to rank: texts, or objects with a `text`."""

    query: str
    documents: Annotated[list[str | JsonField], Field(max_length=MAX_LISTED, fail_fast=True)]
    top_n: int | None = Field(None, ge=1, le=MAX_TOKENS, description="The best so many; null: all.")
    return_documents: Flag | None = Field(None, description="Repeat each document in its result.")
    rank_fields: Annotated[list[Name], Field(max_length=MAX_RANK_FIELDS)] | None = Field(
        None, description="Of documents that are objects: the fields to read, joined by line ends; else `text`."
    )
    max_tokens_per_doc: int | None = Field(
        None, ge=1, le=MAX_INPUT_TOKENS, description="Cut query and document to so many tokens together."
    )
    raw_scores: bool | None = Field(None, description="Scores as the model gives them, instead of 0 to 1.")


class RankedText(Wire):
    """A document, as it was sent."""

    text: str


class RerankResult(Wire):
    """A document's place."""

    index: int
    relevance_score: float
    document: RankedText | None = None
    dropped_tokens: int | None = Field(None, description="With truncation: tokens that were cut off.")


class RerankFailure(Wire):
    """A document that could not be ranked, and why."""

    index: int
    message: str


class RerankAnswer(Wire):
    """The ranking, best first."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RerankResult]
    errors: list[RerankFailure] | None = None
    usage: JsonField
    meta: JsonField


def routes() -> list[Endpoint]:
    """Return the routes of this module; ``/rerank`` is in `miaotui.serve.tei`, since its fields name its form."""
    return [
        Endpoint(path, "POST", create, "Rank documents", body=RerankRequest, answer=RerankAnswer)
        for path in ("/v1/rerank", "/v2/rerank")
    ]


async def create(http: HttpRequest) -> Response:
    """Answer one request. Raises `ApiError`, `RequestError` and `RefusedError`."""
    body = await read_body(received(http).body, RerankRequest)
    check_count("documents", len(body.documents))
    documents = [_text(document, body.rank_fields, index) for index, document in enumerate(body.documents)]
    options, query, top_n = body.reading("documents", body.max_tokens_per_doc), body.query, body.top_n
    answer = await run_task(
        http,
        find_encoder(http, body.model, "rerank", "embed"),
        body,
        [query, *documents],
        lambda model: ranking.rerank(model, query, documents, options, top_n=top_n),
    )
    size = sum(map(len, documents)) if body.return_documents else 0
    return await run(size, lambda: json_response(_shaped(answer, body, documents), headers=ignored_fields(body)))


def _text(document: str | JsonField, fields: Sequence[str] | None, index: int) -> str:
    """Return the text of a document to rank. Raises `ApiError` (400)."""
    if isinstance(document, str):
        return document
    found = [document.get(name) for name in fields or ("text",)]
    texts = [value for value in found if isinstance(value, str)]
    if not texts:
        named = ", ".join(fields or ("text",))
        raise bad_value(f"documents[{index}]", f"must be a text, or an object with text in {named}")
    return "\n".join(texts)


def _shaped(
    answer: EncoderAnswer[list[RankedDocument]], body: RerankRequest, documents: Sequence[str]
) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    for ranked in answer.result:
        if ranked.error is not None:
            continue
        item: dict[str, Any] = {"index": ranked.index, "relevance_score": score_of(ranked, body.raw_scores)}
        if body.return_documents:
            item["document"] = {"text": documents[ranked.index]}
        if body.reading("documents", body.max_tokens_per_doc).truncate:
            item["dropped_tokens"] = ranked.dropped
        results.append(item)
    failed = [{"index": each.index, "message": each.error} for each in answer.result if each.error is not None]
    return {
        "id": answer.id,
        "object": "list",
        "model": answer.model,
        "results": results,
        **({"errors": failed} if failed else {}),
        "usage": answer.usage,
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": answer.n_tokens, "output_tokens": 0},
        },
        "deadline": answer.deadline,
    }


def score_of(ranked: RankedDocument, raw_scores: bool | None) -> float | None:
    """Return a document's score in 0..1, or as the model gives it."""
    return ranked.raw_score if raw_scores else ranked.score
