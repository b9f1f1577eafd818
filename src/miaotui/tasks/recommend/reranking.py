"""Re-ranking of the best candidates by a chat model, which reads the history's titles and is asked which comes next.

Owns the question and the blend of both scores. Knows a chat model by `Decider`: the model's logits over the candidates'
texts are read in two orders, nothing is generated. Off unless a caller gives a scorer: `docs/recommend.md` has the
paired test. Invariant: candidates are put in another order, none is added or left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from miaotui.llm import LLM
from miaotui.tasks.decisions.decider import Decider
from miaotui.tasks.decisions.questions import ChoiceQuestion, spoken
from miaotui.tasks.recommend.collaborative import Floats
from miaotui.tasks.recommend.ranking import ItemRanking

DEPTH = 20  # candidates that are read
WEIGHT = 0.25  # of the model's standard score beside the ranking's
MOST_HISTORY = 12  # latest items that are read
MOST_CHARACTERS = 80  # of a text
_QUESTION = "Which of these does this person take next?"


class CandidateScorer(Protocol):
    """Model that says which of some candidates fits a history."""

    def score(self, history: Sequence[str], candidates: Sequence[str]) -> Floats:
        """Return a score for each candidate, float32 ``[n]``; equal ones where nothing can be said."""


class ChatScorer:
    """`CandidateScorer` over a chat model, which stays the caller's to close."""

    def __init__(self, llm: LLM) -> None:
        self._decider = Decider(llm)

    def score(self, history: Sequence[str], candidates: Sequence[str]) -> Floats:
        """Return log-probabilities (nats) of the candidates' texts, float32 ``[n]``; zeros for a choice of fewer than
        two different texts.
        """
        options = [shortened(each) for each in candidates]
        known = list(dict.fromkeys(each for each in options if each))
        if len(known) < 2:
            return np.zeros(len(options), np.float32)
        lines = "\n".join(f"- {shortened(each)}" for each in history[-MOST_HISTORY:] if each.strip())
        text = f"What this person took, the latest last:\n{lines}"
        (found,) = self._decider.decide(text, ChoiceQuestion(_QUESTION, known))
        if found.error is not None:
            return np.zeros(len(options), np.float32)
        logs = {name: float(np.log(max(each, 1e-30))) for name, each in found.probabilities.items()}
        lowest = min(logs.values())
        return np.array([logs.get(each, lowest) for each in options], np.float32)


def reranked(ranking: ItemRanking, judged: Floats, weight: float = WEIGHT) -> ItemRanking:
    """Return a ranking whose first items are ordered by their own and the judged standard scores, ``judged`` ``[n]``.

    Scores and shares stay those of the ranking.
    """
    count = len(judged)
    blend = _standard(ranking.scores[:count]) + weight * _standard(judged)
    order = np.concatenate([np.argsort(-blend, kind="stable"), np.arange(count, len(ranking.places))])
    return ItemRanking(ranking.places[order], ranking.scores[order], ranking.shares[order])


def shortened(text: str) -> str:
    """Return the beginning of a text as one line, cut between words."""
    line = spoken(text)
    whole_words = line[: MOST_CHARACTERS + 1].rpartition(" ")[0]
    return line if len(line) <= MOST_CHARACTERS else whole_words or line[:MOST_CHARACTERS]


def _standard(values: Floats) -> Floats:
    spread = float(values.std()) if len(values) else 0.0
    found: Floats = (values - values.mean()) / spread if spread > 1e-9 else np.zeros_like(values)
    return found
