"""The form of an answer that was asked for: the constraint of its tokens, and the syntax of its text.

Owns how tools, formats and thoughts make one `OutputFormat`, and the thread that compiles grammars, with a limit on the
time that a request waits for it. The list of formats is in `engine.grammar.response_format`. Invariants:
a grammar that cannot be used is refused (400, with the field that asked for it) before anything is submitted; each of n
answers gets a constraint of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from miaotui.engine.constraint import Constraint
from miaotui.engine.grammar.reasoning import reasoning_tokens, with_reasoning
from miaotui.engine.grammar.response_format import FORMAT, AnswerGrammar, answer_grammar, schema_format
from miaotui.engine.grammar.source import Grammar
from miaotui.errors import OverloadedError
from miaotui.serve.generation import FREE, OutputFormat
from miaotui.serve.http.errors import bad_value
from miaotui.serve.wire.fields import Json, ReasoningFields
from miaotui.served_model import ServedModel
from miaotui.text.answers import AnswerSyntax, is_thought_open
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


@dataclass(frozen=True)
class ReasoningOptions:
    """Treatment of the model's thought after one ``prompt``: see `ReasoningFields`."""

    prompt: Sequence[int]
    separate: bool = True
    budget: int | None = None  # tokens

    @staticmethod
    def of(prompt: Sequence[int], body: ReasoningFields, budget: int | None = None) -> ReasoningOptions:
        """Read the fields of a request. ``budget`` is used unless they name one."""
        named = body.max_reasoning_tokens
        return ReasoningOptions(prompt, body.reasoning_format != "none", budget if named is None else named)


async def form_of(
    model: ServedModel,
    tooling: Tooling,
    shape: Grammar | None,
    param: str = FORMAT,
    reasoning: ReasoningOptions | None = None,
) -> OutputFormat:
    """Return the form of an answer that may call tools, has a shape, or begins with a thought.

    ``param`` is the field that ``shape`` came from; ``reasoning`` None: the answer belongs to no chat. Raises
    `RequestError` that names the field.
    """
    wanted = answer_grammar(tooling, shape, model.tokenizer, param)
    constraints = None if wanted is None else await _compiled(model, wanted)
    form = None if reasoning is None else model.chat.reasoning
    if reasoning is None or form is None:
        syntax = AnswerSyntax(tooling) if tooling.tools else None
        return FREE if constraints is None else OutputFormat(constraints, syntax)
    is_open = is_thought_open(form, model.tokenizer, reasoning.prompt)
    if constraints is not None or reasoning.budget is not None:
        tokens = reasoning_tokens(form, model.tokenizer, model.grammars.vocab_size, bool(tooling.tools))
        constraints = with_reasoning(tokens, is_open, reasoning.budget, constraints)
    syntax = AnswerSyntax(tooling, form if reasoning.separate else None, is_open)
    return OutputFormat(constraints or FREE.constraint, None if syntax.is_plain else syntax)


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
