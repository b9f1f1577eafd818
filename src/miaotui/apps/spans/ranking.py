"""Best span of a passage for a question, without a model.

Owns candidates and their scores: how well a span's form suits the kind of question, how near it is to the question's
rarer words, how well its sentence matches. Knows no index and no model. Invariant: a span is a piece of its passage,
character for character. The scoring follows the classic factoid pipelines (question type, candidate extraction,
proximity: Abney, Collins and Singhal, "Answer extraction", 2000). Its weights were tried on made and public
questions, a handful of values each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from miaotui.apps.question_types import TYPED, Kind, fit, focus_of, kind_of
from miaotui.apps.segmentation import Word, terms_of, words
from miaotui.retrieval.meaning.languages import is_chinese
from miaotui.retrieval.sentences import sentences

MAX_WORDS = 8
MAX_PASSAGE_CHARS = 8_000
_LEADS = {Kind.PERSON: ("by", "由", "被"), Kind.REASON: ("because", "since", "due", "因为", "由于")}
MOST_SENTENCES = 4  # the best ones are searched for spans
LEAST_SHARED = 0.33  # of the question's weight in its sentence, for a span that says enough alone
_INNER = frozenset(("of", "the", "and", "de", "la", "for", "von", "van", "&", "'s", "to", "in", "a"))


@dataclass(frozen=True)
class Weights:
    """Weight of each feature of a span."""

    support: float = 4.8  # of its sentence
    form: float = 1.6  # suits the kind of question
    near: float = 3.5  # the question's words around it
    said: float = 2.5  # repeats the question: against it
    border: float = 0.2  # each end at a border of phrases
    long: float = 0.12  # each word too many: against it
    name: float = 0.5  # written with capitals
    torn: float = 0.6  # a name goes on beyond it: against it
    focus: float = 0.4  # has the noun that is asked for
    reach: float = 3.0  # words at which nearness is half
    around: float = 0.5  # of a neighbouring sentence's words
    led: float = 0.6  # follows a word that leads to its kind: "by" to a person


WEIGHTS = Weights()


@dataclass(frozen=True)
class Span:
    """Span ``passage[start:end]``. ``support`` is that of its sentence; ``score`` compares spans of one question;
    ``is_answer``: its form is that of an answer to this question, so that it says enough alone.
    """

    passage: int
    start: int
    end: int
    text: str
    sentence: tuple[int, int]
    support: float
    score: float
    is_answer: bool = False


@dataclass(frozen=True)
class _Sentence:
    passage: int
    start: int
    end: int
    words: list[Word]
    matched: dict[str, list[int]]  # term of the question -> indexes of words
    support: float

    @property
    def place(self) -> tuple[int, int, int]:
        return self.passage, self.start, self.end


@dataclass(frozen=True)
class _QuestionWords:
    text: str
    terms: dict[str, float]  # term -> weight
    kind: Kind
    focus: str
    total: float


@dataclass(frozen=True)
class RankedSentence:
    """Sentence ``[start, end)`` of a passage, and how well it supports an answer, in [0, 1]."""

    passage: int
    start: int
    end: int
    support: float

    @property
    def place(self) -> tuple[int, int, int]:
        """Return where it lies: passage, start, end."""
        return self.passage, self.start, self.end


def best_spans(
    question: str, passages: Sequence[str], limit: int = 3, ranked: Sequence[RankedSentence] = ()
) -> list[Span]:
    """Return the best spans, best first, none within another; empty if no sentence fits the question.

    ``ranked`` are the sentences to look in, with their support; without, those that share words with the question.
    """
    asked, scored = _weigh(question, passages)
    supports = {each.place: each.support for each in ranked}
    if supports:
        scored = [replace(each, support=supports[each.place]) for each in scored if each.place in supports]
        scored.sort(key=lambda sentence: -sentence.support)
    best = [sentence for sentence in scored if sentence.matched or supports][:MOST_SENTENCES]
    found = [span for sentence in best for span in _spans(asked, sentence, passages)]
    found.sort(key=lambda span: (-span.score, span.passage, span.start))
    chosen: list[Span] = []
    for span in found:
        if len(chosen) == limit:
            break
        if not any(_overlap(span, other) for other in chosen):
            chosen.append(span)
    return chosen


def ranked_sentences(question: str, passages: Sequence[str]) -> list[RankedSentence]:
    """Return all sentences that are no headings, those that share most with the question first."""
    _, scored = _weigh(question, passages)
    return [
        RankedSentence(s.passage, s.start, s.end, s.support)
        for s in scored
        if not passages[s.passage].startswith("#", s.start)
    ]


def _weigh(question: str, passages: Sequence[str]) -> tuple[_QuestionWords, list[_Sentence]]:
    """Return the type of answer, and all sentences, best first."""
    parts = [
        (number, start, end, words(text[:MAX_PASSAGE_CHARS], start, end))
        for number, text in enumerate(passages)
        for start, end in sentences(text[:MAX_PASSAGE_CHARS])
    ]
    asked = _asked(question, [each for *_, each in parts])
    return asked, sorted(_supported(asked, parts), key=lambda sentence: -sentence.support)


def _asked(question: str, parts: Sequence[Sequence[Word]]) -> _QuestionWords:
    """Return the question's terms, weighted by how few sentences have them."""
    counts = Counter(term for each in parts for term in {word.term for word in each})
    found = terms_of(question)
    if is_chinese(question):
        found |= {term for term in counts if len(term) > 1 and not term.isascii() and term in question}
    n = len(parts)
    weights = {term: math.log((n + 1) / (counts[term] + 0.5)) + 0.3 for term in found if term}
    known = {term: weight for term, weight in weights.items() if counts[term]}
    total = sum(weights.values()) or 1.0
    return _QuestionWords(question, known, kind_of(question), focus_of(question), total)


def _supported(asked: _QuestionWords, parts: Sequence[tuple[int, int, int, list[Word]]]) -> Iterator[_Sentence]:
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
        weight += WEIGHTS.around * sum(asked.terms[term] for term in around)
        support = min(1.0, weight / asked.total)
        yield _Sentence(number, start, end, each, matched[index], support)


def _spans(asked: _QuestionWords, sentence: _Sentence, passages: Sequence[str]) -> Iterator[Span]:
    text = passages[sentence.passage]
    for first, last in _candidates(sentence.words, asked.kind):
        chosen = sentence.words[first : last + 1]
        start, end = chosen[0].start, chosen[-1].end
        score = _score(asked, sentence, first, last, text[start:end])
        place = (sentence.start, sentence.end)
        tags = frozenset(word.tag for word in chosen if word.tag not in ("en", "x"))
        shares = sum(asked.terms[term] for term in sentence.matched) >= LEAST_SHARED * asked.total
        is_answer = shares and asked.kind in TYPED and fit(asked.kind, text[start:end], tags) >= 1.0
        yield Span(sentence.passage, start, end, text[start:end], place, sentence.support, score, is_answer)


def _candidates(each: Sequence[Word], kind: Kind) -> Iterator[tuple[int, int]]:
    """Return (first, last) of word runs that could be a phrase; clauses too where a reason is asked for."""
    most = 14 if kind is Kind.REASON else MAX_WORDS
    for first, opening in enumerate(each):
        if opening.is_punctuation or (opening.is_function and kind is not Kind.REASON):
            continue
        for last in range(first, min(first + most, len(each))):
            word = each[last]
            if word.is_punctuation and not _joins(each, last):
                break
            if word.is_verb and last > first and kind is not Kind.REASON and word.tag == "en":
                break
            if word.is_function and word.tag == "en" and word.text.lower() not in _INNER:
                if kind is not Kind.REASON:
                    break
                continue
            if not (word.is_punctuation or word.is_function):
                yield first, last


def _joins(each: Sequence[Word], index: int) -> bool:
    """Return whether this mark is inside names, quotations or lists rather than between clauses."""
    return each[index].text in "·・-–—'’\"“”《》&½／/"


def _score(asked: _QuestionWords, sentence: _Sentence, first: int, last: int, text: str) -> float:
    chosen = sentence.words[first : last + 1]
    content = [word for word in chosen if word.term]
    tags = frozenset(word.tag for word in chosen if word.tag not in ("en", "x"))
    said = sum(word.term in asked.terms for word in content) / max(1, len(content))
    score = WEIGHTS.support * sentence.support + WEIGHTS.form * fit(asked.kind, text, tags)
    score += WEIGHTS.near * _nearness(asked, sentence, first, last) - WEIGHTS.said * said
    score += _shape(asked, sentence.words, first, last)
    if first and sentence.words[first - 1].text.lower() in _LEADS.get(asked.kind, ()):
        score += WEIGHTS.led
    if asked.focus and asked.focus in text.lower():
        score += WEIGHTS.focus
    return score


def _nearness(asked: _QuestionWords, sentence: _Sentence, first: int, last: int) -> float:
    """Return the weight of the question's words around the span; farther words count less."""
    total = 0.0
    for term, places in sentence.matched.items():
        outside = [place for place in places if not first <= place <= last]
        if outside:
            gap = min(first - place if place < first else place - last for place in outside)
            total += asked.terms[term] / (1 + gap / WEIGHTS.reach)
    return total / asked.total


def _shape(asked: _QuestionWords, each: Sequence[Word], first: int, last: int) -> float:
    """Return how much it looks like a whole phrase: both ends at a border, not too long."""
    before, after = each[first - 1] if first else None, each[last + 1 : last + 2]
    opens = before is None or before.is_punctuation or before.is_function or before.is_verb
    closes = not after or after[0].is_punctuation or after[0].is_function or after[0].is_verb
    score = WEIGHTS.border * (opens + closes)
    length = last - first + 1
    ideal = 7 if asked.kind is Kind.REASON else 2
    score -= WEIGHTS.long * max(0, length - ideal) + (0.1 if each[first].is_verb else 0.0)
    names = [word for word in each[first : last + 1] if word.text[:1].isupper()]
    if asked.kind in (Kind.PERSON, Kind.PLACE, Kind.THING) and names:
        score += WEIGHTS.name * len(names) / length
    if before is not None and first > 1 and before.text[:1].isupper() and names:
        score -= WEIGHTS.torn * each[first].text[:1].isupper()
    if after and after[0].text[:1].isupper() and names:
        score -= WEIGHTS.torn * each[last].text[:1].isupper()
    return score


def _overlap(a: Span, b: Span) -> bool:
    return a.passage == b.passage and a.start < b.end and b.start < a.end
