"""Support of a written sentence by the text that it summarises: its words and all its numbers must be found there.

Owns the measure. Knows no models. Invariant: a sentence with a number or a name that the text does not have is
unsupported, however much else of it is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from miaotui.tasks.summaries.units import TextUnit, units_of

LEAST = 0.6  # share of a sentence's terms that one place of the text must have
SPAN = 3  # sentences of the text that together may support one
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][A-Za-z]+")


class Supported(NamedTuple):
    """Share of a sentence's terms that ``text[start:end]`` has, and that place."""

    share: float
    start: int
    end: int


def support_of(sentence: str, text: str, units: Sequence[TextUnit] | None = None) -> Supported:
    """Return where a text supports a sentence best; a share of 0 for numbers or names that the text has not."""
    places = units_of(text) if units is None else units
    terms = {term for unit in units_of(sentence) for term in unit.terms}
    if not places or not terms:
        return Supported(0.0, 0, 0)
    numbers = set(_NUMBER.findall(text))
    folded = text.casefold()
    strange = [each for each in _NUMBER.findall(sentence) if each not in numbers]
    strange += [each for each in _NAME.findall(sentence) if each.casefold() not in folded]
    best = Supported(-1.0, 0, 0)
    for first in range(len(places)):
        seen: set[str] = set()
        for last in range(first, min(first + SPAN, len(places))):
            seen |= set(places[last].terms)
            share = len(terms & seen) / len(terms) - 1e-6 * (last - first)
            if share > best.share:
                best = Supported(share, places[first].start, places[last].end)
    return best._replace(share=0.0 if strange else max(best.share, 0.0))
