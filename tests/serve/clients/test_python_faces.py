"""The same request over HTTP and in Python has the same answer, whatever it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import plain_http
import pytest
from serving import Serving, serving

from miaotui.async_llm import AsyncLLM
from miaotui.errors import DeadlineUnattainableError
from miaotui.llm import LLM
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

MESSAGES = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
CASES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 7, "logit_bias": {"65": 2.0}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}},
    {"structured_outputs": {"choice": ["yes", "no"]}},
    {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
    {"deadline_ms": 60_000.0, "temperature": 0.5},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("faces")
    with serving(
        {"tiny": make_tiny_folder(folder, "llama", max_position_embeddings=2048)}, settings_in(folder)
    ) as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=lambda case: next(iter(case)))
def test_all_three_say_the_same(server: Serving, case: dict[str, Any]) -> None:
    asked = {"temperature": 1.0, "seed": 3, "max_tokens": 80, **case}
    response = plain_http.post(f"{server.url}/v1/chat/completions", json={"messages": MESSAGES, **asked}, timeout=30)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    message = choice["message"]
    loop = server.hosts["tiny"].loop
    asked["logit_bias"] = {int(token): added for token, added in asked.get("logit_bias", {}).items()}
    here = LLM(loop).chat(MESSAGES, **asked)
    there = asyncio.run(AsyncLLM(loop).chat(MESSAGES, **asked))
    for found in (here, there):
        assert found.text == (message["content"] or "")
        assert found.finish_reason == choice["finish_reason"]
        calls = [each["function"] for each in message.get("tool_calls") or []]
        assert [(call.name, call.arguments) for call in found.tool_calls] == [
            (call["name"], call["arguments"]) for call in calls
        ]
    assert (here.promise is None) == ("deadline_ms" not in case)


def test_all_three_refuse_the_same(server: Serving) -> None:
    body = {"messages": MESSAGES, "max_tokens": 200, "ignore_eos": True, "deadline_ms": 0.01}
    response = plain_http.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
    assert (response.status_code, response.json()["error"]["code"]) == (429, "deadline_unattainable")
    loop = server.hosts["tiny"].loop
    with pytest.raises(DeadlineUnattainableError):
        LLM(loop).chat(MESSAGES, max_tokens=200, ignore_eos=True, deadline_ms=0.01)
    with pytest.raises(DeadlineUnattainableError):
        asyncio.run(AsyncLLM(loop).chat(MESSAGES, max_tokens=200, ignore_eos=True, deadline_ms=0.01))


def test_requests_of_other_threads_are_observed_in_the_event_loop(server: Serving) -> None:
    hosted, seen = server.hosts["tiny"], []

    class Noting:
        def submitted(self, model: str, request: object) -> None:
            seen.append(("submitted", model, asyncio.get_running_loop() is server.loop))

        def refused(self, model: str, error: object) -> None:
            seen.append(("refused", model, asyncio.get_running_loop() is server.loop))

        def left(self, model: str, request: object) -> None:
            seen.append(("left", model, asyncio.get_running_loop() is server.loop))

    server.call(lambda: hosted.observe(Noting()))  # type: ignore[attr-defined]
    LLM(hosted.loop).generate("Hello", max_tokens=3)
    server.call(lambda: None)
    assert seen == [("submitted", "tiny", True), ("left", "tiny", True)]
