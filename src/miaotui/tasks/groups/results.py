"""Results of `similar`, `duplicates` and `group`.

Owns these values. Knows neither models nor arithmetic. Invariant: a text that could not be taken has an ``error`` and
belongs to no group; the other texts have theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class SimilarText:
    """Text at ``index`` of those that were searched, and the cosine of its embedding with the query's."""

    index: int
    text: str
    similarity: float


@dataclass(frozen=True, kw_only=True)
class SimilarTexts:
    """Texts most like one query, the nearest first."""

    index: int
    found: tuple[SimilarText, ...] = ()
    model: str = ""
    took_ms: float = 0.0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return without_nothing(asdict(self))


@dataclass(frozen=True, kw_only=True)
class GroupedText:
    """Group of one text. ``group`` is None for a text without one; ``similarity`` is the cosine with its centre."""

    index: int
    group: int | None = None
    name: str | None = None
    similarity: float = 0.0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return without_nothing(asdict(self))


@dataclass(frozen=True, kw_only=True)
class TextGroup:
    """Group of texts: its ``name`` is made of ``words`` that are frequent in it and rare elsewhere.

    ``example`` is the index of the text that is nearest to the centre, ``cohesion`` the mean cosine with the centre.
    """

    number: int
    name: str
    words: tuple[str, ...]
    members: tuple[int, ...]
    example: int
    cohesion: float


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Groups, the largest first, and the group of each text, in the texts' order."""

    texts: tuple[GroupedText, ...] = ()
    groups: tuple[TextGroup, ...] = ()
    model: str = ""
    took_ms: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {
            "texts": [each.to_json() for each in self.texts],
            "groups": [asdict(each) for each in self.groups],
            "model": self.model,
            "took_ms": self.took_ms,
            "counts": dict(self.counts),
        }


def without_nothing(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields without an ``error`` that says nothing."""
    return {name: value for name, value in values.items() if name != "error" or value is not None}
