"""Results of correction: the corrected text, and each edit with its place in the text that was given.

Owns these values. Knows no models. Invariant: replacing ``given[start:end]`` by each edit's text gives the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TextEdit:
    """Replacement of ``before``, which is ``given[start:end]``, by ``after``.

    ``gain`` is the log-likelihood that the sentence gained by it, in nats.
    """

    start: int
    end: int
    before: str
    after: str
    gain: float


@dataclass(frozen=True, kw_only=True)
class CorrectedText:
    """Correction of one text; without ``edits`` it is the text itself."""

    index: int
    text: str | None = None
    edits: tuple[TextEdit, ...] = ()
    model: str = ""
    took_ms: float = 0.0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {name: value for name, value in asdict(self).items() if name != "error" or value is not None}


def applied(text: str, edits: Iterable[TextEdit]) -> str:
    """Return a text with edits, which do not overlap."""
    for edit in sorted(edits, key=lambda each: each.start, reverse=True):
        text = text[: edit.start] + edit.after + text[edit.end :]
    return text
