"""Features of a span as the answer to a question, and the linear weights over them, for each language.

Owns how a span's form, its borders, its place among the question's words and its sentence become numbers. Knows no
candidates and no order. Invariant: a score depends on the question, the sentence and the span alone. The kinds of
features are those of the classic factoid pipelines (Abney, Collins and Singhal, "Answer extraction", 2000) and of
SQuAD's logistic regression (Rajpurkar et al., 2016); ``benchmarks/apps/span_weights.py`` fits ``span_weights.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from miaotui.apps.question_types import TYPED, Kind, fit
from miaotui.apps.segmentation import Word
from miaotui.apps.spans.frames import PREPOSITIONS, QuestionFrame, frame_features

WEIGHTS = Path(__file__).with_name("span_weights.json")  # for each language, of the features
UNFIT_COST = 1.5  # of words beside a number or a date, in English: too few questions to learn it
FEW_WORDS = 0.4  # of the question's weight in the sentence that shares most: below it words decide little
MEANING_WEIGHT = 3.0  # of the sentence that is best by meaning, where all share so few
_EXACT = TYPED - {Kind.PERSON, Kind.PLACE}
_LEADS = {Kind.PERSON: ("by", "由", "被"), Kind.REASON: ("because", "since", "due", "因为", "由于")}
_MOST_SHARED = 10  # characters: more say no more
_REACH = 3.0  # words at which nearness is half
_AUXILIARY = re.compile(r"\b(?:do|does|did)\b", re.IGNORECASE)
_ADJECTIVES = ("al", "ive", "ous", "ic", "ful", "able", "ed")
_OPENING, _CLOSING = '"“《「（(', '"”》」）)'
_NAMED = {Kind.PERSON: "capitals_person", Kind.PLACE: "capitals_place", Kind.THING: "capitals_thing"}
_HAN_BESIDE = frozenset("的是在由为被和与、，。（）“”了于从到对以约第") | {"称为", "叫做", "包括", "因为"}
_WATCHED = frozenset(("of", "the", "and", "or", "to", "in", "a", "for", "on", "with", "from", "as", "by", *",、的和与"))
_CLAUSE_MARKS = frozenset(",;:()，；：（）—–")
_NO_TAGS = ("en", "x")
_TAGS = frozenset(["m", "nr", "ns", "nt", "n", "f", "vn", "v"])


@dataclass(frozen=True)
class QuestionWords:
    """Question, its terms with their weights, the type of answer, and the noun asked about.

    ``rarity``, in [0, 1], of the terms of the passages: 1 in a single sentence, 0 in all.
    """

    text: str
    terms: dict[str, float]
    kind: Kind
    focus: str
    total: float
    frame: QuestionFrame = field(default_factory=QuestionFrame)
    rarity: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def kind_name(self) -> str:
        """Return the name of the type of answer."""
        return self.kind.value

    @cached_property
    def wants_object(self) -> bool:
        """Return whether the answer follows the verb ("what did they …")."""
        return _AUXILIARY.search(self.text) is not None


@dataclass(frozen=True)
class SentenceWords:
    """Sentence ``[start, end)`` of a passage, its words, where the question's terms stand in it, and its support.

    ``meaning`` is its support by meaning, in [0, 1], where it was searched so; ``shared`` is the length of the longest
    run of characters that it shares with a Chinese question, whatever words they were cut into.
    """

    passage: int
    start: int
    end: int
    words: list[Word]
    matched: dict[str, list[int]]  # term of the question -> indexes of words
    support: float
    meaning: float | None = None
    shared: int = 0

    @property
    def place(self) -> tuple[int, int, int]:
        """Return where it lies: passage, start, end."""
        return self.passage, self.start, self.end

    @cached_property
    def clauses(self) -> list[int]:
        """Return the number of the clause that each word lies in; marks end clauses."""
        numbers, number = [], 0
        for word in self.words:
            number += word.is_punctuation and word.text in _CLAUSE_MARKS
            numbers.append(number)
        return numbers


class SpanScorer:
    """Scores of the spans of one sentence; ``best`` is the support of the best sentence.

    What depends on the sentence alone, on one border of a span or on its clauses is added up once.
    """

    def __init__(self, asked: QuestionWords, sentence: SentenceWords, best: float, *, chinese: bool) -> None:
        self._asked, self._sentence = asked, sentence
        language = "zh" if chinese else "en"
        self._weights = _weights()[language if sentence.meaning is None else f"{language}-meaning"]
        self._base = self._sum(_of_sentence(asked, sentence, best))
        if best < FEW_WORDS and (sentence.meaning or 0.0) >= 1.0:  # a customer's words are not the document's
            self._base += MEANING_WEIGHT
        self._has_form = not chinese and asked.kind in _EXACT
        self._borders: dict[tuple[int, int], float] = {}
        self._clauses: dict[tuple[int, int], float] = {}

    def score(self, first: int, last: int, text: str) -> float:
        """Return how well words ``first`` to ``last`` answer."""
        asked, sentence = self._asked, self._sentence
        total = self._base + self._sum(_of_span(asked, sentence, first, last, text))
        for border in ((first - 1, -1), (last + 1, 1)):
            found = self._borders.get(border)
            if found is None:
                found = self._borders[border] = self._sum(_beside(asked, sentence, *border))
            total += found
        clauses = (sentence.clauses[first], sentence.clauses[last])
        found = self._clauses.get(clauses)
        if found is None:
            found = self._clauses[clauses] = self._sum(_clause(asked, sentence, first, last))
        total += found
        if self._has_form and _unfit(asked, sentence.words[first : last + 1]):
            total -= UNFIT_COST
        return total

    def _sum(self, found: Iterator[tuple[str, float]]) -> float:
        total, weights = 0.0, self._weights
        for name, value in found:
            weight = weights.get(name)
            if weight is not None:
                total += weight * value
        return total


def features(
    asked: QuestionWords, sentence: SentenceWords, first: int, last: int, text: str, best: float
) -> Iterator[tuple[str, float]]:
    """Yield (name, value) of the features that are not zero."""
    yield from _of_sentence(asked, sentence, best)
    yield from _of_span(asked, sentence, first, last, text)
    yield from _beside(asked, sentence, first - 1, -1)
    yield from _beside(asked, sentence, last + 1, 1)
    yield from _clause(asked, sentence, first, last)


def _of_sentence(asked: QuestionWords, sentence: SentenceWords, best: float) -> Iterator[tuple[str, float]]:
    """Yield what all spans of a sentence have in common."""
    yield "support", sentence.support
    yield "relative", sentence.support / (best or 1.0)
    if sentence.support >= best:
        yield "best", 1.0
    if sentence.shared:
        yield "shared", min(1.0, sentence.shared / _MOST_SHARED)
    if sentence.meaning is not None:
        yield "meaning", sentence.meaning
        if sentence.meaning >= 1.0:
            yield "meaning_best", 1.0
    yield f"passage_{min(sentence.passage, 2)}", 1.0


def _of_span(
    asked: QuestionWords, sentence: SentenceWords, first: int, last: int, text: str
) -> Iterator[tuple[str, float]]:
    """Yield what depends on both borders of a span, or on its words."""
    each = sentence.words
    chosen = each[first : last + 1]
    yield "form", fit(asked.kind, text, tags_of(chosen))
    yield from _overlap(asked, chosen)
    yield from _nearness(asked, sentence, first, last)
    before = each[first - 1] if first else None
    after = each[last + 1] if last + 1 < len(each) else None
    yield from _borders(asked, chosen, before, after)
    yield from _shape(asked, chosen, text)
    yield from _inside(asked, chosen)
    yield from frame_features(asked.frame, each, first, last)
    yield from _crossed(asked, chosen, before, after)
    yield from _rarity(asked, chosen)
    unfit = _unfit(asked, chosen) if asked.kind in TYPED else 0
    if unfit:
        yield f"{asked.kind_name}_unfit", unfit / len(chosen)
        yield f"{asked.kind_name}_unfit_any", 1.0
    yield "place", first / max(1, len(each))


def tags_of(chosen: Sequence[Word]) -> frozenset[str]:
    """Return the parts of speech of Chinese words."""
    return frozenset([word.tag for word in chosen if word.tag not in _NO_TAGS])


@lru_cache(maxsize=1)
def _weights() -> Mapping[str, Mapping[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    return found


def _beside(asked: QuestionWords, sentence: SentenceWords, place: int, step: int) -> Iterator[tuple[str, float]]:
    """Yield which word stands next to a span, before it (``step`` -1) or after it (1), and how much of the question
    the next word of content has.
    """
    each, side = sentence.words, "before" if step < 0 else "after"
    if not 0 <= place < len(each):
        return
    word = each[place]
    if word.tag == "en":
        if word.is_function or word.is_punctuation:
            yield f"{side}={word.lower}", 1.0
    else:
        yield f"{side}_tag={word.tag}", 1.0
        if word.text in _HAN_BESIDE:
            yield f"{side}={word.text}", 1.0
    if word.is_number:
        yield f"{side}_digit", 1.0
    content = next((other.term for other in each[place::step] if other.term), "")
    if content in asked.terms:
        yield f"{side}_asked", 1.0
        yield f"{side}_asked_weight", asked.terms[content] / asked.total


def _inside(asked: QuestionWords, chosen: list[Word]) -> Iterator[tuple[str, float]]:
    """Yield what the span is made of, for the kind of answer that is asked for."""
    kind, length = asked.kind_name, len(chosen)
    yield f"{kind}_words_{min(length, 5)}", 1.0
    if length > 5:
        yield f"{kind}_long", float(length - 5)
    if any(word.is_verb for word in chosen[1:]):
        yield "verb_inside", 1.0
    for word in chosen[1:-1]:
        if word.is_function or word.is_punctuation:
            yield f"inside={word.lower}" if word.lower in _WATCHED else "inside_other", 1.0
    if chosen[0].is_function:
        yield "begins_function", 1.0
    digits = any(word.is_number for word in chosen)
    yield f"{kind}_digits" if digits else f"{kind}_no_digits", 1.0
    if chosen[0].is_capital and chosen[-1].is_capital:
        yield f"{kind}_name", 1.0
    if chosen[0].tag != "en":
        yield f"{kind}_first={chosen[0].tag}", 1.0
        yield f"{kind}_last={chosen[-1].tag}", 1.0
        yield "chars", min(12.0, float(sum(len(word.text) for word in chosen)))


def _crossed(
    asked: QuestionWords, chosen: list[Word], before: Word | None, after: Word | None
) -> Iterator[tuple[str, float]]:
    """Yield the span's length, its first word and its neighbours, for each opening and kind of question."""
    opening, kind = asked.frame.opening, asked.kind_name
    yield f"{opening}:words_{min(len(chosen), 4)}", 1.0
    yield f"{opening}:begins_{_look(chosen[0])}", 1.0
    yield f"{opening}:closed_{_side(after)}", 1.0
    if before is not None and (before.lower in PREPOSITIONS or before.text in _HAN_BESIDE):
        yield f"{kind}:before={before.lower}", 1.0


def _look(word: Word) -> str:
    """Return the look of a word: its part of speech in Chinese, else digits, a capital, a verb or a small letter."""
    if word.tag != "en":
        return word.tag
    if word.is_number:
        return "digit"
    if word.is_capital:
        return "capital"
    return "function" if word.is_function else "verb" if word.is_verb else "small"


def _clause(asked: QuestionWords, sentence: SentenceWords, first: int, last: int) -> Iterator[tuple[str, float]]:
    """Yield the share of the question's weight in the clauses of the span."""
    clauses = sentence.clauses
    low, high = clauses[first], clauses[last]
    inside = sum(
        asked.terms[term]
        for term, places in sentence.matched.items()
        if any(low <= clauses[place] <= high for place in places)
    )
    yield "clause", inside / asked.total
    if not inside:
        yield "clause_none", 1.0


def _rarity(asked: QuestionWords, chosen: list[Word]) -> Iterator[tuple[str, float]]:
    """Yield how rare the span's terms are: those that many sentences have are the topic, seldom the answer."""
    each = [asked.rarity.get(word.term, 1.0) for word in chosen if word.term and word.term not in asked.terms]
    if each:
        yield "rarity", sum(each) / len(each)
        yield "rarity_least", min(each)
        yield f"{asked.kind_name}_rarity", max(each)


def _unfit(asked: QuestionWords, chosen: list[Word]) -> int:
    """Return how many words of a span have nothing of the form that is asked for ("1874 by Clara Voss")."""
    content = [word for word in chosen if word.term and not any(map(str.isdigit, word.text))]
    return sum(fit(asked.kind, word.text, frozenset((word.tag,)) - {"en", "x"}) < 1.0 for word in content)


def _overlap(asked: QuestionWords, chosen: list[Word]) -> Iterator[tuple[str, float]]:
    """Yield what the span repeats of the question."""
    content = [word.term for word in chosen if word.term]
    said = sum(term in asked.terms for term in content) / max(1, len(content))
    if said:
        yield "said", said
        yield "said_any", 1.0
    if said == 1.0:
        yield "said_all", 1.0


def _nearness(asked: QuestionWords, sentence: SentenceWords, first: int, last: int) -> Iterator[tuple[str, float]]:
    """Yield the weight of the question's words near the span, before and after it; farther words count less."""
    near = before = after = 0.0
    for term, places in sentence.matched.items():
        weight = asked.terms[term]
        gaps_before = [first - place for place in places if place < first]
        gaps_after = [place - last for place in places if place > last]
        if gaps_before:
            before += weight / (1 + min(gaps_before) / _REACH)
        if gaps_after:
            after += weight / (1 + min(gaps_after) / _REACH)
        if gaps_before or gaps_after:
            near += weight / (1 + min(gaps_before + gaps_after) / _REACH)
    is_object = asked.wants_object
    yield "near", near / asked.total
    yield "object_before" if is_object else "subject_before", before / asked.total
    yield "object_after" if is_object else "subject_after", after / asked.total


def _borders(
    asked: QuestionWords, chosen: list[Word], before: Word | None, after: Word | None
) -> Iterator[tuple[str, float]]:
    """Yield what stands on both sides of the span."""
    yield f"opened_{_side(before)}", 1.0
    yield f"closed_{_side(after)}", 1.0
    if before is not None:
        word = before.lower
        if word in _LEADS.get(asked.kind, ()):
            yield "led", 1.0
        if word in PREPOSITIONS:
            yield "preposition", 1.0
        if word == "的":
            yield "de_before", 1.0
        if before.text in "(（":
            yield "bracket", 1.0
        if before.is_capital and chosen[0].is_capital:
            yield "torn_before", 1.0
        if after is not None and before.text in _OPENING and after.text in _CLOSING:
            yield "quoted", 1.0
    if after is not None and after.is_capital and chosen[-1].is_capital:
        yield "torn_after", 1.0
    beside = [word.lower for word in (before, after) if word is not None]
    if asked.focus and any(asked.focus in word for word in beside):
        yield "focus_beside", 1.0


def _side(word: Word | None) -> str:
    if word is None:
        return "end"
    if word.is_punctuation:
        return "mark"
    return "function" if word.is_function else "verb" if word.is_verb else "word"


def _shape(asked: QuestionWords, chosen: list[Word], text: str) -> Iterator[tuple[str, float]]:
    """Yield the span's length and the look of its words."""
    length, lower = len(chosen), chosen[-1].lower
    yield f"words_{min(length, 6)}", 1.0
    if length > 3:
        yield "long_reason" if asked.kind is Kind.REASON else "long", float(length - 3)
    capitals = sum(word.is_capital for word in chosen) / length
    if asked.kind in _NAMED and capitals:
        yield _NAMED[asked.kind], capitals
    if any(map(str.isdigit, text)):
        if asked.kind is Kind.THING:
            yield "digits_thing", 1.0
        elif asked.kind in (Kind.PERSON, Kind.PLACE):
            yield "digits_name", 1.0
    if asked.focus and asked.focus in text.lower():
        yield "focus", 1.0
    if chosen[-1].is_verb:
        yield "ends_verb", 1.0
    if chosen[0].is_verb:
        yield "begins_verb", 1.0
    if lower.endswith(("ly", "ing")):
        yield "ends_ing", 1.0
    if lower.endswith(_ADJECTIVES):
        yield "ends_adjective", 1.0
    for name, tag in (("begins", chosen[0].tag), ("ends", chosen[-1].tag)):
        if tag in _TAGS:
            yield f"{name}_{tag}", 1.0
