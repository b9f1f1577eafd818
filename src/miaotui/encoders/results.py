"""Results of encoders: labels, tagged spans, fills of a mask, ranked documents.

Plain values. They lie apart from `miaotui.types`, so that a start without an encoder does not make them. Invariant: a
score is in 0..1; what a model gives otherwise is called raw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Classification:
    """A text's label: the likeliest one, and the probability of each (independent ones of a multi-label model)."""

    label: str
    score: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class TaggedSpan:
    """A stretch of a text with a label. ``text[start:end]`` is the stretch, in characters."""

    label: str
    score: float
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class MaskFill:
    """A token for a mask, its probability, and the whole text with it."""

    token_id: int
    token: str
    score: float
    text: str


@dataclass(frozen=True)
class RankedDocument:
    """A document's place in a ranking. ``score`` is in 0..1, ``raw_score`` as the model gives it.

    ``dropped`` tokens were cut off its end. A document that could not be ranked has an ``error`` and no scores.
    """

    index: int
    score: float | None
    raw_score: float | None
    dropped: int = 0
    error: str | None = None
