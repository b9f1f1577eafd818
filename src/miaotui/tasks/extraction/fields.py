"""Fields that are looked for in a text: a JSON schema read into kinds, and each kind's candidates in the text.

Owns the kinds and their candidates. Knows no models. Invariant: a candidate is ``text[start:end]``, with its value in
standard form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from miaotui.errors import FieldError
from miaotui.tasks.extraction.amounts import FoundAmount, find_amounts, find_numbers
from miaotui.tasks.extraction.dates import DateReading, find_dates, find_times

FieldKind = Literal["text", "number", "integer", "amount", "date", "time", "email", "url", "phone", "choice", "boolean"]
MAX_FIELDS = 32
MAX_ITEMS = 8  # of a field that has several values
_NAME = re.compile(r"[^\x00-\x1f\"\\]{1,64}")
_FORMATS: Mapping[str, FieldKind] = {
    "date": "date", "date-time": "date", "time": "time", "email": "email", "uri": "url", "url": "url",
    "phone": "phone", "amount": "amount", "currency": "amount", "money": "amount",
}  # fmt: skip
_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "email": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.ASCII),
    "url": re.compile(r"(?:https?://|www\.)[^\s<>\"'，。；（）]+[\w/]", re.ASCII),
    "phone": re.compile(r"(?<![\w.])\+?\(?\d[\d ()-]{5,18}\d(?!\w)", re.ASCII),
}


@dataclass(frozen=True)
class ExtractedField:
    """Field that is looked for: its name, what it is, and whether it has one value, several, or perhaps none."""

    name: str
    kind: FieldKind = "text"
    about: str = ""
    options: tuple[str, ...] = ()
    required: bool = False
    several: bool = False


class FieldCandidate(NamedTuple):
    """Possible value ``text[start:end]`` of a field, and its standard form."""

    start: int
    end: int
    value: Any


def read_schema(schema: Mapping[str, Any]) -> list[ExtractedField]:
    """Return the fields of a JSON schema of a flat object. Raises `FieldError`."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping) or not 0 < len(properties) <= MAX_FIELDS:
        raise FieldError("schema", f"must be a JSON schema of an object with 1 to {MAX_FIELDS} properties")
    required = schema.get("required") or ()
    return [_field(name, each, name in required) for name, each in properties.items()]


def entity_fields(types: Sequence[str] | Mapping[str, str]) -> list[ExtractedField]:
    """Return a field of several values for each type of entity. Raises `FieldError`."""
    about = types if isinstance(types, Mapping) else dict.fromkeys(types, "")
    if isinstance(types, str) or not 0 < len(about) <= MAX_FIELDS or len(about) < len(types):
        raise FieldError("entities", f"must be 1 to {MAX_FIELDS} different names of types")
    return [_named(ExtractedField(name, "text", text or "", several=True)) for name, text in about.items()]


def _field(name: str, schema: Any, required: bool) -> ExtractedField:
    if not isinstance(schema, Mapping):
        raise FieldError(f"schema.properties.{name}", "must be a JSON schema")
    about, kind = str(schema.get("description") or ""), schema.get("type", "string")
    if kind == "array":
        inner = _field(name, schema.get("items") or {"type": "string"}, required)
        return ExtractedField(name, inner.kind, about or inner.about, inner.options, required, several=True)
    options = schema.get("enum")
    if options is not None:
        sound = isinstance(options, list) and 0 < len(options) <= 256 and all(isinstance(each, str) for each in options)
        if not sound:
            raise FieldError(f"schema.properties.{name}.enum", "must be 1 to 256 texts")
        return _named(ExtractedField(name, "choice", about, tuple(options), required))
    plain: Mapping[Any, FieldKind] = {"number": "number", "integer": "integer", "boolean": "boolean"}
    if kind not in ("string", *plain):
        raise FieldError(
            f"schema.properties.{name}.type",
            f"must be string, number, integer, boolean or array, not {str(kind)[:40]!r}",
        )
    return _named(ExtractedField(name, plain.get(kind) or _format(name, schema), about, (), required))


def _format(name: str, schema: Mapping[str, Any]) -> FieldKind:
    wanted = schema.get("format")
    if wanted is not None and wanted not in _FORMATS:
        raise FieldError(f"schema.properties.{name}.format", f"must be one of {', '.join(_FORMATS)}")
    return "text" if wanted is None else _FORMATS[wanted]


def _named(field: ExtractedField) -> ExtractedField:
    if not _NAME.fullmatch(field.name):
        raise FieldError("schema.properties", f"{field.name[:64]!r} is no name of a field: quotes are not taken")
    return field


def candidates(kind: FieldKind, text: str, reading: DateReading | None = None) -> list[FieldCandidate]:
    """Return the possible values of a kind in a text, in order; none for kinds that are not found by their form."""
    if kind == "date":
        return [FieldCandidate(*each) for each in find_dates(text, reading)]
    if kind == "time":
        return [FieldCandidate(*each) for each in find_times(text)]
    if kind == "amount":
        return [_amount(each) for each in find_amounts(text)]
    if kind in ("number", "integer"):
        return _numbers(kind, text)
    pattern = _PATTERNS.get(kind)
    return [] if pattern is None else [FieldCandidate(m.start(), m.end(), m[0]) for m in pattern.finditer(text)]


def _amount(found: FoundAmount) -> FieldCandidate:
    return FieldCandidate(found.start, found.end, {"amount": found.amount, "currency": found.currency})


def _numbers(kind: FieldKind, text: str) -> list[FieldCandidate]:
    """Return plain numbers; those within dates, times and amounts only where there are no others."""
    taken = [(each.start, each.end) for find in (find_dates, find_times, find_amounts) for each in find(text)]
    found = [each for each in find_numbers(text) if kind == "number" or "." not in each.amount]
    free = [each for each in found if all(each.end <= start or each.start >= end for start, end in taken)]
    return [
        FieldCandidate(each.start, each.end, int(each.amount) if kind == "integer" else float(each.amount))
        for each in free or found
    ]
