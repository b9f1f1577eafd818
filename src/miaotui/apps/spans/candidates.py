"""Candidates: the runs of words of a sentence that could be the phrase that answers.

Owns where such a run may begin, what it may hold and where it may end. Knows no weights. Invariant: a candidate begins
and ends with a word, or with the mark that closes what it opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from miaotui.apps.question_types import Kind
from miaotui.apps.segmentation import Word

MOST_WORDS = 9
MOST_REASON_WORDS = 14
MOST_BRACKET = 6  # words from an opening bracket to its end, in a name with its short form
MOST_VERBS, MOST_HAN_VERBS = 1, 2  # within a phrase, besides its first word; jieba takes many nouns for verbs
MOST_LITTLE = 3  # function words within a phrase
_INNER = frozenset(("of", "the", "and", "or", "de", "la", "for", "von", "van", "&", "to", "in", "a", "an", "on", "at"))
_INNER |= {"with", "from", "as", "by", "than", "his", "her", "its", "their"}
_COUNTING = frozenset(("more", "less", "fewer", "over", "under", "about", "around", "at", "up", "nearly", "almost"))
_OWNING = frozenset(("its", "his", "her", "their", "our", "no", "only", "other", "each", "many", "several"))
_HAN_EDGES = frozenset(("d", "zg", "h", "r"))  # adverbs and the like, as which jieba takes many nouns, and "he", "this"
_HAN_ENDS = frozenset(("d", "zg", "k"))
_LISTED = ("、",)
_BRACKETS = "(（"
_JOINING = "·・-–—'’\"“”《》&½／/°"


def candidates(each: Sequence[Word], kind: Kind) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of runs of words that could be a phrase; clauses too where a reason is asked for."""
    most = MOST_REASON_WORDS if kind is Kind.REASON else MOST_WORDS
    for first in range(len(each)):
        if _may_begin(each, first, kind):
            yield from ((first, last) for last in _ends(each, first, most, kind))


def _may_begin(each: Sequence[Word], first: int, kind: Kind) -> bool:
    word = each[first]
    if word.is_punctuation:
        return False
    if not word.is_function or kind is Kind.REASON or word.tag in _HAN_EDGES or word.lower in _OWNING:
        return True
    near = each[first + 1 : first + 3]
    return word.lower in _COUNTING and any(letter.isdigit() for other in near for letter in other.text)


def _ends(each: Sequence[Word], first: int, most: int, kind: Kind) -> Iterator[int]:
    """Yield the indexes at which a run from ``first`` may end; brackets are held whole or not at all."""
    verbs = little = 0
    most_verbs = MOST_VERBS if each[first].tag == "en" else MOST_HAN_VERBS
    closing = -1
    for last in range(first, min(first + most, len(each))):
        word = each[last]
        if word.text in _BRACKETS:
            closing = next((n for n in range(last, min(last + MOST_BRACKET, len(each))) if each[n].text in ")）"), -1)
        if word.is_punctuation:
            if last == closing:
                yield last
            elif last > closing and not _joins(each, last):
                return
            continue
        verbs += word.is_verb and last > first
        little += word.is_function
        if kind is not Kind.REASON and (verbs > most_verbs or little > MOST_LITTLE):
            return
        if word.is_function:
            if kind is not Kind.REASON and word.tag == "en" and word.lower not in _INNER and last > first:
                return
            if last <= closing or word.tag not in _HAN_ENDS or len(word.text) + (last > first) < 2:
                continue
        if last > closing:
            yield last


def _joins(each: Sequence[Word], index: int) -> bool:
    """Return whether this mark stands within a name, a quotation, a date or a list rather than between clauses."""
    mark = each[index].text
    if mark in _JOINING or mark in _LISTED:
        return True
    if mark != "," or not 0 < index < len(each) - 1:
        return False
    before, after = each[index - 1].text, each[index + 1].text
    if re.fullmatch(r"\d{4}", after):
        return before.isdigit()
    return (before[:1].isupper() and after[:1].isupper()) or _lists(each, index)


def _lists(each: Sequence[Word], index: int) -> bool:
    """Return whether the mark is followed, within a few words, by the last part of a list ("…, … and …")."""
    following = [word.lower for word in each[index + 1 : index + 6]]
    return any(word in ("and", "or") for word in following)
