"""Evidence for a question: passages, and the sentences of them that fit a budget of tokens.

Owns the choice of sentences, and the decision whether the documents say anything at all. Knows no index: passages are
handed in, with the cosines of their sentences where there are vectors. Invariant: chosen sentences stay in their
passage's order, word for word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median
from typing import Literal, NamedTuple

from miaotui.apps.meaning.decision import FEWEST_SENTENCES, Signals, least_probability, probability
from miaotui.apps.question_types import asks_offer, kind_of, lacks_form
from miaotui.apps.segmentation import counted_of, names_of, terms_of
from miaotui.apps.spans.ranking import RankedSentence, ranked_sentences
from miaotui.errors import RefusedError
from miaotui.retrieval.meaning.languages import is_chinese
from miaotui.retrieval.meaning.protocols import Reranker
from miaotui.retrieval.meaning.vectors import SentenceMatch

LeftOut = Literal["reranker", "passages", "examples", "model"]  # parts of the work that a deadline left no time for

MAX_PASSAGES = 8
MAX_PASSAGE_CHARS = 8_000
FOUND, FOUND_ZH = 0.305, 0.31  # of the question's weight; below it nothing was found (benchmarks/apps/answers.py)
SENTENCE_SHARE = 0.56  # of the best sentence in that weight; the rest is the first passage's
STRANGE_COST = 0.14  # of names that no passage has
UNCOUNTED_COST = 0.05  # where the passage of the best sentence lacks the noun that is counted
NEAR_BEST = 0.6  # sentences that have less than this share of the best one's are of something else
WORDS_WEIGHT = 0.03  # of a sentence's words beside its cosine
FORM_WEIGHT = 0.02  # against a sentence without the number or time that is asked for
NEAR_COSINE = 0.05  # sentences that are farther from the best one are of something else
RERANKED = 8  # sentences that the cross-encoder reads
RERANKED_CHARS = 280  # of each, about 64 tokens
_CROSS_SCALE = 0.008  # of a logit of the cross-encoder beside a cosine


@dataclass(frozen=True)
class Passage:
    """Found passage, in the form in which it is cited. ``sentences``: their cosines; empty without vectors."""

    id: str
    text: str
    title: str = ""
    source: str = ""
    score: float = 0.0
    sentences: tuple[SentenceMatch, ...] = ()


class Searched(NamedTuple):
    """Extent of a search by meaning: how many vectors the index has, and whether they are of the space of English."""

    sentences: int = 0
    in_english: bool = False


NOT_SEARCHED = Searched()


@dataclass(frozen=True)
class Evidence:
    """Passages found for a question, in one version of an index.

    ``strength``, in [0, 1], is the share of the question that the best sentence has or, with ``signals`` of meaning,
    the probability that it is answered; ``least`` is how much of it an answer needs; ``left_out`` names the work that
    the deadline left no time for.
    """

    question: str
    passages: tuple[Passage, ...]
    index: str = ""
    version: str = ""
    strength: float = 0.0
    ranked: tuple[RankedSentence, ...] = ()  # best first
    complete: bool = True  # no part of the index was missing
    signals: Signals | None = None
    least: float = FOUND
    left_out: tuple[LeftOut, ...] = ()

    @property
    def is_weak(self) -> bool:
        """Return whether the documents probably do not answer the question."""
        return self.strength < self.least

    def excerpts(self, fits: Callable[[str], bool]) -> list[str]:
        """Return the best sentences of each passage, as many in all as `fits` allows.

        Sentences are added best first, each at its place. A passage without any gives "".
        """
        chosen: set[tuple[int, int, int]] = set()
        for sentence in self.ranked:
            if not fits("\n".join(self._written(chosen | {sentence.place}))):
                break
            chosen.add(sentence.place)
        return self._written(chosen)

    def _written(self, chosen: Iterable[tuple[int, int, int]]) -> list[str]:
        texts: list[list[str]] = [[] for _ in self.passages]
        for number, start, end in sorted(chosen):
            texts[number].append(self.passages[number].text[start:end])
        return [" ".join(parts) for parts in texts]


def gather(
    question: str,
    found: Iterable[Passage],
    index: str = "",
    version: str = "",
    complete: bool = True,
    *,
    reranker: Reranker | None = None,
    within_ms: float | None = None,
    searched: Searched = NOT_SEARCHED,
) -> Evidence:
    """Collect evidence from the passages that a search found, best first.

    ``reranker`` reads the best sentences of English questions if that takes no longer than ``within_ms``;
    ``searched`` says what the search by meaning compared.
    """
    passages = tuple(replace(each, text=each.text[:MAX_PASSAGE_CHARS]) for each in islice(found, MAX_PASSAGES))
    by_words = ranked_sentences(question, [passage.text for passage in passages])
    evidence = Evidence(question, passages, index, version, complete=complete)
    if any(passage.sentences for passage in passages):
        return _by_meaning(evidence, by_words, reranker, within_ms, searched)
    best = by_words[0].support if by_words else 0.0
    near = tuple(each for each in by_words if each.support >= NEAR_BEST * best and each.support > 0)
    least = FOUND_ZH if is_chinese(question) else FOUND
    return replace(evidence, strength=_strength(evidence, by_words), least=least, ranked=near)


def _strength(evidence: Evidence, by_words: Sequence[RankedSentence]) -> float:
    """Return how surely the words found answer the question: those of the best sentence and of the first passage, less
    the names that no passage has and, a little, a noun that is counted and that the best passage lacks.
    """
    if not by_words or not by_words[0].support:
        return 0.0
    coverage = next((each.coverage for each in by_words if each.passage == 0), 0.0)
    found = SENTENCE_SHARE * by_words[0].support + (1 - SENTENCE_SHARE) * coverage
    found -= UNCOUNTED_COST * _lacks_counted(evidence, evidence.passages[by_words[0].passage])
    return max(0.0, found - STRANGE_COST * _strange(evidence))


def _lacks_counted(evidence: Evidence, passage: Passage) -> bool:
    """Return whether the question asks how many there are of something that a passage does not have."""
    counted = counted_of(evidence.question)
    if is_chinese(evidence.question):
        return counted not in passage.text
    return counted != "" and not terms_of(counted) & terms_of(passage.text)


def _by_meaning(
    evidence: Evidence,
    by_words: Sequence[RankedSentence],
    reranker: Reranker | None,
    within_ms: float | None,
    searched: Searched,
) -> Evidence:
    """Return evidence whose sentences are ranked by their cosines, a little by their words, and by the reranker."""
    question, chinese = evidence.question, is_chinese(evidence.question)
    cosines = {each.place: _cosine(evidence.passages[each.passage], each) for each in by_words}
    kind = kind_of(question)
    scores = {
        each.place: cosines[each.place]
        + WORDS_WEIGHT * each.support
        - FORM_WEIGHT * lacks_form(kind, evidence.passages[each.passage].text[each.start : each.end])
        for each in by_words
    }
    ordered = sorted(by_words, key=lambda each: -scores[each.place])
    cross = None
    if reranker is not None and not chinese and ordered:
        best = ordered[:RERANKED]
        texts = [_read_with(evidence.passages[each.passage], each) for each in best]
        try:
            logits = reranker.score([(question, text) for text in texts], within_ms)
        except RefusedError:
            evidence = replace(evidence, left_out=("reranker",))
        else:
            cross = float(max(logits))
            for each, logit in zip(best, logits, strict=True):
                scores[each.place] += _CROSS_SCALE * (float(logit) - float(min(logits)))
            ordered.sort(key=lambda each: -scores[each.place])
    if not ordered:
        return evidence
    top = scores[ordered[0].place]
    near = tuple(
        replace(each, support=max(0.0, 1.0 - (top - scores[each.place]) / NEAR_COSINE))
        for each in ordered
        if top - scores[each.place] < NEAR_COSINE
    )
    nearest = max(cosines.values())
    gap = nearest - median(cosines.values()) if len(cosines) >= FEWEST_SENTENCES else None
    score = max(passage.score for passage in evidence.passages)
    signals = Signals(
        score, searched.sentences, gap, cross, searched.in_english, asks_offer(question), _strange(evidence)
    )
    strength = probability(signals, chinese=chinese)
    least = least_probability(signals, chinese=chinese)
    return replace(evidence, ranked=near, signals=signals, strength=strength, least=least)


def _strange(evidence: Evidence) -> float:
    """Return the share of the question's names that stand in no passage, nor in a title."""
    names = names_of(evidence.question)
    text = "\n".join(f"{passage.title}\n{passage.text}" for passage in evidence.passages).casefold()
    return sum(name.casefold().removesuffix("'s") not in text for name in names) / max(1, len(names))


def _read_with(passage: Passage, sentence: RankedSentence) -> str:
    """Return a sentence under its heading, as the reranker reads it."""
    heading = passage.title.rpartition(" › ")[2]
    return f"{heading}: {passage.text[sentence.start : sentence.end]}"[:RERANKED_CHARS]


def _cosine(passage: Passage, sentence: RankedSentence) -> float:
    """Return the best cosine of the vectors that stand for a sentence.

    In a passage without vectors, which the search found by its words, the words stand for it.
    """
    if not passage.sentences:
        return passage.score - NEAR_COSINE * (1.0 - sentence.support)
    inside = (one.cosine for one in passage.sentences if one.start < sentence.end and one.end > sentence.start)
    return max(inside, default=0.0)
