"""A graph beside documents: it answers what it has, with its triples; the documents answer the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from miaotui.apps.answering import Answer
from miaotui.apps.qa_pipeline import QaPipeline, Question, from_graph
from miaotui.cli import main
from miaotui.retrieval.document import Document
from miaotui.retrieval.graph import GraphReader, KnowledgeGraph
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.index.settings import IndexSettings

TRIPLES = [("Anna Lind", "spouse", "Bo Berg"), ("Bo Berg", "profession", "carpenter")]


@pytest.fixture
def handbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    folder = tmp_path / "handbook"
    with Index.create(folder, IndexSettings()) as index:
        index.add([Document(id="1", title="Opening hours", body="The workshop opens at nine in the morning.")])
    return folder


def whole(pipeline: QaPipeline, text: str) -> Answer:
    *_, last = pipeline.ask(Question(text, "handbook"))
    assert isinstance(last, Answer)
    return last


def test_the_graph_is_asked_first(handbook: Path) -> None:
    with Index.open(handbook) as index:
        pipeline = QaPipeline(index, graph=GraphReader(KnowledgeGraph(TRIPLES)))
        found = whole(pipeline, "What is the profession of Anna Lind's spouse?")
        assert (found.how, found.text, found.supported) == ("graph", "carpenter", True)
        assert [each.quote for each in found.citations] == [
            "Anna Lind → spouse → Bo Berg",
            "Bo Berg → profession → carpenter",
        ]
        other = whole(pipeline, "When does the workshop open?")
        assert other.how == "extractive"
        assert "nine" in other.text


def test_a_graph_that_does_not_know_is_silent() -> None:
    reader = GraphReader(KnowledgeGraph(TRIPLES))
    assert from_graph(reader, "the spouse of Bo Berg") is None
    assert from_graph(reader, "When does the workshop open?") is None


def test_the_command_line_asks_the_graph_first(handbook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (handbook.parent / "family.csv").write_text("".join(",".join(row) + "\n" for row in TRIPLES))
    assert main(["graph", "add", "family", str(handbook.parent / "family.csv")]) == 0
    words = ["ask", str(handbook), "What is the profession of Bo Berg?", "--graph", "family", "--extract", "--no-cache"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["carpenter", "[1] graph: Bo Berg → profession → carpenter"]
    assert "graph" in shown.err
