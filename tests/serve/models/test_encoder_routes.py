"""Rankings, labels and vectors in the forms of Cohere, Jina, TEI and vLLM, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from serving import Serving, serving

from miaotui.encoder import Encoder
from miaotui.serve.settings import ServeSettings
from tiny_encoder_models import LIMIT, TASKS, make_encoder_folder, open_tiny
from tiny_engine import settings_in

FEW = 20  # inputs of a request, in tests of that limit
DOCUMENTS = ["dog", "the cat sat on the mat", "paris is good", "x"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("routes")
    models = {task: make_encoder_folder(folder, task) for task in TASKS}
    with serving({}, settings_in(folder), encoders=models, serve=ServeSettings(max_body_bytes=1 << 20)) as running:
        yield running


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Encoder]]:
    folder = tmp_path_factory.mktemp("ours")
    opened = {task: open_tiny(make_encoder_folder(folder, task), settings_in(folder)) for task in TASKS}
    yield opened
    for encoder in opened.values():
        encoder.close()


def post(server: Serving, path: str, **body: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=30)


def sound(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def error(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()["error"]
    return found


# Cohere's and Jina's --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_are_ranked(server: Serving, ours: dict[str, Encoder], path: str) -> None:
    answer = sound(post(server, path, model="rerank", query="the cat", documents=DOCUMENTS, top_n=None))
    expected = ours["rerank"].rerank("the cat", DOCUMENTS)
    assert [(each["index"], each["relevance_score"]) for each in answer["results"]] == [
        (each.index, each.score) for each in expected
    ]
    assert "document" not in answer["results"][0]
    assert answer["usage"]["total_tokens"] == answer["meta"]["tokens"]["input_tokens"] > 0
    assert "errors" not in answer
    few = sound(post(server, path, query="the cat", documents=DOCUMENTS, top_n=2, return_documents=True))
    assert [each["document"]["text"] for each in few["results"]] == [DOCUMENTS[each.index] for each in expected[:2]]
    raw = sound(post(server, path, query="the cat", documents=DOCUMENTS, raw_scores=True))
    assert [each["relevance_score"] for each in raw["results"]] == [each.raw_score for each in expected]


def test_documents_may_be_objects(server: Serving) -> None:
    plain = sound(post(server, "/v1/rerank", query="cat", documents=["dog", "a\nb"]))
    objects = [{"text": "dog"}, {"text": "no", "title": "a", "body": "b"}]
    named = sound(post(server, "/v1/rerank", query="cat", documents=objects, rank_fields=["text", "title", "body"]))
    assert len(named["results"]) == len(plain["results"]) == 2
    wrong = post(server, "/v1/rerank", query="cat", documents=["x", {"title": "y"}])
    assert error(wrong)["param"] == "documents[1]"


def test_one_document_that_is_too_long_fails_alone(server: Serving) -> None:
    documents = ["dog", "cat " * 300, "", "mat"]
    answer = sound(post(server, "/v1/rerank", query="cat", documents=documents, return_documents=True))
    assert sorted(each["index"] for each in answer["results"]) == [0, 2, 3]
    (failed,) = answer["errors"]
    assert failed["index"] == 1
    assert "at most 80 fit" in failed["message"]
    cut = sound(post(server, "/v1/rerank", query="cat", documents=documents, truncate=True))
    dropped = {each["index"]: each["dropped_tokens"] for each in cut["results"]}
    assert dropped == {0: 0, 1: 300 - (LIMIT - 4), 2: 0, 3: 0}
    short = sound(post(server, "/v1/rerank", query="cat", documents=["dog cat mat"], max_tokens_per_doc=6))
    assert short["results"][0]["dropped_tokens"] == 1


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_limit_of_tokens_of_a_pair(server: Serving, extra: int) -> None:
    document = "cat " * (LIMIT - 4 + extra)  # beside [CLS], the query's one token, and two [SEP]
    answer = sound(post(server, "/v1/rerank", query="ping", documents=[document, "x"]))
    assert len(answer["results"]) == (2 if extra <= 0 else 1)
    scored = post(server, "/score", model="rerank", text_1="ping", text_2=document)
    assert scored.status_code == (200 if extra <= 0 else 400)
    if extra > 0:
        assert error(scored)["code"] == "context_length_exceeded"


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_limit_of_documents(server: Serving, monkeypatch: pytest.MonkeyPatch, extra: int) -> None:
    monkeypatch.setattr("miaotui.serve.encoders.requests.MAX_INPUTS", FEW)
    documents = ["x"] * (FEW + extra)
    answer = post(server, "/v1/rerank", query="x", documents=documents)
    texts = post(server, "/rerank", query="x", texts=documents)
    if extra <= 0:
        assert len(sound(answer)["results"]) == len(sound(texts)) == len(documents)
    else:
        assert error(answer)["param"] == "documents"
        assert error(texts)["param"] == "texts"


def test_ten_thousand_documents_are_refused_at_once(server: Serving) -> None:
    assert "not 10,000" in error(post(server, "/v1/rerank", query="x", documents=["y"] * 10_000))["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": "", "documents": ["x"]}, "query"),
        ({"query": "cat " * 200, "documents": ["x"]}, "query"),
        ({"query": "x", "documents": []}, "documents"),
        ({"query": "x"}, "documents"),
        ({"query": "x", "documents": ["y"], "top_n": 0}, "top_n"),
        ({"query": "x", "documents": ["y", 3]}, "documents[1]"),
    ],
)
def test_wrong_rankings_name_the_field(server: Serving, body: Any, param: str) -> None:
    assert error(post(server, "/v1/rerank", **body))["param"] == param


def test_an_embedder_ranks_by_similarity_when_named(server: Serving, ours: dict[str, Encoder]) -> None:
    answer = sound(post(server, "/v1/rerank", model="embed", query="cat", documents=DOCUMENTS))
    assert [each["index"] for each in answer["results"]] == [
        each.index for each in ours["embed"].rerank("cat", DOCUMENTS)
    ]
    assert all(0 <= each["relevance_score"] <= 1 for each in answer["results"])


# TEI's ----------------------------------------------------------------------------------------------


def test_tei_ranks_texts(server: Serving, ours: dict[str, Encoder]) -> None:
    expected = ours["rerank"].rerank("cat", DOCUMENTS)
    ranks = sound(post(server, "/rerank", query="cat", texts=DOCUMENTS, return_text=True))
    assert ranks == [{"index": e.index, "score": e.score, "text": DOCUMENTS[e.index]} for e in expected]
    raw = sound(post(server, "/rerank", query="cat", texts=DOCUMENTS, raw_scores=True))
    assert [each["score"] for each in raw] == [each.raw_score for each in expected]
    answer = post(server, "/rerank", query="cat", texts=["dog", "cat " * 300], truncate=True)
    assert answer.headers["x-dropped-tokens"] == f"1={300 - (LIMIT - 4)}"
    failed = sound(post(server, "/rerank", query="cat", texts=["dog", "cat " * 300]))
    assert failed[1]["score"] is None
    assert "at most 80 fit" in failed[1]["error"]


def test_tei_embeds(server: Serving, ours: dict[str, Encoder]) -> None:
    unit = ours["embed"].embed(DOCUMENTS, prompt=None, normalize=True)
    assert np.array(sound(post(server, "/embed", inputs=DOCUMENTS)), np.float32).tobytes() == unit.tobytes()
    plain = ours["embed"].embed("cat", prompt=None)
    found = sound(post(server, "/embed", inputs="cat", normalize=False))
    assert np.array(found, np.float32).tobytes() == plain.tobytes()
    assert error(post(server, "/embed", inputs="cat " * 200))["param"] == "inputs[0]"
    cut = post(server, "/embed", inputs=["cat", "cat " * 79], truncate=True)
    assert cut.headers["x-dropped-tokens"] == "1=1"
    left = post(server, "/embed", inputs="x", truncate=True, truncation_direction="Left")
    assert error(left)["param"] == "truncation_direction"
    every = sound(post(server, "/embed_all", model="embed", inputs=["cat dog"]))
    assert np.array(every).shape == (1, 4, 64)
    assert "gives no sparse vectors" in error(post(server, "/embed_sparse", inputs="x"))["message"]


def test_tei_predicts(server: Serving, ours: dict[str, Encoder]) -> None:
    (expected,) = ours["classify"].classify("the cat")
    one = sound(post(server, "/predict", model="classify", inputs="the cat"))
    assert one == sorted(
        ({"label": label, "score": score} for label, score in expected.scores.items()), key=lambda each: -each["score"]
    )
    batch = sound(post(server, "/predict", inputs=[["the cat"], ["dog", "mat"]]))
    assert batch[0] == one
    assert len(batch[1]) == 3
    (pair,) = sound(post(server, "/predict", model="rerank", inputs=["cat", "dog"]))
    scored = {each.index: each.score for each in ours["rerank"].rerank("cat", ["dog"])}
    assert pair["score"] == pytest.approx(scored[0], abs=1e-6)
    raw = sound(post(server, "/predict", inputs="the cat", raw_scores=True))
    assert abs(sum(each["score"] for each in raw) - 1) > 1e-3
    assert error(post(server, "/predict", inputs=[["a", "b", "c"]]))["param"] == "inputs"


def test_tei_compares(server: Serving, ours: dict[str, Encoder]) -> None:
    inputs = {"source_sentence": "cat", "sentences": DOCUMENTS}
    found = sound(post(server, "/similarity", inputs=inputs))
    expected = ours["embed"].score([("cat", text) for text in DOCUMENTS])
    assert np.array(found, np.float32).tolist() == expected.tolist()
    assert all(-1 <= each <= 1.000001 for each in found)


# vLLM's ---------------------------------------------------------------------------------------------


def test_vllm_scores_pairs(server: Serving, ours: dict[str, Encoder]) -> None:
    by_index = {each.index: each for each in ours["rerank"].rerank("cat", DOCUMENTS)}
    for path, names in (("/score", ("text_1", "text_2")), ("/v1/score", ("queries", "documents"))):
        answer = sound(post(server, path, **dict(zip(names, ("cat", DOCUMENTS), strict=True))))
        assert [each["score"] for each in answer["data"]] == [by_index[i].score for i in range(4)]
        assert answer["usage"]["prompt_tokens"] > 0
    both = sound(post(server, "/score", text_1=["cat", "cat"], text_2=DOCUMENTS[:2]))
    assert [each["score"] for each in both["data"]] == [by_index[i].score for i in range(2)]
    cosine = sound(post(server, "/score", model="embed", text_1="cat", text_2="cat"))["data"][0]["score"]
    assert cosine == pytest.approx(1, abs=1e-6)
    assert error(post(server, "/score", text_1=["a", "b"], text_2=["c"]))["param"] == "text_2"
    assert error(post(server, "/score", text_1="a"))["param"] == "text_2"
    assert error(post(server, "/score"))["param"] == "text_1"


def test_vllm_classifies(server: Serving, ours: dict[str, Encoder]) -> None:
    answer = sound(post(server, "/classify", input=["the cat", "dog"]))
    expected = ours["classify"].classify(["the cat", "dog"])
    assert [(e["label"], e["probs"], e["num_classes"]) for e in answer["data"]] == [
        (e.label, list(e.scores.values()), 3) for e in expected
    ]
    assert error(post(server, "/classify", input="cat " * 200))["param"] == "input[0]"


def test_vllm_pools(server: Serving, ours: dict[str, Encoder]) -> None:
    whole = sound(post(server, "/pooling", model="embed", input=["cat"]))["data"][0]["data"]
    assert np.array(whole, np.float32).tobytes() == ours["embed"].embed("cat", prompt=None).tobytes()
    shapes = {
        ("embed", "token_embed"): (3, 64),
        ("classify", None): (3,),
        ("tag", None): (3, 5),
        ("fill_mask", None): (3, 64),
    }
    for (model, task), shape in shapes.items():
        found = sound(post(server, "/pooling", model=model, input="cat", task=task))["data"][0]["data"]
        assert np.array(found).shape == shape
    assert error(post(server, "/pooling", model="tag", input="x", task="embed"))["message"].startswith("the model")


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        ("/embed", "inputs[0]", {"inputs": "TEXT"}),
        ("/embed_all", "inputs[0]", {"inputs": "TEXT", "model": "embed"}),
        ("/predict", "inputs[0]", {"inputs": "TEXT", "model": "classify"}),
        ("/similarity", "inputs.sentences[0]", {"inputs": {"source_sentence": "cat", "sentences": ["TEXT"]}}),
        ("/score", "text_2[0]", {"model": "embed", "text_1": "cat", "text_2": "TEXT"}),
        ("/classify", "input[0]", {"input": "TEXT"}),
        ("/pooling", "input[0]", {"model": "embed", "input": "TEXT"}),
        ("/models/tag", "inputs[0]", {"inputs": "TEXT"}),
        ("/models/fill_mask", "inputs[0]", {"inputs": "[MASK] TEXT"}),
    ],
)
def test_the_limit_of_tokens(server: Serving, path: str, field: str, body: Any, extra: int) -> None:
    words = LIMIT - 2 - ("mask" in path) + extra
    text = json.dumps(body).replace("TEXT", "cat " * words)
    answer = post(server, path, **json.loads(text))
    cut = post(server, path, **json.loads(text), truncate=True)
    if extra <= 0:
        assert sound(answer)
        assert sound(cut)
        assert "x-dropped-tokens" not in cut.headers
    else:
        found = error(answer)
        assert (found["code"], found["param"]) == ("context_length_exceeded", field)
        told = cut.headers.get("x-dropped-tokens") or f"0={sound(cut)['data'][0]['dropped_tokens']}"
        assert told == "0=1"


def test_the_limit_of_numbers(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miaotui.serve.encoders.requests.MAX_ANSWER_NUMBERS", 64 * 10)
    for texts, is_sound in ((["cat"] * 10, True), (["cat"] * 11, False)):
        assert (post(server, "/embed", inputs=texts).status_code == 200) is is_sound
    for text, is_sound in (("cat " * 8, True), ("cat " * 9, False)):
        answer = post(server, "/pooling", model="embed", task="token_embed", input=text)
        assert (answer.status_code == 200) is is_sound


# all ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "embed", "input": "cat"}),
        ("/v1/rerank", {"query": "cat", "documents": ["dog"]}),
        ("/embed", {"inputs": "cat"}),
        ("/predict", {"inputs": "cat"}),
        ("/similarity", {"inputs": {"source_sentence": "cat", "sentences": ["dog"]}}),
        ("/score", {"text_1": "cat", "text_2": "dog"}),
        ("/classify", {"input": "cat"}),
        ("/pooling", {"model": "embed", "input": "cat"}),
    ],
)
def test_every_route_answers_the_same_again(server: Serving, path: str, body: Any) -> None:
    def bare(answer: Any) -> Any:
        if isinstance(answer, list):
            return answer
        return {name: value for name, value in answer.items() if name not in ("id", "created", "deadline")}

    first, second = (bare(sound(post(server, path, **body))) for _ in range(2))
    assert first == second
    assert error(post(server, path, **body | {"deadline_ms": 1e-6}), 429)["code"] == "deadline_unattainable"
