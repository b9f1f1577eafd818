"""A judge of sentences for tests: known words are likely, others are not; each word is one token."""

from __future__ import annotations

import re
from collections.abc import Sequence

from miaotui.tasks.correction.corrector import CorrectionLanguages, CorrectionSteps, SentenceScore
from miaotui.tasks.correction.result import CorrectedText

RANKS = {
    word: rank
    for rank, word in enumerate(
        ["the", "a", "cat", "cats", "sat", "sits", "on", "mat", "is", "are", "it", "we", "received", "letter", "saw"]
    )
}
PAIRS = {
    ("cats", "are"),
    ("cat", "is"),
    ("cat", "sat"),
    ("the", "cat"),
    ("the", "mat"),
    ("the", "letter"),
    ("a", "cat"),
}
CHINESE = ("我们", "明天", "再见", "天气", "今天")


def scored(sentence: str) -> SentenceScore:
    """Each known word costs 2 nats, others 9; a known pair gives 1.5 back, a word that is doubled costs 6."""
    ends: list[tuple[int, float]] = []
    before = ""
    for match in re.finditer(r"[A-Za-z]+|[^\sA-Za-z]", sentence):
        word = match[0].lower()
        logprob = -2.0 if word in RANKS or not word.isascii() or not word.isalpha() else -9.0
        logprob += 1.5 * ((before, word) in PAIRS) - 6.0 * (word == before)
        ends.append((match.end(), logprob))
        before = word
    total = sum(logprob for _, logprob in ends) + 4.0 * sum(word in sentence for word in CHINESE)
    return SentenceScore(total, ends)


def languages() -> CorrectionLanguages:
    """The words of this judge."""
    return CorrectionLanguages(lambda: RANKS, lambda word: word in CHINESE)


def run(steps: CorrectionSteps) -> tuple[CorrectedText, list[Sequence[str]]]:
    """Run a correction with this judge; returns it and the sentences of each round."""
    rounds: list[Sequence[str]] = []
    scores: list[SentenceScore] | None = None
    while True:
        try:
            wanted = next(steps) if scores is None else steps.send(scores)
        except StopIteration as ended:
            return ended.value, rounds
        rounds.append(wanted.sentences)
        scores = [scored(each) for each in wanted.sentences]
