"""Ollama's routes against its own Python client, on a real port with a real (tiny) model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from serving import Serving, serving
from test_reasoning_over_http import THINKS

from miaotui.serve.settings import ServeSettings
from tiny_encoder_models import make_encoder_folder
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

QUESTION = [{"role": "user", "content": "hello"}]
GREEDY = {"temperature": 0, "num_predict": 8}
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string", "maxLength": 5}},
            "required": ["word"],
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("ollama")
    chat = make_tiny_folder(folder, "llama", max_position_embeddings=1024)
    embedder = make_encoder_folder(folder, "embed")
    with serving({"tiny": chat}, settings_in(folder), encoders={"embedder": embedder}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Serving) -> ollama.Client:
    return ollama.Client(host=server.url)


def openai(server: Serving, **more: Any) -> Any:
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 8, "temperature": 0, **more}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()


def test_a_chat_is_answered_whole_and_in_pieces(server: Serving, client: ollama.Client) -> None:
    whole = client.chat("tiny", QUESTION, options=GREEDY)
    assert whole.message.role == "assistant"
    assert whole.message.content == openai(server)["choices"][0]["message"]["content"]
    assert whole.done
    assert whole.done_reason in ("stop", "length")
    assert whole.eval_count is not None
    assert 0 < whole.eval_count <= 8
    assert whole.prompt_eval_count is not None
    assert whole.total_duration is not None
    assert whole.total_duration >= (whole.eval_duration or 0) > 0
    pieces = list(client.chat("tiny:latest", QUESTION, options=GREEDY, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].eval_count == whole.eval_count


def test_a_prompt_is_answered_and_continued(server: Serving, client: ollama.Client) -> None:
    whole = client.generate("tiny", "hello", options=GREEDY)
    assert whole.response == client.chat("tiny", QUESTION, options=GREEDY).message.content
    pieces = list(client.generate("tiny", "hello", options=GREEDY, stream=True))
    assert "".join(piece.response for piece in pieces) == whole.response
    raw = client.generate("tiny", "hello", raw=True, options=GREEDY)
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 8, "temperature": 0}
    completion = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
    assert raw.response == completion["choices"][0]["text"]
    assert client.generate("tiny", "hello", system="Be brief.", options=GREEDY).prompt_eval_count != (
        whole.prompt_eval_count
    )


def test_options_are_followed(client: ollama.Client) -> None:
    seeded = [client.generate("tiny", "hello", options={"seed": 7, "num_predict": 12}).response for _ in range(2)]
    assert seeded[0] == seeded[1]
    other = client.generate("tiny", "hello", options={"seed": 8, "num_predict": 12, "temperature": 2}).response
    assert other != seeded[0]
    assert client.generate("tiny", "hello", options={"num_predict": 3, "temperature": 0}).eval_count == 3
    assert client.generate("tiny", "hello", options={"num_predict": 3, "temperature": 0}).done_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_binds_the_answer(client: ollama.Client, stream: bool) -> None:
    options = {"temperature": 0, "num_predict": 60}
    found: Any = client.chat("tiny", QUESTION, format=SCHEMA, options=options, stream=stream)
    text = "".join(piece.message.content for piece in found) if stream else found.message.content
    assert 0 <= json.loads(text)["age"] <= 99


def test_json_mode_gives_an_object(client: ollama.Client) -> None:
    found = client.generate("tiny", "hello", format="json", options={"temperature": 0, "num_predict": 400})
    assert found.done_reason == "length" or isinstance(json.loads(found.response), dict)


def test_tools_are_described_and_calls_come_whole(server: Serving, client: ollama.Client) -> None:
    called = [
        *QUESTION,
        {"role": "assistant", "tool_calls": [{"function": {"name": "look_up", "arguments": {"word": "a"}}}]},
        {"role": "tool", "tool_name": "look_up", "content": "found"},
    ]
    answer = client.chat("tiny", called, tools=[TOOL], options=GREEDY)
    assert answer.prompt_eval_count is not None
    assert answer.prompt_eval_count > (client.chat("tiny", QUESTION, options=GREEDY).prompt_eval_count or 0)
    for piece in client.chat("tiny", called, tools=[TOOL], options=GREEDY, stream=True):
        for call in piece.message.tool_calls or ():
            assert isinstance(call.function.arguments, dict)


def test_a_thought_comes_apart(tmp_path: Path) -> None:
    thinker = make_tiny_folder(tmp_path, "llama", max_position_embeddings=1024)
    (thinker / "chat_template.jinja").write_text(THINKS)
    with serving({"thinker": thinker}, settings_in(tmp_path)) as running:
        client = ollama.Client(host=running.url)
        whole = client.chat("thinker", QUESTION, think=True, options=GREEDY)
        assert whole.message.thinking
        assert not whole.message.content, "eight tokens do not end the thought"
        pieces = list(client.chat("thinker", QUESTION, think=True, options=GREEDY, stream=True))
        assert "".join(piece.message.thinking or "" for piece in pieces) == whole.message.thinking
        assert client.generate("thinker", "hello", think=True, options=GREEDY).thinking == whole.message.thinking
        without = client.chat("thinker", QUESTION, think=False, options=GREEDY)
        assert not without.message.thinking
        assert without.message.content


def test_log_probabilities_are_those_of_openais_route(server: Serving, client: ollama.Client) -> None:
    expected = openai(server, logprobs=True, top_logprobs=2, top_p=0.9)["choices"][0]["logprobs"]["content"]
    wanted: dict[str, Any] = {"options": GREEDY, "logprobs": True, "top_logprobs": 2}
    whole = client.chat("tiny", QUESTION, **wanted).logprobs or ()
    pieces = [each for line in client.chat("tiny", QUESTION, stream=True, **wanted) for each in line.logprobs or ()]
    for found in (whole, pieces):
        assert [(each.token, each.logprob) for each in found] == [(each["token"], each["logprob"]) for each in expected]
        assert [len(each.top_logprobs or ()) for each in found] == [2] * len(expected)
    assert client.chat("tiny", QUESTION, options=GREEDY).logprobs is None
    alone = client.generate("tiny", "hello", options=GREEDY, logprobs=True)
    assert len(alone.logprobs or ()) == alone.eval_count
    with pytest.raises(ollama.ResponseError, match=r"top_logprobs.*needs logprobs"):
        client.chat("tiny", QUESTION, top_logprobs=2)


def test_vectors_have_length_1(server: Serving, client: ollama.Client) -> None:
    found = client.embed("embedder", ["hello", "the word"])
    assert len(found.embeddings) == 2
    for vector in found.embeddings:
        assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-4)
    assert found.prompt_eval_count
    alone = client.embed("embedder:latest", "hello").embeddings[0]
    assert list(alone) == list(found.embeddings[0])
    assert len(client.embeddings("embedder", "hello").embedding) == len(alone)


def test_models_are_listed_and_described(client: ollama.Client) -> None:
    listed = {model.model: model for model in client.list().models}
    assert set(listed) == {"tiny", "embedder"}
    tiny = listed["tiny"]
    assert tiny.details is not None
    assert (tiny.details.format, tiny.details.family) == ("safetensors", "llama")
    assert tiny.size
    assert len(tiny.digest or "") == 64
    assert {model.model for model in client.ps().models} >= {"tiny"}
    shown = client.show("tiny")
    assert "completion" in (shown.capabilities or ())
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 1024
    assert client.show("embedder").capabilities == ["embedding"]


def test_an_empty_request_asks_for_the_model(client: ollama.Client) -> None:
    assert client.generate("tiny").done_reason == "load"
    assert client.chat("tiny", [], keep_alive=0).done_reason == "unload"


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("chat", {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "pictures"),
        ("generate", {"prompt": "x", "images": ["aGk="]}, "pictures"),
        ("generate", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("generate", {"prompt": "x", "template": "y"}, "template"),
        ("generate", {"prompt": "x", "context": [1]}, "/api/chat"),
        ("generate", {"prompt": "x", "options": {"mirostat": 1}}, "mirostat"),
        ("generate", {"prompt": "x", "options": {"temperature": -1}}, "options.temperature"),
        ("generate", {"prompt": "x", "think": True}, "cannot think"),
        ("generate", {"prompt": "x", "format": "xml"}, "format"),
        ("chat", {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ],
)
def test_what_cannot_be_followed_is_refused(server: Serving, path: str, body: dict[str, Any], words: str) -> None:
    answer = httpx.post(f"{server.url}/api/{path}", json={"model": "tiny", **body}, timeout=60)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert words in answer.json()["error"]


def test_errors_reach_the_client(server: Serving, client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="'none' does not exist here") as caught:
        client.chat("none", QUESTION)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="encoder, which writes no text"):
        list(client.chat("embedder", QUESTION, stream=True))
    unread = httpx.post(f"{server.url}/api/chat", content=b"{", timeout=60)
    assert "error" in unread.json()
    ignored = httpx.post(
        f"{server.url}/api/generate",
        json={"model": "tiny", "prompt": "x", "stream": False, "options": {"num_ctx": 9, "num_predict": 1}, "new": 1},
        timeout=60,
    )
    assert ignored.headers["x-ignored-fields"] == "new, num_ctx"


def test_clients_pull_only_where_they_may(server: Serving, client: ollama.Client) -> None:
    assert client.pull("tiny").status == "success"
    for name in ("qwen3-0.6b", "ollama:llama3", "owner/name"):
        with pytest.raises(ollama.ResponseError, match="--allow-pull") as caught:
            client.pull(name)
        assert caught.value.status_code == 403


def test_a_pull_reports_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, progress: Any) -> Path:
        for done in (0, 50, 100):
            progress(f"downloading {name}", done, 100)
        if name == "broken":
            raise ValueError("no such model")
        return tmp_path

    monkeypatch.setattr("miaotui.serve.ollama.listing.fetch", fetch)
    chat = make_tiny_folder(tmp_path, "llama")
    with serving({"tiny": chat}, settings_in(tmp_path), serve=ServeSettings(allow_pull=True)) as running:
        client = ollama.Client(host=running.url)
        lines = list(client.pull("owner/name", stream=True))
        assert [line.completed for line in lines if line.total] == [0, 50, 100]
        assert lines[-1].status == "success"
        with pytest.raises(ollama.ResponseError):
            list(client.pull("broken", stream=True))
