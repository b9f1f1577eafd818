"""Two spaces of vectors: English questions and passages are compared in that of English, all others in the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_embedder import Dictionary

from miaotui.retrieval import Document, Index
from miaotui.retrieval.meaning.bilingual import ENGLISH, MeaningVectors
from miaotui.retrieval.meaning.hybrid import HybridIndex
from miaotui.retrieval.meaning.languages import is_chinese, is_english
from miaotui.retrieval.meaning.vectors import PassageVectors, texts_of

TEXTS = {"en": "the feline sleeps", "dog": "a hound barks", "zh": "喵星人在睡觉"}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.create(tmp_path / "index") as made:
        made.add(Document(name, text) for name, text in TEXTS.items())
        yield made


def test_each_passage_is_compared_in_its_space(index: Index) -> None:
    multilingual, english = Dictionary(), Dictionary(16, "english")
    vectors = MeaningVectors(index, multilingual, english)
    assert not vectors.is_current
    assert vectors.update() == 3
    assert vectors.is_current
    assert (multilingual.asked, english.asked) == (3, 2)
    asked = vectors.embed_query("cat")
    assert asked.english is not None
    assert asked.multilingual is not None  # for the Chinese passage
    found = vectors.nearest(asked, 3)
    assert set(found) == {"en", "dog", "zh"}
    assert found["en"] == pytest.approx(0.31 + 0.695, abs=0.01)  # on the scale of the other space
    assert found["zh"] == pytest.approx(1.0, abs=0.01)
    assert vectors.best(asked, ["en", "zh", "absent"]) == {
        name: pytest.approx(found[name], abs=1e-3) for name in ("en", "zh")
    }
    (passage,) = index.get("en")
    assert vectors.is_in_english(asked, passage)
    assert vectors.sentences(asked, passage)[0].cosine == pytest.approx(found["en"], abs=1e-3)


def test_a_chinese_question_finds_english_passages(index: Index) -> None:
    vectors = MeaningVectors(index, Dictionary(), Dictionary(16, "english"))
    vectors.update()
    asked = vectors.embed_query("猫")
    assert asked.english is None
    assert list(vectors.nearest(asked, 2)) == ["en", "zh"]
    assert HybridIndex(vectors).search_sentences("猫", 2).in_english is False


def test_an_english_index_needs_one_vector_of_a_question(index: Index) -> None:
    index.delete(["zh"])
    vectors = MeaningVectors(index, Dictionary(), Dictionary(16, "english"))
    vectors.update()
    assert vectors.embed_query("cat").multilingual is None
    assert HybridIndex(vectors).search_sentences("cat", 2).in_english


def test_the_space_of_english_alone_answers_english_questions(index: Index) -> None:
    index.delete(["zh"])
    multilingual, english = Dictionary(), Dictionary(16, "english")
    PassageVectors(index, english, ENGLISH).update()
    vectors = MeaningVectors(index, multilingual, english)
    assert len(vectors) == 2
    assert [hit.id for hit in HybridIndex(vectors).search("feline", 2, plain=True)] == ["en", "dog"]
    assert [hit.id for hit in HybridIndex(vectors).search("猫", 2, plain=True)] == []
    assert multilingual.asked == 0


def test_a_space_that_comes_later_is_filled(index: Index) -> None:
    MeaningVectors(index, Dictionary()).update()
    multilingual = Dictionary()
    vectors = MeaningVectors(index, multilingual, Dictionary(16, "english"))
    before = vectors.state
    assert not vectors.is_current
    assert vectors.update() == 2
    assert multilingual.asked == 0
    assert vectors.state != before
    vectors = MeaningVectors(index, multilingual)  # and is left alone where its models are gone
    assert vectors.is_current
    assert vectors.embed_query("cat").english is None


def test_chinese_sentences_have_vectors_without_their_heading(index: Index) -> None:
    index.add([Document("heading", "喵星人在睡觉。狗在叫。", "手册 › 猫")])
    (passage,) = index.get("heading")
    assert texts_of(passage) == ["猫 喵星人在睡觉。", "猫 狗在叫。", "喵星人在睡觉。", "狗在叫。"]
    vectors = PassageVectors(index, Dictionary())
    vectors.update()
    found = vectors.sentences(vectors.embed_query("cat"), passage)
    assert [passage.body[each.start : each.end] for each in found] == ["喵星人在睡觉。", "狗在叫。"]


@pytest.mark.parametrize(
    ("text", "english", "chinese"),
    [
        ("where is my parcel", True, False),
        ("a café in the old town, on the left of the river", True, False),
        ("Où est la gare, s’il vous plaît ?", False, False),
        ("wifi密码", False, True),
        ("12 + 3", False, False),
    ],
)
def test_languages_are_told_by_letters(text: str, english: bool, chinese: bool) -> None:
    assert (is_english(text), is_chinese(text)) == (english, chinese)
