"""Rules of calls whose arguments are a JSON object, marked or bare values, or keywords between a format's own marks.

Owns the text of these rules and how control tokens are written in a grammar. Knows no answers. Invariant: the parser of
the format reads whatever the rules let through; values of strings hold no text that would end them.
Source: llguidance's documentation, "Lark".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from miaotui.engine.grammar.source import annotated
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.formats import Tool
from miaotui.text.tool_calls.tagged import TaggedFormat

_TEXT = "/(?s:.*)/"


class GrammarText:
    """Texts as a grammar writes them: quoted, with the model's control tokens by their ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def text(self, text: str) -> str:
        """Return the terms of ``text``; nothing for an empty one."""
        return " ".join(self._terms(text))

    def _terms(self, text: str) -> Iterator[str]:
        at = 0
        for start, end, token in self._tokenizer.find_controls(text):
            if start > at:
                yield json.dumps(text[at:start])
            yield f"<[{token}]>"
            at = end
        if at < len(text):
            yield json.dumps(text[at:])

    def numbered(self, text: str) -> str:
        """Return the terms of ``text`` with any number in place of a zero."""
        return " /[0-9]+/ ".join(filter(None, map(self.text, text.split("0")))) if "0" in text else self.text(text)


def object_schema(tool: Tool) -> dict[str, Any]:
    """Return the schema of the arguments, which are an object whatever else it says."""
    plain = {"type": "object", **tool.parameters} if tool.parameters else {"type": "object"}
    return dict(annotated(plain, strict=tool.strict))


def tagged_rules(form: TaggedFormat, tool: Tool, index: int, words: GrammarText) -> list[str]:
    """Return the rules of a call of ``tool``, the ``index``-th of those that may be called."""
    arguments, more = _arguments(form, tool, index, words)
    parts = [
        words.text(form.before),
        json.dumps(tool.name),
        words.numbered(form.after),
        arguments,
        words.text(form.end),
    ]
    return [f"call_{index}: " + " ".join(filter(None, parts)), *more]


def _arguments(form: TaggedFormat, tool: Tool, index: int, words: GrammarText) -> tuple[str, list[str]]:
    """Return the terms of the arguments, and the rules that these need."""
    if form.marks is None and not form.pythonic and not form.quote:
        return f"arguments_{index}", [f"arguments_{index}: %json {json.dumps(object_schema(tool))}"]
    schema = object_schema(tool)
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    needed = schema.get("required")
    required = [name for name in needed if name in known] if isinstance(needed, list) else []
    rules = []
    for number, (name, each) in enumerate(known.items()):
        rules += _parameter(form, f"{index}_{number}", str(name), {**_definitions(schema), **_mapping(each)}, words)
    places = {name: f"parameter_{index}_{number}" for number, name in enumerate(known)}
    if form.pythonic or form.quote:
        comma = '","' if form.quote else '", "'
        rest = [places[name] for name in known if name not in required]
        rules += _bare_rules(form.quote, index, words) if form.quote else []
        return _keywords([places[name] for name in required], rest, comma), rules
    return " ".join(place if name in required else f"{place}?" for name, place in places.items()), rules


def _keywords(required: list[str], optional: list[str], comma: str) -> str:
    """Return parameters with commas between: the required ones, then any of the others in their order."""
    if required:
        return f" {comma} ".join(required) + "".join(f" ({comma} {each})?" for each in optional)
    nested = ""
    for each in reversed(optional):
        nested = f"({each} ({comma} {nested})?)" if nested else each
    return f"{nested}?" if nested else ""


def _bare_rules(quote: str, index: int, words: GrammarText) -> list[str]:
    """Return the rules of any value between a format's own marks: strings, lists, objects with bare keys."""
    mark, any_, pair = words.text(quote), f"any_{index}", f"pair_{index}"
    is_text = "<[" not in mark
    text = f"text_{index}[suffix={mark}]: {_TEXT}" if is_text else f"text_{index}: {_TEXT}"
    listed, members = f'"[" ({any_} ("," {any_})*)? "]"', f'"{{" ({pair} ("," {pair})*)? "}}"'
    return [
        text,
        f"string_{index}: {mark} text_{index}" + ("" if is_text else f" {mark}"),
        f'{any_}: string_{index} | number_{index} | "true" | "false" | "null" | {listed} | {members}',
        f'{pair}: /[A-Za-z0-9_.-]+/ ":" {any_}',
        f'number_{index}: %json {{"type": "number"}}',
    ]


def _bare_value(quote: str, number: str, schema: Mapping[str, Any], words: GrammarText) -> str:
    """Return the terms of a value of a parameter; of lists and objects all are let through."""
    chosen, kind, index = schema.get("enum"), schema.get("type"), number.partition("_")[0]
    if isinstance(chosen, list) and chosen and all(isinstance(each, str) for each in chosen):
        mark = words.text(quote)
        return f"{mark} ({' | '.join(json.dumps(each) for each in chosen)}) {mark}"
    if kind == "string":
        return f"string_{index}"
    if kind in ("integer", "number", "boolean", "null"):
        return f"value_{number}"
    return f"any_{index}"


def _parameter(form: TaggedFormat, number: str, name: str, schema: dict[str, Any], words: GrammarText) -> list[str]:
    value = f"value_{number}: %json {json.dumps(schema)}"
    if form.quote:
        written = _bare_value(form.quote, number, schema, words)
        return [f"parameter_{number}: {json.dumps(name + ':')} {written}", *([value] * written.startswith("value_"))]
    if form.pythonic:
        if schema.get("type") == "boolean":
            value = f'value_{number}: "True" | "False"'
        return [f"parameter_{number}: {json.dumps(name + '=')} value_{number}", value]
    assert form.marks is not None
    before = words.text(form.marks.before_key + name + form.marks.after_key)
    behind = words.text(form.marks.after_value)
    if schema.get("type") == "string":
        chosen = schema.get("enum")
        if isinstance(chosen, list) and chosen and all(isinstance(each, str) for each in chosen):
            value = _choices(number, chosen)
        else:  # the text goes on up to its closing mark, the line end before that included
            mark = form.marks.after_value.strip("\n")
            tail = form.marks.after_value[form.marks.after_value.rindex(mark) + len(mark) :]
            written = words.text(mark)
            is_text = "<[" not in written
            value = f"value_{number}[suffix={written}]: {_TEXT}" if is_text else f"value_{number}: {_TEXT}"
            behind = words.text(tail) if is_text else f"{written} {words.text(tail)}"
    return [f"parameter_{number}: {before} value_{number} {behind}", value]


def _choices(number: str, chosen: Any) -> str:
    return f"value_{number}: " + " | ".join(json.dumps(each) for each in chosen)


def _definitions(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
