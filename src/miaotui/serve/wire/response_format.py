"""Answers in a form that was asked for: where a server compiles their grammars.

Owns the thread that does so, with a limit on the time that a request waits for it. The list of formats is in
`engine.grammar.response_format`. Invariant: a grammar that cannot be used is refused (400, with the field that
asked for it) before anything is submitted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from miaotui.engine.constraint import Constraint
from miaotui.engine.grammar.response_format import FORMAT, AnswerGrammar, answer_grammar, schema_format
from miaotui.engine.grammar.source import Grammar
from miaotui.errors import OverloadedError
from miaotui.serve.http.errors import bad_value
from miaotui.serve.wire.fields import Json
from miaotui.serve.wire.output_format import FREE, OutputFormat
from miaotui.serve.wire.tool_calls import ChatShaper
from miaotui.served_model import ServedModel
from miaotui.text.tool_calls.tooling import Tooling

COMPILE_S = 10.0  # in line; the work itself is bounded by the trial, far below
_THREAD = ThreadPoolExecutor(1, "miaotui-grammar")  # so that clients' grammars fill no other


def read_output_config(config: Json | None) -> Grammar | None:
    """Read Anthropic's ``output_config``, which may hold a format. Raises `ApiError` (400)."""
    format_ = (config or {}).get("format")
    if format_ is None:
        return None
    if not isinstance(format_, Mapping) or format_.get("type") != "json_schema":
        raise bad_value("output_config.format", "must have the type 'json_schema'")
    return schema_format({**format_, "strict": True}, "output_config.format")


async def form_of(model: ServedModel, tooling: Tooling, shape: Grammar | None, param: str = FORMAT) -> OutputFormat:
    """Return the form of an answer that may call tools, or has a shape, or both.

    ``param`` is the field that ``shape`` came from. Raises `RequestError` that names the field.
    """
    wanted = answer_grammar(tooling, shape, model.tokenizer, param)
    if wanted is None:
        return FREE
    constraints = await _compiled(model, wanted)
    return OutputFormat(constraints, lambda: ChatShaper(tooling)) if tooling.tools else OutputFormat(constraints)


async def _compiled(model: ServedModel, wanted: AnswerGrammar) -> Callable[[], Constraint]:
    """Compile a grammar in a thread unless it is known."""
    if wanted.is_known(model.grammars):
        return wanted.constraints(model.grammars)
    work = asyncio.get_running_loop().run_in_executor(_THREAD, wanted.constraints, model.grammars)
    try:
        return await asyncio.wait_for(work, COMPILE_S)
    except asyncio.TimeoutError:
        text = "too many new grammars wait to be compiled: ask again in a moment"
        raise OverloadedError(text, 1.0) from None
