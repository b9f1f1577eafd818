"""Answers in a form that was asked for: from ``response_format`` and tools to constraints.

Owns what formats there are, and where grammars are compiled: in a thread, with a limit on the time
that anyone waits for it. Knows no wire format's answers. Invariant: a grammar that cannot be used
is refused (400, with the field that asked for it) before anything is submitted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from miaotui.engine.constraint import Constraint
from miaotui.engine.grammar.constraint import GrammarConstraint
from miaotui.engine.grammar.source import Grammar, any_object, from_choices, from_lark, from_pattern, from_schema
from miaotui.engine.grammar.tool_calls import begin_of, calls_after_marker, either, forced_calls
from miaotui.errors import OverloadedError, RequestError
from miaotui.serve.http.errors import bad_value
from miaotui.serve.wire.fields import Json
from miaotui.serve.wire.output_format import FREE, OutputFormat
from miaotui.serve.wire.tool_calls import AUTO, ChatShaper, Tooling, named
from miaotui.served_model import ServedModel

COMPILE_S = 10.0  # in line; the work itself is bounded by the trial, far below
_THREAD = ThreadPoolExecutor(1, "miaotui-grammar")  # so that strangers' grammars fill no other
FORMAT, STRUCTURED = "response_format", "structured_outputs"


def read_format(format_: Json | None) -> Grammar | None:
    """Read OpenAI's ``response_format``; None: any text. Raises `ApiError` (400)."""
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
        raise bad_value(f"{FORMAT}.type", f"must be one of {known}, not {str(kind)[:64]!r}")
    try:
        return readers[kind]()
    except RequestError as error:
        raise named(FORMAT, error) from None


def _schema(body: Any, where: str) -> Grammar:
    if not isinstance(body, Mapping):
        raise bad_value(where, "must be an object with a name and a schema")
    return schema_format(body, where)


def read_structured(wanted: Json | None) -> Grammar | None:
    """vLLM's ``structured_outputs``: one form by its name. Raises `ApiError` (400)."""
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
        raise bad_value(STRUCTURED, f"must have exactly one of {', '.join(readers)}")
    try:
        return readers[name](value)
    except RequestError as error:
        raise named(STRUCTURED, error) from None


def _parsed(schema: Any) -> Any:
    """Parse a schema, which may come as text."""
    try:
        return json.loads(schema) if isinstance(schema, str) else schema
    except RecursionError:
        raise RequestError("json must be a JSON schema: it is nested too deeply") from None
    except ValueError as error:
        raise RequestError(f"json must be a JSON schema: {error}") from None


def read_output_config(config: Json | None) -> Grammar | None:
    """Read Anthropic's ``output_config``, which may hold a format."""
    format_ = (config or {}).get("format")
    if format_ is None:
        return None
    if not isinstance(format_, Mapping) or format_.get("type") != "json_schema":
        raise bad_value("output_config.format", "must have the type 'json_schema'")
    return schema_format({**format_, "strict": True}, "output_config.format")


def schema_format(body: Json, where: str) -> Grammar:
    """Read a JSON schema in ``schema``, enforced to the letter if ``strict``."""
    schema = body.get("schema")
    if not isinstance(schema, Mapping):
        raise bad_value(f"{where}.schema", "must be a JSON schema")
    try:
        return from_schema(schema, strict=bool(body.get("strict")))
    except RequestError as error:
        raise named(f"{where}.schema", error) from None


async def form_of(model: ServedModel, tooling: Tooling, shape: Grammar | None, param: str = FORMAT) -> OutputFormat:
    """Return the form of an answer that may call tools, or has a shape, or both.

    ``param`` is the field that ``shape`` came from. Raises `ApiError` (400).
    """
    if not tooling.tools:
        if shape is None:
            return FREE
        return OutputFormat(await _compiled(model, lambda: shape, param))
    shaper = lambda: ChatShaper(tooling)  # noqa: E731 - one for each answer
    return OutputFormat(await _calling(model, tooling, shape), shaper)


async def _calling(model: ServedModel, tooling: Tooling, shape: Grammar | None) -> Callable[[], Constraint]:
    form, tokenizer, grammars = tooling.dialect.format, model.tokenizer, model.grammars
    begin = begin_of(form, tokenizer)
    if isinstance(begin, int):
        tokenizer.show(begin)
    tools, several = tooling.callable, tooling.several
    if tooling.choice == AUTO and shape is None:
        inner = await _compiled(model, lambda: calls_after_marker(form, tools, several), "tools")
        return lambda: grammars.after(begin, inner())

    def forced() -> Grammar:
        calls = forced_calls(form, tools, several, tokenizer)
        return calls if shape is None or tooling.choice != AUTO else either(calls, shape)

    return await _compiled(model, forced, "tools")


async def _compiled(model: ServedModel, source: Callable[[], Grammar], param: str) -> Callable[[], GrammarConstraint]:
    """Return the maker of one answer's constraint; compile it in a thread unless it is known."""
    try:
        grammar = source()
        if model.grammars.knows(grammar):
            return model.grammars.starter(grammar)
        event_loop = asyncio.get_running_loop()
        work = event_loop.run_in_executor(_THREAD, model.grammars.starter, grammar)
        return await asyncio.wait_for(work, COMPILE_S)
    except RequestError as error:
        raise named(param, error) from None
    except asyncio.TimeoutError:
        text = "too many new grammars wait to be compiled: ask again in a moment"
        raise OverloadedError(text, 1.0) from None
