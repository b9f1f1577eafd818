"""Requests in the form of Text Embeddings Inference.

Owns its names. Its answers are bare lists. Source: TEI's OpenAPI document, ``docs/openapi.json`` in its repository;
the ``parameters`` of ``/`` are those of Hugging Face's inference clients.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from miaotui.encoders.inputs import ReadOptions
from miaotui.encoders.spans import Aggregation
from miaotui.serve.encoders.fields import MAX_LISTED, EncoderFields, Inputs, Texts
from miaotui.serve.http.errors import bad_value
from miaotui.serve.wire.fields import MAX_TOKENS, JsonField, Name, Wire

Direction = Literal["left", "right", "Left", "Right"]
Pair = tuple[str, str]


class TeiFields(EncoderFields):
    """Fields of every request in this form."""

    truncation_direction: Direction | None = Field(None, description="Only `Right`: inputs are cut at their end.")

    def reading(self, field: str, max_tokens: int | None = None) -> ReadOptions:
        """Return how inputs are read. Raises `ApiError` (400) for what would cut them at their beginning."""
        if (self.truncation_direction or "Right").lower() == "left":
            raise bad_value("truncation_direction", "must be Right: inputs are cut at their end alone")
        return super().reading(field, max_tokens)


class EmbedRequest(TeiFields):
    """Texts or token ids to embed."""

    inputs: Inputs
    normalize: bool | None = Field(None, description="Make the length 1 (TEI's default), or not.")
    prompt_name: Name | None = None
    dimensions: int | None = Field(None, ge=1, le=MAX_TOKENS)


class RankRequest(TeiFields):
    """A query and texts to rank; with ``documents`` instead of ``texts`` the form is Cohere's."""

    query: str
    texts: Annotated[list[str], Field(max_length=MAX_LISTED, fail_fast=True)]
    raw_scores: bool | None = Field(None, description="Scores as the model gives them, instead of 0 to 1.")
    return_text: bool | None = None


def read_predict_inputs(value: Any) -> tuple[bool, list[str | Pair]]:
    """Return whether it is one input, and the inputs: texts or pairs. Raises `ValueError`.

    A list of two texts is a pair, as in TEI, and a list of lists is a batch of texts (of one) and pairs.
    """
    if isinstance(value, str):
        return True, [value]
    if not isinstance(value, list) or not value or len(value) > MAX_LISTED:
        raise ValueError("must be a text, a pair of texts, or a list of [text] and [text, text]")
    if all(isinstance(each, str) for each in value):
        if len(value) <= 2:
            return True, [value[0] if len(value) == 1 else (value[0], value[1])]
        return False, list(value)
    inputs: list[str | Pair] = []
    for each in value:
        texts = each if isinstance(each, list) else [each]
        if not 1 <= len(texts) <= 2 or not all(isinstance(text, str) for text in texts):
            raise ValueError("must be a text, a pair of texts, or a list of [text] and [text, text]")
        inputs.append(texts[0] if len(texts) == 1 else (texts[0], texts[1]))
    return False, inputs


_strings = {"type": "array", "items": {"type": "string"}, "minItems": 1}
PredictInputs = Annotated[
    tuple[bool, list[str | Pair]],
    PlainValidator(read_predict_inputs),
    WithJsonSchema({"anyOf": [{"type": "string"}, _strings, {"type": "array", "items": _strings}]}),
]


class PredictRequest(TeiFields):
    """Texts, or pairs of texts, to classify."""

    inputs: PredictInputs
    raw_scores: bool | None = Field(None, description="Logits instead of probabilities.")


class SimilarityInputs(Wire):
    """A text, and those to compare with it."""

    source_sentence: str
    sentences: Annotated[list[str], Field(max_length=MAX_LISTED, fail_fast=True)]


class SimilarityRequest(TeiFields):
    """Request of the similarity of texts to one text."""

    inputs: SimilarityInputs
    parameters: JsonField | None = None


class TaskParameters(Wire):
    """Options of a request to ``/``, of whatever task the model is for."""

    truncate: bool | None = None
    normalize: bool | None = None
    prompt_name: Name | None = None
    top_k: int | None = Field(None, ge=1, le=1000)
    aggregation_strategy: Aggregation | None = None


class TaskRequest(TeiFields):
    """Inputs for an encoder of whatever task it is for, as Hugging Face's clients send them."""

    inputs: Texts | SimilarityInputs
    parameters: TaskParameters | None = None
    normalize: bool | None = None
    prompt_name: Name | None = None

    @property
    def truncates(self) -> bool:
        """Return whether inputs may be cut at their end. Raises `ApiError` (400)."""
        return super().truncates or bool(self.parameters and self.parameters.truncate)
