"""Reasons why a short answer was not the right one, from search to the choice among candidates.

Used by ``spans.py``, which prints how many questions were lost for each. A reason is the first step at which the right
span was no longer there: its paragraph not found, the question refused, its sentence not read, no candidate, another
candidate preferred.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.apps.answers import Asked, Cut, f1, score
from miaotui.apps.answering import Answer
from miaotui.apps.evidence import Evidence
from miaotui.apps.spans.ranking import Span, all_spans
from miaotui.apps.spans.selection import select

RIGHT = "right"
REASONS = (
    RIGHT,
    "paragraph not found",
    "refused",
    "sentence not read",
    "no candidate",
    "part of it, or more than it",
    "another span",
)
UNLIMITED_TOKENS = 4_096


def reason(one: Asked, evidence: Evidence, answer: Answer, count: Callable[[str], int], cut: Cut) -> str:
    """The step at which the right span was lost, or `RIGHT`."""
    given = answer.span if answer.found else ""
    if score(given, one.answers, cut)[0] == 1.0:
        return RIGHT
    numbers = [number for number, passage in enumerate(evidence.passages) if passage.text == one.paragraph]
    if not numbers:
        return "paragraph not found"
    if not answer.found:
        return "refused"
    spans = _spans(evidence, answer, count)
    texts = [
        evidence.passages[n].text[slice(*each)] for n, each in {(s.passage, s.sentence) for s in spans} if n in numbers
    ]
    if not any(right in text for right in one.answers for text in texts):
        return "sentence not read"
    if not any(score(span.text, one.answers, cut)[0] == 1.0 for span in spans if span.passage in numbers):
        return "no candidate"
    overlap = max(f1(cut(given), cut(right)) for right in one.answers)
    return "part of it, or more than it" if overlap else "another span"


def _spans(evidence: Evidence, answer: Answer, count: Callable[[str], int]) -> list[Span]:
    """The candidates that the answer was chosen from."""
    if answer.how == "selected":
        return select(evidence, count, UNLIMITED_TOKENS).spans()
    texts = [passage.text for passage in evidence.passages]
    return all_spans(evidence.question, texts, () if evidence.signals is None else evidence.ranked)
