"""/v1/answer and /v1/support over HTTP, with a tiny model and documents made here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
from serving import OPTIONS, Serving, serving

from miaotui.apps.conversations import ConversationStore
from miaotui.apps.faq import Faq, FaqEntry
from miaotui.apps.qa_pipeline import QaPipeline
from miaotui.apps.support import Support
from miaotui.llm import LLM
from miaotui.retrieval import Document, Index
from miaotui.retrieval.answers.cache import AnswerCache
from miaotui.retrieval.graph import KnowledgeGraph
from miaotui.retrieval.graph.store import place_of
from miaotui.serve.documents.index_registry import IndexRegistry
from miaotui.serve.models import ServedModels
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

BRIDGE = Document("bridge", "The old bridge of Tarn was built in 1731 by Odo Hale. It has seven arches.", title="Tarn")
QUESTION = "When was the old bridge of Tarn built?"
WHY = "Why was the old bridge of Tarn built in 1731?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("apps")
    models = {"tiny": make_tiny_folder(folder, "llama", max_position_embeddings=2048)}
    with Index.create(folder / "indexes" / "bridges") as index:
        index.add([BRIDGE])

        def parts(models: ServedModels) -> dict[str, Any]:
            desk = QaPipeline(index, LLM(models["tiny"].loop))
            faq = Faq([FaqEntry(("When do you open?",), "At nine."), FaqEntry(("Is it free?",), "Yes.")])
            service = Support(ConversationStore(), faq=faq, desk=desk, index="bridges")
            registry = IndexRegistry(folder / "indexes")
            return {"indexes": registry, "response_cache": AnswerCache(), "support": service}

        with serving(models, settings_in(folder), options=OPTIONS, parts=parts) as running:
            yield running


def post(server: Serving, path: str, **body: Any) -> httpx.Response:
    return plain_http.post(f"{server.url}{path}", json=body, timeout=30)


def ask(server: Serving, question: str = QUESTION, **more: Any) -> Any:
    response = post(server, "/v1/answer", index="bridges", question=question, **more)
    assert response.status_code == 200, response.text
    return response.json()


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_span_with_its_passage_then_from_the_cache(server: Serving) -> None:
    first, again = ask(server, mode="extractive"), ask(server, mode="extractive")
    assert (first["text"], first["how"], first["found"]) == ("1731", "extractive", True)
    assert first["citations"][0]["id"].startswith("bridge")
    assert (first["cache"], again["cache"]) == ("miss", "hit")
    assert again["citations"] == first["citations"]


def test_a_written_answer_whole_and_streamed(server: Serving) -> None:
    selected = ask(server, deadline_ms=20_000, max_tokens=16)
    assert selected["how"] in ("selected", "extractive")  # the tiny model may select words that say nothing
    assert (selected["supported"], selected["left_out"]) == (True, [])
    assert selected["span"] in BRIDGE.body
    whole = ask(server, WHY, deadline_ms=20_000, max_tokens=16)
    assert whole["how"] in ("generated", "none")
    body = {"index": "bridges", "question": WHY, "deadline_ms": 20_000, "max_tokens": 17}
    response = post(server, "/v1/answer", stream=True, **body)
    assert response.headers["content-type"].startswith("text/event-stream")
    told = events(response.text)
    assert "".join(e["text"] for e in told[:-1]).strip() == told[-1]["text"]
    assert told[-1]["object"] == "answer"
    assert server.in_flight() == 0


def test_late_models_give_way_and_unknown_things_are_not_found(server: Serving) -> None:
    late = ask(server, deadline_ms=0.01)
    assert (late["text"], late["how"], late["left_out"]) == ("1731", "extractive", ["model"])
    assert not ask(server, "Which moon orbits Neptune backwards?")["found"]
    missing = post(server, "/v1/answer", index="none", question="Why?", stream=True)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "index_not_found")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"question": ""}, "question"),
        ({"question": "x" * 3000}, "question"),
        ({"mode": "poetic"}, "mode"),
        ({"deadline_ms": -1}, "deadline_ms"),
        ({"index": 7}, "index"),
    ],
)
def test_bad_questions_name_the_field(server: Serving, change: dict[str, Any], param: str) -> None:
    body = {"index": "bridges", "question": QUESTION, **change}
    response = post(server, "/v1/answer", **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_graph_is_asked_before_the_documents(
    server: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path))
    graph = KnowledgeGraph([("Anna Lind", "spouse", "Bo Berg"), ("Bo Berg", "profession", "carpenter")])
    graph.save(place_of("family"))
    known = ask(server, "What is the profession of Bo Berg?", graph="family", mode="extractive")
    assert (known["how"], known["text"], known["model"]) == ("graph", "carpenter", "")
    assert ask(server, graph="family", mode="extractive")["text"] == "1731"
    missing = post(server, "/v1/answer", index="bridges", question=QUESTION, graph="none")
    assert missing.status_code == 400
    assert "graphs" in missing.json()["error"]["message"]


def test_a_client_that_leaves_cancels(server: Serving) -> None:
    body = {"index": "bridges", "question": WHY, "max_tokens": 500, "stream": True}
    body |= {"deadline_ms": 60_000}
    with plain_http.stream("POST", f"{server.url}/v1/answer", json=body) as response:
        next(response.iter_lines())
    for _ in range(2_000):
        if not server.call(server.in_flight):
            return
    raise AssertionError("the request went on")


def test_a_conversation_from_greeting_to_transcript(server: Serving) -> None:
    begun = post(server, "/v1/support/conversations", language="en").json()
    at = f"/v1/support/conversations/{begun['conversation']}"
    assert begun["how"] == "greeting"
    said = post(server, f"{at}/messages", text="when do you open").json()
    assert (said["text"], said["how"]) == ("At nine.", "faq")
    found = post(server, f"{at}/messages", text=QUESTION).json()
    assert found["how"] == "documents"
    assert post(server, f"{at}/rating", score=4, turn=said["turn"]).status_code == 200
    assert post(server, f"{at}/rating", score=9).json()["error"]["param"] == "score"
    assert post(server, f"{at}/messages", text="hi", role="person").status_code == 400
    assert post(server, f"{at}/hand_over").json()["handed_over"]
    assert post(server, f"{at}/messages", text="I am Ada", role="person").json()["how"] == "person"
    told = plain_http.get(f"{server.url}{at}").json()
    assert [turn["role"] for turn in told["turns"]][-2:] == ["assistant", "person"]
    assert told["ratings"][0]["score"] == 4
    missing = post(server, "/v1/support/conversations/nobody/messages", text="hello")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "conversation_not_found")
