"""Results of summaries: the summary's text, and for each part of it where in the text it comes from.

Owns these values and the length that is asked for. Knows no models. Invariant: a part that was chosen is
``text[start:end]`` of the summarised text; for one that was written that is the passage which supports it.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from miaotui.errors import FieldError
from miaotui.tasks.summaries.units import UnitKind

SummaryMethod = Literal["extract", "write"]
WORDS_A_MINUTE, CHARACTERS_A_MINUTE = 228.0, 255.0  # Trauzettel-Klosinski and Dietz 2012: English, Chinese, aloud
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_WORD = re.compile("[^\\W\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+(?:['’.-][^\\W\u3400-\u9fff]+)*")


@dataclass(frozen=True)
class SummaryLength:
    """Largest length of a summary: of units, of words (Chinese: characters), and of seconds to read it aloud."""

    sentences: int | None = None
    words: int | None = None
    seconds: float | None = None
    unit: UnitKind = "sentence"

    def __post_init__(self) -> None:
        for name in ("sentences", "words", "seconds"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < math.inf):
                raise FieldError(name, f"must be a number above 0, not {value!r}")
        if self.unit not in ("sentence", "clause"):
            raise FieldError("unit", f"must be 'sentence' or 'clause', not {self.unit!r}")

    @property
    def most_units(self) -> int | None:
        """Return how many units it may have; one or three where nothing is asked for."""
        if self.sentences is None and self.words is None and self.seconds is None:
            return 3 if self.unit == "sentence" else 1
        return self.sentences

    def holds(self, text: str) -> bool:
        """Return whether a text is within words and seconds."""
        if self.words is not None and count_words(text) > self.words:
            return False
        return self.seconds is None or reading_seconds(text) <= self.seconds


@dataclass(frozen=True, kw_only=True)
class SummaryPart:
    """Sentence or clause of a summary; ``score`` is its share of the weight of all units, or its support."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, kw_only=True)
class TextSummary:
    """Summary of one text. ``dropped`` are sentences that a model wrote and the text does not support."""

    index: int
    text: str | None = None
    parts: tuple[SummaryPart, ...] = ()
    dropped: tuple[str, ...] = ()
    method: SummaryMethod = "extract"
    model: str = ""
    took_ms: float = 0.0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them; those that say nothing are left out."""
        empty = {"dropped": (), "error": None}
        return {name: value for name, value in asdict(self).items() if name not in empty or value != empty[name]}


def count_words(text: str) -> int:
    """Return the number of words; each Chinese character counts as one."""
    return len(_HAN.findall(text)) + len(_WORD.findall(text))


def reading_seconds(text: str) -> float:
    """Return the seconds that reading a text aloud takes."""
    characters = len(_HAN.findall(text))
    return 60.0 * (characters / CHARACTERS_A_MINUTE + len(_WORD.findall(text)) / WORDS_A_MINUTE)
