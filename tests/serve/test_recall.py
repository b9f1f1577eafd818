"""Answers already given, over HTTP: the same bytes, whole or streamed, and never another key's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Serving, serving
from starlette.middleware import Middleware

from miaotui.fsr.answers import AnswerCache, CacheOptions
from miaotui.fsr.answers_calibrate import NearRule
from miaotui.serve.keys import Caller
from miaotui.serve.recall import KEY
from miaotui.serve.state import CALLER
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

RULE = NearRule(threshold=0.9, bound=0.001, trials=5000, false_hits=0)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


class Named:
    """A layer that takes the caller's name from a header."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        name = headers.get(b"x-name", b"").decode()
        await self._app({**scope, CALLER: Caller(name)}, receive, send)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> AnswerCache:
    path = tmp_path_factory.mktemp("answers") / "answers.db"
    return AnswerCache(CacheOptions(path, near=RULE))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cache: AnswerCache) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("recall")
    models: dict[str, Path] = {
        "tiny": make_tiny_folder(folder, "llama"),
        "other": make_tiny_folder(folder, "qwen3"),
    }
    layers = [Middleware(Named)]
    extras = lambda hosts: {KEY: cache}  # noqa: E731
    with serving(models, settings_in(folder), layers=layers, extras=extras) as running:
        yield running


def ask(server: Serving, text: str, *, name: str = "", control: str = "", **more: Any) -> Any:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
        **more,
    }
    headers = {"x-name": name, "cache-control": control}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.text if body.get("stream") else response.json()


def kept(cache: AnswerCache, count: int) -> None:
    """Answers are kept in a thread, after they were sent."""
    end = time.monotonic() + 10
    while cache.counts().kept < count and time.monotonic() < end:
        time.sleep(0.005)


def text_of(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_a_hit_has_the_same_bytes_whole_and_streamed(server: Serving, cache: AnswerCache) -> None:
    before = cache.counts().kept
    first = ask(server, "tell me about tides")
    assert first["cache"] == "miss"
    kept(cache, before + 1)
    again = ask(server, "tell me about tides", deadline_ms=10_000)
    assert again["cache"] == "hit"
    assert again["choices"] == first["choices"]
    assert again["usage"]["completion_tokens"] == 8
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert again["deadline"]["met"] is True
    assert again["id"] != first["id"]
    streamed = ask(
        server, "tell me about tides", stream=True, stream_options={"include_usage": True}
    )
    assert '"cache":"hit"' in streamed
    assert streamed.endswith("data: [DONE]\n\n")
    assert server.in_flight() == 0


def test_a_streamed_answer_is_kept_as_well(server: Serving, cache: AnswerCache) -> None:
    before = cache.counts().kept
    streamed = ask(server, "tell me about dunes", stream=True)
    assert '"cache":"miss"' in streamed
    kept(cache, before + 1)
    whole = ask(server, "tell me about dunes")
    assert whole["cache"] == "hit"
    pieces = [
        line.split('"content":"')[1] for line in streamed.split("\n") if '"content":"' in line
    ]
    assert len(pieces) > 1
    assert ask(server, "tell me about dunes", control="no-cache")["choices"] == whole["choices"]


def test_a_similar_question_is_near(server: Serving, cache: AnswerCache) -> None:
    before = cache.counts().kept
    first = ask(server, "What is the capital of Norway?")
    kept(cache, before + 1)
    near = ask(server, "Hi, what is the capital of norway")
    assert (near["cache"], text_of(near)) == ("near", text_of(first))
    assert ask(server, "What is the capital of Sweden?")["cache"] == "miss"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "somebody"},
        {"model": "other"},
        {"max_tokens": 7},
        {"control": "no-cache"},
        {"temperature": 0.8},
        {"temperature": 0.8, "seed": 4},
        {"logprobs": True},
        {"n": 2},
        {
            "messages": [
                {"role": "system", "content": "x"},
                {"role": "user", "content": "about rain"},
            ]
        },
    ],
)
def test_what_differs_is_answered_anew(
    server: Serving, cache: AnswerCache, change: dict[str, Any]
) -> None:
    before, text = cache.counts().kept, f"tell me about {change}"
    ask(server, text)
    kept(cache, before + 1)
    assert ask(server, text, **change)["cache"] == "miss"


def test_variety_is_never_kept_but_a_seed_is(server: Serving, cache: AnswerCache) -> None:
    before = cache.counts().kept
    for _ in range(2):
        assert ask(server, "about wind", temperature=0.9)["cache"] == "miss"
    assert cache.counts().kept == before
    first = ask(server, "about wind", temperature=0.9, seed=3)
    kept(cache, before + 1)
    assert ask(server, "about wind", temperature=0.9, seed=3)["choices"] == first["choices"]
    assert ask(server, "about wind", temperature=0.9, seed=3)["cache"] == "hit"
    assert ask(server, "about wind", temperature=0.9, seed=5)["cache"] == "miss"


def test_plain_texts_are_kept_token_by_token(server: Serving, cache: AnswerCache) -> None:
    def go_on(prompt: str, **more: Any) -> Any:
        body = {"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 6, **more}
        response = httpx.post(f"{server.url}/v1/completions", json=body)
        assert response.status_code == 200
        return response.text if more.get("stream") else response.json()

    before = cache.counts().kept
    first = go_on("once upon a time", ignore_eos=True)
    kept(cache, before + 1)
    again = go_on("once upon a time", ignore_eos=True)
    assert (first["cache"], again["cache"]) == ("miss", "hit")
    assert again["choices"] == first["choices"]
    assert go_on("once upon a time ", ignore_eos=True)["cache"] == "miss"
    assert '"cache":"hit"' in go_on("once upon a time", ignore_eos=True, stream=True)
