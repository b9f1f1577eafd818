"""Frame of a question: the words between which its answer would stand in a statement, in English and Chinese.

Owns where the question word stands, and how much the words around a span are those of the frame. Knows no kinds of
answers and no weights. Invariant: a frame depends on the question alone. A Chinese question word stands where the
answer would; an English one moves to the front, so that the answer precedes the first word of content ("who built …")
or follows the last one ("what did they build?") or the preposition ("in what", "known for").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from miaotui.apps.segmentation import Word, words
from miaotui.retrieval.meaning.languages import is_chinese

_ASKING = frozenset(("what", "which", "who", "whom", "whose", "when", "where", "why", "how"))
_AUXILIARIES = frozenset(("is", "are", "was", "were", "did", "do", "does", "has", "have", "had", "can", "could"))
_AUXILIARIES |= {"would", "will", "should", "may", "might", "many", "much", "long", "old"}
PREPOSITIONS = frozenset(("of", "in", "on", "at", "by", "to", "from", "for", "with", "into", "against", "as", "during"))
PREPOSITIONS |= {"between", "through", "under", "over", "after", "before"}
_HAN_ASKING = re.compile(
    "为什么|什么|哪(?:一?[个些位种年天座所家支项类里儿])?|谁|何[时处地]|多少|几|多(?=[大高长远深快重])"
)
_REACH = 4  # characters or words that are compared on each side


@dataclass(frozen=True)
class QuestionFrame:
    """Opening of a question ("what did"), its preposition, its first and last terms, and the text on both sides of a
    Chinese question word; empty where the question has none.
    """

    opening: str = ""
    preposition: str = ""
    first: tuple[str, ...] = ()
    last: str = ""
    left: str = ""
    right: str = ""


def frame_of(question: str) -> QuestionFrame:
    """Return the frame of a question."""
    return _chinese(question) if is_chinese(question) else _english(words(question))


def _chinese(question: str) -> QuestionFrame:
    found = _HAN_ASKING.search(question)
    if found is None:
        return QuestionFrame()
    left, right = question[: found.start()], question[found.end() :].rstrip("？? 。")
    return QuestionFrame(found.group()[:2], left=left[-_REACH:], right=right[:_REACH])


def _english(each: Sequence[Word]) -> QuestionFrame:
    lower = [word.lower for word in each if not word.is_punctuation]
    terms = [word.term for word in each if not word.is_punctuation]
    at = next((place for place, word in enumerate(lower) if word in _ASKING), None)
    if at is None:
        return QuestionFrame()
    following = lower[at + 1] if at + 1 < len(lower) else ""
    opening = f"{lower[at]}_{following if following in _AUXILIARIES else ''}"
    preposition = next((word for word in (lower[at - 1] if at else "", lower[-1]) if word in PREPOSITIONS), "")
    after = [term for term in terms[at + 1 :] if term]
    return QuestionFrame(opening, preposition, tuple(after[:2]), after[-1] if after else "")


def frame_features(frame: QuestionFrame, each: Sequence[Word], first: int, last: int) -> Iterator[tuple[str, float]]:
    """Yield (name, value) of how well words ``first`` to ``last`` of a sentence stand in the frame."""
    if frame.left or frame.right:
        yield from _han_sides(frame, each, first, last)
    if not frame.first:
        return
    if frame.preposition:
        same = first > 0 and each[first - 1].lower == frame.preposition
        yield "frame_preposition" if same else "frame_no_preposition", 1.0
    before = next((word.term for word in reversed(each[:first]) if word.term), "")
    after = next((word.term for word in each[last + 1 :] if word.term), "")
    if before == frame.last:
        yield "frame_after_last", 1.0
        yield f"frame_after_last:{frame.opening}", 1.0
    for number, term in enumerate(frame.first):
        if after == term:
            yield f"frame_before_{number}", 1.0
            yield f"frame_before_{number}:{frame.opening}", 1.0


def _han_sides(frame: QuestionFrame, each: Sequence[Word], first: int, last: int) -> Iterator[tuple[str, float]]:
    """Yield how many characters on each side are those beside the question word."""
    before = "".join(word.text for word in each[max(0, first - _REACH) : first])
    after = "".join(word.text for word in each[last + 1 : last + 1 + _REACH])
    left = _shared(reversed(frame.left), reversed(before))
    right = _shared(frame.right, after)
    for side, count in (("left", left), ("right", right)):
        if count:
            yield f"frame_{side}", float(count)
            yield f"frame_{side}_any", 1.0
    if left and right:
        yield "frame_both", 1.0


def _shared(one: Iterator[str] | str, other: Iterator[str] | str) -> int:
    """Return how many characters two texts share at their beginnings."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
