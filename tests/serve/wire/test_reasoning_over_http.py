"""Thoughts over all wire formats and in Python: apart from the answer, counted, closed in time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from serving import Serving, serving

import miaotui
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

HELLO: Any = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
THINKS = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_folder(tmp_path_factory.mktemp("reasoning"), "llama", max_position_embeddings=4096)
    (folder / "chat_template.jinja").write_text(THINKS)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    with serving({"thinker": folder}, settings_in(folder.parent)) as running:
        yield running


def chat(server: Serving, **more: Any) -> dict[str, Any]:
    body = {"messages": HELLO, "max_tokens": 40, "seed": 3, "max_reasoning_tokens": 8, "ignore_eos": True, **more}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()


def test_a_thought_is_apart_and_closed_by_its_budget(server: Serving) -> None:
    answer = chat(server)
    message, counted = answer["choices"][0]["message"], answer["usage"]["completion_tokens_details"]
    assert message["reasoning_content"]
    assert message["content"]
    assert "</think>" not in message["content"] + message["reasoning_content"]
    assert 8 <= counted["reasoning_tokens"] <= 8 + 3 + 16  # the budget, a character's end, the marker's tokens
    assert answer["usage"]["completion_tokens"] == 40


def test_without_a_budget_all_is_thought(server: Serving) -> None:
    answer = chat(server, max_reasoning_tokens=None)
    assert answer["choices"][0]["message"]["content"] == ""
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 40}


def test_off_on_request(server: Serving) -> None:
    apart, raw = chat(server), chat(server, reasoning_format="none")
    message = raw["choices"][0]["message"]
    assert "reasoning_content" not in message
    assert "completion_tokens_details" not in raw["usage"]
    thought, _, text = message["content"].partition("</think>")
    first = apart["choices"][0]["message"]
    assert (thought.strip(), text.strip()) == (first["reasoning_content"].strip(), first["content"].strip())


def test_the_stream_joined_is_the_whole(server: Serving) -> None:
    whole = chat(server)["choices"][0]["message"]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        chunks: Any = client.chat.completions.create(
            model="thinker",
            messages=HELLO,
            max_tokens=40,
            seed=3,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"max_reasoning_tokens": 8, "ignore_eos": True},
        )
        thought, text, usage = "", "", None
        for chunk in chunks:
            for choice in chunk.choices:
                thought += getattr(choice.delta, "reasoning_content", None) or ""
                text += choice.delta.content or ""
                assert not (text and getattr(choice.delta, "reasoning_content", None)), "the thought comes first"
            usage = chunk.usage or usage
    assert (thought, text) == (whole["reasoning_content"], whole["content"])
    assert usage.completion_tokens_details.reasoning_tokens >= 8


def test_a_stream_with_log_probabilities_tells_all_of_them(server: Serving) -> None:
    body = {
        "messages": HELLO,
        "max_tokens": 40,
        "seed": 3,
        "max_reasoning_tokens": 8,
        "stream": True,
        "logprobs": True,
        "ignore_eos": True,
    }
    told, thought = 0, ""
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                choice = json.loads(line[6:])["choices"][0]
                told += len((choice["logprobs"] or {"content": []})["content"])
                thought += choice["delta"].get("reasoning_content", "")
    assert told == 40
    assert thought


def test_a_schema_begins_behind_the_thought(server: Serving) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    message = chat(server, response_format=wanted, ignore_eos=None)["choices"][0]["message"]
    assert message["reasoning_content"]
    assert json.loads(message["content"])["n"] in (1, 2)


def test_thinking_switched_off_in_the_template(server: Serving) -> None:
    message = chat(server, chat_template_kwargs={"enable_thinking": False})["choices"][0]["message"]
    assert "reasoning_content" not in message
    assert message["content"]


def test_earlier_thoughts_reach_the_template(server: Serving) -> None:
    said = [*HELLO, {"role": "assistant", "content": "yes", "reasoning_content": "It is a question."}, *HELLO]
    without = [{name: value for name, value in each.items() if name != "reasoning_content"} for each in said]
    tokens = [chat(server, messages=each)["usage"]["prompt_tokens"] for each in (said, without)]
    assert tokens[0] > tokens[1]


def test_anthropic_blocks(server: Serving) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        asked: Any = {"model": "thinker", "max_tokens": 40, "messages": HELLO}
        asked |= {"thinking": {"type": "enabled", "budget_tokens": 8}, "extra_body": {"seed": 3, "ignore_eos": True}}
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
        assert [block.type for block in whole.content] == ["thinking", "text"]
        same = chat(server)["choices"][0]["message"]
        for answer in (whole, streamed):
            thought, text = answer.content
            assert (thought.thinking, text.text) == (same["reasoning_content"], same["content"])  # type: ignore[union-attr]
        again = [*HELLO, {"role": "assistant", "content": [b.model_dump() for b in whole.content]}, *HELLO]
        assert client.messages.create(**{**asked, "messages": again}).content
        off = client.messages.create(**{**asked, "thinking": {"type": "disabled"}})
        assert [block.type for block in off.content] == ["text"]


def test_responses_items(server: Serving) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"model": "thinker", "input": "hello", "max_output_tokens": 40}
        asked["extra_body"] = {"seed": 3, "ignore_eos": True, "max_reasoning_tokens": 8}
        whole: Any = client.responses.create(**asked)
        assert [item.type for item in whole.output] == ["reasoning", "message"]
        same = chat(server)["choices"][0]["message"]
        assert whole.output[0].content[0].text == same["reasoning_content"]
        assert whole.output_text == same["content"]
        assert whole.usage.output_tokens_details.reasoning_tokens >= 8
        events = list(client.responses.create(**asked, stream=True))
        thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
        assert thought == same["reasoning_content"]
        more: Any = client.responses.create(**asked, previous_response_id=whole.id)
        assert more.usage.input_tokens > whole.usage.input_tokens
        off: Any = client.responses.create(**asked, reasoning={"effort": "none"})
        assert [item.type for item in off.output] == ["message"]


def test_python_faces(server: Serving, folder: Path) -> None:
    same = chat(server, temperature=0)
    with miaotui.load(folder, threads=1, format="q8") as llm:
        asked: Any = {"max_tokens": 40, "max_reasoning_tokens": 8, "ignore_eos": True}
        whole = llm.chat(HELLO, **asked)
        message = same["choices"][0]["message"]
        assert (whole.reasoning, whole.text) == (message["reasoning_content"], message["content"])
        assert whole.reasoning_tokens == same["usage"]["completion_tokens_details"]["reasoning_tokens"]
        pieces = list(llm.chat_stream(HELLO, **asked))
        assert "".join(piece.reasoning for piece in pieces) == whole.reasoning
        assert "".join(piece.text for piece in pieces) == whole.text
        raw = llm.chat(HELLO, reasoning_format="none", **asked)
        assert (raw.reasoning, "</think>" in raw.text) == ("", True)
        with pytest.raises(miaotui.MiaotuiError, match="max_reasoning_tokens must be"):
            llm.chat(HELLO, max_reasoning_tokens=-1)
        with pytest.raises(miaotui.MiaotuiError, match="reasoning_format must be"):
            llm.chat(HELLO, reasoning_format="maybe")  # type: ignore[arg-type]
