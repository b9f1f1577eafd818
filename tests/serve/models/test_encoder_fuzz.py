"""Whatever JSON the encoders' routes get, the answer is sound or one error that says why; nothing is left running."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Serving, serving

from tiny_encoder_models import TASKS, make_encoder_folder
from tiny_engine import settings_in

ROUTES = (
    "/v1/embeddings", "/v1/rerank", "/v2/rerank", "/rerank", "/embed", "/embed_all", "/embed_sparse", "/predict",
    "/similarity", "/score", "/classify", "/pooling", "/", "/models/tag", "/models/fill_mask", "/models/nobody",
)  # fmt: skip
FIELDS = (
    "model", "input", "inputs", "query", "documents", "texts", "text_1", "text_2", "top_n", "truncate", "dimensions",
    "encoding_format", "input_type", "parameters", "return_documents", "rank_fields", "truncate_prompt_tokens", "task",
    "max_tokens_per_doc", "normalize", "raw_scores", "deadline_ms", "on_late", "truncation_direction",
)  # fmt: skip
WORDS = st.sampled_from(
    [*TASKS, "cat", "", "[MASK] cat", "\x00\x1b", "你好", "cat " * 100, "true", "END", "base64", "\ud800"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 400) | st.floats() | WORDS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(("text", "source_sentence", "sentences")), inner)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("fuzz")
    with serving(
        {}, settings_in(folder), encoders={task: make_encoder_folder(folder, task) for task in TASKS}
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30) as opened:
        yield opened


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(ROUTES), body=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
def test_no_body_is_an_error_of_the_server(server: Serving, client: httpx.Client, path: str, body: Any) -> None:
    content = json.dumps(body).encode()
    answer = client.post(server.url + path, content=content)
    assert answer.status_code < 500, (path, body, answer.text)
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"]
        assert error["code"]
    assert len(server.services.operations.jobs) == 0


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(ROUTES), texts=st.lists(WORDS, min_size=1, max_size=5), cut=st.booleans())
def test_any_texts_are_answered_or_named(
    server: Serving, client: httpx.Client, path: str, texts: list[str], cut: bool
) -> None:
    body = {
        "model": "embed",
        "input": texts,
        "inputs": {"source_sentence": texts[0], "sentences": texts} if path == "/similarity" else texts,
        "query": texts[0],
        "text_1": texts,
        "text_2": texts,
        "documents": texts,
        "texts": texts,
        "truncate": cut,
    }
    answer = client.post(server.url + path, content=json.dumps(body).encode())
    assert answer.status_code in (200, 400, 404), answer.text
