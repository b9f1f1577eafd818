"""Vectors of sentences: kept in line with the index, resumed, made anew where files are damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from made_embedder import Dictionary

from miaotui.errors import DocumentIndexError, RequestError
from miaotui.retrieval import Document, Index
from miaotui.retrieval.index import settings
from miaotui.retrieval.meaning.protocols import Floats, Prompt
from miaotui.retrieval.meaning.vectors import LONGEST_CHARS, PassageVectors, texts_of

TEXTS = {"1": "The feline sleeps. A car waits.", "2": "a hound barks", "3": "an automobile waits", "4": "cat food"}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.create(tmp_path / "index") as made:
        made.add(Document(name, text) for name, text in TEXTS.items())
        yield made


def test_the_best_sentence_counts(index: Index) -> None:
    vectors = PassageVectors(index, Dictionary())
    assert vectors.nearest(vectors.embed_query("cat"), 2) == {}
    assert vectors.update() == 4
    found = vectors.nearest(vectors.embed_query("cat"), 2)
    assert list(found) == ["1", "4"]
    assert found["1"] == pytest.approx(1.0, abs=0.01)
    (passage,) = index.get("1")
    first, second = vectors.sentences(vectors.embed_query("cat"), passage)
    assert passage.body[first.start : first.end] == "The feline sleeps."
    assert first.cosine > 0.9
    assert second.cosine < 0.2
    assert vectors.best(vectors.embed_query("dog"), ["2", "absent"]) == {"2": pytest.approx(1.0, abs=0.01)}


def test_vectors_follow_the_index(index: Index) -> None:
    embedder = Dictionary()
    vectors = PassageVectors(index, embedder)
    assert (vectors.update(), vectors.update(), embedder.asked) == (4, 0, 5)
    state = vectors.state
    index.add([Document("1", "an automobile too"), Document("5", "dog dog")])
    index.delete(["3"])
    assert not vectors.is_current
    assert vectors.update() == 2
    assert vectors.is_current
    assert vectors.state != state
    assert "3" not in vectors.nearest(vectors.embed_query("car"), 10)
    again = PassageVectors(index, embedder)
    assert again.update() == 0
    assert next(iter(again.nearest(again.embed_query("hound"), 1))) in {"2", "5"}


def test_an_interrupted_update_goes_on(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miaotui.retrieval.meaning.vectors._BATCH_PASSAGES", 1)
    turns = iter([False, False, True])
    vectors = PassageVectors(index, Dictionary())
    told: list[tuple[str, int, int | None]] = []
    assert vectors.update(lambda *each: told.append(each), stop=lambda: next(turns)) == 2
    assert told == [("embed", 0, 4), ("embed", 1, 4), ("embed", 2, 4)]
    assert not vectors.is_current
    again = PassageVectors(index, Dictionary())
    assert again.update() == 2
    assert again.is_current


def test_two_that_update_do_the_work_once(index: Index) -> None:
    first, second = PassageVectors(index, Dictionary()), PassageVectors(index, Dictionary())
    assert first.update() == 4
    assert second.update() == 0
    assert second.is_current
    with first._alone() as alone:
        assert alone
        index.add([Document("9", "cat")])
        assert second.update() == 0


@pytest.mark.parametrize("damage", ["note", "graph", "model", "layout"])
def test_what_does_not_fit_is_made_anew(index: Index, damage: str) -> None:
    PassageVectors(index, Dictionary()).update()
    folder = index.folder / "vectors"
    if damage == "note":
        (folder / "vectors.json").write_text("{")
    elif damage == "graph":
        note = json.loads((folder / "vectors.json").read_text())
        (folder / note["file"]).write_bytes(b"no graph")
    elif damage == "layout":  # of an earlier version
        note = json.loads((folder / "vectors.json").read_text())
        del note["layout"]
        (folder / "vectors.json").write_text(json.dumps(note))
    again = PassageVectors(index, Dictionary(identity="other" if damage == "model" else "dictionary"))
    assert again.update() == 4
    assert len(list(folder.glob("*.usearch"))) == 1


def test_an_index_with_vectors_is_refused_by_older_versions(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    note = json.loads((index.folder / "index.json").read_text())
    assert note["format"] == 1
    PassageVectors(index, Dictionary()).update()
    raised = json.loads((index.folder / "index.json").read_text())
    assert raised == {**note, "format": 2}
    Index.open(index.folder).close()
    monkeypatch.setattr(settings, "FORMATS", (1,))
    with pytest.raises(DocumentIndexError, match="later miaotui"):
        Index.open(index.folder)


def test_long_sentences_have_several_vectors(index: Index) -> None:
    body = "word " * 300 + "cat"
    index.add([Document("long", body, "A book › A chapter")])
    embedder = Dictionary()
    vectors = PassageVectors(index, embedder)
    vectors.update()
    (passage,) = index.get("long")
    assert texts_of(passage)[0].startswith("A chapter word")
    found = vectors.sentences(vectors.embed_query("cat"), passage)
    assert len(found) == -(-len(body) // LONGEST_CHARS)
    assert max(found, key=lambda each: each.cosine) == found[-1]


def test_bad_embedders_are_named(index: Index) -> None:
    class Broken(Dictionary):
        def embed(self, texts: Sequence[str], prompt: Prompt) -> Floats:
            return np.full((len(texts), 2), np.nan, np.float32)

    with pytest.raises(RequestError, match="finite vectors"):
        PassageVectors(index, Broken()).update()
    PassageVectors(index, Dictionary()).update()
    with pytest.raises(RequestError, match="vectors of 16 values, not of 8"):
        PassageVectors(index, Dictionary(16)).embed_query("cat")


def test_an_index_without_passages_has_no_vectors(tmp_path: Path) -> None:
    with Index.create(tmp_path / "empty") as empty:
        vectors = PassageVectors(empty, Dictionary())
        assert vectors.update() == 0
        assert vectors.nearest(np.ones(8, np.float32), 3) == {}
