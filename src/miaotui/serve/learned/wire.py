"""Requests and answers of ``/v1/recommendations`` and ``/v1/graphs/...``.

Owns their names and bounds; meanings are in `miaotui.tasks.recommend` and `miaotui.retrieval.graph`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from miaotui.retrieval.graph.answers import MAX_QUESTION_CHARACTERS
from miaotui.serve.encoders.fields import EncoderFields
from miaotui.serve.wire.fields import Wire
from miaotui.tasks.recommend.log import MAX_NAME_CHARACTERS
from miaotui.tasks.recommend.ranking import MAX_ITEMS

MAX_HISTORY_ITEMS = 2_048
ItemName = Annotated[str, StringConstraints(max_length=MAX_NAME_CHARACTERS)]


class WeightedItem(Wire):
    """Item of a history with its weight."""

    item: ItemName
    weight: float = 1.0


class RecommendationRequest(EncoderFields):
    """Items for a user, for a history, for an intent in words, or like an item."""

    recommender: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    user: ItemName | None = Field(None, description="One that the log lacks gets what is popular.")
    history: Annotated[list[ItemName | WeightedItem], Field(max_length=MAX_HISTORY_ITEMS)] | None = Field(
        None, description="Items instead of a user; unknown ones are left out, with a reason in `errors`."
    )
    intent: Annotated[str, StringConstraints(max_length=4_096)] | None = Field(
        None, description="The wish in words; needs texts of items, and their encoder among the models."
    )
    similar_to: ItemName | None = Field(None, description="Items like this one; stands alone.")
    n: int = Field(10, ge=1, le=MAX_ITEMS)
    popularity: float = Field(0.0, ge=-1, le=1, allow_inf_nan=False)
    diversity: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    seen: bool = Field(False, description="Items of the history may come again.")


class RecommendedItem(Wire):
    """Item with its score, which is the sum of its parts."""

    item: str
    score: float
    text: str
    parts: dict[str, float]
    because_of: list[tuple[str, float]]


class RecommendationAnswer(Wire):
    """Items, best first."""

    object: Literal["list"]
    recommender: str
    basis: Literal["history", "intent", "history and intent", "popularity", "item"]
    user: str | None
    items: list[RecommendedItem]
    errors: list[dict[str, Any]]
    took_ms: float


class GraphQuestion(Wire):
    """A question to a graph."""

    question: Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUESTION_CHARACTERS)]
    hops: int = Field(3, ge=1, le=3)
    threshold: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    words_from: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        None, description="Chat model that makes a sentence of the answer; the graph decides what it says."
    )


class GraphAnswerBody(Wire):
    """Answer with its proof, or the reason why the graph has none."""

    object: Literal["graph.answer"]
    graph: str
    question: str
    found: bool = Field(description="False: not in the graph.")
    text: str
    entities: list[str]
    subject: str
    likeness: float = Field(description="Of the words and the subject's name: 1 where they are equal.")
    reading: list[str] = Field(description="Relations that were looked for.")
    probability: float
    paths: list[list[list[str]]] = Field(description="Triples that lead to the answers.")
    complete: bool
    took_ms: float
    reason: str
    is_written: bool = Field(False, description="A chat model worded the text, and the check found nothing wrong.")
