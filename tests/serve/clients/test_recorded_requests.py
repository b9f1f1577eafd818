"""Requests as programs send them, written from their sources: Dify, RAGFlow, FastGPT, Xinference's client."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving import Serving, serving

from tiny_encoder_models import make_encoder_folder
from tiny_engine import settings_in

TEXTS = ["the cat sat on the mat", "a dog", "你好吗"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("recorded")
    models = {"e5": make_encoder_folder(folder), "ranker": make_encoder_folder(folder, "rerank")}
    with serving({}, settings_in(folder), encoders=models) as running:
        yield running


def post(server: Serving, path: str, body: Any) -> Any:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
    answer = httpx.post(server.url + path, content=json.dumps(body).encode(), headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_dify_validates_an_embedder_and_embeds(server: Serving) -> None:
    """Its plugin "OpenAI-API-compatible": a ping, then batches of texts."""
    assert "model" in post(server, "/v1/embeddings", {"input": "ping", "model": "e5"})
    body = {"input": TEXTS, "model": "e5", "encoding_format": "float", "user": "6f4a"}
    answer = post(server, "/v1/embeddings", body)
    assert [len(each["embedding"]) for each in answer["data"]] == [64] * 3
    assert answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
def test_dify_ranks(server: Serving, path: str) -> None:
    """It spreads the scores between the least and the greatest, and takes each text from the answer."""
    body = {"model": "ranker", "query": "cat", "documents": TEXTS, "top_n": None, "return_documents": True}
    results = post(server, path, body)["results"]
    scores = [each["relevance_score"] for each in results]
    assert max(scores) > min(scores)
    assert [each["document"]["text"] for each in results] == [TEXTS[each["index"]] for each in results]


def test_ragflow_embeds_and_ranks(server: Serving) -> None:
    """By openai's client, with a field of its own; rerankers get flags as words and count tokens in two places."""
    body = {"input": TEXTS, "model": "e5", "encoding_format": "float", "drop_params": True}
    assert len(post(server, "/v1/embeddings", body)["data"]) == 3
    jina = {"model": "ranker", "query": "cat", "documents": TEXTS, "top_n": len(TEXTS)}
    answer = post(server, "/v1/rerank", jina)
    assert sorted(each["index"] for each in answer["results"]) == [0, 1, 2]
    assert answer["usage"]["total_tokens"] > 0
    words = {"model": "ranker", "query": "cat", "return_documents": "true", "return_len": "true", "documents": TEXTS}
    tokens = post(server, "/v1/rerank", words)["meta"]["tokens"]
    assert tokens["input_tokens"] + tokens["output_tokens"] == answer["usage"]["total_tokens"]
    assert len(post(server, "/embed", {"inputs": "cat"})[0]) == 64


def test_fastgpt_embeds_and_ranks(server: Serving) -> None:
    """By openai's client for JavaScript, which asks for base64; scores by index, tokens from ``meta``."""
    answer = post(server, "/v1/embeddings", {"model": "e5", "input": ["cat"], "encoding_format": "base64"})
    assert len(base64.b64decode(answer["data"][0]["embedding"])) == 4 * 64
    ranked = post(server, "/v1/rerank", {"model": "ranker", "query": "cat", "documents": TEXTS})
    assert {each["index"] for each in ranked["results"]} == {0, 1, 2}
    assert ranked["meta"]["tokens"]["input_tokens"] > 0


def test_xinferences_client_embeds_and_ranks(server: Serving) -> None:
    """It sends every optional field as null, and its further arguments once more as text."""
    assert post(server, "/v1/embeddings", {"model": "e5", "input": "ping"})["data"][0]["index"] == 0
    body = {
        "model": "ranker",
        "documents": TEXTS,
        "query": "cat",
        "top_n": None,
        "max_chunks_per_doc": None,
        "return_documents": None,
        "return_len": None,
        "kwargs": "{}",
    }
    answer = post(server, "/v1/rerank", body)
    assert len(answer["results"]) == 3
    listed = httpx.get(server.url + "/v1/models/ranker", timeout=30).json()
    assert listed["id"] == "ranker"
