"""Requests and answers of ``/v1/tasks/similar`` and ``/v1/tasks/group``.

Owns their names and bounds; meanings are in `miaotui.tasks.groups`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from miaotui.serve.encoders.fields import EncoderFields
from miaotui.serve.tasks.wire import TaskTexts
from miaotui.serve.wire.fields import Wire

MAX_QUERIES = 64


class SimilarRequest(EncoderFields):
    """Texts to compare with queries."""

    texts: TaskTexts = Field(description="Texts that are compared; those that cannot be taken are left out.")
    queries: Annotated[list[JsonValue], Field(min_length=1, max_length=MAX_QUERIES, fail_fast=True)]
    top: int = Field(5, ge=1, le=1000, description="Texts for each query, the nearest first.")
    least: float = Field(-1.0, ge=-1, le=1, description="No text below this cosine.")


class GroupRequest(EncoderFields):
    """Texts to put into groups."""

    texts: TaskTexts = Field(description="A text that cannot be taken has an error, and the others are grouped.")
    groups: int | None = Field(None, ge=1, le=1024, description="How many; absent: as many as fit the texts.")
    duplicates: bool = Field(False, description="Only groups of texts that say nearly the same.")
    least: float = Field(0.9, gt=0, le=1, description="Cosine from which on two texts are duplicates.")


class SimilarTextBody(Wire):
    """Text that is like a query."""

    index: int
    text: str
    similarity: float


class SimilarTextsBody(Wire):
    """Texts like one query, the nearest first."""

    index: int
    found: list[SimilarTextBody]
    model: str
    took_ms: float
    error: str | None = None


class SimilarAnswer(Wire):
    """Results in the order of the queries."""

    object: Literal["list"]
    model: str
    data: list[SimilarTextsBody]
    usage: dict[str, int]
    deadline: dict[str, JsonValue]


class GroupedTextBody(Wire):
    """Group of one text; null for a text without one."""

    index: int
    group: int | None
    name: str | None
    similarity: float
    error: str | None = None


class TextGroupBody(Wire):
    """Group of texts with a name of its own words."""

    number: int
    name: str
    words: list[str]
    members: list[int]
    example: int
    cohesion: float


class GroupAnswer(Wire):
    """Groups, the largest first, and the group of each text."""

    object: Literal["groups"]
    model: str
    data: list[GroupedTextBody]
    groups: list[TextGroupBody]
    counts: dict[str, int]
    usage: dict[str, int]
    deadline: dict[str, JsonValue]
