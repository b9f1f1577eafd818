"""Clients as they are against the encoders' routes: openai, LangChain, LlamaIndex, Cohere, Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from serving import Serving, serving

from miaotui.encoder import Encoder
from tiny_encoder_models import TASKS, make_encoder_folder, open_tiny
from tiny_engine import settings_in

pytestmark = pytest.mark.clients
TEXTS = ["the cat sat on the mat", "a dog", "你好吗"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("clients")
    models = {task: make_encoder_folder(folder, task) for task in TASKS}
    with serving({}, settings_in(folder), encoders=models) as running:
        yield running


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Encoder]]:
    folder = tmp_path_factory.mktemp("ours")
    opened = {task: open_tiny(make_encoder_folder(folder, task), settings_in(folder)) for task in TASKS}
    yield opened
    for encoder in opened.values():
        encoder.close()


def same(found: Any, expected: Any) -> bool:
    return np.array(found, np.float32).tobytes() == np.ascontiguousarray(expected).tobytes()


def test_openai(server: Serving, ours: dict[str, Encoder]) -> None:
    import openai  # noqa: PLC0415

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="embed", input=TEXTS)
        assert same([each.embedding for each in answer.data], ours["embed"].embed(TEXTS, prompt=None))
        assert answer.usage.total_tokens > 0
        floats = client.embeddings.create(model="embed", input=TEXTS, encoding_format="float")
        assert [each.embedding for each in floats.data] == [each.embedding for each in answer.data]
        with pytest.raises(openai.BadRequestError, match="at most 80 fit"):
            client.embeddings.create(model="embed", input="cat " * 200)
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="text-embedding-3-small", input="x")


def test_langchain(server: Serving, ours: dict[str, Encoder]) -> None:
    from langchain_openai import OpenAIEmbeddings  # noqa: PLC0415

    client = OpenAIEmbeddings(
        model="embed", base_url=f"{server.url}/v1", api_key="none", max_retries=0, check_embedding_ctx_length=False
    )
    assert same(client.embed_documents(TEXTS), ours["embed"].embed(TEXTS, prompt=None))
    assert same(client.embed_query("cat"), ours["embed"].embed("cat", prompt=None))


def test_llama_index(server: Serving, ours: dict[str, Encoder]) -> None:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding  # noqa: PLC0415

    client = OpenAILikeEmbedding(model_name="embed", api_base=f"{server.url}/v1", api_key="none", max_retries=0)
    assert same(client.get_text_embedding_batch(TEXTS), ours["embed"].embed(TEXTS, prompt=None))
    assert same(client.get_query_embedding("cat"), ours["embed"].embed("cat", prompt=None))


def test_cohere(server: Serving, ours: dict[str, Encoder]) -> None:
    import cohere  # noqa: PLC0415

    expected = [(each.index, each.score) for each in ours["rerank"].rerank("cat", TEXTS)]
    for client in (cohere.ClientV2("none", base_url=server.url), cohere.Client("none", base_url=server.url)):
        answer = client.rerank(model="rerank", query="cat", documents=TEXTS)
        assert [(each.index, each.relevance_score) for each in answer.results] == expected
        few = client.rerank(model="rerank", query="cat", documents=TEXTS, top_n=1)
        assert len(few.results) == 1


def test_hugging_face(server: Serving, ours: dict[str, Encoder]) -> None:
    from huggingface_hub import InferenceClient  # noqa: PLC0415

    client = InferenceClient(token="none")
    unit = ours["embed"].embed("cat", prompt=None, normalize=True)
    assert same(client.feature_extraction("cat", model=f"{server.url}/embed"), unit)
    likeness = client.sentence_similarity("cat", other_sentences=TEXTS, model=f"{server.url}/similarity")
    assert same(likeness, ours["embed"].score([("cat", text) for text in TEXTS]))
    assert same(client.feature_extraction("cat", model=f"{server.url}/models/embed"), ours["embed"].embed("cat", None))
    labels = client.text_classification("the cat", model=f"{server.url}/models/classify")
    (expected,) = ours["classify"].classify("the cat")
    assert labels[0].label == expected.label
    assert len(labels) == 3
    text = "ana sat in paris"
    spans = client.token_classification(text, model=f"{server.url}/models/tag", aggregation_strategy="simple")
    assert [(each.entity_group, each.start, each.end) for each in spans] == [
        (each.label, each.start, each.end) for each in ours["tag"].tag(text)[0]
    ]
    fills = client.fill_mask("the [MASK] sat", model=f"{server.url}/models/fill_mask", top_k=3)
    assert [each.token for each in fills] == [
        each.token_id for each in ours["fill_mask"].fill_mask("the [MASK] sat", top_k=3)[0][0]
    ]
