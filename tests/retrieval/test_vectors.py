"""Passages by meaning: fused with words, kept in line with the index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model2vec import StaticModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from miaotui.errors import RequestError
from miaotui.retrieval import Document, Index
from miaotui.retrieval.index.vectors import K, Neighbours, model2vec

MEANINGS = {"cat": 0, "feline": 0, "dog": 1, "hound": 1, "car": 2, "automobile": 2}


class Dictionary:
    """An embedder that knows a few words; it counts what it was asked."""

    def __init__(self, dimensions: int = 8) -> None:
        self.dimensions, self.asked = dimensions, 0

    def encode(self, sentences: Sequence[str], /) -> Any:
        self.asked += len(sentences)
        vectors = np.full((len(sentences), self.dimensions), 0.01, np.float32)
        for row, sentence in zip(vectors, sentences, strict=True):
            for word in sentence.lower().split():
                if word in MEANINGS:
                    row[MEANINGS[word]] += 1
        return vectors


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = Index.create(tmp_path / "index")
    texts = {"1": "the feline sleeps", "2": "a hound barks", "3": "an automobile waits", "4": "cat food"}
    made.add(Document(name, text) for name, text in texts.items())
    return made


def test_meaning_finds_what_words_do_not(index: Index) -> None:
    assert [hit.id for hit in index.search("cat")] == ["4"]
    found = Neighbours(index, Dictionary()).search("cat", 2)
    assert [hit.id for hit in found] == ["4", "1"]
    by_both = 1 / (K + 1) + 1 / (K + 1)
    assert found[0].score == pytest.approx(by_both, rel=0.05)
    assert found.version == index.version


def test_vectors_follow_the_index(index: Index) -> None:
    embedder = Dictionary()
    near = Neighbours(index, embedder)
    assert near.refresh() == 4
    assert near.refresh() == 0
    index.add([Document("1", "an automobile too"), Document("5", "dog dog")])
    index.delete(["3"])
    assert near.refresh() == 2
    assert "3" not in {hit.id for hit in near.search("car", 10)}
    assert near.search("car", 1)[0].id == "1"
    again = Neighbours(index, embedder)
    assert again.refresh() == 0
    assert again.search("hound", 1)[0].id in {"2", "5"}


@pytest.mark.parametrize("damage", ["note", "graph", "dimensions"])
def test_damaged_files_are_made_anew(index: Index, damage: str) -> None:
    near = Neighbours(index, Dictionary())
    near.refresh()
    folder = index.folder / "vectors"
    if damage == "note":
        (folder / "vectors.json").write_text("{")
    elif damage == "graph":
        note = json.loads((folder / "vectors.json").read_text())
        (folder / note["file"]).write_bytes(b"no graph")
    again = Neighbours(index, Dictionary(16 if damage == "dimensions" else 8))
    assert again.refresh() == 4
    assert again.search("cat", 1)[0].id == "4"


def test_a_model2vec_folder(index: Index, tmp_path: Path) -> None:
    words = {"[UNK]": 0, **{word: number for number, word in enumerate(MEANINGS, 1)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    vectors = np.zeros((len(words), 8), np.float32)
    for word, number in words.items():
        vectors[number, MEANINGS.get(word, 7)] = 1
    StaticModel(vectors, tokenizer).save_pretrained(tmp_path / "model")
    found = Neighbours(index, model2vec(tmp_path / "model")).search("automobile", 1)
    assert found[0].id == "3"
    with pytest.raises(RequestError, match="no model2vec model"):
        model2vec(tmp_path / "nothing")


def test_bad_embedders_are_named(index: Index) -> None:
    class Broken(Dictionary):
        def encode(self, sentences: Sequence[str], /) -> Any:
            return np.full((len(sentences), 2), np.nan)

    with pytest.raises(RequestError, match="finite vector"):
        Neighbours(index, Broken())
