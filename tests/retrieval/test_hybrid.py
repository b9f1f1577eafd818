"""Search by words and by meaning: fused, and by words alone where there is no meaning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_embedder import Dictionary

from miaotui.errors import RequestError
from miaotui.retrieval import Document, Index, IndexSettings
from miaotui.retrieval.meaning.bilingual import MeaningVectors
from miaotui.retrieval.meaning.hybrid import WORDS_WEIGHT, HybridIndex

TEXTS = {
    "1": "the feline sleeps",
    "2": "a hound barks",
    "3": "an automobile waits",
    "4": "cat food",
    "5": "喵星人在睡觉",
}


@pytest.fixture(params=[1, 3])
def index(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Index]:
    with Index.create(tmp_path / "index", IndexSettings(partitions=request.param)) as made:
        made.add(Document(name, text) for name, text in TEXTS.items())
        yield made


def hybrid(index: Index) -> HybridIndex:
    vectors = MeaningVectors(index, Dictionary())
    vectors.update()
    return HybridIndex(vectors)


def test_meaning_finds_what_words_do_not(index: Index) -> None:
    assert [hit.id for hit in index.search("cat")] == ["4"]
    found = hybrid(index).search("cat", 3)
    assert [hit.id for hit in found] == ["4", "1", "5"]
    assert found[0].score > found[1].score
    assert found[0].score <= 1.01 + WORDS_WEIGHT
    assert "<b>cat</b>" in found[0].snippet


def test_pages_of_results_join(index: Index) -> None:
    search = hybrid(index)
    whole = [hit.id for hit in search.search("cat", 4)]
    assert [hit.id for hit in search.search("cat", 2, offset=2)] == whole[2:]
    with pytest.raises(RequestError):
        search.search("cat", 0)


def test_syntax_goes_by_words_alone(index: Index) -> None:
    search = hybrid(index)
    for query in ("+cat", '"cat food"', "cat id:4", "title:cat", "cat NOT food"):
        assert [hit.id for hit in search.search(query)] == [hit.id for hit in index.search(query)]
    assert {hit.id for hit in search.search("cat NOT food", plain=True)} >= {"4", "1"}


def test_without_vectors_words_decide(index: Index) -> None:
    search = HybridIndex(MeaningVectors(index, Dictionary()))
    assert [(hit.id, hit.score) for hit in search.search("cat")] == [(hit.id, hit.score) for hit in index.search("cat")]
    assert search.search_sentences("cat", 3)[1:] == (((),), 0, False)
    before = search.version
    search.vectors.update()
    assert search.version != before
    assert search.search("cat").version == search.version


def test_passages_without_vectors_stay_found(index: Index) -> None:
    search = hybrid(index)
    index.add([Document("6", "cat cat cat")])
    assert {"4", "6"} <= {hit.id for hit in search.search("cat", 4)}
    index.delete(["4"])
    assert "4" not in {hit.id for hit in search.search("cat", 10)}


def test_sentences_of_the_hits(index: Index) -> None:
    found = hybrid(index).search_sentences("cat", 2)
    assert [len(each) for each in found.sentences] == [1, 1]
    assert all(each[0].cosine > 0.9 for each in found.sentences)


def test_an_empty_query_finds_nothing(index: Index) -> None:
    assert len(hybrid(index).search("  ", plain=True)) == 0
