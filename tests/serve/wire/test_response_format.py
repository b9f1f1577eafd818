"""``response_format``: a random model's answers have the form that was asked for, through the client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel
from serving import Serving, serving

from tiny_engine import settings_in
from tiny_models import make_tiny_folder

HELLO: Any = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["a", "b"]},
        "counts": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 3},
    },
    "required": ["name", "kind", "counts"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("formats")
    path = make_tiny_folder(folder, "llama", max_position_embeddings=1024)
    with serving({"tiny": path}, settings_in(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, format_: Any, **more: Any) -> Any:
    wanted = {"max_tokens": 300, "seed": 5, "response_format": format_, **more}
    return client.chat.completions.create(model="tiny", messages=HELLO, **wanted)


@pytest.mark.parametrize("seed", range(3))
def test_a_schema_is_kept(client: openai.OpenAI, seed: int) -> None:
    choice = ask(client, FORMAT, seed=seed).choices[0]
    assert choice.finish_reason == "stop"
    jsonschema.validate(json.loads(choice.message.content), SCHEMA)


def test_streamed_is_whole(client: openai.OpenAI) -> None:
    whole = ask(client, FORMAT).choices[0].message.content
    chunks = list(ask(client, FORMAT, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_each_of_n_answers_has_it(client: openai.OpenAI) -> None:
    for choice in ask(client, FORMAT, n=3).choices:
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)


def test_any_object(client: openai.OpenAI) -> None:
    choice = ask(client, {"type": "json_object"}, max_tokens=40).choices[0]
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


def test_a_limit_cuts_it_short(client: openai.OpenAI) -> None:
    assert ask(client, FORMAT, max_tokens=3).choices[0].finish_reason == "length"


class Thing(BaseModel):
    kind: Literal["red", "blue"]
    size: int
    whole: bool


def test_the_client_parses_into_its_own_types(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="tiny", messages=HELLO, response_format=Thing, max_tokens=200, seed=1)
    assert isinstance(answer.choices[0].message.parsed, Thing)


@pytest.mark.parametrize(
    ("format_", "expected"),
    [
        ({"type": "regex", "pattern": "[a-f]{4}"}, "[a-f]{4}"),
        ({"type": "choice", "choices": ["yes", "no"]}, "yes|no"),
        ({"type": "lark", "grammar": 'start: "x"'}, "x"),
    ],
)
def test_forms_of_our_own(client: openai.OpenAI, format_: Any, expected: str) -> None:
    assert re.fullmatch(expected, ask(client, format_).choices[0].message.content)


STRUCTURED: list[tuple[dict[str, Any], str]] = [
    ({"json": {"enum": [1, 2]}}, "1|2"),
    ({"json": '{"const": "x"}'}, '"x"'),
    ({"regex": "[a-f]{4}"}, "[a-f]{4}"),
    ({"choice": ["yes", "no"], "regex": None}, "yes|no"),
    ({"grammar": 'start: "x"'}, "x"),
]


@pytest.mark.parametrize(("wanted", "expected"), STRUCTURED)
def test_forms_as_vllm_has_them(client: openai.OpenAI, wanted: Any, expected: str) -> None:
    extra = {"structured_outputs": wanted}
    chat = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=50, extra_body=extra)
    assert re.fullmatch(expected, chat.choices[0].message.content or "")
    text = client.completions.create(model="tiny", prompt="a", max_tokens=50, extra_body=extra)
    assert re.fullmatch(expected, text.choices[0].text)


@pytest.mark.parametrize(
    "wanted", [{"xml": 1}, {"regex": "a", "choice": ["a"]}, {"regex": 5}, {"json": "{"}, {"json": 1}]
)
def test_forms_that_are_none_of_vllm_s(client: openai.OpenAI, wanted: Any) -> None:
    extra = {"structured_outputs": wanted}
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="a", extra_body=extra)
    assert caught.value.param == "structured_outputs"


def nested(depth: int) -> dict[str, Any]:
    return {"type": "array", "items": nested(depth - 1)} if depth else {"type": "string"}


@pytest.mark.parametrize(
    ("format_", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({"type": 3}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {}}, "response_format.json_schema.schema"),
        ({"type": "regex", "pattern": "(a"}, "response_format"),
        ({"type": "regex", "pattern": 5}, "response_format"),
        ({"type": "choice", "choices": "yes"}, "response_format"),
        ({"type": "lark", "grammar": "start: nothing"}, "response_format"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "odd"}}}, "response_format"),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": "array", "uniqueItems": True}, "strict": True}},
            "response_format",
        ),
        ({"type": "json_schema", "json_schema": {"schema": nested(50)}}, "response_format.json_schema.schema"),
    ],
)
def test_what_cannot_be_kept_is_refused(client: openai.OpenAI, format_: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, format_)
    assert caught.value.param == param


def test_a_schema_that_would_crash_the_library_harms_nobody(client: openai.OpenAI) -> None:
    links: dict[str, Any] = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(1500)}
    schema = {"$defs": {**links, "d1500": {"type": "string"}}, "$ref": "#/$defs/d0"}
    with pytest.raises(openai.BadRequestError, match="too much time or memory"):
        ask(client, {"type": "json_schema", "json_schema": {"name": "deep", "schema": schema}})
    assert ask(client, FORMAT).choices[0].finish_reason == "stop"


def test_what_forbids_the_end_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="ignore_eos"):
        ask(client, FORMAT, extra_body={"ignore_eos": True})
