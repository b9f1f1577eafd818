"""Best span of a passage for a question, without a model.

Owns sentences' support by words, the candidates, and their order. Knows no index and no model; features and weights
are in `features`. Invariant: a span is a piece of its passage, character for character.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from miaotui.apps.question_types import TYPED, fit, focus_of, kind_of
from miaotui.apps.segmentation import Word, terms_of, words
from miaotui.apps.spans.candidates import candidates
from miaotui.apps.spans.features import QuestionWords, SentenceWords, SpanScorer, tags_of
from miaotui.apps.spans.frames import frame_of
from miaotui.retrieval.meaning.languages import is_chinese
from miaotui.retrieval.sentences import sentences

MAX_PASSAGE_CHARS = 8_000
MOST_SENTENCES = 4  # the best ones are searched for spans
_AROUND = 0.5  # of a neighbouring sentence's words
LEAST_SHARED = 0.33  # of the question's weight in its sentence, for a span that says enough alone


@dataclass(frozen=True)
class Span:
    """Span ``passage[start:end]``. ``support`` is that of its sentence; ``score`` compares spans of one question;
    ``is_answer``: its form is that of an answer to this question, so that it says enough alone. ``repeats``: all its
    terms are the question's.
    """

    passage: int
    start: int
    end: int
    text: str
    sentence: tuple[int, int]
    support: float
    score: float
    is_answer: bool = False
    repeats: bool = False


@dataclass(frozen=True)
class RankedSentence:
    """Sentence ``[start, end)`` of a passage, and how well it supports an answer, in [0, 1].

    ``coverage`` is the share of the question's weight that its whole passage has.
    """

    passage: int
    start: int
    end: int
    support: float
    coverage: float = 0.0

    @property
    def place(self) -> tuple[int, int, int]:
        """Return where it lies: passage, start, end."""
        return self.passage, self.start, self.end


def best_spans(
    question: str, passages: Sequence[str], limit: int = 3, by_meaning: Sequence[RankedSentence] = ()
) -> list[Span]:
    """Return the best spans, best first, none within another; empty if no sentence fits the question.

    Looks in the sentences ``by_meaning``, best first; without, in those that share words with the question.
    """
    chosen: list[Span] = []
    for span in all_spans(question, passages, by_meaning):
        if len(chosen) == limit:
            break
        if not any(_overlap(span, other) for other in chosen):
            chosen.append(span)
    return chosen


def all_spans(question: str, passages: Sequence[str], by_meaning: Sequence[RankedSentence] = ()) -> list[Span]:
    """Return the spans of the likely sentences, best first."""
    asked, scored = weighed(question, passages, by_meaning)
    best = likely(scored)
    most = max((sentence.support for sentence in best), default=0.0)
    found = [span for sentence in best for span in _spans(asked, sentence, passages, most)]
    return sorted(found, key=lambda span: (-span.score, span.passage, span.start))


def distinct_spans(
    question: str, passages: Sequence[str], among: Sequence[RankedSentence], *, by_meaning: bool = False
) -> list[Span]:
    """Return all spans of some sentences that differ in text, best first, each at its best place.

    With ``by_meaning`` the support of the sentences is that by meaning.
    """
    asked, scored = weighed(question, passages, among if by_meaning else ())
    places = {each.place for each in among}
    chosen = [sentence for sentence in scored if sentence.place in places]
    most = max((sentence.support for sentence in chosen), default=0.0)
    best: dict[str, Span] = {}
    for sentence in chosen:
        for span in _spans(asked, sentence, passages, most):
            if span.text not in best or best[span.text].score < span.score:
                best[span.text] = span
    return sorted(best.values(), key=lambda span: (-span.score, span.passage, span.start))


def ranked_sentences(question: str, passages: Sequence[str]) -> list[RankedSentence]:
    """Return all sentences that are no headings, those that share most with the question first."""
    asked, scored = weighed(question, passages)
    terms: dict[int, set[str]] = {}
    for sentence in scored:
        terms.setdefault(sentence.passage, set()).update(sentence.matched)
    shares = {number: sum(asked.terms[term] for term in found) / asked.total for number, found in terms.items()}
    return [
        RankedSentence(s.passage, s.start, s.end, s.support, shares[s.passage])
        for s in scored
        if not passages[s.passage].startswith("#", s.start)
    ]


def weighed(
    question: str, passages: Sequence[str], by_meaning: Sequence[RankedSentence] = ()
) -> tuple[QuestionWords, list[SentenceWords]]:
    """Return the question's words and all sentences, those that share most with it first; or the sentences
    ``by_meaning`` alone, best first.
    """
    parts = [
        (number, start, end, words(text[:MAX_PASSAGE_CHARS], start, end))
        for number, text in enumerate(passages)
        for start, end in sentences(text[:MAX_PASSAGE_CHARS])
    ]
    asked = _asked(question, [each for *_, each in parts])
    scored = list(_supported(asked, parts))
    if is_chinese(question):
        scored = [replace(each, shared=_shared(question, passages[each.passage], each)) for each in scored]
    scored.sort(key=lambda sentence: (-sentence.support, -sentence.shared))
    if not by_meaning:
        return asked, scored
    supports = {each.place: each.support for each in by_meaning}
    chosen = [replace(each, meaning=supports[each.place]) for each in scored if each.place in supports]
    return asked, sorted(chosen, key=lambda sentence: -supports[sentence.place])


def _shared(question: str, text: str, sentence: SentenceWords) -> int:
    """Return the length of the longest run of characters that a question shares with a sentence."""
    part, length = text[sentence.start : sentence.end], 0
    for start in range(len(question)):
        while start + length < len(question) and question[start : start + length + 1] in part:
            length += 1
    return length


def likely(scored: Sequence[SentenceWords]) -> list[SentenceWords]:
    """Return the sentences, best first, that are searched for spans."""
    return [each for each in scored if each.matched or each.meaning is not None][:MOST_SENTENCES]


def _asked(question: str, parts: Sequence[Sequence[Word]]) -> QuestionWords:
    """Return the question's terms, weighted by how few sentences have them."""
    counts = Counter(term for each in parts for term in {word.term for word in each})
    found = terms_of(question)
    if is_chinese(question):
        found |= {term for term in counts if len(term) > 1 and not term.isascii() and term in question}
    n = len(parts)
    weights = {term: math.log((n + 1) / (counts[term] + 0.5)) + 0.3 for term in found if term}
    known = {term: weight for term, weight in weights.items() if counts[term]}
    total = sum(weights.values()) or 1.0
    rarity = {term: 1.0 - math.log(count) / math.log(n + 1) for term, count in counts.items() if term}
    return QuestionWords(question, known, kind_of(question), focus_of(question), total, frame_of(question), rarity)


def _supported(asked: QuestionWords, parts: Sequence[tuple[int, int, int, list[Word]]]) -> Iterator[SentenceWords]:
    """Return sentences with what they share with the question. Neighbours count a little."""
    matched = []
    for _, _, _, each in parts:
        places: dict[str, list[int]] = {}
        for index, word in enumerate(each):
            if word.term in asked.terms:
                places.setdefault(word.term, []).append(index)
        matched.append(places)
    for index, (number, start, end, each) in enumerate(parts):
        weight = sum(asked.terms[term] for term in matched[index])
        near = [i for i in (index - 1, index + 1) if 0 <= i < len(parts) and parts[i][0] == number]
        around = {term for i in near for term in matched[i]} - matched[index].keys()
        weight += _AROUND * sum(asked.terms[term] for term in around)
        support = min(1.0, weight / asked.total)
        yield SentenceWords(number, start, end, each, matched[index], support)


def _spans(asked: QuestionWords, sentence: SentenceWords, passages: Sequence[str], most: float) -> Iterator[Span]:
    text, chinese = passages[sentence.passage], is_chinese(asked.text)
    place = (sentence.start, sentence.end)
    shares = sum(asked.terms[term] for term in sentence.matched) >= LEAST_SHARED * asked.total
    may_answer = shares and asked.kind in TYPED
    scorer = SpanScorer(asked, sentence, most, chinese=chinese)
    for first, last in candidates(sentence.words, asked.kind):
        chosen = sentence.words[first : last + 1]
        start, end = bounds_of(text, chosen)
        part = text[start:end]
        points = scorer.score(first, last, part)
        is_answer = may_answer and fit(asked.kind, part, tags_of(chosen)) >= 1.0
        repeats = all(word.term in asked.terms for word in chosen if word.term)
        yield Span(sentence.passage, start, end, part, place, sentence.support, points, is_answer, repeats)


def bounds_of(text: str, chosen: Sequence[Word]) -> tuple[int, int]:
    """Return where the span of some words of a text starts and ends; the 's of its last word is left out."""
    start, end = chosen[0].start, chosen[-1].end
    return start, end - 2 * text.endswith(("'s", "’s"), start + 1, end)


def _overlap(a: Span, b: Span) -> bool:
    return a.passage == b.passage and a.start < b.end and b.start < a.end
