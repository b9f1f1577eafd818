"""A model that restores masked tokens, served: the same routes, streams, usage, cancellation and promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from serving import Serving, serving

from miaotui.serve.settings import ServeSettings
from python_entry import wait_until
from tiny_engine import settings_in
from tiny_masked import make_masked_folder

SAID = [{"role": "user", "content": "the end"}]
MORE: dict[str, Any] = {"max_tokens": 24, "temperature": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("masked-serving")
    default = ServeSettings(deadline_s=5)  # ample for such a model
    with serving({"masked": make_masked_folder(folder, "bd3lm")}, settings_in(folder), serve=default) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_chat_streams_what_it_answers_whole(client: openai.OpenAI) -> None:
    extra = {"ignore_eos": True}
    whole = client.chat.completions.create(model="masked", messages=SAID, extra_body=extra, **MORE)  # type: ignore[call-overload]
    assert whole.usage.completion_tokens == 24
    assert whole.choices[0].finish_reason == "length"
    options = {"include_usage": True}
    stream = client.chat.completions.create(  # type: ignore[call-overload]
        model="masked", messages=SAID, extra_body=extra, stream=True, stream_options=options, **MORE
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_a_client_that_leaves_frees_its_place(server: Serving) -> None:
    body = {"model": "masked", "messages": SAID, "stream": True, "max_tokens": 200, "ignore_eos": True}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as response:
        next(response.iter_bytes())
    wait_until(lambda: server.in_flight() == 0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"answer_token_ids": [5, 6]}, "in order"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(server: Serving, wrong: dict[str, Any], words: str) -> None:
    body = {"model": "masked", "messages": SAID, **MORE, **wrong}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_deadlines_are_kept_or_refused_at_once(server: Serving) -> None:
    url, body = f"{server.url}/v1/chat/completions", {"model": "masked", "messages": SAID, **MORE}
    kept = httpx.post(url, json=body, timeout=60).json()
    assert kept["deadline"]["asked_ms"] == 5000  # the server's own
    assert kept["deadline"]["met"] is True
    refused = httpx.post(url, json={**body, "deadline_ms": 1}, timeout=60)
    assert refused.status_code == 429
    assert refused.headers["retry-after"]
    assert "would take" in refused.json()["error"]["message"]
    asked = httpx.post(f"{server.url}/v1/promise", json={**body, "deadline_ms": 5000}, timeout=60).json()
    assert asked["fits"] is True
    assert 0 < asked["predicted_ms"] < 5000
    least = asked["predicted_ms"]
    tight = httpx.post(f"{server.url}/v1/promise", json={**body, "deadline_ms": least / 2}, timeout=60).json()
    assert tight["fits"] is False


def test_the_list_of_models_says_what_each_can_do(server: Serving) -> None:
    listed = {each["id"]: each for each in httpx.get(f"{server.url}/v1/models").json()["data"]}
    able = listed["masked"]["abilities"]
    assert able["promises"] == "kept"
    assert (able["same_bytes"], able["grammar"], able["logprobs"], able["adapters"]) == (True, False, False, False)


def test_operations_show_its_promises(server: Serving) -> None:
    for path in ("/health", "/ready", "/metrics", "/v1/models"):
        assert httpx.get(f"{server.url}{path}", timeout=60).status_code == 200, path
