"""Fields of an index, and the content of each for a passage.

Owns field names, how each is indexed, and the analysed row of a passage. Knows nothing of files or queries.
Invariant: text fields hold terms joined by spaces and are split at spaces again, so the index sees exactly the
analyser's terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miaotui.libraries import need
from miaotui.retrieval.document import Document, order_of
from miaotui.retrieval.query.analysis import Analyzer, has_chinese

if TYPE_CHECKING:
    import tantivy

# A title's words count as if they stood twice in the body: one field ranks, with weighted term
# frequencies (BM25F, Robertson, Zaragoza & Taylor 2004), so a word costs one list of postings.
TITLE_TIMES = 2
WEIGHTS: Mapping[str, float] = {"body": 1.0}
RANKED = ("title", "body")
LENGTHS = {name: f"{name}_len" for name in ("title", "body", "phrase")}


def build() -> tantivy.Schema:
    """Return the schema of every index; format 1."""
    builder: tantivy.SchemaBuilder = need("tantivy").SchemaBuilder()
    builder.add_text_field("key", tokenizer_name="raw", index_option="basic")
    builder.add_text_field("title", tokenizer_name="whitespace", index_option="freq")
    builder.add_text_field("body", tokenizer_name="whitespace", index_option="position")
    builder.add_text_field("phrase", tokenizer_name="whitespace", index_option="position")
    for name in ("source", "language", "tags"):
        builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
    builder.add_integer_field("time", indexed=True, fast=True)
    for name in LENGTHS.values():
        builder.add_unsigned_field(name, fast=True)
    builder.add_unsigned_field("order", fast=True)
    builder.add_bytes_field("record", stored=True)
    return builder.build()


@dataclass(frozen=True)
class Row:
    """Analysed passage. Picklable, so that other processes can make it."""

    id: str
    whole: str
    title: list[str]
    body: list[str]
    phrase: tuple[list[str], list[str]]  # title and body as they stand, where they are Chinese
    source: str
    language: str
    tags: tuple[str, ...]
    time_s: int | None
    record: bytes

    def to_tantivy(self) -> tantivy.Document:
        """Return the row in the index library's form."""
        made: tantivy.Document = need("tantivy").Document()
        made.add_text("key", self.id)
        if self.whole != self.id:
            made.add_text("key", self.whole)
        fields = {"title": (self.title,), "body": (*(self.title,) * TITLE_TIMES, self.body), "phrase": self.phrase}
        for name, values in fields.items():
            for terms in filter(None, values):  # the library leaves a gap between values
                made.add_text(name, " ".join(terms))
            made.add_unsigned(LENGTHS[name], sum(map(len, values)))
        _add_filters(made, self)
        made.add_unsigned("order", order_of(self.id))
        made.add_bytes("record", self.record)
        return made


def _add_filters(made: Any, row: Row) -> None:
    if row.source:
        made.add_text("source", row.source)
    if row.language:
        made.add_text("language", row.language)
    for tag in row.tags:
        made.add_text("tags", tag)
    if row.time_s is not None:
        made.add_integer("time", row.time_s)


def row_of(document: Document, analyzer: Analyzer) -> Row:
    """Return a passage as it will be indexed."""
    title, body = document.title, document.body
    chinese = has_chinese(title) or has_chinese(body)
    return Row(
        id=document.id,
        whole=document.whole,
        title=analyzer.terms(title),
        body=analyzer.terms(body),
        phrase=(analyzer.words(title), analyzer.words(body)) if chinese else ([], []),
        source=document.source,
        language=document.language,
        tags=document.tags,
        time_s=document.time_s,
        record=document.stored(),
    )
