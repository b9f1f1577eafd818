"""Tool calls through OpenAI's client: forced, chosen, streamed, and told back to the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from serving import Serving, serving

from tiny_engine import settings_in
from tiny_models import make_tiny_folder

HELLO: Any = [{"role": "user", "content": "hello"}]
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city"],
    "additionalProperties": False,
}
EMPTY = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}},
    {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": EMPTY}},
]
SCHEMAS = {"weather": CITY, "now": EMPTY}
NATIVE = (
    "{% if tools %}{{ tools | tojson }} <tool_call>{% endif %}"
    "{% for message in messages %}{{ message['role'] + ': ' + (message['content'] or '') }}\n"
    "{% for call in message.tool_calls or [] %}CALL {{ call.function.name }}"
    " {{ call.function.arguments.city }}{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("tools")
    plain = make_tiny_folder(folder, "llama", max_position_embeddings=4096)
    native = make_tiny_folder(folder, "qwen2", max_position_embeddings=4096)
    (native / "chat_template.jinja").write_text(NATIVE)
    with serving({"plain": plain, "native": native}, settings_in(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, *, model: str = "plain", messages: Any = HELLO, **more: Any) -> Any:
    wanted = {"max_tokens": 300, "seed": 5, "tools": TOOLS, **more}
    return client.chat.completions.create(model=model, messages=messages, **wanted)


def joined(chunks: Any) -> tuple[str, list[dict[str, str]], str]:
    """Text, calls and the finish reason of a stream."""
    text, calls, reason = "", [], ""
    for chunk in chunks:
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for piece in choice.delta.tool_calls or []:
            if piece.index == len(calls):
                calls.append({"id": piece.id, "name": piece.function.name, "arguments": ""})
            calls[piece.index]["arguments"] += piece.function.arguments
    return text, calls, reason


@pytest.mark.parametrize("model", ["plain", "native"])
@pytest.mark.parametrize("seed", range(2))
def test_required_calls_fit_their_schemas(client: openai.OpenAI, model: str, seed: int) -> None:
    choice = ask(client, model=model, tool_choice="required", seed=seed).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    for call in choice.message.tool_calls:
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    ids = [call.id for call in choice.message.tool_calls]
    assert len(set(ids)) == len(ids)


def test_a_named_function_is_called_once_if_not_in_parallel(client: openai.OpenAI) -> None:
    chosen: Any = {"type": "function", "function": {"name": "weather"}}
    for seed in range(3):
        answer = ask(client, tool_choice=chosen, parallel_tool_calls=False, seed=seed)
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "weather"
        jsonschema.validate(json.loads(call.function.arguments), CITY)


def test_streamed_calls_are_the_whole_calls(client: openai.OpenAI) -> None:
    whole = ask(client, tool_choice="required").choices[0].message.tool_calls
    text, calls, reason = joined(ask(client, tool_choice="required", stream=True))
    assert (text, reason) == ("", "tool_calls")
    assert [(call["name"], call["arguments"]) for call in calls] == [
        (call.function.name, call.function.arguments) for call in whole
    ]


def test_a_random_model_left_alone_calls_nothing(client: openai.OpenAI) -> None:
    for choice in ("auto", "none"):
        answer = ask(client, tool_choice=choice, max_tokens=20).choices[0]
        assert answer.message.tool_calls is None
        assert answer.finish_reason in ("stop", "length")


def test_a_format_or_a_call(client: openai.OpenAI) -> None:
    """With both, an answer is one of them."""
    format_ = {"type": "json_schema", "json_schema": {"name": "n", "schema": CITY, "strict": True}}
    for seed in range(4):
        message = ask(client, response_format=format_, seed=seed).choices[0].message
        if message.tool_calls is None:
            jsonschema.validate(json.loads(message.content), CITY)
        else:
            assert message.content is None


def test_a_call_cut_short_says_so(client: openai.OpenAI) -> None:
    choice = ask(client, tool_choice="required", max_tokens=4).choices[0]
    assert choice.finish_reason == "length"


@pytest.mark.parametrize("model", ["plain", "native"])
def test_results_go_back_to_the_model(client: openai.OpenAI, model: str) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    with_tools = ask(client, model=model, messages=messages, max_tokens=5)
    without = ask(client, model=model, messages=messages, max_tokens=5, tools=openai.NOT_GIVEN)
    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens > 30


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "browser"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]}, "tools[0].function.parameters"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
        "tools[0].function.parameters.type",
    ),
    (
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "odd"}}}},
                }
            ]
        },
        "tools",
    ),
    ({"tools": [*TOOLS, TOOLS[0]]}, "tools"),
    ({"tool_choice": "weather"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"tools": openai.NOT_GIVEN, "tool_choice": "required"}, "tool_choice"),
]


@pytest.mark.parametrize(("wrong", "param"), WRONG)
def test_what_is_wrong_is_named(client: openai.OpenAI, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **wrong)
    assert caught.value.param == param
