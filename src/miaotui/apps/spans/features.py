"""Features of a span as the answer to a question, and the linear weights over them, for each language.

Owns how a span's form, its borders, its place among the question's words and its sentence become numbers. Knows no
candidates and no order. Invariant: a score depends on the question, the sentence and the span alone. The kinds of
features are those of the classic factoid pipelines (Abney, Collins and Singhal, "Answer extraction", 2000) and of
SQuAD's logistic regression (Rajpurkar et al., 2016); ``benchmarks/span_weights.py`` fits the English weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from miaotui.apps.question_types import Kind, fit
from miaotui.apps.segmentation import Word

_LEADS = {Kind.PERSON: ("by", "由", "被"), Kind.REASON: ("because", "since", "due", "因为", "由于")}
_REACH = 3.0  # words at which nearness is half
_AUXILIARY = re.compile(r"\b(?:do|does|did)\b", re.IGNORECASE)
_PREPOSITIONS = frozenset(
    [
        "of",
        "in",
        "on",
        "at",
        "by",
        "to",
        "from",
        "for",
        "with",
        "into",
        "against",
        "as",
        "during",
        "between",
        "through",
        "under",
        "over",
        "after",
        "before",
    ]
)
_ADJECTIVES = ("al", "ive", "ous", "ic", "ful", "able", "ed")
_OPENING, _CLOSING = '"“《「（(', '"”》」）)'
_NAMED = {Kind.PERSON: "capitals_person", Kind.PLACE: "capitals_place", Kind.THING: "capitals_thing"}
_TAGS = frozenset(["m", "nr", "ns", "nt", "n", "f", "vn", "v"])


@dataclass(frozen=True)
class QuestionWords:
    """Question, its terms with their weights, the type of answer, and the noun asked about."""

    text: str
    terms: dict[str, float]
    kind: Kind
    focus: str
    total: float


@dataclass(frozen=True)
class SentenceWords:
    """Sentence ``[start, end)`` of a passage, its words, where the question's terms stand in it, and its support."""

    passage: int
    start: int
    end: int
    words: list[Word]
    matched: dict[str, list[int]]  # term of the question -> indexes of words
    support: float

    @property
    def place(self) -> tuple[int, int, int]:
        """Return where it lies: passage, start, end."""
        return self.passage, self.start, self.end


def score(
    asked: QuestionWords, sentence: SentenceWords, first: int, last: int, text: str, best: float, *, chinese: bool
) -> float:
    """Return how well words ``first`` to ``last`` answer; ``best`` is the support of the best sentence."""
    weights = CHINESE if chinese else ENGLISH
    values = features(asked, sentence, first, last, text, best)
    return sum(weights.get(name, 0.0) * value for name, value in values)


def features(
    asked: QuestionWords, sentence: SentenceWords, first: int, last: int, text: str, best: float
) -> Iterator[tuple[str, float]]:
    """Yield (name, value) of the features that are not zero."""
    each = sentence.words
    chosen = each[first : last + 1]
    tags = frozenset(word.tag for word in chosen if word.tag not in ("en", "x"))
    yield "form", fit(asked.kind, text, tags)
    yield "support", sentence.support
    yield "relative", sentence.support / (best or 1.0)
    if sentence.support >= best:
        yield "best", 1.0
    yield from _overlap(asked, chosen)
    yield from _nearness(asked, sentence, first, last)
    before = each[first - 1] if first else None
    after = each[last + 1] if last + 1 < len(each) else None
    yield from _borders(asked, chosen, before, after)
    yield from _shape(asked, chosen, text)
    yield "place", first / max(1, len(each))


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
    is_object = _AUXILIARY.search(asked.text) is not None  # "what did they …": the answer follows the verb
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
        word = before.text.lower()
        if word in _LEADS.get(asked.kind, ()):
            yield "led", 1.0
        if word in _PREPOSITIONS:
            yield "preposition", 1.0
        if word == "的":
            yield "de_before", 1.0
        if before.text in "(（":
            yield "bracket", 1.0
        if before.text[:1].isupper() and chosen[0].text[:1].isupper():
            yield "torn_before", 1.0
        if after is not None and before.text in _OPENING and after.text in _CLOSING:
            yield "quoted", 1.0
    if after is not None and after.text[:1].isupper() and chosen[-1].text[:1].isupper():
        yield "torn_after", 1.0
    beside = [word.text.lower() for word in (before, after) if word is not None]
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
    length, lower = len(chosen), chosen[-1].text.lower()
    yield f"words_{min(length, 6)}", 1.0
    if length > 3:
        yield "long_reason" if asked.kind is Kind.REASON else "long", float(length - 3)
    capitals = sum(word.text[:1].isupper() for word in chosen) / length
    if asked.kind in _NAMED and capitals:
        yield _NAMED[asked.kind], capitals
    if any(letter.isdigit() for letter in text):
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


ENGLISH: Mapping[str, float] = {
    "begins_verb": -0.31,
    "best": 0.5,
    "bracket": -0.35,
    "capitals_person": 0.76,
    "capitals_place": 0.15,
    "capitals_thing": 0.62,
    "closed_end": -1.63,
    "closed_function": -0.16,
    "closed_mark": 0.53,
    "closed_verb": 0.25,
    "closed_word": -0.3,
    "digits_name": -1.02,
    "digits_thing": 0.15,
    "ends_adjective": -0.37,
    "ends_ing": -0.28,
    "ends_verb": -0.68,
    "focus": 1.09,
    "focus_beside": 0.8,
    "form": 1.1,
    "led": 0.91,
    "long": -0.07,
    "long_reason": 0.05,
    "near": 3.97,
    "object_after": 1.82,
    "object_before": 4.01,
    "opened_end": -0.1,
    "opened_function": 0.17,
    "opened_mark": 0.13,
    "opened_verb": 0.11,
    "opened_word": -0.22,
    "place": -0.37,
    "preposition": 0.37,
    "quoted": 0.78,
    "relative": 0.69,
    "said": -0.47,
    "said_all": -0.86,
    "said_any": -0.06,
    "subject_after": 2.11,
    "subject_before": 3.04,
    "support": 0.35,
    "torn_after": -0.13,
    "torn_before": -0.05,
    "words_2": 0.09,
    "words_3": 0.05,
    "words_4": -0.14,
    "words_5": -0.13,
    "words_6": -0.06,
}
# Set by hand: weights fitted on the development part were no better on the rest.
CHINESE: Mapping[str, float] = {
    "begins_verb": -0.1,
    "capitals_person": 0.5,
    "capitals_place": 0.5,
    "capitals_thing": 0.5,
    "closed_end": 0.2,
    "closed_function": 0.2,
    "closed_mark": 0.2,
    "closed_verb": 0.2,
    "focus": 0.4,
    "form": 1.6,
    "led": 0.6,
    "long": -0.12,
    "near": 3.5,
    "opened_end": 0.2,
    "opened_function": 0.2,
    "opened_mark": 0.2,
    "opened_verb": 0.2,
    "said": -2.5,
    "support": 4.8,
    "torn_after": -0.6,
    "torn_before": -0.6,
    "words_3": -0.12,
    "words_4": -0.12,
    "words_5": -0.12,
    "words_6": -0.12,
}
