"""Typed results that all tasks share: a label or none, its probability, where it came from, and how long it took.

Owns these values and abstention. Knows neither models nor arithmetic. Invariants: ``scores`` sum to 1; a text that
could not be taken has an ``error`` and no scores, and the other texts have theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Source = Literal["examples", "label names", "logits", "model head"]
"""Source of a label: a head fitted to examples, likeness to names of labels, a language model's logits, or a
model's own head."""


@dataclass(frozen=True)
class WordEffect:
    """Word of a text, ``text[start:end]``, and by how much it raises the label's log-odds (negative: lowers)."""

    word: str
    start: int
    end: int
    effect: float


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Label of one text. ``label`` is None where the task abstains: ``best`` is the likeliest label all the same.

    ``probability`` is that of ``best``; ``calibrated`` says whether its temperature was fitted on held-out examples.
    ``took_ms`` is from the call to this result. ``dropped_tokens`` were cut off the text's end.
    """

    index: int
    label: str | None = None
    best: str | None = None
    probability: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)
    source: Source | None = None
    model: str = ""
    calibrated: bool = False
    took_ms: float = 0.0
    dropped_tokens: int = 0
    error: str | None = None
    words: tuple[WordEffect, ...] = ()  # that carry the label, the strongest first, if asked for

    @property
    def abstained(self) -> bool:
        """Return whether a text that could be read has no label."""
        return self.error is None and self.label is None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them; those that say nothing are left out."""
        empty = {"dropped_tokens": 0, "error": None, "words": ()}
        return {name: value for name, value in asdict(self).items() if name not in empty or value != empty[name]}


@dataclass(frozen=True, kw_only=True)
class LabelledText(TaskResult):
    """Result of `classify`."""


@dataclass(frozen=True, kw_only=True)
class Sentiment(TaskResult):
    """Result of `sentiment`: positive, negative or neutral."""


@dataclass(frozen=True)
class RowError:
    """Reason why one row of examples was left out."""

    index: int
    reason: str
