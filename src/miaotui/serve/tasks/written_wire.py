"""Requests and answers of tasks that give texts: summaries, translations, extracted values, generated texts.

Owns their names and bounds; meanings are in `miaotui.tasks`.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from miaotui.errors import FieldError
from miaotui.serve.tasks.wire import TaskTexts
from miaotui.serve.wire.fields import JsonField, Name, PromiseFields, Wire

Count = Annotated[int, Field(ge=1, le=100_000)]


class WrittenFields(PromiseFields):
    """Fields of every task whose texts a chat model writes."""

    model: Name | None = Field(None, description="A chat model that /v1/models lists.")
    user: Name | None = None


class SummaryRequest(WrittenFields):
    """Texts to summarise, and the largest length of each summary."""

    texts: TaskTexts = Field(description="A text that cannot be taken has an error, and the others are answered.")
    sentences: Count | None = None
    words: Count | None = Field(None, description="Chinese characters count as words.")
    seconds: float | None = Field(None, gt=0, le=86_400, description="To read it aloud.")
    unit: Literal["sentence", "clause"] | None = Field(None, description="`clause` gives something like a title.")
    method: Literal["extract", "write"] | None = Field(
        None, description="`extract` (default) chooses from the text; `write` asks a chat model and checks it."
    )


class SummaryPartBody(Wire):
    """Part of a summary and its place in the text, in characters."""

    text: str
    start: int
    end: int
    score: float


class SummaryBody(Wire):
    """Summary of one text."""

    index: int
    text: str | None
    parts: list[SummaryPartBody]
    dropped: list[str] | None = None
    method: str
    model: str
    took_ms: float
    error: str | None = None


class SummaryAnswer(Wire):
    """Summaries in the order of the texts."""

    object: Literal["list"]
    model: str
    data: list[SummaryBody]
    deadline: dict[str, JsonValue]


class TranslationRequest(WrittenFields):
    """Texts to translate."""

    texts: TaskTexts = Field(description="A text that cannot be taken has an error, and the others are answered.")
    target: Name = Field(description="Code or English name of a language.")
    source: Name | None = Field(None, description="None: detected in each text.")
    format: Literal["text", "html", "markdown"] | None = Field(None, description="Markup that is kept.")
    glossary: Annotated[dict[str, str], Field(max_length=256)] | None = Field(
        None, description="Terms of the source, and those of the target."
    )
    alternatives: int | None = Field(None, ge=0, le=3)


class TranslationBody(Wire):
    """Translation of one text."""

    index: int
    text: str | None
    source: str
    target: str
    confidence: float | None = None
    probability: float
    alternatives: list[str] | None = None
    missed_terms: list[str] | None = None
    pieces: int
    retried: int
    model: str
    took_ms: float
    error: str | None = None


class TranslationAnswer(Wire):
    """Translations in the order of the texts."""

    object: Literal["list"]
    model: str
    data: list[TranslationBody]
    deadline: dict[str, JsonValue]


class CorrectionRequest(WrittenFields):
    """Texts whose spelling and grammar are mended."""

    texts: TaskTexts = Field(description="A text that cannot be taken has an error, and the others are answered.")


class TextEditBody(Wire):
    """Replacement of a part of the text, by its place in characters."""

    start: int
    end: int
    before: str
    after: str
    gain: float = Field(description="Log-likelihood that the sentence gained, in nats.")


class CorrectionBody(Wire):
    """Correction of one text."""

    index: int
    text: str | None
    edits: list[TextEditBody]
    model: str
    took_ms: float
    error: str | None = None


class CorrectionAnswer(Wire):
    """Corrections in the order of the texts."""

    object: Literal["list"]
    model: str
    data: list[CorrectionBody]
    deadline: dict[str, JsonValue]


class ExtractionRequest(WrittenFields):
    """Texts to extract values from, and which values."""

    texts: TaskTexts = Field(description="A text that cannot be taken has an error, and the others are answered.")
    json_schema: JsonField | None = Field(None, alias="schema", description="JSON schema of a flat object.")
    entities: Annotated[list[Name], Field(max_length=32)] | Annotated[dict[str, str], Field(max_length=32)] | None = (
        Field(None, description="Names of types, perhaps with descriptions.")
    )
    keywords: int | None = Field(None, ge=0, le=100, description="How many keywords are given.")
    verbatim: bool | None = Field(None, description="Every value is a span of the text.")
    threshold: float | None = Field(None, ge=0, le=1, description="No value below this probability.")
    today: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = Field(
        None, description="Day that dates are counted from."
    )
    day_order: Literal["dmy", "mdy"] | None = Field(None, description="Order of 03/04/2025; None: it has no value.")

    @property
    def today_as_date(self) -> dt.date | None:
        """Return the day that dates are counted from. Raises `FieldError`."""
        try:
            return None if self.today is None else dt.date.fromisoformat(self.today)
        except ValueError:
            raise FieldError("today", f"{self.today!r} is no day") from None


class ExtractionBody(Wire):
    """Values of one text; each has its place in the text, in characters."""

    index: int
    values: dict[str, JsonValue]
    fields: dict[str, JsonValue]
    keywords: list[JsonValue] | None = None
    abstained: list[str] | None = None
    model: str
    took_ms: float
    error: str | None = None


class ExtractionAnswer(Wire):
    """Values in the order of the texts."""

    object: Literal["list"]
    model: str
    data: list[ExtractionBody]
    deadline: dict[str, JsonValue]
