"""Results of a recommendation: items with scores, the history behind each, and what could not be used.

Owns these values. Knows no model. Invariant: items come best first, and an item of the history is none of them unless
it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from miaotui.tasks.result import RowError

Basis = Literal["history", "intent", "history and intent", "popularity", "item"]
"""Ground of a recommendation; popularity where neither a history nor an intent is known."""


@dataclass(frozen=True)
class Recommendation:
    """Item with its score, which is the sum of ``parts``.

    ``because_of``: items of the history that raise it most, each with its share of what the history adds.
    """

    item: str
    score: float
    text: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    because_of: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Recommendations:
    """Items for one user, history or intent, best first. ``errors``: rows of the history that were left out."""

    items: tuple[Recommendation, ...]
    basis: Basis
    user: str | None = None
    errors: tuple[RowError, ...] = ()
    took_ms: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return asdict(self)
