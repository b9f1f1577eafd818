"""Recommendations and graphs over HTTP: what Python gives, and wrong requests named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Serving, serving

from miaotui.backends.options import EngineOptions
from miaotui.retrieval.graph import GraphReader, KnowledgeGraph
from miaotui.tasks.recommend import Recommender
from miaotui.tasks.recommend.file import load_recommender, save_recommender
from tiny_encoder_models import make_encoder_folder, open_tiny
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

ROWS = [
    (f"u{user}", f"i{(user * 7 + step) % 12 + 12 * (user % 2)}", step, 1) for user in range(24) for step in range(6)
]
TEXTS = {f"i{item}": ("pong " if item // 12 % 2 else "cat ") * (1 + item % 3) for item in range(60)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learned")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Serving]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(home))
        for folder in ("recommenders", "graphs"):
            (home / folder).mkdir()
        with open_tiny(make_encoder_folder(home, "embed"), settings_in(home)) as encoder:
            save_recommender(Recommender.fit(ROWS, TEXTS, encoder=encoder), home / "recommenders" / "films.npz")
        graph = KnowledgeGraph([("Anna Lind", "spouse", "Bo Berg"), ("Bo Berg", "profession", "carpenter")])
        graph.save(home / "graphs" / "family.json")
        models = {"tiny": make_tiny_folder(home, "llama")}
        encoders = {"embed": make_encoder_folder(home, "embed")}
        with serving(
            models, settings_in(home), encoders=encoders, options=EngineOptions(backend="reference")
        ) as running:
            yield running


def post(server: Serving, path: str, expected: int = 200, **body: Any) -> Any:
    answer = httpx.post(server.url + path, json=body, timeout=60)
    assert answer.status_code == expected, answer.text
    return answer.json()


def test_items_for_a_user_as_python_gives_them(server: Serving, home: Path) -> None:
    found = post(server, "/v1/recommendations", recommender="films", user="u2", n=4)
    ours = load_recommender(home / "recommenders" / "films.npz").recommend("u2", n=4)
    assert [each["item"] for each in found["items"]] == [each.item for each in ours.items]
    assert found["basis"] == "history"
    assert found["items"][0]["because_of"]
    history = [{"item": "i1", "weight": 2.0}, "i2", "i99"]
    found = post(server, "/v1/recommendations", recommender="films", history=history, diversity=0.5)
    assert found["errors"] == [{"index": 2, "reason": "item: there is no item 'i99' in the log"}]
    assert post(server, "/v1/recommendations", recommender="films", similar_to="i1", n=3)["basis"] == "item"
    assert post(server, "/v1/recommendations", recommender="films")["basis"] == "popularity"


def test_an_intent_in_words(server: Serving) -> None:
    found = post(server, "/v1/recommendations", recommender="films", intent="pong pong", n=5, model="embed")
    assert found["basis"] == "intent"
    assert all(each["text"].startswith("pong") for each in found["items"])


def test_wrong_recommendations(server: Serving) -> None:
    path = "/v1/recommendations"
    assert "no 'none'" in post(server, path, 400, recommender="none")["error"]["message"]
    assert "is no name" in post(server, path, 400, recommender="../films")["error"]["message"]
    wrong = post(server, path, 400, recommender="films", similar_to="i1", user="u1")["error"]
    assert wrong["param"] == "similar_to"
    assert post(server, path, 400, recommender="films", similar_to="i99")["error"]["param"] == "item"
    assert post(server, path, 400, recommender="films", n=0)["error"]["param"] == "n"
    assert post(server, path, 400, recommender="films", user="u1", history=["i1"])["error"]["param"] == "history"


def test_a_graph_answers_with_its_proof(server: Serving, home: Path) -> None:
    found = post(server, "/v1/graphs/family/ask", question="the profession of Anna Lind's spouse")
    assert found["found"]
    assert found["text"] == "carpenter"
    assert found["paths"] == [[["Anna Lind", "spouse", "Bo Berg"], ["Bo Berg", "profession", "carpenter"]]]
    missing = post(server, "/v1/graphs/family/ask", question="Bo Berg's spouse", words_from="tiny")
    assert not missing["found"]
    assert not missing["is_written"]
    by_tiny = post(server, "/v1/graphs/family/ask", question="the profession of Bo Berg", words_from="tiny")
    assert by_tiny["text"] == "carpenter"  # a random model's words fail the check
    graph = KnowledgeGraph.load(home / "graphs" / "family.json")
    graph.add([("Bo Berg", "spouse", "Anna Lind")])
    graph.save(home / "graphs" / "family.json")
    assert post(server, "/v1/graphs/family/ask", question="Bo Berg's spouse")["text"] == "Anna Lind"
    assert GraphReader(graph).ask("Bo Berg's spouse").entities == ("Anna Lind",)


def test_wrong_graph_questions(server: Serving) -> None:
    assert "no 'none'" in post(server, "/v1/graphs/none/ask", 400, question="who?")["error"]["message"]
    assert post(server, "/v1/graphs/family/ask", 400, question="")["error"]["param"] == "question"
    assert post(server, "/v1/graphs/family/ask", 400, question="who?", hops=9)["error"]["param"] == "hops"
    unknown = post(server, "/v1/graphs/family/ask", 404, question="Bo Berg's spouse", words_from="none")
    assert "none" in unknown["error"]["message"]
