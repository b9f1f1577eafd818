"""The chat model's own judgement whether passages answer a question: the odds of its yes.

Owns the prompt and the reading of its first token. Knows no engine. Invariant: the prompt begins as the one for the
answer does, passages and question included, so that what was computed for the judgement is used again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from miaotui.apps.answering import Composing
from miaotui.apps.evidence import Evidence
from miaotui.apps.segmentation import is_chinese

_ASK_ZH = "\n先判断：段落中有这个问题的答案吗？只回答“有”或“没有”。"
_YES, _NO = frozenset({"有", "是", "能", "可以"}), frozenset({"没有", "没", "无", "否", "不", "不能", "未"})
_LEAST = 1e-6  # probability that is counted for an answer that is not among the likeliest


def asks_model(evidence: Evidence) -> bool:
    """Return whether the chat model's judgement counts: for Chinese questions, where no cross-encoder reads."""
    return evidence.signals is not None and bool(evidence.ranked) and is_chinese(evidence.question)


def judging_messages(composing: Composing) -> list[dict[str, str]]:
    """Return the conversation whose next token is the judgement."""
    *before, last = composing.messages
    return [*before, {**last, "content": f"{last['content']}{_ASK_ZH}"}]


def log_odds_of_yes(likeliest: Iterable[tuple[str, float]]) -> float:
    """Return ln(P(yes) / P(no)), given the likeliest first tokens and their log-probabilities."""
    yes = no = _LEAST
    for text, logprob in likeliest:
        word = text.strip()
        yes += math.exp(logprob) * (word in _YES)
        no += math.exp(logprob) * (word in _NO)
    return math.log(yes / no)
