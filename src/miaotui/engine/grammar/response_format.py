"""Formats that an answer can be held to, as callers name them, and the constraints that hold it.

Owns OpenAI's ``response_format``, vLLM's ``structured_outputs``, and how either goes with tools. Knows no HTTP and no
thread. Invariant: a format that cannot be used is a `FieldError` that names the field, before anything is submitted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from miaotui.engine.constraint import Constraint
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.grammar.source import Grammar, any_object, from_choices, from_lark, from_pattern, from_schema
from miaotui.engine.grammar.tool_calls import begin_of, calls_after_marker, control_ids, either, forced_calls
from miaotui.errors import FieldError, RequestError
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.tooling import AUTO, Tooling

FORMAT, STRUCTURED = "response_format", "structured_outputs"
Json = Mapping[str, Any]


@dataclass(frozen=True)
class AnswerGrammar:
    """The grammar of an answer, from its first token on or after a ``marker``; ``field`` is where it came from."""

    grammar: Grammar
    field: str
    marker: bytes | int | None = None

    def is_known(self, grammars: Grammars) -> bool:
        """Return whether `constraints` would return at once."""
        return grammars.knows(self.grammar)

    def constraints(self, grammars: Grammars) -> Callable[[], Constraint]:
        """Compile the grammar if it is new; return what makes the constraint of one answer. Raises `FieldError`."""
        try:
            starter = grammars.starter(self.grammar)
        except RequestError as error:
            raise _named(self.field, error) from None
        marker = self.marker
        return starter if marker is None else lambda: grammars.after(marker, starter())


def answer_grammar(
    tooling: Tooling, shape: Grammar | None, tokenizer: Tokenizer, field: str = FORMAT
) -> AnswerGrammar | None:
    """Return the grammar of an answer that may call tools, or has a ``shape``, or both; None: any text.

    ``field`` is where ``shape`` came from. Raises `FieldError`.
    """
    if not tooling.tools:
        return None if shape is None else AnswerGrammar(shape, field)
    form, tools, several = tooling.dialect.format, tooling.callable, tooling.several
    begin = begin_of(form, tokenizer)
    for token in control_ids(form, tokenizer):
        tokenizer.show(token)
    try:
        if tooling.choice == AUTO and shape is None:
            return AnswerGrammar(calls_after_marker(form, tools, several, tokenizer), "tools", begin)
        calls = forced_calls(form, tools, several, tokenizer)
        return AnswerGrammar(calls if shape is None or tooling.choice != AUTO else either(calls, shape), "tools")
    except RequestError as error:
        raise _named("tools", error) from None


def read_format(format_: Json | None) -> Grammar | None:
    """Read OpenAI's ``response_format``; None: any text. Raises `FieldError`."""
    kind = (format_ or {}).get("type", "text")
    if format_ is None or kind == "text":
        return None
    readers: dict[Any, Callable[[], Grammar]] = {
        "json_object": any_object,
        "json_schema": lambda: _schema(format_.get("json_schema"), f"{FORMAT}.json_schema"),
        "regex": lambda: from_pattern(format_.get("pattern") or ""),
        "choice": lambda: from_choices(format_.get("choices") or ()),
        "lark": lambda: from_lark(format_.get("grammar") or ""),
    }
    if not isinstance(kind, str) or kind not in readers:
        known = ", ".join(("text", *readers))
        raise FieldError(f"{FORMAT}.type", f"must be one of {known}, not {str(kind)[:64]!r}")
    try:
        return readers[kind]()
    except RequestError as error:
        raise _named(FORMAT, error) from None


def _schema(body: Any, where: str) -> Grammar:
    if not isinstance(body, Mapping):
        raise FieldError(where, "must be an object with a name and a schema")
    return schema_format(body, where)


def read_structured(wanted: Json | None) -> Grammar | None:
    """Read vLLM's ``structured_outputs``: one form by its name. Raises `FieldError`."""
    given = {name: value for name, value in (wanted or {}).items() if value is not None}
    if wanted is None or not given:
        return None
    readers: dict[str, Callable[[Any], Grammar]] = {
        "json": lambda schema: from_schema(_parsed(schema), strict=False),
        "json_object": lambda _: any_object(),
        "regex": from_pattern,
        "choice": from_choices,
        "grammar": from_lark,
    }
    name, value = next(iter(given.items()))
    if len(given) > 1 or name not in readers:
        raise FieldError(STRUCTURED, f"must have exactly one of {', '.join(readers)}")
    try:
        return readers[name](value)
    except RequestError as error:
        raise _named(STRUCTURED, error) from None


def _parsed(schema: Any) -> Any:
    """Return a schema, which may come as text."""
    try:
        return json.loads(schema) if isinstance(schema, str) else schema
    except RecursionError:
        raise RequestError("json must be a JSON schema: it is nested too deeply") from None
    except ValueError as error:
        raise RequestError(f"json must be a JSON schema: {error}") from None


def schema_format(body: Json, where: str) -> Grammar:
    """Read a JSON schema in ``schema``, enforced to the letter if ``strict``. Raises `FieldError`."""
    schema = body.get("schema")
    if not isinstance(schema, Mapping):
        raise FieldError(f"{where}.schema", "must be a JSON schema")
    try:
        return from_schema(schema, strict=bool(body.get("strict")))
    except RequestError as error:
        raise _named(f"{where}.schema", error) from None


def _named(field: str, error: RequestError) -> FieldError:
    """Return an error as one of ``field``, unless it names a field itself."""
    return error if isinstance(error, FieldError) else FieldError(field, str(error))
