"""Tool calls of the harmony format: found by a trial of the template, and read from either order of a header."""

from __future__ import annotations

import json

import pytest

from miaotui.text.answers import AnswerSyntax
from miaotui.text.chat import ChatTemplate
from miaotui.text.reasoning import HARMONY, ReasoningPiece, reasoning_format
from miaotui.text.templates.trial import try_template
from miaotui.text.tool_calls.dialect import Dialect, dialect_of
from miaotui.text.tool_calls.formats import Tool
from miaotui.text.tool_calls.parser import CallArguments, CallBegins, TextPiece
from miaotui.text.tool_calls.tagged import HARMONY_CALLS
from miaotui.text.tool_calls.tooling import Tooling

TEMPLATE = """{%- if tools %}
    {{- '<|start|>developer<|message|># Tools\\n\\nnamespace functions {\\n' }}
    {%- for tool in tools %}
        {{- '// ' + tool.function.description + '\\ntype ' + tool.function.name + ' = (_: any) => any;\\n' }}
    {%- endfor %}{{- '}<|end|>' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.tool_calls %}
        {%- set f = m.tool_calls[0].function %}
        {{- '<|start|>assistant to=functions.' + f.name + '<|channel|>commentary json<|message|>' }}
        {{- f.arguments | tojson }}{{- '<|call|>' }}
    {%- elif m.role == 'assistant' %}{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}
    {%- elif m.role == 'tool' %}
        {{- '<|start|>functions.f to=assistant<|channel|>commentary<|message|>' + m.content + '<|end|>' }}
    {%- else %}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""
THOUGHT = "<|channel|>analysis<|message|>They ask for the weather.<|end|><|start|>assistant"
BODY = '<|message|>{"city": "Paris"}<|call|>'
CALLS = (
    "<|channel|>commentary to=functions.weather <|constrain|>json" + BODY,
    "<|channel|>commentary to=functions.weather<|constrain|>json" + BODY,
    "<|channel|>commentary to=functions.weather" + BODY,
    " to=functions.weather<|channel|>commentary json" + BODY,
)


def test_the_template_shows_its_calls() -> None:
    template = ChatTemplate(TEMPLATE)
    assert dialect_of(try_template(template)) == Dialect(HARMONY_CALLS, native=True)
    assert reasoning_format(template.sources) is HARMONY


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("call", CALLS)
def test_calls_are_read_behind_a_thought_and_without(call: str, size: int) -> None:
    tooling = Tooling(Dialect(HARMONY_CALLS, native=True), (Tool("weather"),))
    for before, thought in ((THOUGHT, "They ask for the weather."), ("", "")):
        parser, text = AnswerSyntax(tooling, HARMONY).parser(), before + call
        events = [event for at in range(0, len(text), size) for event in parser.push(text[at : at + size])]
        events += parser.finish()
        assert "".join(event.text for event in events if isinstance(event, ReasoningPiece)) == thought
        assert [event.name for event in events if isinstance(event, CallBegins)] == ["weather"]
        arguments = "".join(event.text for event in events if isinstance(event, CallArguments))
        assert json.loads(arguments) == {"city": "Paris"}
        assert not [event for event in events if isinstance(event, TextPiece)]


def test_a_call_of_an_unknown_function_is_text() -> None:
    tooling = Tooling(Dialect(HARMONY_CALLS, native=True), (Tool("weather"),))
    parser = AnswerSyntax(tooling, HARMONY).parser()
    events = [*parser.push(CALLS[0].replace("weather", "other")), *parser.finish()]
    text = "".join(event.text for event in events if isinstance(event, TextPiece))
    assert text.endswith('{"city": "Paris"}')
    assert not [event for event in events if isinstance(event, CallBegins)]
