"""Fields that contradict each other are refused on every route, with the field to change; others are let through."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plain_http
import pytest
from serving import Serving, serving

from miaotui.errors import RequestError
from miaotui.types import SamplingParams
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
HELLO = [{"role": "user", "content": "hello"}]
LEAST: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO, "max_tokens": 4},
    TEXT: {"prompt": "hello", "max_tokens": 4},
    RESPONSES: {"input": "hello", "max_output_tokens": 4},
    MESSAGES: {"messages": HELLO, "max_tokens": 4},
}
OBJECT = {"type": "json_object"}
STRUCTURED = {"structured_outputs": {"regex": "a+"}}
SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}
FUNCTION = {"type": "function", "name": "f", "function": {"name": "f", "parameters": {"type": "object"}}}
ALL = tuple(LEAST)
# routes, fields, the field that is named
CONFLICTS: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    (ALL, {"min_tokens": 5}, "min_tokens"),
    (ALL, {**STRUCTURED, "ignore_eos": True}, "ignore_eos"),
    (ALL, {**STRUCTURED, "min_tokens": 1}, "min_tokens"),
    (ALL, {"stop_token_ids": [1 << 20]}, "stop_token_ids"),
    (ALL, {"logit_bias": {"1048576": 1}}, "logit_bias"),
    (ALL, {"structured_outputs": {"regex": "a+", "choice": ["a"]}}, "structured_outputs"),
    ((MESSAGES,), {"stop": "a", "stop_sequences": ["b"]}, "stop"),
    ((CHAT,), {"top_logprobs": 1}, "top_logprobs"),
    ((CHAT,), {"top_logprobs": 1, "logprobs": False}, "top_logprobs"),
    ((CHAT,), {**STRUCTURED, "response_format": OBJECT}, "structured_outputs"),
    ((RESPONSES,), {**STRUCTURED, "text": {"format": {**SCHEMA, "name": "x"}}}, "structured_outputs"),
    ((MESSAGES,), {**STRUCTURED, "output_config": {"format": SCHEMA}}, "structured_outputs"),
    ((CHAT,), {"response_format": OBJECT, "ignore_eos": True}, "ignore_eos"),
    ((CHAT, RESPONSES), {"tool_choice": "required"}, "tool_choice"),
    ((MESSAGES,), {"tool_choice": {"type": "any"}}, "tool_choice"),
    ((CHAT, RESPONSES), {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
    ((CHAT, RESPONSES), {"tools": [FUNCTION], "tool_choice": "required", "min_tokens": 1}, "min_tokens"),
    ((TEXT,), {"best_of": 2}, "best_of"),
    ((TEXT,), {"best_of": 1, "n": 2}, "best_of"),
    ((CHAT, TEXT), {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ((RESPONSES, MESSAGES), {"prompt_logprobs": 1}, "prompt_logprobs"),
    ((CHAT, TEXT), {"max_tokens": 0}, "max_tokens"),
    ((RESPONSES,), {"background": True, "stream": True}, "background"),
    ((RESPONSES,), {"background": True, "store": False}, "background"),
]
# what has no effect beside each other, or agrees
FINE: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (ALL, {"min_tokens": 4}),
    (ALL, {"stream_options": {"include_usage": True}, "stream": False}),
    (ALL, {"stream_options": None, "structured_outputs": None}),
    (ALL, {"temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 3}),
    (ALL, {"stop": ["a", "b"]}),
    (ALL, {"ignore_eos": True, "stop_token_ids": [3]}),
    ((CHAT, TEXT), {"temperature": 0, "n": 2}),
    ((CHAT,), {"max_completion_tokens": 5}),
    ((CHAT,), {"max_completion_tokens": None, "logprobs": None, "top_logprobs": None, "stop": None}),
    ((CHAT,), {"logprobs": True}),
    ((CHAT,), {"top_logprobs": 0, "logprobs": False}),
    ((CHAT,), {**STRUCTURED, "response_format": {"type": "text"}}),
    ((CHAT, RESPONSES), {"tool_choice": "none", "parallel_tool_calls": False}),
    ((RESPONSES,), {"max_tokens": 5}),
    ((MESSAGES,), {"stop": "a", "stop_sequences": ["a"]}),
    ((TEXT,), {"best_of": 2, "n": 2}),
    ((TEXT,), {"echo": True, "logprobs": 1, "max_tokens": 0}),
    (ALL, STRUCTURED),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("conflicts")
    path = make_tiny_folder(folder, "llama", max_position_embeddings=512)
    with serving({"tiny": path}, settings_in(folder)) as running:
        yield running


def ask(server: Serving, path: str, fields: dict[str, Any]) -> Any:
    return plain_http.post(f"{server.url}{path}", json={**LEAST[path], **fields}, timeout=30)


@pytest.mark.parametrize(
    ("path", "fields", "param"), [(path, fields, param) for paths, fields, param in CONFLICTS for path in paths]
)
def test_what_contradicts_is_refused(server: Serving, path: str, fields: dict[str, Any], param: str) -> None:
    for more in ({}, {"stream": True}):
        response = ask(server, path, {**more, **fields})
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error["param"] == param, error
        assert error["message"].startswith(param)
    assert server.in_flight() == 0


@pytest.mark.parametrize(("path", "fields"), [(path, fields) for paths, fields in FINE for path in paths])
def test_what_agrees_is_answered(server: Serving, path: str, fields: dict[str, Any]) -> None:
    response = ask(server, path, fields)
    assert response.status_code == 200, response.text


def test_structured_outputs_and_stops_count_on_every_route(server: Serving) -> None:
    for path in LEAST:
        found = ask(server, path, {"structured_outputs": {"choice": ["zzz"]}}).text
        assert '"zzz"' in found or 'zzz"' in found, path
    whole = ask(server, MESSAGES, {"seed": 1, "ignore_eos": True, "max_tokens": 60}).json()["content"][0]["text"]
    stop = next(character for character in whole[1:] if character.isprintable())
    for field in ({"stop": stop}, {"stop_sequences": [stop]}):
        body = ask(server, MESSAGES, {"seed": 1, "ignore_eos": True, "max_tokens": 60, **field}).json()
        assert body["stop_sequence"] == stop
        assert body["content"][0]["text"] == whole[: whole.index(stop)]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"max_tokens": 3, "max_completion_tokens": 7}),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": 3}),
        (RESPONSES, {"max_tokens": 3, "max_output_tokens": 7}),
        (RESPONSES, {"max_tokens": 7, "max_output_tokens": 3}),
    ],
)
def test_of_two_limits_the_smaller_counts(server: Serving, path: str, fields: dict[str, Any]) -> None:
    usage = ask(server, path, {"ignore_eos": True, **fields}).json()["usage"]
    assert usage.get("completion_tokens", usage.get("output_tokens")) == 3


def test_the_engine_refuses_the_same_without_a_server() -> None:
    with pytest.raises(RequestError, match=r"min_tokens must be at most max_tokens \(4\), not 5"):
        SamplingParams(max_tokens=4, min_tokens=5)
    SamplingParams(max_tokens=4, min_tokens=4)
    SamplingParams(min_tokens=4)


def test_more_tokens_than_the_context_holds_are_not_promised(server: Serving) -> None:
    body = {"messages": HELLO, "min_tokens": 500}
    response = plain_http.post(f"{server.url}{CHAT}", json=body, timeout=30)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "min_tokens"


def test_the_page_lists_them() -> None:
    listed = PAGE.split("## Which fields contradict each other?")[1].split("\n## ")[0]
    named = set(re.findall(r"`([a-z_]+)`", listed))
    assert {param for _, _, param in CONFLICTS} <= named
