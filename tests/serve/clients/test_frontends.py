"""What chat front ends really send: every field they always set, nulls, parts, names, long histories."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import plain_http
import pytest
from serving import Serving, serving

from tiny_engine import settings_in
from tiny_models import make_tiny_folder

CHAT = "/v1/chat/completions"
QUESTION = {"role": "user", "content": "hello"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("frontends")
    model = make_tiny_folder(folder, "llama", max_position_embeddings=1024)
    with serving({"tiny": model}, settings_in(folder)) as running:
        yield running


OPEN_WEBUI = {
    "stream": True,
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi", "done": True, "sources": []},
        {"role": "user", "content": [{"type": "text", "text": "and now?"}]},
    ],
    "stream_options": {"include_usage": True},
    "max_completion_tokens": 6,
    "user": "8f1c",
    "metadata": {"chat_id": "x", "features": {"web_search": False}},
}
OPEN_WEBUI_TITLE = {
    "model": "tiny",
    "messages": [QUESTION],
    "stream": False,
    "max_completion_tokens": 6,
    "chat_id": "b7",
    "title": True,
}
LIBRE_CHAT = {
    "model": "tiny",
    "user": "65f0c0ffee",
    "temperature": 1,
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "n": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
    "stop": None,
    "logit_bias": None,
    "logprobs": None,
    "top_logprobs": None,
    "functions": None,
    "function_call": None,
    "tools": None,
    "tool_choice": None,
    "response_format": None,
    "seed": None,
    "service_tier": "auto",
    "reasoning_effort": "medium",
    "messages": [
        {"role": "system", "content": "You are kind.", "name": "instructions"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": None},
        QUESTION,
    ],
}


@pytest.mark.parametrize("body", [OPEN_WEBUI, OPEN_WEBUI_TITLE, LIBRE_CHAT], ids=["webui", "title", "libre"])
def test_what_front_ends_send_is_answered(server: Serving, body: dict[str, Any]) -> None:
    headers = {"Authorization": "Bearer none", "X-OpenWebUI-User-Name": "caf%C3%A9"}
    answer = plain_http.post(server.url + CHAT, json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    if not body["stream"]:
        assert answer.json()["choices"][0]["finish_reason"] in ("stop", "length")
        return
    events = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    last = json.loads(events[-2])
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] > 0


def test_without_a_limit_a_whole_context_is_answered(server: Serving) -> None:
    """LibreChat never says how long an answer may be."""
    body = {**LIBRE_CHAT, "ignore_eos": True, "messages": [QUESTION], "stream": False}
    answer = plain_http.post(server.url + CHAT, json=body, timeout=60).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 1024


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}],
        [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
        [{"type": "text"}],
        [[]],
        {"text": "a"},
        7,
    ],
    ids=["image", "audio", "empty", "list", "object", "number"],
)
def test_what_is_no_text_is_refused(server: Serving, content: Any) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
    answer = plain_http.post(server.url + CHAT, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith("messages")


def test_characters_that_end_lines_elsewhere_do_not_cut_events(server: Serving) -> None:
    """Clients that split at Unicode's line ends read whole events all the same."""
    text = "a\u2028b\u2029c\x85d\x1ce\u000bf"
    body = {"model": "tiny", "prompt": text, "echo": True, "max_tokens": 3, "stream": True}
    told = ""
    with plain_http.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                told += json.loads(line[6:])["choices"][0]["text"]
            else:
                assert line in ("", "data: [DONE]", ": ping")
    assert told.startswith(text)
