"""``/v1/embeddings`` against a real server: forms of inputs, encodings, limits, errors, accounts."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import Serving, serving
from starlette.middleware import Middleware

from miaotui.encoder import Encoder
from miaotui.serve.middleware.access import Access, AccessPolicy, Account
from miaotui.serve.settings import ServeSettings
from tiny_encoder_models import LIMIT, make_encoder_folder, open_tiny
from tiny_engine import settings_in

FEW = 20  # inputs of a request, in tests of that limit
TEXTS = ["the cat sat on the mat", "ping", "你好吗"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("embeddings")
    models = {task: make_encoder_folder(folder, task) for task in ("embed", "classify")}
    with serving({}, settings_in(folder), encoders=models, serve=ServeSettings(max_body_bytes=1 << 20)) as running:
        yield running


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    folder = tmp_path_factory.mktemp("ours")
    with open_tiny(make_encoder_folder(folder), settings_in(folder)) as encoder:
        yield encoder


def post(server: Serving, path: str = "/v1/embeddings", headers: Any = None, **body: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, headers=headers, timeout=30)


def vectors(answer: httpx.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    return np.array([item["embedding"] for item in answer.json()["data"]], np.float32)


def error(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()["error"]
    return found


def test_both_encodings_are_the_librarys_bits(server: Serving, ours: Encoder) -> None:
    expected = ours.embed(TEXTS, prompt=None)
    plain = post(server, input=TEXTS)
    packed = post(server, input=TEXTS, encoding_format="base64").json()["data"]
    assert vectors(plain).tobytes() == expected.tobytes()
    assert b"".join(base64.b64decode(item["embedding"]) for item in packed) == expected.tobytes()
    answer = plain.json()
    assert answer["model"] == "embed"
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    tokens = sum(len(ours.model.tokenizer.encode_text(text).tokens) for text in TEXTS)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_four_forms_of_input(server: Serving, ours: Encoder) -> None:
    ids = ours.model.tokenizer.encode_text("ping").tokens
    expected = ours.embed("ping", prompt=None)
    for given in ("ping", ["ping"], ids, [ids]):
        assert vectors(post(server, input=given)).tobytes() == expected.tobytes()
    assert vectors(post(server, input=[ids, ids[:2]])).shape == (2, 64)


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_limit_of_tokens(server: Serving, extra: int) -> None:
    text = "cat " * (LIMIT - 2 + extra)
    answer = post(server, input=["ping", text])
    cut = post(server, input=["ping", text], truncate=True)
    assert [item["dropped_tokens"] for item in cut.json()["data"]] == [0, max(extra, 0)]
    if extra <= 0:
        assert vectors(answer).tobytes() == vectors(cut).tobytes()
    else:
        found = error(answer)
        assert found["code"] == "context_length_exceeded"
        assert found["param"] == "input[1]"
        assert "81 tokens, and at most 80 fit" in found["message"]


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_limit_of_inputs(server: Serving, monkeypatch: pytest.MonkeyPatch, extra: int) -> None:
    monkeypatch.setattr("miaotui.serve.encoders.requests.MAX_INPUTS", FEW)
    answer = post(server, input=["x"] * (FEW + extra), encoding_format="base64")
    if extra <= 0:
        assert len(answer.json()["data"]) == FEW + extra
    else:
        assert error(answer)["param"] == "input"


def test_the_limit_of_all_tokens(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miaotui.serve.encoders.requests.MAX_INPUT_TOKENS", 30)
    assert post(server, input=["x"] * 10).status_code == 200
    assert "31 tokens" in error(post(server, input=["x"] * 9 + ["x x"]))["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": ["x", ""]}, "input[1]"),
        ({"input": [[]]}, "input"),
        ({"input": [1, -1]}, "input"),
        ({"input": [1, 100_000]}, "input[0]"),
        ({"input": ["x", 3]}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": "x", "dimensions": 32}, "dimensions"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "x", "input_type": "nonsense"}, "prompt"),
        ({"input": "x", "truncate": "START"}, "truncate"),
        ({"input": "x", "deadline_ms": -1}, "deadline_ms"),
        ({}, "input"),
    ],
)
def test_wrong_requests_name_the_field(server: Serving, body: Any, param: str) -> None:
    assert error(post(server, **body))["param"] == param


def test_bad_characters(server: Serving) -> None:
    answer = httpx.post(server.url + "/v1/embeddings", content=b'{"input": ["ok", "\\ud800"]}', timeout=30)
    assert "lone surrogate" in error(answer)["message"]
    assert error(answer)["param"] == "input[1]"
    assert vectors(post(server, input="a\x00b\x1b[0m\u202e")).shape == (1, 64)


def test_a_hundred_thousand_tokens(server: Serving) -> None:
    assert error(post(server, input="cat " * 100_000))["code"] == "context_length_exceeded"
    cut = post(server, input="cat " * 100_000, truncate=True)
    assert cut.json()["data"][0]["dropped_tokens"] == 100_002 - LIMIT


def test_models_are_chosen_by_name(server: Serving) -> None:
    assert vectors(post(server, input="x", model="embed")).shape == (1, 64)
    assert error(post(server, input="x", model="nobody"), 404)["code"] == "model_not_found"
    found = error(post(server, input="x", model="classify"))
    assert found["param"] == "model"
    assert "gives no embeddings (it gives classes of texts)" in found["message"]
    listed = httpx.get(server.url + "/v1/models").json()["data"]
    assert {each["id"]: each["kind"] for each in listed} == {"embed": "embedding", "classify": "classify"}
    assert httpx.get(server.url + "/v1/models/embed").json()["max_model_len"] == LIMIT


def test_tokens_are_those_of_an_embedding(server: Serving) -> None:
    told = httpx.post(server.url + "/tokenize", json={"model": "embed", "prompt": "the cat"}, timeout=30).json()
    assert told["count"] == len(told["tokens"]) == 4
    assert vectors(post(server, input=told["tokens"])).tobytes() == vectors(post(server, input="the cat")).tobytes()
    bare = {"model": "embed", "prompt": "the cat", "add_special_tokens": False, "return_token_strs": True}
    told = httpx.post(server.url + "/tokenize", json=bare, timeout=30).json()
    assert [each.strip() for each in told["token_strs"]] == ["the", "cat"]


def test_chat_with_an_encoder_is_refused(server: Serving) -> None:
    messages = [{"role": "user", "content": "hi"}]
    found = error(post(server, "/v1/chat/completions", model="embed", messages=messages))
    assert "embed is an encoder" in found["message"]
    assert "encoders" in error(post(server, "/v1/chat/completions", messages=messages))["message"]


def test_deadlines(server: Serving) -> None:
    kept = post(server, input="x", deadline_ms=10_000).json()["deadline"]
    assert kept["met"] is True
    assert kept["took_ms"] < 10_000
    refused = post(server, input=["cat dog " * 20] * 900, headers={"x-deadline-ms": "3"})
    assert refused.status_code == 429
    assert refused.json()["error"]["predicted_ms"] > 3


def test_unknown_fields_are_named(server: Serving) -> None:
    assert post(server, input="x", late_chunking=True).headers["x-ignored-fields"] == "late_chunking"


def test_metrics_health_and_drain_know_encoders(server: Serving) -> None:
    post(server, input=TEXTS)
    text = httpx.get(server.url + "/metrics").text
    assert 'miaotui_encoded_texts_total{model_name="embed"}' in text
    assert 'vllm:prompt_tokens_total{model_name="embed"}' in text
    assert httpx.get(server.url + "/health").status_code == 200
    assert httpx.get(server.url + "/ready").status_code == 200
    assert len(server.services.operations.jobs) == 0


MANY = ["cat dog " * 20] * 1500  # seconds of work here


def until(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        time.sleep(0.01)
    pytest.fail("it did not come true")


def test_a_client_that_leaves_cancels_its_job(server: Serving) -> None:
    jobs, body = server.services.operations.jobs, json.dumps({"input": MANY}).encode()
    address = server.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(address[0], int(address[1]))
    connection.request("POST", "/v1/embeddings", body)
    until(lambda: len(jobs) == 1)
    connection.close()
    until(lambda: len(jobs) == 0)
    running = server.services.encoders["embed"].running
    assert running is not None
    until(lambda: running.loop.in_flight == 0)


def test_a_server_that_leaves_says_so(server: Serving) -> None:
    jobs, answers = server.services.operations.jobs, list[httpx.Response]()
    asking = threading.Thread(target=lambda: answers.append(post(server, input=MANY)))
    asking.start()
    until(lambda: len(jobs) == 1)
    assert server.call(jobs.cancel_all) == 1
    asking.join(30)
    assert error(answers[0], 503)["code"] == "overloaded"


def test_tokens_are_charged_to_the_account(tmp_path: Path) -> None:
    closed: list[Account] = []
    layers = [Middleware(Access, policy=AccessPolicy(), listeners=[lambda account, scope: closed.append(account)])]
    with serving({}, settings_in(tmp_path), encoders={"e": make_encoder_folder(tmp_path)}, layers=layers) as running:
        used = post(running, input=["the cat", "ping"]).json()["usage"]["total_tokens"]
        post(running, "/embed", inputs="ping")
    assert [(each.model, each.prompt_tokens, each.route) for each in closed] == [
        ("e", used, "/v1/embeddings"),
        ("e", 3, "/embed"),
    ]
