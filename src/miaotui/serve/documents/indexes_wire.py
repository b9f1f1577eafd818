"""``/v1/indexes``: requests and answers.

Owns their names and bounds; meanings are in `miaotui.retrieval`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from miaotui.serve.wire.fields import Wire

MAX_DOCUMENTS = 10_000
Text = Annotated[str, StringConstraints(max_length=8_192)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class DocumentBody(Wire):
    """A document to be found."""

    id: Id
    body: str = ""
    pdf: str | None = Field(None, description="A PDF file in base64, whose text takes the place of `body`.")
    title: Annotated[str, StringConstraints(max_length=2_000)] = ""
    source: Text = ""
    time: int | str | None = Field(None, description="Seconds since 1970, or ISO 8601.")
    language: str = Field("", description="A two-letter code, for filters.")
    tags: Annotated[list[Id], Field(max_length=64)] = Field(default_factory=list)


class AddDocuments(Wire):
    """Documents to add; those of the same ids are replaced."""

    documents: Annotated[list[DocumentBody], Field(min_length=1, max_length=MAX_DOCUMENTS)]


class Added(Wire):
    """Result of adding documents, durable when this is sent."""

    added: int = Field(description="Documents.")
    passages: int
    version: str


class DeletedIndex(Wire):
    """An index that is gone."""

    id: str
    object: Literal["index"] = "index"
    deleted: bool


class DeletedDocuments(Wire):
    """Result of a deletion."""

    id: str
    deleted: bool
    passages: int
    version: str


class PassageBody(Wire):
    """A passage of a document."""

    id: str
    title: str
    body: str
    source: str


class WholeDocument(Wire):
    """A document as its passages, in order."""

    object: Literal["document"]
    id: str
    passages: list[PassageBody]


class SearchRequest(Wire):
    """A search."""

    query: Text
    limit: int = Field(10, ge=1, le=1_000)
    offset: int = Field(0, ge=0, le=1_000)
    plain: bool = Field(False, description="The query is text without syntax.")
    explain: bool = Field(False, description="Give the parts of each hit's score.")


class TermShare(Wire):
    """Stem of a word of the query, and its part of a score."""

    term: str
    share: float


class ScoreShares(Wire):
    """Parts of a hit's score: of the meaning (null: words alone were searched), of all words, and of each."""

    meaning: float | None
    words: float
    terms: list[TermShare]


class HitBody(Wire):
    """A passage that was found."""

    id: str
    document: str
    title: str
    body: str
    source: str
    time: int | None
    language: str
    tags: list[str]
    score: float
    snippet: str = Field(description="HTML; the query's words in <b>.")
    shares: ScoreShares | None = Field(None, description="With `explain`.")


class SearchAnswer(Wire):
    """Passages that a search found, best first."""

    object: Literal["list"]
    data: list[HitBody]
    version: str
    warnings: list[str] = Field(description="Partitions whose passages are missing.")


class IndexBody(Wire):
    """An index."""

    id: str
    object: Literal["index"]


class IndexList(Wire):
    """The indexes that can be searched with this key."""

    object: Literal["list"]
    data: list[IndexBody]


class PartitionRequest(Wire):
    """A question of an index that has this one as a partition."""

    query: Text
    plain: bool = False
    language: Annotated[str, StringConstraints(max_length=32)]
    weights: dict[Literal["title", "body"], Annotated[float, Field(gt=0, le=100)]]
    limit: int = Field(10, ge=1, le=2_000)
    statistics: dict[str, Any] | None = None


class PartitionStatistics(Wire):
    """This index's share of the statistics."""

    documents: int
    tokens: dict[str, int]
    frequencies: list[list[str | int]]
    version: str


class PartitionPassages(Wire):
    """This index's best passages."""

    found: list[dict[str, Any]]
