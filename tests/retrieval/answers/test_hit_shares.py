"""Parts of a hit's score: they sum to it, come from the words that are there, and follow BM25."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_embedder import Dictionary

from miaotui.retrieval import Document, Index
from miaotui.retrieval.meaning.bilingual import MeaningVectors
from miaotui.retrieval.meaning.hybrid import HybridIndex
from miaotui.retrieval.query.shares import shares_of, term_scores

TEXTS = {
    "tower": "The old tower of Arden stands above the harbour. The tower has a clock.",
    "harbour": "Boats leave the harbour in the morning and come back at night.",
    "clock": "A clock that is slow is wrong all day.",
    "tyre": "A flat tyre is mended in the garage.",
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with Index.create(tmp_path_factory.mktemp("shares") / "index") as made:
        made.add([Document(name, text, title=name.capitalize()) for name, text in TEXTS.items()])
        yield made


@given(
    st.lists(
        st.sampled_from(["tower", "harbour", "clock", "morning", "boats", "unknown", "时间"]), min_size=1, max_size=5
    )
)
def test_shares_sum_to_the_score(index: Index, words: list[str]) -> None:
    for hit in index.search(" ".join(words), plain=True):
        shares = shares_of(hit, index.statistics(hit.ranked))
        assert shares.meaning is None
        assert shares.words == hit.score
        assert sum(share for _, share in shares.terms) == pytest.approx(hit.score)
        assert all(share > 0 for _, share in shares.terms)


def test_terms_are_those_of_the_passage_and_near_bm25(index: Index) -> None:
    (first, *_) = index.search("tower clock", plain=True)
    assert first.id.startswith("tower")
    scores = term_scores(first, index.statistics(first.ranked))
    assert set(scores) == {"tower", "clock"}
    assert scores["tower"] > scores["clock"]
    # The index rounds lengths: the exact sum is near its score, not equal to it.
    assert sum(scores.values()) == pytest.approx(first.score, rel=0.05)


def test_meaning_has_its_part(index: Index) -> None:
    vectors = MeaningVectors(index, Dictionary())
    vectors.update()
    hybrid = HybridIndex(vectors)
    for hit in hybrid.search("puncture of a tyre", plain=True):
        shares = shares_of(hit, index.statistics(hit.ranked))
        assert shares.meaning is not None
        assert shares.meaning + shares.words == pytest.approx(hit.score)
        assert sum(share for _, share in shares.terms) == pytest.approx(shares.words if shares.terms else 0.0, abs=1e-9)
