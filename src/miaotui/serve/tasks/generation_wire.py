"""Requests and answers of ``/v1/tasks/generate``.

Owns their names and bounds; meanings are in `miaotui.tasks.generation`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from miaotui.serve.tasks.wire import TaskTexts
from miaotui.serve.tasks.written_wire import WrittenFields
from miaotui.serve.wire.fields import JsonField, Wire
from miaotui.tasks.generation.generator import MAX_TOKENS as DEFAULT_TOKENS
from miaotui.tasks.generation.generator import GenerationOptions
from miaotui.tasks.generation.requirements import Bound, TextRequirements

Number = Annotated[int, Field(ge=0, le=100_000)]
ShortText = Annotated[str, Field(min_length=1, max_length=512)]
Words = Annotated[list[ShortText], Field(max_length=64)]


class GenerationTaskRequest(WrittenFields):
    """Prompts, or texts to rewrite or to continue, and the requirements of what is written."""

    texts: TaskTexts = Field(description="A text that cannot be taken has an error, and the others are answered.")
    mode: Literal["generate", "rewrite", "continue"] | None = None
    style: str | None = Field(None, max_length=512)
    instruction: str | None = Field(None, max_length=4096)
    max_tokens: int | None = Field(None, ge=1, le=8192, description="Of one answer of the model.")
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    seed: int | None = Field(None, ge=0, le=2**53)
    least_words: Number | None = None
    most_words: Number | None = None
    least_sentences: Number | None = None
    most_sentences: Number | None = None
    paragraphs: int | None = Field(None, ge=1, le=100)
    bullets: int | None = Field(None, ge=1, le=100)
    include: Words | None = None
    avoid: Words | None = None
    case: Literal["lower", "upper"] | None = None
    without_commas: bool | None = None
    title: bool | None = None
    quoted: bool | None = None
    end: ShortText | None = None
    json_schema: JsonField | None = Field(None, alias="schema")

    def options(self, model: str) -> GenerationOptions:
        """Return the options of generation. Raises `FieldError`."""
        wanted = TextRequirements(
            words=_bound(self.least_words, self.most_words),
            sentences=_bound(self.least_sentences, self.most_sentences),
            paragraphs=self.paragraphs,
            bullets=self.bullets,
            include={word: Bound(1) for word in self.include or ()},
            avoid=tuple(self.avoid or ()),
            case=self.case,
            without_commas=bool(self.without_commas),
            title=bool(self.title),
            quoted=bool(self.quoted),
            end=self.end or "",
            schema=self.json_schema,
        )
        return GenerationOptions(
            wanted,
            self.style or "",
            self.instruction or "",
            self.max_tokens or DEFAULT_TOKENS,
            self.temperature or 0.0,
            self.seed or 0,
            model,
        )


def _bound(least: int | None, most: int | None) -> Bound | None:
    if least is None and most is None:
        return None
    return Bound(least or 0, 1 << 30 if most is None else most)


class GeneratedTextBody(Wire):
    """Text for one prompt, and the requirements that it does not fulfil."""

    index: int
    text: str | None
    unmet: list[str] | None = None
    raw: str
    requests: int
    probability: float
    model: str
    took_ms: float
    error: str | None = None


class GenerationAnswer(Wire):
    """Texts in the order of the prompts."""

    object: Literal["list"]
    model: str
    data: list[GeneratedTextBody]
    deadline: dict[str, JsonValue]
