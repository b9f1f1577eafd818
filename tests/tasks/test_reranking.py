"""Re-ranking by a chat model: another order of the same items, off unless a scorer is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.llm import load
from miaotui.tasks.recommend import Recommender
from miaotui.tasks.recommend.ranking import ItemRanking
from miaotui.tasks.recommend.reranking import DEPTH, MOST_CHARACTERS, ChatScorer, reranked, shortened
from tiny_models import make_tiny_folder

LOG = [(f"u{user}", f"i{item}") for user in range(8) for item in range(30) if (user * item) % 7 < 3]
TEXTS = {f"i{item}": f"film number {item}" for item in range(30)}


class LastFirst:
    """Scorer that wants the candidates in reverse, and keeps what it was given."""

    def __init__(self) -> None:
        self.history: list[str] = []
        self.candidates: list[str] = []

    def score(self, history: Sequence[str], candidates: Sequence[str]) -> Any:
        self.history, self.candidates = list(history), list(candidates)
        return 100 * np.arange(len(candidates), dtype=np.float32) ** 3


def test_a_scorer_orders_the_first_candidates() -> None:
    recommender = Recommender.fit(LOG, TEXTS)
    plain = [each.item for each in recommender.recommend("u1", n=DEPTH).items]
    scorer = LastFirst()
    again = recommender.recommend("u1", n=3, scorer=scorer)
    assert len(again.items) == 3
    assert {each.item for each in again.items} <= set(plain)
    assert scorer.candidates == [TEXTS[item] for item in plain]
    taken = {item for user, item in LOG if user == "u1"}
    assert set(scorer.history) == {TEXTS[item] for item in taken}


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30), st.floats(0, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_re_ranking_is_a_permutation(scores: list[float], weight: float, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(scores)))
    judged = np.array(data.draw(st.lists(st.floats(-9, 0, width=32), min_size=count, max_size=count)), np.float32)
    values = np.array(sorted(scores, reverse=True), np.float32)
    before = ItemRanking(np.arange(len(values)), values, np.zeros((len(values), 1), np.float32))
    after = reranked(before, judged, weight)
    assert sorted(after.places.tolist()) == list(range(len(values)))
    assert after.places[count:].tolist() == list(range(count, len(values)))
    assert np.array_equal(after.scores, values[after.places])
    assert reranked(before, np.zeros(count, np.float32), weight).places.tolist() == before.places.tolist()


def test_texts_are_cut_between_words() -> None:
    assert shortened("a  short\ntitle") == "a short title"
    assert shortened("word " * 40) == ("word " * 16).strip()
    assert len(shortened("x" * 500)) == MOST_CHARACTERS


def test_a_chat_model_scores_candidates(tmp_path: Path) -> None:
    with load(make_tiny_folder(tmp_path, "llama"), backend="reference") as llm:
        scorer = ChatScorer(llm)
        found = scorer.score(["tea"], ["ping", "pong", "ping", ""])
        assert found.shape == (4,)
        assert found[0] == found[2]
        assert found[3] == found.min()
        assert np.exp(found[:2]).sum() == pytest.approx(1, abs=1e-5)
        assert scorer.score(["tea"], ["ping", "ping"]).tolist() == [0, 0]
        assert scorer.score([], []).tolist() == []
