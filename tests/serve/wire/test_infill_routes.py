"""Filling in over HTTP: llama.cpp's route, OpenAI's suffix and Ollama's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving import Serving, serving

from infill_models import FIRST, QWEN, make_infill_folder
from miaotui.serve.llamacpp.infill_wire import InfillAnswer
from miaotui.text.infill import NamedText, require_infiller
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

NO_ENDS = {str(FIRST + number): -100 for number in range(len(QWEN))}  # a random model writes anything
GAP = {
    "input_prefix": "def f(",
    "input_suffix": "return x",
    "n_predict": 8,
    "ignore_eos": True,
    "seed": 3,
    "logit_bias": NO_ENDS,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("infill")
    plain = folder / "plain"
    plain.mkdir()
    models = {"coder": make_infill_folder(folder), "plain": make_tiny_folder(plain, "llama")}
    with serving(models, settings_in(folder)) as running:
        yield running


def post(server: Serving, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json={"model": "coder", **body}, timeout=60)


def test_the_answer_has_llama_cpps_members(server: Serving) -> None:
    response = post(server, "/infill", **GAP, cache_prompt=True)
    assert response.headers["x-ignored-fields"] == "cache_prompt"
    answer = response.json()
    InfillAnswer.model_validate(answer)
    assert answer["stop"] is True
    assert answer["tokens_predicted"] == 8
    assert answer["stop_type"] == "limit"
    assert post(server, "/v1/infill", **GAP).json()["content"] == answer["content"]


def test_a_stream_joined_is_the_whole(server: Serving) -> None:
    whole = post(server, "/infill", **GAP).json()
    lines = post(server, "/infill", **GAP, stream=True).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert "".join(each["content"] for each in events) == whole["content"]
    assert [each["stop"] for each in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["tokens_evaluated"] == whole["tokens_evaluated"]


def test_files_and_a_beginning_reach_the_prompt(server: Serving) -> None:
    tokenizer = server.hosts.find("coder").tokenizer
    extra = [{"filename": "a.py", "text": "x = 1"}]
    answer = post(server, "/infill", **GAP, input_extra=extra, prompt="the").json()
    files = [NamedText("a.py", "x = 1")]
    prompt = require_infiller(tokenizer).encode("def f(", "return x", files=files, begun="the")
    assert answer["tokens_evaluated"] == len(prompt)


def test_openais_suffix_is_the_same_prompt(server: Serving) -> None:
    prompt = require_infiller(server.hosts.find("coder").tokenizer).encode("def f(", "return x")
    more = {"max_tokens": 8, "temperature": 0, "ignore_eos": True, "logit_bias": NO_ENDS}
    ids = post(server, "/v1/completions", prompt=prompt, **more).json()
    text = post(server, "/v1/completions", prompt="def f(", suffix="return x", **more).json()
    assert text["choices"][0]["text"] == ids["choices"][0]["text"]
    assert text["usage"]["prompt_tokens"] == len(prompt)
    gap = post(server, "/infill", **GAP, temperature=0).json()
    assert gap["content"] == text["choices"][0]["text"]


def test_ollamas_suffix_is_the_same_prompt(server: Serving) -> None:
    options = {"num_predict": 8, "temperature": 0}
    body = {"prompt": "def f(", "suffix": "return x", "stream": False, "options": options}
    answer = post(server, "/api/generate", **body).json()
    gap = post(server, "/infill", **{**GAP, "ignore_eos": False, "logit_bias": None}, temperature=0).json()
    assert answer["response"] == gap["content"]
    assert answer["prompt_eval_count"] == gap["tokens_evaluated"]


def test_ollamas_clients_see_who_can_fill_in(server: Serving) -> None:
    for name, able in (("coder", True), ("plain", False)):
        shown = httpx.post(f"{server.url}/api/show", json={"model": name}, timeout=60).json()
        assert ("insert" in shown["capabilities"]) is able


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/infill", {"model": "plain", "input_prefix": "a"}, "input_suffix"),
        ("/infill", {"input_prefix": 5}, "input_prefix"),
        ("/infill", {"input_extra": [{"filename": "a"}]}, "input_extra[0].text"),
        ("/infill", {"input_extra": [{"text": ""}] * 65}, "input_extra"),
        ("/infill", {"n_predict": -2}, "n_predict"),
        ("/infill", {"n": 2}, "n"),
        ("/infill", {"input_prefix": "a" * 5000}, "input_prefix"),
        ("/v1/completions", {"model": "plain", "prompt": "a", "suffix": "b"}, "suffix"),
        ("/v1/completions", {"prompt": [1, 2], "suffix": "b"}, "prompt"),
        ("/v1/completions", {"prompt": "a", "suffix": "b", "echo": True}, "echo"),
        ("/v1/completions", {"prompt": "a", "suffix": "b", "prompt_logprobs": 1}, "prompt_logprobs"),
    ],
)
def test_wrong_requests_are_refused_by_name(server: Serving, path: str, body: dict[str, Any], param: str) -> None:
    response = post(server, path, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert server.in_flight() == 0


def test_a_deadline_is_kept_or_refused(server: Serving) -> None:
    answer = post(server, "/infill", **GAP, deadline_ms=60_000).json()
    assert answer["deadline"]["met"] is True
    refused = post(server, "/infill", **{**GAP, "n_predict": 100}, deadline_ms=0.001)
    assert refused.status_code == 429
