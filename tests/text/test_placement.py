"""Templates are tried with marked messages; what they have no place for is placed, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_styles import CHATML, GEMMA, GRANITE, LLAMA3, MISTRAL, PHI3_MINI, QWEN3, STYLES

from miaotui.errors import RequestError
from miaotui.text.chat import ChatTemplate, read_messages
from miaotui.text.templates.trial import try_template
from miaotui.text.tool_calls.dialect import Dialect, dialect_of
from miaotui.text.tool_calls.formats import GENERIC, HERMES, LLAMA
from miaotui.text.tool_calls.formats import GRANITE as GRANITE_CALLS
from miaotui.text.tool_calls.formats import MISTRAL as MISTRAL_CALLS
from miaotui.text.tool_calls.placement import placed

Messages = list[dict[str, Any]]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "tells it", "parameters": {"type": "object"}},
}
ABOUT_TOOLS: Messages = [
    {"role": "user", "content": "rain?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "sunny", "name": "weather", "tool_call_id": "abcdefghi"},
]


def render(source: str, messages: Messages, tools: Messages | None = None) -> str:
    template = ChatTemplate(source, "<s>", "</s>")
    traits = try_template(template)
    found, described = placed(read_messages(messages), tools or [], traits, dialect_of(traits))
    values = {"messages": found, "tools": list(described) or None, "add_generation_prompt": True}
    return template.compiled(bool(described)).render(values)


def system(role: str = "system", text: str = "Be brief.") -> Messages:
    return [{"role": role, "content": text}, {"role": "user", "content": "one"}]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_texts_come_out_of_every_template(style: str, role: str) -> None:
    text = render(STYLES[style], system(role))
    assert "brief." in text
    assert "one" in text
    later = render(STYLES[style], [*system(role), {"role": "assistant", "content": "two"}, *system(role, "Be kind.")])
    assert "brief." in later
    assert "kind." in later


def test_system_texts_without_a_place_go_before_the_users() -> None:
    assert render(GEMMA, system()) == ("<s><start_of_turn>user\nBe brief.\n\none<end_of_turn>\n<start_of_turn>model\n")
    assert render(PHI3_MINI, system("developer")) == "<s><|user|>\nBe brief.\n\none<|end|>\n<|assistant|>\n"
    alone = [{"role": "system", "content": "Be brief."}]
    assert render(PHI3_MINI, alone) == "<s><|user|>\nBe brief.<|end|>\n<|assistant|>\n"
    last = [*system()[1:], {"role": "system", "content": "Be brief."}]
    assert render(GEMMA, last).count("<start_of_turn>user\none\n\nBe brief.<end_of_turn>") == 1
    several = [*system()[:1], *system("system", "Be kind.")]
    assert render(MISTRAL, several) == "<s>[INST] Be brief.\n\nBe kind.\n\none[/INST]"


def test_developers_are_the_system_unless_the_template_knows_them() -> None:
    assert render(CHATML, system("developer")).startswith("<|im_start|>system\nBe brief.")
    assert render(QWEN3, system("developer")).startswith("<|im_start|>system\nBe brief.")
    knows = CHATML.replace("m['role'] +", "('boss' if m['role'] == 'developer' else m['role']) +")
    assert render(knows, system("developer")).startswith("<|im_start|>boss\nBe brief.")
    assert render(knows, system()).startswith("<|im_start|>system\nBe brief.")


@pytest.mark.parametrize("style", [style for style in STYLES if style != "named"])
def test_tools_calls_and_results_come_out_of_every_template(style: str) -> None:
    text = render(STYLES[style], ABOUT_TOOLS, [TOOL])
    for part in ("weather", "tells it", "rain?", "Oslo", "sunny"):
        assert part in text, part
    assert text.index("tells it") < text.index("Oslo") < text.index("sunny")
    again = render(STYLES[style], [*system()[:1], *ABOUT_TOOLS])  # a later turn may give no tools
    assert all(part in again for part in ("brief.", "Oslo", "sunny"))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("content", [None, [], "", "missing"])
def test_an_empty_content_of_the_assistant(style: str, content: object) -> None:
    empty: dict[str, Any] = {"role": "assistant", "content": content}
    if content == "missing":
        del empty["content"]
    called = [ABOUT_TOOLS[0], {**empty, "tool_calls": [CALL]}, ABOUT_TOOLS[2]]
    assert render(STYLES[style], called, [TOOL]) == render(STYLES[style], ABOUT_TOOLS, [TOOL])
    plain = [ABOUT_TOOLS[0], empty, ABOUT_TOOLS[0]]
    assert render(STYLES[style], plain) == render(STYLES[style], [plain[0], {**empty, "content": ""}, plain[2]])


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_contents_are_texts_or_lists_of_texts_everywhere(role: str) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    talk: Messages = [{"role": role, "content": parts}, {"role": "user", "content": [parts[0]]}]
    assert "one\ntwo" in render(QWEN3, talk)


DIALECTS = {
    "chatml": Dialect(GENERIC, native=False),
    "llama3": Dialect(LLAMA, native=True),
    "gemma": Dialect(GENERIC, native=False),
    "mistral": Dialect(MISTRAL_CALLS, native=True),
    "qwen3": Dialect(HERMES, native=True),
    "granite": Dialect(GRANITE_CALLS, native=True),
    "phi3": Dialect(GENERIC, native=False),
    "phi3-mini": Dialect(GENERIC, native=False),
    "deepseek": Dialect(GENERIC, native=False),
    "command-r": Dialect(GENERIC, native=False),
    "named": Dialect(GENERIC, native=False),
}


@pytest.mark.parametrize("style", STYLES)
def test_the_dialect_is_told_by_the_call_that_is_written(style: str) -> None:
    assert dialect_of(try_template(ChatTemplate(STYLES[style], "<s>", "</s>"))) == DIALECTS[style]


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages }}",
        '{{ tools }} {"name": f, "parameters": x} <tool_call> [TOOL_CALLS] <|tool_call|>{{ messages[0].content }}',
        QWEN3.replace("<tool_call>\\n{", "<tool_call><function=f>\\n{"),
        "{{ raise_exception('never') }}",
    ],
)
def test_words_in_the_source_tell_no_dialect(source: str) -> None:
    found = dialect_of(try_template(ChatTemplate(source)))
    assert found.format != LLAMA
    assert not found.native or found == Dialect(MISTRAL_CALLS, native=True)


def test_a_template_for_tools_is_tried_with_tools() -> None:
    template = ChatTemplate({"default": CHATML, "tool_use": QWEN3})
    assert dialect_of(try_template(template)) == Dialect(HERMES, native=True)
    assert dialect_of(try_template(ChatTemplate(None))) == Dialect(GENERIC, native=False)


def test_a_role_that_never_comes_out_is_refused_by_name() -> None:
    asks = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(RequestError, match="leaves out messages of the role 'assistant'"):
        render(asks, [*system()[1:], {"role": "assistant", "content": "two"}, *system()[1:]])
    with pytest.raises(RequestError, match="leaves out messages of the role 'user'"):
        render("always the same", system())


def test_call_arguments_are_json_in_templates_that_know_no_calls() -> None:
    text = render(GRANITE, ABOUT_TOOLS, [TOOL])
    call = text.partition("<|tool_call|>[")[2] if text.count("<|tool_call|>") == 1 else text.split("<|tool_call|>[")[-1]
    assert json.JSONDecoder().raw_decode(call)[0] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert '"parameters": {"city": "Oslo"}' in render(LLAMA3, ABOUT_TOOLS, [TOOL])
