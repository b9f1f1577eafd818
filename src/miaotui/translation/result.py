"""Options and result of the translation of one text, for chat models and encoder-decoders alike.

Owns the ranges of options. Knows no models. Invariant: existing options have been checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from miaotui.errors import FieldError
from miaotui.translation.languages import AUTO, language_code
from miaotui.translation.markup import TextFormat

MAX_CHARACTERS = 200_000
MAX_TERMS = 256  # of a glossary
MAX_TERM_CHARACTERS = 200
MAX_ALTERNATIVES = 3


@dataclass(frozen=True)
class PieceOptions:
    """Options of a translation, whose languages are whatever the model calls them.

    ``glossary`` maps terms of the source to those of the target. Raises `FieldError` for wrong values.
    """

    target: str
    source: str = AUTO
    form: TextFormat = "text"
    glossary: Mapping[str, str] = field(default_factory=dict)
    alternatives: int = 0
    model: str = ""

    def __post_init__(self) -> None:
        if self.form not in ("text", "html", "markdown"):
            raise FieldError("format", f"must be text, html or markdown, not {str(self.form)[:40]!r}")
        if not 0 <= self.alternatives <= MAX_ALTERNATIVES:
            raise FieldError("alternatives", f"must be from 0 to {MAX_ALTERNATIVES}, not {self.alternatives!r}")
        if len(self.glossary) > MAX_TERMS:
            raise FieldError("glossary", f"may have {MAX_TERMS} terms, not {len(self.glossary)}")
        for pair in self.glossary.items():
            if not all(isinstance(term, str) and 0 < len(term) <= MAX_TERM_CHARACTERS for term in pair):
                raise FieldError(
                    "glossary", f"terms must be texts of 1 to {MAX_TERM_CHARACTERS} characters: {pair!r:.80}"
                )


@dataclass(frozen=True)
class TranslationOptions(PieceOptions):
    """Options of translations by chat models. Raises `FieldError` for languages that are not known, too."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", language_code(self.target, "target"))
        if self.source != AUTO:
            object.__setattr__(self, "source", language_code(self.source, "source"))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class Translation:
    """Translation of one text. ``probability`` is the mean of its tokens' (a geometric one), not calibrated.

    ``confidence`` is that of the detected language, None where the source was named. ``missed_terms`` are terms of the
    glossary that the model did not use; ``retried`` pieces passed the checks at a later attempt.
    """

    index: int
    text: str | None = None
    source: str = ""
    target: str = ""
    confidence: float | None = None
    probability: float = 0.0
    alternatives: tuple[str, ...] = ()
    missed_terms: tuple[str, ...] = ()
    pieces: int = 0
    retried: int = 0
    model: str = ""
    took_ms: float = 0.0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them; those that say nothing are left out."""
        empty = {"alternatives": (), "missed_terms": (), "error": None, "confidence": None}
        return {name: value for name, value in asdict(self).items() if name not in empty or value != empty[name]}
