"""``POST /v1/embeddings``: texts or token ids in, vectors out.

Owns OpenAI's shapes of a request and its answer, and vectors as base64. Knows no tokenizer. Invariant: the numbers of
both encodings are the same float32 values, bit for bit. Source: OpenAI's API reference, "Embeddings"; ``input_type``
and ``task`` are Cohere's and Jina's.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.encoders import tasks
from miaotui.serve.encoders.answers import list_response
from miaotui.serve.encoders.fields import EncoderFields, Inputs
from miaotui.serve.encoders.requests import EncoderAnswer, check_count, find_encoder, run_task
from miaotui.serve.http.bodies import ignored_fields, read_body
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received
from miaotui.serve.wire.fields import MAX_TOKENS, Name, Wire

Floats = NDArray[np.float32]
Encoding = Literal["float", "base64"]


class EmbeddingRequest(EncoderFields):
    """Texts, or token ids of the model's own tokenizer, special tokens included."""

    input: Inputs
    encoding_format: Encoding | None = Field(None, description="`base64`: little-endian float32, the same bits.")
    dimensions: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="The first so many, made to length 1 again; of models trained for it."
    )
    input_type: Name | None = Field(
        None,
        description="The kind of text, `query` or `document` (also `search_query`, `passage`, ...), for its prompt.",
    )
    prompt_name: Name | None = Field(None, description="The same, as sentence-transformers has it.")
    task: Name | None = Field(None, description="The same, as Jina has it: `retrieval.query`, `retrieval.passage`.")
    normalize: bool | None = Field(None, description="Make the length 1, or not; by default as the model's files say.")


class EmbeddingObject(Wire):
    """One input's vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    dropped_tokens: int | None = Field(None, description="With truncation: tokens that were cut off.")


class EmbeddingUsage(Wire):
    """Counts of tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Wire):
    """All vectors, in the order of the inputs."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage


def routes() -> list[Endpoint]:
    """Return the route of this module."""
    return [Endpoint("/v1/embeddings", "POST", create, "Embed texts", body=EmbeddingRequest, answer=EmbeddingList)]


async def create(http: HttpRequest) -> Response:
    """Answer one request. Raises `ApiError`, `RequestError` and `RefusedError`."""
    body = await read_body(received(http).body, EmbeddingRequest)
    check_count("input", len(body.input))
    options, prompt = body.reading("input"), body.input_type or body.prompt_name or body.task
    answer = await run_task(
        http,
        find_encoder(http, body.model, "embed"),
        body,
        body.input,
        lambda model: tasks.embed(
            model, body.input, options, prompt=prompt, dimensions=body.dimensions, normalize=body.normalize
        ),
    )
    encoding: Encoding = body.encoding_format or "float"
    around = {"object": "list", "model": answer.model, "usage": answer.usage, "deadline": answer.deadline}
    size = answer.result.size if encoding == "float" else 0
    return await list_response(_items(answer, encoding, options.truncate), size, ignored_fields(body), around)


def _items(answer: EncoderAnswer[Floats], encoding: Encoding, tells_dropped: bool) -> Iterator[dict[str, Any]]:
    for index, vector in enumerate(answer.result):
        item = {"object": "embedding", "index": index, "embedding": written(vector, encoding)}
        if tells_dropped:
            item["dropped_tokens"] = answer.dropped[index]
        yield item


def written(vector: Floats, encoding: Encoding) -> list[float] | str:
    """Return a vector as JSON has it: numbers that read back as the same float32, or base64 of their bytes."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    numbers: list[float] = vector.astype(np.float64).tolist()
    return numbers
