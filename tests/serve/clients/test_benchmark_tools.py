"""Requests that other benchmarks send, as their published sources make them, and what those read from the streams.

``vllm bench serve`` (`benchmarks/lib/endpoint_request_func.py`), guidellm (`backends/openai`) and AIPerf
(`endpoints/openai_chat.py`) must find first texts, ends and counts where they look for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving import Serving, serving

from tiny_engine import settings_in
from tiny_models import make_tiny_folder

TOKENS = 6
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CONTINUOUS = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
TEXT_PARTS = [{"role": "user", "content": [{"type": "text", "text": "Hello there"}]}]
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "vllm completions": (
        "completions",
        {"prompt": "Hello there", "repetition_penalty": 1.0, "max_tokens": TOKENS, "logprobs": None, **USAGE}
        | {"ignore_eos": True, "temperature": 0.0},
    ),
    "vllm token ids": (
        "completions",
        {"prompt": [72, 101, 108], "repetition_penalty": 1.0, "max_tokens": TOKENS, "ignore_eos": True, **USAGE},
    ),
    "vllm chat": (
        "chat/completions",
        {"messages": TEXT_PARTS, "max_completion_tokens": TOKENS, "ignore_eos": True, **USAGE},
    ),
    "guidellm completions": (
        "completions",
        {"prompt": "Hello there", "max_tokens": TOKENS, "ignore_eos": True, **CONTINUOUS},
    ),
    "guidellm chat": (
        "chat/completions",
        {"messages": TEXT_PARTS, "max_completion_tokens": TOKENS, "ignore_eos": True, **CONTINUOUS},
    ),
    "aiperf chat": (
        "chat/completions",
        {"messages": [{"role": "user", "content": "Hello there"}], "max_completion_tokens": TOKENS, **USAGE}
        | {"ignore_eos": True, "min_tokens": TOKENS},
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("tools")
    with serving({"tiny": make_tiny_folder(folder, "llama")}, settings_in(folder)) as found:
        yield found


def events(server: Serving, route: str, body: dict[str, Any]) -> list[str]:
    """The data of the stream's events; comments are pings."""
    with httpx.stream("POST", f"{server.url}/v1/{route}", json={"model": "tiny", **body}) as response:
        assert response.status_code == 200, response.read()
        lines = [line for line in response.iter_lines() if line.startswith("data:")]
    return [line.removeprefix("data:").strip() for line in lines]


@pytest.mark.parametrize(("route", "body"), REQUESTS.values(), ids=REQUESTS)
def test_other_benchmarks_find_what_they_read(route: str, body: dict[str, Any], server: Serving) -> None:
    found = events(server, route, body)
    assert found[-1] == "[DONE]"
    chunks = [json.loads(each) for each in found[:-1]]
    with_choices = [each for each in chunks if each["choices"]]
    assert with_choices[0] is chunks[0], "the first chunk is the first token's: its time is the TTFT"
    expected = "chat.completion.chunk" if route.startswith("chat") else "text_completion"
    assert {each["object"] for each in chunks} == {expected}
    if route.startswith("chat"):
        assert all("delta" in each["choices"][0] for each in with_choices)
    assert with_choices[-1]["choices"][0]["finish_reason"] == "length"
    usage = [each["usage"] for each in chunks if not each["choices"] and each.get("usage")]
    assert usage[-1]["completion_tokens"] == TOKENS
    assert usage[-1]["prompt_tokens"] > 0


def test_what_they_ask_before_a_load(server: Serving) -> None:
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "tiny"
