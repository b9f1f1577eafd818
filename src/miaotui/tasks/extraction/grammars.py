"""Grammar of an extraction: a JSON object whose values are candidates, options, or pieces of the text itself.

Owns its notation, llguidance's Lark. Knows no models. Invariant: a text value within the grammar is a run of whole
words (Chinese: of characters) of one sentence of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from miaotui.engine.grammar.source import Grammar, from_lark
from miaotui.retrieval.query.analysis import has_chinese
from miaotui.retrieval.sentences import sentences
from miaotui.tasks.extraction.fields import MAX_ITEMS, ExtractedField, FieldCandidate

_UNQUOTABLE = re.compile(r'["\\\x00-\x1f]+')  # of JSON: no value holds them


def extraction_grammar(
    text: str, fields: Sequence[ExtractedField], found: Mapping[str, Sequence[FieldCandidate]], verbatim: bool
) -> Grammar:
    """Return the grammar of a JSON object with a member for each field."""
    rules: list[str] = []
    members: list[str] = []
    needs_text = False
    for number, field in enumerate(fields):
        begin = ("{" if number == 0 else ", ") + json.dumps(field.name, ensure_ascii=False) + ": "
        members.append(f"{json.dumps(begin, ensure_ascii=False)} f{number}")
        value = _value(field, text, found.get(field.name, ()), verbatim)
        needs_text |= value == _TEXT
        rules += _rules(number, field, value)
    terminals = _segments(text) if needs_text else []
    return from_lark("\n".join([f'start: {" ".join(members)} "}}"', *rules, *terminals]))


_TEXT = '"\\"" TEXT "\\""'


def _value(field: ExtractedField, text: str, found: Sequence[FieldCandidate], verbatim: bool) -> str:
    """Return the alternatives of one value, empty where the text has none."""
    if field.kind == "text":
        return _TEXT
    if field.kind == "boolean":
        return '"true" | "false"'
    if field.kind == "choice":
        options = [each for each in field.options if not verbatim or each.casefold() in text.casefold()]
        return " | ".join(_literal(each) for each in options)
    spans = dict.fromkeys(text[each.start : each.end] for each in found if each.value is not None)
    return " | ".join(_literal(each) for each in spans if not _UNQUOTABLE.search(each))


def _rules(number: int, field: ExtractedField, value: str) -> list[str]:
    if field.several:
        if not value:
            return [f'f{number}: "[]"']
        items = f'v{number} (", " v{number}){{0,{MAX_ITEMS - 1}}}'
        return [f'f{number}: "[]" | "[" {items} "]"', f"v{number}: {value}"]
    if not value:
        return [f'f{number}: "null"']
    return [f"f{number}: {value}" if field.required else f'f{number}: {value} | "null"']


def _literal(text: str) -> str:
    """Return a text as a JSON string within a Lark string."""
    return json.dumps(json.dumps(text, ensure_ascii=False), ensure_ascii=False)


def _segments(text: str) -> list[str]:
    """Return the terminals of runs of words: one for each sentence, cut where JSON would need an escape."""
    parts = [
        part.strip()
        for start, end in sentences(text)
        for part in _UNQUOTABLE.split(text[start:end])
        if any(letter.isalnum() for letter in part)
    ]
    parts = list(dict.fromkeys(parts)) or ["-"]
    names = " | ".join(f"TEXT_{number}" for number in range(len(parts)))
    return [f"TEXT: {names}", *(f"TEXT_{number}: %regex {_substring(part)}" for number, part in enumerate(parts))]


def _substring(part: str) -> str:
    kind = "substring_chars" if has_chinese(part) else "substring_words"
    return json.dumps({kind: part}, ensure_ascii=False)
