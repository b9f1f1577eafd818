"""A faulty grammar gets 400 with the field, the whole reason, the place and advice, on every route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import plain_http
import pytest
from serving import Serving, serving

from tiny_engine import settings_in
from tiny_models import make_tiny_folder

HELLO = [{"role": "user", "content": "hello"}]
GROUP = 'unclosed group (character 2 of "a(b"'
ONE_OF = {"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]}
ADVICE = "(at the top): use anyOf"
PATTERN = {"type": "string", "pattern": "a(b"}
TOOL = {"type": "object", "properties": {"a": PATTERN}}
CHAT = [
    ({"response_format": {"type": "regex", "pattern": "a(b"}}, "response_format", GROUP),
    ({"response_format": {"type": "lark", "grammar": "start: /a(b/"}}, "response_format", GROUP),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": PATTERN}}}, "response_format", GROUP),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": ONE_OF, "strict": True}}},
        "response_format",
        ADVICE,
    ),
    ({"structured_outputs": {"regex": "a(b"}}, "structured_outputs", GROUP),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": TOOL}}], "tool_choice": "required"},
        "tools",
        GROUP + ", at tools[0].properties.a)",
    ),
]
COMPLETIONS = [
    ({"structured_outputs": {"regex": "a(b"}}, GROUP),
    ({"structured_outputs": {"grammar": "start: foo"}}, 'unknown name: "foo" (line 1, character 8)'),
    ({"structured_outputs": {"json": PATTERN}}, GROUP),
    ({"structured_outputs": {"json": "{"}}, "line 1 column 2"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("grammar_faults")
    with serving({"tiny": make_tiny_folder(folder, "llama")}, settings_in(folder)) as running:
        yield running


def refused(server: Serving, path: str, **body: Any) -> dict[str, Any]:
    response = plain_http.post(f"{server.url}{path}", json=body, timeout=30)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["message"].isprintable(), "one line"
    return error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "param", "expected"), CHAT)
def test_chat(server: Serving, fields: dict[str, Any], param: str, expected: str, stream: bool) -> None:
    error = refused(server, "/v1/chat/completions", messages=HELLO, stream=stream, **fields)
    assert error["param"] == param
    assert expected in error["message"]


@pytest.mark.parametrize(("fields", "expected"), COMPLETIONS)
def test_completions(server: Serving, fields: dict[str, Any], expected: str) -> None:
    error = refused(server, "/v1/completions", prompt="hello", **fields)
    assert error["param"] == "structured_outputs"
    assert expected in error["message"]


def test_responses(server: Serving) -> None:
    text = {"format": {"type": "json_schema", "name": "x", "schema": ONE_OF, "strict": True}}
    error = refused(server, "/v1/responses", input="hello", text=text)
    assert error["param"] == "text.format"
    assert ADVICE in error["message"]


def test_messages(server: Serving) -> None:
    config = {"format": {"type": "json_schema", "schema": ONE_OF}}
    error = refused(server, "/v1/messages", messages=HELLO, max_tokens=5, output_config=config)
    assert ADVICE in error["message"]
