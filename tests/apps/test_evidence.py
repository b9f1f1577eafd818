"""Evidence by meaning: which sentences count, the reranker's part, and the decision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from miaotui.apps.answering import extract
from miaotui.apps.evidence import RERANKED, RERANKED_CHARS, Evidence, Passage, gather
from miaotui.apps.meaning.decision import Signals, probability
from miaotui.errors import OverloadedError
from miaotui.retrieval.meaning.protocols import Floats
from miaotui.retrieval.meaning.vectors import SentenceMatch
from miaotui.retrieval.sentences import sentences

RETURNS = "Unused items can be returned within 30 days. The buyer pays for return shipping."
PARKING = "The garage is free for two hours."


def passage(name: str, text: str, *cosines: float) -> Passage:
    places = sentences(text)
    return Passage(
        name,
        text,
        score=max(cosines),
        sentences=tuple(SentenceMatch(*p, c) for p, c in zip(places, cosines, strict=True)),
    )


class Judge:
    """A reranker that likes texts with one word; ``slow`` ones refuse."""

    identity = "judge"

    def __init__(self, word: str, *, slow: bool = False) -> None:
        self.word, self.slow = word, slow
        self.read: list[tuple[str, str]] = []

    def score(self, pairs: Sequence[tuple[str, str]], within_ms: float | None = None) -> Floats:
        if self.slow:
            raise OverloadedError("too slow", 1.0)
        self.read += pairs
        return np.array([8.0 if self.word in text else -8.0 for _, text in pairs], np.float32)


def quoted(evidence: Evidence) -> str:
    best = evidence.ranked[0]
    return evidence.passages[best.passage].text[best.start : best.end]


def test_the_nearest_sentence_comes_first_though_no_word_is_shared() -> None:
    found = [passage("a", PARKING, 0.80), passage("b", RETURNS, 0.84, 0.90)]
    evidence = gather("who covers postage when I send it back", found)
    assert quoted(evidence) == "The buyer pays for return shipping."
    assert [each.place[0] for each in evidence.ranked] == [1]  # the others are of something else
    assert evidence.signals is not None
    assert evidence.signals.score == 0.90
    assert evidence.signals.gap is None  # of three sentences none is the ordinary one
    assert evidence.signals.cross is None
    assert extract(evidence).text == "The buyer pays for return shipping." or evidence.is_weak


def test_the_reranker_decides_between_near_sentences() -> None:
    found = [passage("a", PARKING, 0.88), passage("b", RETURNS, 0.87, 0.86)]
    assert quoted(gather("how long may it stay", found)) == PARKING
    judge = Judge("30 days")
    evidence = gather("how long may it stay", found, reranker=judge, within_ms=50)
    assert "30 days" in quoted(evidence)
    assert evidence.signals is not None
    assert evidence.signals.cross == 8.0
    assert len(judge.read) == 3
    slow = gather("how long may it stay", found, reranker=Judge("30 days", slow=True), within_ms=1)
    assert quoted(slow) == PARKING
    assert slow.signals is not None
    assert slow.signals.cross is None


def test_the_reranker_reads_a_few_short_sentences_of_english_questions_alone() -> None:
    text = " ".join(f"Sentence {n} {'goes on ' * 60}." for n in range(30))
    many = passage("a", text, *(0.85 for _ in sentences(text)))
    judge = Judge("x")
    gather("how far?", [many], reranker=judge)
    assert len(judge.read) == RERANKED
    assert all(len(each) <= RERANKED_CHARS for _, each in judge.read)
    chinese = Judge("x")
    gather("多远？", [many], reranker=chinese)
    assert chinese.read == []


def test_a_passage_without_vectors_counts_by_its_words() -> None:
    fresh = Passage("new", "Dogs are welcome. The pool is for people.", score=0.93)
    evidence = gather("are dogs welcome", [fresh, passage("a", PARKING, 0.86)])
    assert quoted(evidence) == "Dogs are welcome."


def test_without_vectors_words_decide() -> None:
    evidence = gather("When does the garage open?", [Passage("a", PARKING)])
    assert evidence.signals is None


NUMBERS = st.floats(-1e6, 1e6)


@given(
    cosine=st.floats(-1, 1), sentences=st.integers(0, 10**9), gap=st.floats(0, 1) | st.none(), cross=NUMBERS | st.none()
)
def test_every_signal_gives_a_probability(
    cosine: float, sentences: int, gap: float | None, cross: float | None
) -> None:
    for chinese in (False, True):
        found = probability(Signals(cosine, sentences, gap, cross), chinese=chinese)
        assert 0.0 <= found <= 1.0
        nearer = probability(Signals(min(1.0, cosine + 0.1), sentences, gap, cross), chinese=chinese)
        assert nearer >= found
        among_more = probability(Signals(cosine, 10 * sentences + 10, gap, cross), chinese=chinese)
        assert among_more <= found
