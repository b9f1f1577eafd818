"""Answers already given, over HTTP: the same bytes, whole or streamed, and never another key's."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plain_http
import pytest
from serving import Serving, serving
from starlette.middleware import Middleware

from miaotui.retrieval.answers.cache import AnswerCache, CacheOptions
from miaotui.retrieval.answers.calibrate import NearRule
from miaotui.serve.answer import AnswerBatch, ModelAnswer
from miaotui.serve.middleware.access import CALLER
from miaotui.serve.middleware.keys import Caller
from miaotui.serve.response_cache import CachedAnswers, CachedResponse
from miaotui.types import Completion, Deadline, Delta, Timing
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
        "tiny": make_tiny_folder(folder, "llama", max_position_embeddings=1024),
        "other": make_tiny_folder(folder, "qwen3"),
    }
    layers = [Middleware(Named)]
    parts = lambda models: {"response_cache": cache}  # noqa: E731
    with serving(models, settings_in(folder), layers=layers, parts=parts) as running:
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
    response = plain_http.post(f"{server.url}/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.text if body.get("stream") else response.json()


def kept(cache: AnswerCache, count: int) -> None:
    """Answers are kept in a thread, after they were sent."""
    end = time.monotonic() + 10
    while cache.counts().kept < count and time.monotonic() < end:
        time.sleep(0.005)


def kept_at_last(cache: AnswerCache) -> int:
    """How many are kept once those of earlier requests are."""
    before = -1
    while cache.counts().kept != before:
        before = cache.counts().kept
        time.sleep(0.1)
    return before


def text_of(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_a_hit_has_the_same_bytes_whole_and_streamed(server: Serving, cache: AnswerCache) -> None:
    before = kept_at_last(cache)
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
    streamed = ask(server, "tell me about tides", stream=True, stream_options={"include_usage": True})
    assert '"cache":"hit"' in streamed
    assert streamed.endswith("data: [DONE]\n\n")
    assert server.in_flight() == 0


def test_a_streamed_answer_is_kept_as_well(server: Serving, cache: AnswerCache) -> None:
    before = kept_at_last(cache)
    streamed = ask(server, "tell me about dunes", stream=True)
    assert '"cache":"miss"' in streamed
    kept(cache, before + 1)
    whole = ask(server, "tell me about dunes")
    assert whole["cache"] == "hit"
    pieces = [line.split('"content":"')[1] for line in streamed.split("\n") if '"content":"' in line]
    assert pieces
    assert ask(server, "tell me about dunes", control="no-cache")["choices"] == whole["choices"]


def test_a_similar_question_is_near(server: Serving, cache: AnswerCache) -> None:
    before = kept_at_last(cache)
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
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "about rain"}]},
    ],
)
def test_what_differs_is_answered_anew(server: Serving, cache: AnswerCache, change: dict[str, Any]) -> None:
    before, text = kept_at_last(cache), f"tell me about {change}"
    ask(server, text)
    kept(cache, before + 1)
    assert ask(server, text, **change)["cache"] == "miss"


def test_variety_is_never_kept_but_a_seed_is(server: Serving, cache: AnswerCache) -> None:
    before = kept_at_last(cache)
    for _ in range(2):
        assert ask(server, "about wind", temperature=0.9)["cache"] == "miss"
    assert kept_at_last(cache) == before
    first = ask(server, "about wind", temperature=0.9, seed=3)
    kept(cache, before + 1)
    assert ask(server, "about wind", temperature=0.9, seed=3)["choices"] == first["choices"]
    assert ask(server, "about wind", temperature=0.9, seed=3)["cache"] == "hit"
    assert ask(server, "about wind", temperature=0.9, seed=5)["cache"] == "miss"


def test_plain_texts_are_kept_token_by_token(server: Serving, cache: AnswerCache) -> None:
    def go_on(prompt: str, **more: Any) -> Any:
        body = {"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 6, **more}
        response = plain_http.post(f"{server.url}/v1/completions", json=body)
        assert response.status_code == 200
        return response.text if more.get("stream") else response.json()

    before = kept_at_last(cache)
    first = go_on("once upon a time", ignore_eos=True)
    kept(cache, before + 1)
    again = go_on("once upon a time", ignore_eos=True)
    assert (first["cache"], again["cache"]) == ("miss", "hit")
    assert again["choices"] == first["choices"]
    assert go_on("once upon a time ", ignore_eos=True)["cache"] == "miss"
    assert '"cache":"hit"' in go_on("once upon a time", ignore_eos=True, stream=True)


# the other forms of asking ------------------------------------------------------------------------


def ask_messages(server: Serving, text: str, **more: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    asked = {"messages": messages, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **more}
    response = plain_http.post(f"{server.url}/v1/messages", json={"model": "tiny", **asked})
    assert response.status_code == 200, response.text
    return response.text if more.get("stream") else response.json()


def ask_responses(server: Serving, text: str, **more: Any) -> Any:
    asked = {"input": text, "max_output_tokens": 8, "temperature": 0, "ignore_eos": True, **more}
    response = plain_http.post(f"{server.url}/v1/responses", json={"model": "tiny", **asked})
    assert response.status_code == 200, response.text
    return response.text if more.get("stream") else response.json()


def events_of(streamed: str) -> list[Any]:
    lines = streamed.split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def said_in(events: list[Any], key: str) -> str:
    deltas = [event["delta"] for event in events if event["type"] == key]
    return "".join(delta if isinstance(delta, str) else delta["text"] for delta in deltas)


def test_messages_are_given_again(server: Serving, cache: AnswerCache) -> None:
    before = kept_at_last(cache)
    first = ask_messages(server, "about seals")
    assert first["cache"] == "miss"
    kept(cache, before + 1)
    again = ask_messages(server, "about seals", deadline_ms=10_000)
    assert (again["cache"], again["deadline"]["met"]) == ("hit", True)
    assert (again["content"], again["stop_reason"]) == (first["content"], "max_tokens")
    assert again["usage"]["output_tokens"] == 8
    events = events_of(ask_messages(server, "about seals", stream=True))
    assert said_in(events, "content_block_delta") == first["content"][0]["text"]
    assert events[0]["type"] == "message_start"
    assert (events[-1]["type"], events[-1]["cache"]) == ("message_stop", "hit")
    assert ask(server, "about seals")["cache"] == "miss", "another form of answer"
    assert server.in_flight() == 0


def test_a_stop_sequence_is_named_again(server: Serving, cache: AnswerCache) -> None:
    text = ask_messages(server, "about otters", max_tokens=20)["content"][0]["text"]
    stop = text[len(text) // 2 :][:3]
    before = kept_at_last(cache)
    first = ask_messages(server, "about otters", max_tokens=20, stop_sequences=[stop])
    kept(cache, before + 1)
    again = ask_messages(server, "about otters", max_tokens=20, stop_sequences=[stop])
    assert again["cache"] == "hit"
    assert (again["stop_reason"], again["stop_sequence"]) == ("stop_sequence", stop)
    assert again["content"] == first["content"]


@pytest.mark.parametrize(
    "change",
    [
        {"system": "x"},
        {"temperature": 1},
        {"tools": [{"name": "f", "input_schema": {"type": "object"}}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " So"}]},
    ],
)
def test_other_messages_are_answered_anew(server: Serving, cache: AnswerCache, change: dict[str, Any]) -> None:
    before = kept_at_last(cache)
    begun = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "So"}]
    base: dict[str, Any] = {"messages": begun} if "messages" in change else {}
    base |= {"ignore_eos": "tools" not in change}
    ask_messages(server, f"about {change}", **base)
    kept(cache, before + 1)
    assert ask_messages(server, f"about {change}", **base)["cache"] == "hit"
    assert ask_messages(server, f"about {change}", **base | change)["cache"] == "miss"


def test_responses_are_given_again(server: Serving, cache: AnswerCache) -> None:
    before = kept_at_last(cache)
    first = ask_responses(server, "about whales")
    assert first["cache"] == "miss"
    kept(cache, before + 1)
    again = ask_responses(server, "about whales")
    assert (again["cache"], again["status"]) == ("hit", "incomplete")
    assert again["output"][0]["content"] == first["output"][0]["content"]
    assert again["output"][0]["id"] != first["output"][0]["id"]
    assert again["usage"]["output_tokens"] == 8
    events = events_of(ask_responses(server, "about whales", stream=True))
    text = said_in(events, "response.output_text.delta")
    assert text == first["output"][0]["content"][0]["text"]
    assert events[0]["response"]["cache"] is None
    assert events[-1]["response"]["cache"] == "hit"
    read = plain_http.get(f"{server.url}/v1/responses/{again['id']}").json()
    assert read == again


def test_work_in_the_background_is_given_again(server: Serving, cache: AnswerCache) -> None:
    def ended(identity: str) -> Any:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            now = plain_http.get(f"{server.url}/v1/responses/{identity}").json()
            if now["status"] != "in_progress":
                return now
            time.sleep(0.005)
        raise AssertionError("it has not ended")

    before = kept_at_last(cache)
    first = ended(ask_responses(server, "about krill", background=True)["id"])
    kept(cache, before + 1)
    again = ended(ask_responses(server, "about krill", background=True)["id"])
    assert (first["cache"], again["cache"]) == ("miss", "hit")
    assert again["output"][0]["content"] == first["output"][0]["content"]
    begun = ask_responses(server, "about krill", background=True)
    url = f"{server.url}/v1/responses/{begun['id']}/cancel"
    assert plain_http.post(url).json()["status"] in ("incomplete", "cancelled")
    assert server.in_flight() == 0


def test_a_response_that_must_not_be_stored_is_not_kept(server: Serving, cache: AnswerCache) -> None:
    before = kept_at_last(cache)
    for _ in range(2):
        assert ask_responses(server, "about squid", store=False)["cache"] == "miss"
    assert kept_at_last(cache) == before
    ask_responses(server, "about squid")
    kept(cache, before + 1)
    assert ask_responses(server, "about squid", instructions="x")["cache"] == "miss"
    assert ask_responses(server, "about squid", store=False)["cache"] == "miss"
    assert ask_responses(server, "about squid")["cache"] == "hit"


def test_a_kept_answer_is_read_like_any_other() -> None:
    """All that a route reads of an answer is in the protocol; a kept one comes in pieces that join to the whole."""
    text = "a kept answer that is longer than one piece of a stream, by far"
    whole = Completion(text, (1, 2, 3), 7, 7, "stop", Timing(0.002, 0.002, 0.0))
    kept = CachedResponse(whole, Deadline(total_ms=1.0))
    answer: ModelAnswer = kept
    batch: AnswerBatch = CachedAnswers(kept)
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion()) == (7, 7, whole)
    assert answer.promise.met is False

    async def read() -> list[Delta]:
        return [delta async for step in batch.pieces(1.0) for _, delta in step]

    pieces = asyncio.run(read())
    assert len(pieces) > 2
    assert "".join(delta.text for delta in pieces) == text
    assert pieces[-1].completion is whole
    assert asyncio.run(batch.whole()) == [whole]
    batch.cancel()
    assert batch.answers == (kept,)
