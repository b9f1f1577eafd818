"""Extraction of fields and entities by a chat model that can write nothing but values the text has.

Owns the prompt, the reading of the answer, and the result. Knows models by `WriteSteps`. Invariants: a text value is
``text[start:end]``; a value below the threshold is None and named among the abstained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from miaotui.errors import FieldError, RequestError
from miaotui.retrieval.query.analysis import has_chinese
from miaotui.tasks.checks import require_text
from miaotui.tasks.extraction.dates import DateReading
from miaotui.tasks.extraction.fields import ExtractedField, FieldCandidate, candidates
from miaotui.tasks.extraction.grammars import extraction_grammar
from miaotui.tasks.extraction.keywords import Keyword, keywords_of
from miaotui.tasks.writing.steps import WriteRequest, WrittenAnswer
from miaotui.types import SamplingParams

MAX_CHARACTERS = 16_000
TOKENS_A_VALUE = 48
_TRIMMED = " \t\r\n,，。;；:：、.!！?？"
_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|null|true|false|\[\]')


@dataclass(frozen=True)
class ExtractionOptions:
    """Options of an extraction. A value whose probability is below ``threshold`` is left out.

    With ``verbatim`` every value is a span of the text: options that the text has not are left out, and fields of yes
    or no are refused. Raises `FieldError`.
    """

    fields: tuple[ExtractedField, ...] = ()
    keywords: int = 0
    verbatim: bool = False
    threshold: float = 0.0
    dates: DateReading = field(default_factory=DateReading)
    model: str = ""

    def __post_init__(self) -> None:
        names = [each.name for each in self.fields]
        if len(set(names)) < len(names):
            raise FieldError("schema", f"{next(n for n in names if names.count(n) > 1)!r} is there twice")
        if self.verbatim and any(each.kind == "boolean" for each in self.fields):
            raise FieldError("verbatim", "no text has true or false: leave out fields of type boolean")
        if not 0.0 <= self.threshold <= 1.0:
            raise FieldError("threshold", f"must be from 0 to 1, not {self.threshold!r}")
        if not self.fields and not self.keywords:
            raise FieldError("schema", "give a schema, entities, or a number of keywords")


@dataclass(frozen=True, kw_only=True)
class ExtractedValue:
    """Value of a field: in standard form, as it stands at ``text[start:end]`` (None: chosen, not copied).

    ``probability`` is the geometric mean of its tokens' probabilities before the grammar, not calibrated.
    """

    value: Any
    text: str
    start: int | None = None
    end: int | None = None
    probability: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Values of one text by field: one, several, or None."""

    index: int
    fields: Mapping[str, ExtractedValue | tuple[ExtractedValue, ...] | None] = field(default_factory=dict)
    keywords: tuple[Keyword, ...] = ()
    abstained: tuple[str, ...] = ()
    model: str = ""
    took_ms: float = 0.0
    error: str | None = None

    @property
    def values(self) -> dict[str, Any]:
        """Return the bare values by field."""
        return {
            name: [one.value for one in each] if isinstance(each, tuple) else None if each is None else each.value
            for name, each in self.fields.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them; those that say nothing are left out."""
        empty = {"abstained": (), "keywords": (), "error": None}
        whole = {**asdict(self), "values": self.values}
        return {name: value for name, value in whole.items() if name not in empty or value != empty[name]}


ExtractionSteps = Generator[Sequence[WriteRequest], Sequence[WrittenAnswer], Extraction]


def extraction_steps(text: str, options: ExtractionOptions, *, index: int = 0) -> ExtractionSteps:
    """Ask for the fields of a text; a text that cannot be taken gives a result with an error."""
    try:
        require_text(text, index, MAX_CHARACTERS)
        words = tuple(keywords_of(text, options.keywords)) if options.keywords else ()
        if not options.fields:
            return Extraction(index=index, keywords=words)
        found = {each.name: candidates(each.kind, text, options.dates) for each in options.fields}
        grammar = extraction_grammar(text, options.fields, found, options.verbatim)
        several = sum(1 + 3 * each.several for each in options.fields)
        params = SamplingParams(max_tokens=TOKENS_A_VALUE * several + 32, logprobs=0)
        (answer,) = yield [WriteRequest(messages_for(text, options.fields), params, grammar, passages=[text])]
    except RequestError as error:
        reason = str(error)
        shown = reason if reason.startswith("texts[") else f"texts[{index}]: {reason}"
        return Extraction(index=index, model=options.model, error=shown)
    values, abstained = _read(text, answer, options, found)
    return Extraction(index=index, fields=values, keywords=words, abstained=tuple(abstained), model=options.model)


def messages_for(text: str, fields: Sequence[ExtractedField]) -> list[dict[str, str]]:
    """Return the conversation that asks for fields, in the text's language."""
    listed = "\n".join(f"- {each.name}: {each.about or each.name}" for each in fields)
    if has_chinese(text):
        asked = f"从上面的文字中提取下列字段，以 JSON 输出，值照抄原文，没有的写 null：\n{listed}"
    else:
        asked = (
            f"Extract these fields from the text above as JSON. Copy values from the text, null if missing:\n{listed}"
        )
    return [{"role": "user", "content": f"{text}\n\n{asked}"}]


def _read(
    text: str, answer: WrittenAnswer, options: ExtractionOptions, found: Mapping[str, Sequence[FieldCandidate]]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of an answer, which may be cut, and the names of fields below the threshold."""
    values: dict[str, Any] = {}
    abstained = []
    place = 0
    for each in options.fields:
        begin = answer.text.find(json.dumps(each.name, ensure_ascii=False) + ": ", place)
        one: list[ExtractedValue] = []
        if begin >= 0:
            place = begin + len(json.dumps(each.name, ensure_ascii=False)) + 2
            one, place = _values(text, answer, each, found[each.name], place)
        kept = [value for value in one if value.probability >= options.threshold]
        if len(kept) < len(one):
            abstained.append(each.name)
        values[each.name] = tuple(kept) if each.several else (kept[0] if kept else None)
    return values, abstained


def _values(
    text: str, answer: WrittenAnswer, wanted: ExtractedField, found: Sequence[FieldCandidate], place: int
) -> tuple[list[ExtractedValue], int]:
    """Return the values of one field, each once, and the place after them."""
    kept: dict[str, ExtractedValue] = {}
    is_list = answer.text.startswith("[", place)
    place += is_list and not answer.text.startswith("[]", place)
    while match := _VALUE.match(answer.text, place):
        place = match.end()
        value = _value(text, json.loads(match[0]), wanted, found, answer.probability_of(match.start(), match.end()))
        if value is not None:
            kept.setdefault(value.text, value)
        if not is_list or not answer.text.startswith(", ", place):
            break
        place += 2
    return list(kept.values()), place


def _value(
    text: str, written: Any, wanted: ExtractedField, found: Sequence[FieldCandidate], probability: float
) -> ExtractedValue | None:
    if written is None or written == []:
        return None
    if wanted.kind in ("boolean", "choice"):
        start = text.casefold().find(str(written).casefold()) if wanted.kind == "choice" else -1
        same = start >= 0 and len(text.casefold()) == len(text)
        end = start + len(str(written)) if same else None
        return ExtractedValue(
            value=written, text=str(written), start=start if same else None, end=end, probability=probability
        )
    if wanted.kind != "text":
        known = next((each for each in found if text[each.start : each.end] == written), None)
        if known is None:
            return None
        return ExtractedValue(
            value=known.value, text=written, start=known.start, end=known.end, probability=probability
        )
    trimmed = written.strip(_TRIMMED)
    start = text.find(trimmed)
    if not trimmed or start < 0:
        return None
    return ExtractedValue(value=trimmed, text=trimmed, start=start, end=start + len(trimmed), probability=probability)
