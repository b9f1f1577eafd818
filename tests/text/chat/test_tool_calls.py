"""Tool calls in answers: found whatever the family writes, and however the text is split."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.text.tool_calls.formats import GRANITE, HERMES, LLAMA, MISTRAL, CallFormat
from miaotui.text.tool_calls.parser import CallArguments, CallBegins, Event, TextPiece, ToolCallParser

FORMATS = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL, "granite": GRANITE}
ARGUMENTS = {"city": 'Paris "}]', "days": [1, {"x": None}], "note": "</tool_call>\\"}
Found = tuple[str, list[tuple[str, str]]]


NAMES = ("f", "f0", "f1", "f2", "weather")


def parse(form: CallFormat, pieces: Sequence[str]) -> list[Event]:
    parser = ToolCallParser(form, NAMES)
    events = [event for piece in pieces for event in parser.push(piece)]
    return events + parser.finish()


def read(events: Sequence[Event]) -> Found:
    """The text, and each call's name and arguments."""
    text, calls = "", []
    for event in events:
        if isinstance(event, TextPiece):
            text += event.text
        elif isinstance(event, CallBegins):
            assert event.index == len(calls)
            calls.append((event.name, ""))
        elif isinstance(event, CallArguments):
            assert event.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + event.text)
    return text, calls


def written(form: CallFormat, count: int = 2) -> str:
    calls = [form.write(f"f{i}", {**ARGUMENTS, "i": i}) for i in range(count)]
    begin = "" if form.bare else form.begin
    return begin + form.open + (form.again or "").join(calls) + form.close


@pytest.mark.parametrize("name", FORMATS)
def test_calls_of_every_family(name: str) -> None:
    form = FORMATS[name]
    count = 1 if form.again is None else 3
    text, calls = read(parse(form, [written(form, count)]))
    assert text == ""
    assert [name for name, _ in calls] == [f"f{i}" for i in range(count)]
    assert [json.loads(each) for _, each in calls] == [{**ARGUMENTS, "i": i} for i in range(count)]


@pytest.mark.parametrize("form", [HERMES, MISTRAL, GRANITE])
def test_text_before_calls_is_kept_without_the_blanks_between(form: CallFormat) -> None:
    text, calls = read(parse(form, ["Let me  look.\n\n" + written(form)]))
    assert (text, len(calls)) == ("Let me  look.", 2)


VARIANTS = {
    "no closing marker": '<tool_call>{"name": "f", "arguments": {}}',
    "arguments first": '<tool_call>\n{"arguments": {}, "name": "f"}\n</tool_call>',
    "no arguments": '<tool_call>{"name": "f"}</tool_call>',
    "an identifier": '<tool_call>{"id": "7", "type": "function", "name": "f", "arguments": {}}</tool_call>',
    "an identifier behind": '<tool_call>{"name": "f", "arguments": {}, "id": "7"}</tool_call>',
    "parameters": '<tool_call>{"name": "f", "parameters": {}}</tool_call>',
    "null": '<tool_call>{"name": "f", "arguments": null}</tool_call>',
    "JSON as text": '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>',
    "fenced": '<tool_call>\n```json\n{"name": "f", "arguments": {}}\n```\n</tool_call>',
    "fenced, with a list": '<tool_call>```\n[{"name": "f", "arguments": {}}]\n```</tool_call>\n',
    "a list": '<tool_call>[{"name": "f", "arguments": {}}]</tool_call>\n',
    "indented": '<tool_call>\n{\n  "name" : "f" ,\n  "arguments" : {}\n}\n</tool_call>',
    "escapes": '<tool_call>{"n\\u0061me": "\\u0066", "arguments": {}}</tool_call>',
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_models_make_of_it(variant: str) -> None:
    assert read(parse(HERMES, [VARIANTS[variant]])) == ("", [("f", "{}")])


def test_llama_s_marker_is_optional_and_separators_vary() -> None:
    one = '{"name": "f", "parameters": {"a": 1}}'
    for text in (one, "<|python_tag|>" + one, f"\n{one}"):
        assert read(parse(LLAMA, [text])) == ("", [("f", '{"a": 1}')])
    assert read(parse(LLAMA, [f"{one}; {one}"]))[1] == [("f", '{"a": 1}')] * 2
    assert read(parse(LLAMA, [f"Text first {one}"])) == (f"Text first {one}", [])


NO_CALLS = [
    "just text",
    "  ",
    "a <tool_cal b",
    "a <tool_call",
    "<tool_call>",
    "<tool_call>no json</tool_call>",
    '<tool_call>{"arguments": {}}</tool_call>',
    '<tool_call>{"name": 7, "arguments": {}}</tool_call>',
    '<tool_call>{"name" "f"}</tool_call>',
    '<tool_call>{"name": }</tool_call>',
    '<tool_call>{"name": "f", "argu',
    '{"name": "f", "parameters": {"a": 1}}',
    '<tool_call>{"name": "g", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "f", "x": [{}], "arguments": {}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "f", "arguments": "no JSON"}</tool_call>',
    '<tool_call>{"name": "f", "name": "f", "arguments": null}</tool_call>',
    '<tool_call>```python\n{"name": "f", "arguments": {}}\n```</tool_call>',
    '<think>\n<tool_call>{"name": "f", "arguments": {}}</tool_call>\n</think>\n\nNo.',
    '<think>{"name": "f", "arguments": {}} <tool_call>',
]


@pytest.mark.parametrize("text", NO_CALLS)
def test_what_is_no_call_is_given_back_as_text(text: str) -> None:
    assert read(parse(HERMES, [text])) == (text, [])


BARE = [
    '{"a": 1}',
    '{"name": "f"',
    "{ x }",
    ' {"name": 1}',
    '{"name": "Alice", "age": 30}',
    '{"name": "weather", "age": 30}',
    '{"name": "weather"}',
    '{"name": "f", "parameters": {"a": 1}, "age": 30}',
    '{"name": "f", "parameters": {"a": 1}',
    '{"name": "f", "parameters": {"a": }}',
    '{"name": "f", "parameters": {}, "arguments": {}}',
    '{"weather": {"name": "f", "parameters": {}}}',
    '[{"name": "f", "parameters": {}}]',
    '<think>{"name": "f", "parameters": {}}</think> {"name": "Alice", "parameters": {}}',
]


@pytest.mark.parametrize("text", BARE)
def test_json_that_is_no_call_is_text_to_llama_too(text: str) -> None:
    assert read(parse(LLAMA, [text])) == (text, [])
    assert read(parse(LLAMA, list(text))) == (text, [])


def test_bare_calls_may_have_arguments_of_every_form() -> None:
    for value, told in (('{"a": 1}', '{"a": 1}'), ("null", "{}"), ('"{\\"a\\": 2}"', '{"a": 2}')):
        for key in ("arguments", "parameters"):
            assert read(parse(LLAMA, [f'{{"name": "f", "{key}": {value}}}'])) == ("", [("f", told)])


def test_nothing_within_a_thought_is_a_call() -> None:
    call = '{"name": "f", "parameters": {"a": 1}}'
    thought = f"I could call\n{call} <|python_tag|>{call}</think>"
    assert read(parse(LLAMA, [f"<think>{thought}\n{call}"])) == (f"<think>{thought}", [("f", '{"a": 1}')])
    assert read(parse(LLAMA, [f"<think>{call}"])) == (f"<think>{call}", [])  # the thought never ends
    assert read(parse(HERMES, [f"[THINK]{written(HERMES)}[/THINK]."]))[1] == []
    in_arguments = '<tool_call>{"name": "f", "arguments": {"a": "<think>"}}</tool_call>'
    assert read(parse(HERMES, [in_arguments + in_arguments])) == ("", [("f", '{"a": "<think>"}')] * 2)


def test_what_follows_a_call_that_was_told_is_text() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}, "age": 30} and more'
    assert read(parse(HERMES, [text])) == (', "age": 30} and more', [("f", "{}")])
    assert read(parse(HERMES, ['<tool_call>{"name": "f", "arguments": {}}, and more'])) == (", and more", [("f", "{}")])


def test_a_call_cut_short_keeps_what_came() -> None:
    cut = '<tool_call>\n{"name": "f", "arguments": {"a": "b'
    assert read(parse(HERMES, [cut])) == ("", [("f", '{"a": "b')])


def test_text_after_calls_is_text() -> None:
    text, calls = read(parse(HERMES, [written(HERMES, 1) + "\nDone. </tool"]))
    assert (text, len(calls)) == ("\nDone. </tool", 1)


def test_arguments_stream_as_they_come() -> None:
    parser = ToolCallParser(HERMES, NAMES)
    assert parser.push('<tool_call>\n{"name": "f", "arg') == []
    assert parser.push('uments": {"a') == [CallBegins(0, "f"), CallArguments(0, '{"a')]
    assert parser.push('": 1}') == [CallArguments(0, '": 1}')]


PARTS = st.sampled_from(
    [
        written(HERMES, 1),
        written(HERMES),
        written(LLAMA, 1),
        written(MISTRAL),
        *NO_CALLS,
        *VARIANTS.values(),
        *BARE,
        "<think>",
        "</think>",
        "```json",
        ', "id": "1"}',
        "text",
        "\n",
        "<",
        "[TOOL_CALLS]",
        "{",
        '"',
        "\\",
        "]",
        "</tool_call>",
    ]
)


@given(
    text=st.lists(PARTS, max_size=5).map("".join),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    form=st.sampled_from(list(FORMATS.values())),
)
def test_any_split_gives_the_same(text: str, cuts: list[int], form: CallFormat) -> None:
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    assert read(parse(form, pieces)) == read(parse(form, [text])) == read(parse(form, list(text)))


@given(text=st.text(alphabet='<tool_ca>{}[]"name: ,\\', max_size=60), form=st.sampled_from(list(FORMATS.values())))
def test_no_text_is_lost_where_there_is_no_call(text: str, form: CallFormat) -> None:
    found, calls = read(parse(form, [text]))
    if not calls:
        assert found == text


@given(
    parts=st.lists(PARTS, min_size=1, max_size=5),
    places=st.lists(st.integers(0, 600), max_size=6),
    form=st.sampled_from(list(FORMATS.values())),
)
def test_texts_and_calls_lose_nothing(parts: list[str], places: list[int], form: CallFormat) -> None:
    """Letters put anywhere but into an identifier come out, in the text or in a call, in order."""
    text = "".join(parts)
    for letter, place in zip("éèêëîï", places, strict=False):
        text = text[: place % (len(text) + 1)] + letter + text[place % (len(text) + 1) :]
    found, calls = read(parse(form, list(text)))
    whole = found + "".join(name + arguments for name, arguments in calls)
    if not re.search(r'"(id|type)"[^}]*[éèêëîï]', text):
        assert sorted(re.findall("[éèêëîï]", whole)) == sorted(re.findall("[éèêëîï]", text))
    if not calls:
        assert found == text
