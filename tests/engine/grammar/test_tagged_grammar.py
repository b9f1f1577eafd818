"""Grammars of tool calls between marks: they let through what the parser reads, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from constrained import may_follow

from miaotui.engine.constraint import Constraint
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.grammar.tool_calls import calls_after_marker, forced_calls
from miaotui.text.load import load_tokenizer
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.formats import COMMAND_R, PHI4, TOOL_CALLS, AnyFormat, Tool
from miaotui.text.tool_calls.tagged import TAGGED
from tiny_models import make_tiny_folder
from tiny_tokenizer import VOCAB_SIZE

TOOLS = (
    Tool(
        "weather",
        "",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"type": "integer"},
                "exact": {"type": "boolean"},
            },
            "required": ["city"],
        },
        strict=True,
    ),
    Tool("now", "", {"type": "object", "properties": {}}, strict=True),
)
ARGUMENTS: list[dict[str, Any]] = [{"city": "New\nYork < 5"}, {"city": "Bern", "unit": "C", "days": 2, "exact": True}]
ALL: tuple[AnyFormat, ...] = (*TAGGED, PHI4, TOOL_CALLS, COMMAND_R)
every = pytest.mark.parametrize("form", ALL, ids=lambda form: form.begin)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(None, make_tiny_folder(tmp_path_factory.mktemp("tagged"), "llama"))


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer, VOCAB_SIZE)


def accepted(constraint: Constraint, tokenizer: Tokenizer, text: str) -> str:
    """The part of a text that the constraint lets through, token by token; all of it only if it may end there."""
    done: list[int] = []
    for token in tokenizer.encode(text, special=False):
        if token not in may_follow(constraint):
            return tokenizer.decode(done)
        constraint.accept(token)
        done.append(token)
    return text if may_follow(constraint) & tokenizer.eos_ids else text + "…"


@every
def test_calls_that_fit_are_let_through(form: AnyFormat, grammars: Grammars, tokenizer: Tokenizer) -> None:
    assert form.again is not None
    calls = [form.write("weather", arguments) for arguments in ARGUMENTS]
    calls.append(form.write("now", {}))
    text = form.open + form.again.join(calls) + form.close
    after = grammars.starter(calls_after_marker(form, TOOLS, True, tokenizer))()
    assert accepted(after, tokenizer, text) == text
    forced = grammars.starter(forced_calls(form, TOOLS, True, tokenizer))()
    assert accepted(forced, tokenizer, form.begin + text) == form.begin + text


@every
def test_other_calls_are_not(form: AnyFormat, grammars: Grammars, tokenizer: Tokenizer) -> None:
    assert form.again is not None
    one = form.write("weather", ARGUMENTS[0])
    wrong = [
        form.open + form.write("other", {}) + form.close,
        form.open + form.write("weather", {"town": "Bern"}) + form.close,
        form.open + form.write("weather", {"city": "Bern", "days": "two"}) + form.close,
        form.open + form.write("weather", {"city": "Bern", "unit": "K"}) + form.close,
        form.open + one + form.again + one + form.close,
    ]
    for text in wrong:
        constraint = grammars.starter(calls_after_marker(form, TOOLS, False, tokenizer))()
        assert accepted(constraint, tokenizer, text) != text, text
