"""Requests and answers of vLLM's routes for encoders.

Owns vLLM's names. Source: vLLM's documentation, "OpenAI-compatible server": pooling, classification and score.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from miaotui.serve.encoders.fields import EncoderFields, Inputs, Texts
from miaotui.serve.openai.embeddings import EmbeddingUsage, Encoding
from miaotui.serve.wire.fields import Wire

PoolingTask = Literal["embed", "classify", "token_embed", "token_classify"]


class ScoreRequest(EncoderFields):
    """Two sides of pairs: as many on each, or one on the first for all of the second.

    vLLM has called them by three names in turn.
    """

    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None
    raw_scores: bool | None = Field(None, description="A cross-encoder's scores as the model gives them.")


class ScoreObject(Wire):
    """A pair's score: 0 to 1 of a cross-encoder, the model's own measure of an embedder."""

    index: int
    object: Literal["score"]
    score: float


class ScoreList(Wire):
    """All scores, in the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoreObject]
    usage: EmbeddingUsage


class ClassifyRequest(EncoderFields):
    """Texts to classify."""

    input: Inputs


class ClassifyObject(Wire):
    """A text's label and the probability of each."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class ClassifyList(Wire):
    """All labels, in the order of the texts."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ClassifyObject]
    usage: EmbeddingUsage


class PoolingRequest(EncoderFields):
    """Texts, and what to make of their states."""

    input: Inputs
    encoding_format: Encoding | None = None
    task: PoolingTask | None = Field(None, description="By default what the model was trained for.")
    normalize: bool | None = None


class PoolingObject(Wire):
    """A text's numbers: a vector, or one for each token."""

    index: int
    object: Literal["pooling"]
    data: Any


class PoolingList(Wire):
    """All results, in the order of the texts."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[PoolingObject]
    usage: EmbeddingUsage
