"""Extractive summaries: the units of a text that say most of it, without saying it twice.

Owns the learned mixture of features and the choice under a length. Knows encoders as functions from texts to unit
vectors. Invariants: a summary's parts stand in the order of the text; the choice depends on the text alone. Sources:
Carbonell and Goldstein 1998 (maximal marginal relevance); Cao et al. 2007 (ListNet, by which
`benchmarks/tasks/summaries.py --fit` learns the mixture, on 200 abstracts of scitldr and the dev part of csl-titles).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from miaotui.errors import FieldError
from miaotui.retrieval.query.analysis import has_chinese
from miaotui.tasks.checks import require_text
from miaotui.tasks.summaries.features import NAMES, Doubles, features_of
from miaotui.tasks.summaries.result import SummaryLength, SummaryPart, TextSummary
from miaotui.tasks.summaries.units import TextUnit, UnitKind, units_of

MAX_CHARACTERS = 1 << 20
REDUNDANCY = 3.0  # by how much likeness to what is chosen already lowers a unit's log-weight
LEAST_TERMS = 3  # of a unit that says something, where the text has such
TWICE = 0.8  # likeness from which a unit says what was said
Vectors = Callable[[Sequence[str]], Doubles]

WEIGHTS: Mapping[UnitKind, Sequence[float]] = {  # of `NAMES`
    "sentence": (-0.23, -0.5, -0.1, -1.27, 2.5, -1.87, 5.49, 0.71, 2.79, -0.45, 0.91, -3.4),
    "clause": (0.85, 0.41, 0.63, -0.68, 1.34, 0.83, 4.66, 0.56, 1.97, -1.6, 0.55, -2.26),
}


def extract_summary(text: str, length: SummaryLength, *, index: int = 0, vectors: Vectors | None = None) -> TextSummary:
    """Return the summary of a text by its own units. Raises `FieldError` for a text without any."""
    require_text(text, index, MAX_CHARACTERS)
    units = units_of(text, length.unit)
    if not any(unit.terms for unit in units):
        raise FieldError(f"texts[{index}]", "has no words to summarise")
    features, likeness = features_of(units, None if vectors is None else vectors([unit.text for unit in units]))
    weights = features @ np.asarray(WEIGHTS[length.unit])
    shares = np.exp(weights - weights.max())
    shares /= shares.sum()
    chosen = choose(units, weights, likeness, length)
    parts = tuple(
        SummaryPart(text=units[n].text, start=units[n].start, end=units[n].end, score=float(shares[n])) for n in chosen
    )
    return TextSummary(index=index, text=joined([part.text for part in parts]), parts=parts)


def choose(units: Sequence[TextUnit], weights: Doubles, likeness: Doubles, length: SummaryLength) -> list[int]:
    """Return the places of the chosen units, in order: one at least, others as long as the length holds."""
    chosen: list[int] = []
    most = length.most_units or len(units)
    least = min(LEAST_TERMS, max(len(unit.terms) for unit in units))
    left = [place for place, unit in enumerate(units) if len(unit.terms) >= least]
    while left and len(chosen) < most:
        said = [float(likeness[place, chosen].max()) if chosen else 0.0 for place in left]
        values = [weights[place] - REDUNDANCY * each for place, each in zip(left, said, strict=True)]
        best = int(np.argmax(values))
        place, is_new = left.pop(best), said[best] < TWICE
        whole = joined([units[each].text for each in sorted([*chosen, place])])
        if is_new and (not chosen or length.holds(whole)):
            chosen.append(place)
    if not length.holds(joined([units[place].text for place in chosen])):
        chosen = [min(left + chosen, key=lambda each: (not length.holds(units[each].text), -weights[each]))]
    return sorted(chosen)


def joined(parts: Sequence[str]) -> str:
    """Return parts as one text: Chinese ones follow each other without a blank."""
    text = ""
    for part in (" ".join(each.split("\n")) for each in parts):
        if text and not (has_chinese(text[-2:]) or (text[-1] in "。！？；" and has_chinese(part[:2]))):
            text += " "
        elif text and text[-1].isalnum():
            text += "，"
        text += part
    return text


assert all(len(weights) == len(NAMES) for weights in WEIGHTS.values()), "a weight for each feature"
