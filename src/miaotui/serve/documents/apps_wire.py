"""``/v1/answer`` and ``/v1/support``: requests and answers.

Owns their names and bounds; meanings are in `miaotui.apps`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from miaotui.apps.answering import MAX_QUESTION_CHARS
from miaotui.apps.conversations import MAX_COMMENT_CHARS, MAX_MESSAGE_CHARS
from miaotui.apps.evidence import LeftOut
from miaotui.retrieval.answers.cache import CacheState
from miaotui.serve.wire.fields import Name, Wire
from miaotui.types import MAX_DEADLINE_MS

QuestionText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUESTION_CHARS)]
CustomerMessage = Annotated[str, StringConstraints(min_length=1, max_length=MAX_MESSAGE_CHARS)]


class AnswerRequest(Wire):
    """A question to an index."""

    index: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    question: QuestionText
    mode: Literal["extractive", "generated"] = Field(
        "generated", description="Cut out of a passage, or selected or written by the model."
    )
    model: Name | None = Field(None, description="A name that /v1/models lists.")
    max_tokens: int | None = Field(None, ge=1, le=512)
    deadline_ms: float | None = Field(
        None,
        gt=0,
        le=MAX_DEADLINE_MS,
        allow_inf_nan=False,
        description="Default: 1000, or 200 for an extractive answer. A model that would be late "
        "gives way to the best span.",
    )
    graph: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None, description="A knowledge graph of miaotui graph: asked first, the documents where it has no sure answer."
    )
    stream: bool | None = None


class CitationBody(Wire):
    """A passage that supports the answer, by the number in its text."""

    number: int
    id: str
    title: str
    source: str
    quote: str


class AnswerBody(Wire):
    """A whole answer."""

    object: Literal["answer"]
    model: str
    text: str
    how: Literal["extractive", "selected", "generated", "graph", "none"] = Field(
        description="Cut out of a passage; a passage's words that the model selected; written by the model; from the "
        "graph; no answer."
    )
    found: bool = Field(description="False: the documents do not say.")
    supported: bool = Field(description="Every sentence has a passage that says so.")
    citations: list[CitationBody]
    dropped: list[int] = Field(description="Passages that the model named in vain.")
    strength: float = Field(
        description="By words: the share of the question in the best sentence and its passage. By meaning: the "
        "probability that the documents answer it."
    )
    index: str
    version: str
    shortened: bool
    complete: bool = Field(description="No part of the index was missing.")
    cache: CacheState
    took_ms: float
    span: str = Field(description="The words of a passage that the answer comes down to.")
    left_out: list[LeftOut] = Field(description="Work that the deadline left no time for.")


class AnswerPieceBody(Wire):
    """An event of a streamed answer; the last one is the whole answer."""

    object: Literal["answer.piece"]
    text: str


class BeginRequest(Wire):
    """A new conversation."""

    language: Literal["en", "zh"] = "en"


class MessageRequest(Wire):
    """A message of a customer, or of the person that took over."""

    text: CustomerMessage
    role: Literal["user", "person"] = "user"


class RatingRequest(Wire):
    """A rating of one turn, or of the whole conversation."""

    score: int = Field(ge=1, le=5)
    turn: int | None = Field(None, ge=1)
    comment: Annotated[str, StringConstraints(max_length=MAX_COMMENT_CHARS)] = ""


class ReplyBody(Wire):
    """A reply, and how it came about."""

    object: Literal["support.reply"]
    conversation: str
    text: str
    how: str = Field(description="greeting, rule, slot, faq, documents, fallback or handed_over.")
    turn: int
    intent: str
    confidence: float
    rule: str
    citations: list[dict[str, Any]]
    slots: dict[str, str]
    handed_over: bool
    took_ms: float


class TranscriptBody(Wire):
    """A conversation as it stands."""

    object: Literal["support.conversation"]
    id: str
    language: str
    begun_s: float
    handed_over: bool
    slots: dict[str, str]
    turns: list[dict[str, Any]]
    ratings: list[dict[str, Any]]


class DeletedConversation(Wire):
    """A conversation that is gone."""

    object: Literal["support.conversation"]
    id: str
    deleted: bool


class RatedBody(Wire):
    """Confirmation of a rating."""

    object: Literal["support.rating"]
    conversation: str
