"""/v1/messages with Anthropic's own client, on a real port."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import jsonschema
import plain_http
import pytest
from serving import Serving, serving

from tiny_engine import settings_in
from tiny_models import make_tiny_folder

HELLO: Any = [{"role": "user", "content": "hello there"}]
FREE = {"ignore_eos": True}
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [{"name": "weather", "description": "The weather.", "input_schema": CITY}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("messages")
    path = make_tiny_folder(folder, "llama", max_position_embeddings=2048)
    with serving({"tiny": path}, settings_in(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as made:
        yield made


def asked(**more: Any) -> dict[str, Any]:
    wanted = {"model": "tiny", "max_tokens": 12, "messages": HELLO, **more}
    extra = {"seed": 7, **wanted.pop("extra_body", FREE)}
    return {**wanted, "extra_body": extra}


def ask(client: anthropic.Anthropic, **more: Any) -> Any:
    return client.messages.create(**asked(**more))


# plain answers ------------------------------------------------------------------------------------


def test_an_answer(client: anthropic.Anthropic) -> None:
    message = ask(client)
    assert (message.type, message.role, message.model) == ("message", "assistant", "tiny")
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
    assert message.content[0].type == "text"
    assert message.usage.output_tokens == 12
    assert message.deadline["met"] is None
    assert message._request_id


def test_streamed_is_whole(client: anthropic.Anthropic) -> None:
    whole = ask(client)
    with client.messages.stream(**asked()) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
        final = stream.get_final_message()
    assert (final.content[0].text, final.stop_reason) == (whole.content[0].text, "max_tokens")
    usage, counted = final.usage, whole.usage
    assert usage.output_tokens == 12
    read = usage.cache_read_input_tokens or 0
    assert read + usage.input_tokens == counted.cache_read_input_tokens + counted.input_tokens


def test_the_events_come_in_order(client: anthropic.Anthropic) -> None:
    events = list(ask(client, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[-1].deadline["took_ms"] > 0


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    text = ask(client).content[0].text
    stop = text[3:5]
    message = ask(client, stop_sequences=["never there", stop])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert message.content[0].text == text[: text.index(stop)]


def test_the_system_and_blocks_are_part_of_the_prompt(client: anthropic.Anthropic) -> None:
    def count(**more: Any) -> int:
        wanted = {"model": "tiny", "messages": HELLO, **more}
        return client.messages.count_tokens(**wanted).input_tokens

    plain = count()
    assert count(system="Be brief.") > plain
    assert count(system=[{"type": "text", "text": "Be brief."}]) == count(system="Be brief.")
    blocks = [{"role": "user", "content": [{"type": "text", "text": "hello there"}]}]
    assert count(messages=blocks) == plain
    assert count(tools=TOOLS) > plain
    usage = ask(client).usage
    assert usage.input_tokens + usage.cache_read_input_tokens == plain


def test_an_answer_goes_on_from_its_beginning(client: anthropic.Anthropic) -> None:
    """A last message of the assistant is the beginning of the answer."""
    begun = [*HELLO, {"role": "assistant", "content": "bits"}]
    plain = client.messages.count_tokens(model="tiny", messages=HELLO).input_tokens
    assert client.messages.count_tokens(model="tiny", messages=begun).input_tokens == plain + 4
    assert ask(client, messages=begun).usage.output_tokens == 12


def test_both_apis_say_the_same(server: Serving, client: anthropic.Anthropic) -> None:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "seed": 7, **FREE}
    chat = plain_http.post(f"{server.url}/v1/chat/completions", json=body).json()
    assert ask(client).content[0].text == chat["choices"][0]["message"]["content"]


# tools --------------------------------------------------------------------------------------------


def calls(client: anthropic.Anthropic, **more: Any) -> Any:
    choice = {"type": "any", "disable_parallel_tool_use": True}
    return asked(tools=TOOLS, tool_choice=choice, max_tokens=200, extra_body={}, **more)


def test_a_tool_is_used(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**calls(client))
    (block,) = message.content
    assert (message.stop_reason, block.type, block.name) == ("tool_use", "tool_use", "weather")
    jsonschema.validate(block.input, CITY)


def test_a_streamed_use_is_the_whole_use(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**calls(client))
    with client.messages.stream(**calls(client)) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert final.content[0].input == whole.content[0].input


def test_a_named_tool_and_its_result(client: anthropic.Anthropic) -> None:
    chosen = asked(tools=TOOLS, tool_choice={"type": "tool", "name": "weather"}, max_tokens=400)
    block = client.messages.create(**{**chosen, "extra_body": {"seed": 3}}).content[0]
    result = {"type": "tool_result", "tool_use_id": block.id}
    parts = [{"type": "text", "text": "rain"}]
    answers = [
        {**result, "content": "rain"},
        {**result, "content": parts},
        {**result, "content": "rain", "is_error": True},
        result,
    ]
    for answer in answers:
        use = {"type": "tool_use", "id": block.id, "name": block.name, "input": block.input}
        said = [
            *HELLO,
            {"role": "assistant", "content": [{"type": "text", "text": "hm"}, use]},
            {"role": "user", "content": [answer, {"type": "text", "text": "so?"}]},
        ]
        assert ask(client, messages=said, tools=TOOLS, extra_body={}).usage.output_tokens > 0


def test_none_uses_nothing(client: anthropic.Anthropic) -> None:
    message = ask(client, tools=TOOLS, tool_choice={"type": "none"})
    assert {block.type for block in message.content} == {"text"}


def test_a_schema_for_the_answer(client: anthropic.Anthropic) -> None:
    format_ = {"type": "json_schema", "schema": CITY}
    message = ask(client, output_config={"format": format_}, max_tokens=100, extra_body={})
    jsonschema.validate(json.loads(message.content[0].text), CITY)


# errors -------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
    ({"system": [{"type": "document"}]}, "system"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search"),
    ({"tools": [{"name": "f", "input_schema": {"type": "array"}}]}, "input_schema"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "tool"}}, "tool_choice"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config"),
    ({"extra_body": {"temperature": -1}}, "temperature"),
]


@pytest.mark.parametrize(("wrong", "named"), WRONG)
def test_what_is_wrong_is_named(client: anthropic.Anthropic, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=named) as caught:
        ask(client, **{"extra_body": {}, **wrong})
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert body["request_id"]


def test_errors_have_anthropic_s_shape(server: Serving, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        ask(client, model="claude")
    assert caught.value.body["error"]["type"] == "not_found_error"
    url = f"{server.url}/v1/messages"
    for answer, kind in (
        (plain_http.get(url), "invalid_request_error"),
        (plain_http.post(url + "/nothing"), "not_found_error"),
        (plain_http.post(url, content=b"{"), "invalid_request_error"),
        (plain_http.post(url, content=b" " * (5 << 20)), "request_too_large"),
    ):
        assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", kind)
    elsewhere = plain_http.get(f"{server.url}/v1/messagesandmore").json()
    assert "type" not in elsewhere


def test_a_deadline_that_cannot_be_met_is_refused(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.RateLimitError) as caught:
        ask(client, max_tokens=500, extra_body={"deadline_ms": 0.001, **FREE})
    assert caught.value.body["error"]["type"] == "rate_limit_error"
    assert caught.value.body["error"]["predicted_ms"] > 0
    assert caught.value.response.headers["retry-after"]
