"""Requirements of a text that can be checked: lengths, words, case, form, beginning and end.

Owns the list of requirements and their checks. Knows no models. Invariant: a check looks at the text alone. Source:
Zhou et al. 2023, arXiv:2311.07911 (IFEval), table 4, whose verifiable instructions these are; words are runs of
letters and digits, Chinese ones characters, and sentences are those of `retrieval.sentences`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from miaotui.errors import FieldError
from miaotui.retrieval.sentences import sentences

LetterCase = Literal["lower", "upper"]
STARS = "***"  # between paragraphs where that is asked for
SIX_STARS = "******"  # between two answers
BULLET = re.compile(r"^\s*(?:\*[^*].*|-.*)$", re.MULTILINE)
PLACEHOLDER = re.compile(r"\[.*?\]")
HIGHLIGHT = re.compile(r"\*[^\n*]+\*")
TITLE = re.compile(r"<<[^\n]+>>")
WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
_FENCE = re.compile(r"^```(?:json|JSON|Json)?\s*|\s*```$")


class Bound(NamedTuple):
    """Bounds of a count, both included."""

    least: int = 0
    most: int = 1 << 30

    def holds(self, count: int) -> bool:
        """Return whether a count is within."""
        return self.least <= count <= self.most


@dataclass(frozen=True, kw_only=True)
class TextRequirements:
    """Requirements of a text; None and empty ones ask for nothing.

    ``include`` and ``letters`` bound how often words and letters come (without regard to case); ``first_words`` maps
    the number of a paragraph, from 1, to the word that it begins with; ``separator`` stands between ``paragraphs``.
    ``sections`` is the heading's word and how many; ``two_answers`` are two different ones with ``******`` between.
    Raises `FieldError` for what contradicts itself.
    """

    words: Bound | None = None
    sentences: Bound | None = None
    paragraphs: int | None = None
    separator: str = "\n\n"
    first_words: Mapping[int, str] = field(default_factory=dict)
    bullets: int | None = None
    sections: tuple[str, int] | None = None
    highlights: int = 0
    placeholders: int = 0
    include: Mapping[str, Bound] = field(default_factory=dict)
    avoid: tuple[str, ...] = ()
    letters: Mapping[str, Bound] = field(default_factory=dict)
    capital_words: Bound | None = None
    case: LetterCase | None = None
    without_commas: bool = False
    as_json: bool = False
    schema: Mapping[str, Any] | None = None
    choices: tuple[str, ...] = ()
    title: bool = False
    begin: str = ""
    end: str = ""
    postscript: str = ""
    quoted: bool = False
    two_answers: bool = False
    language: str | None = None

    def __post_init__(self) -> None:
        for name, bound in (("words", self.words), ("sentences", self.sentences), *self.include.items()):
            if bound is not None and (bound.least > bound.most or bound.least < 0):
                raise FieldError(name, f"must have bounds in order, not {bound.least} to {bound.most}")
        if self.paragraphs is not None and not 0 < self.paragraphs <= 100:
            raise FieldError("paragraphs", f"must be from 1 to 100, not {self.paragraphs}")
        both = {word.casefold() for word, bound in self.include.items() if bound.least} & set(
            map(str.casefold, self.avoid)
        )
        if both:
            raise FieldError("avoid", f"{min(both)!r} is to be used and to be avoided")

    def checks(self, text: str) -> dict[str, bool]:
        """Return, for each requirement that is there, whether a text fulfils it."""
        return {name: check(self, text) for name, check in _CHECKS.items() if _asked(getattr(self, name))}

    def holds(self, text: str) -> bool:
        """Return whether a text fulfils all requirements."""
        return bool(text.strip()) and all(self.checks(text).values())


def _asked(value: Any) -> bool:
    return value is not None and value is not False and value not in ((), "", 0) and value != {}


def count_of(word: str, text: str) -> int:
    """Return how often a word or phrase comes in a text, without regard to case."""
    edge = r"\b" if word[:1].isascii() and word[:1].isalnum() else ""
    last = r"\b" if word[-1:].isascii() and word[-1:].isalnum() else ""
    return len(re.findall(edge + re.escape(word) + last, text, re.IGNORECASE))


def paragraphs_of(text: str, separator: str) -> list[str]:
    """Return the paragraphs between separators; empty ones at the ends are left out."""
    parts = re.split(r"\s?\*\*\*\s?" if separator == STARS else r"\n\s*\n", text)
    return [part.strip() for part in parts if part.strip()]


def capitals(text: str) -> list[str]:
    """Return the words that are in capital letters."""
    return [word for word in re.findall(r"[^\W\d_][\w'’-]*", text) if word.isupper()]


def is_json(text: str) -> bool:
    """Return whether a text is JSON, perhaps in a fence of Markdown."""
    try:
        json.loads(_FENCE.sub("", text.strip()))
    except (ValueError, RecursionError):
        return False
    return True


def section_count(word: str, text: str) -> int:
    """Return how many sections have a heading that begins with the word and a number."""
    return len(re.findall(rf"\s?{re.escape(word)}\s?\d+\s?", text))


def answers_of(text: str) -> list[str]:
    """Return the answers between six stars."""
    return [part.strip() for part in text.split(SIX_STARS) if part.strip()]


def _first_words(self: TextRequirements, text: str) -> bool:
    parts = paragraphs_of(text, self.separator)
    return all(
        number <= len(parts) and parts[number - 1].lstrip("\"'“‘").casefold().startswith(word.casefold())
        for number, word in self.first_words.items()
    )


def _language(self: TextRequirements, text: str) -> bool:
    from miaotui.translation.languages import detect  # noqa: PLC0415  (few texts need it)

    return detect(text).code == self.language


def _two_answers(self: TextRequirements, text: str) -> bool:
    found = answers_of(text)
    return len(found) == 2 and found[0] != found[1]


Check = Callable[[TextRequirements, str], bool]
_CHECKS: Mapping[str, Check] = {
    "words": lambda self, text: self.words is not None and self.words.holds(len(WORD.findall(text))),
    "sentences": lambda self, text: self.sentences is not None and self.sentences.holds(len(sentences(text))),
    "paragraphs": lambda self, text: len(paragraphs_of(text, self.separator)) == self.paragraphs,
    "first_words": _first_words,
    "bullets": lambda self, text: len(BULLET.findall(text)) == self.bullets,
    "sections": lambda self, text: (
        self.sections is not None and section_count(self.sections[0], text) >= self.sections[1]
    ),
    "highlights": lambda self, text: len(HIGHLIGHT.findall(text)) >= self.highlights,
    "placeholders": lambda self, text: len(PLACEHOLDER.findall(text)) >= self.placeholders,
    "include": lambda self, text: all(bound.holds(count_of(word, text)) for word, bound in self.include.items()),
    "avoid": lambda self, text: not any(count_of(word, text) for word in self.avoid),
    "letters": lambda self, text: all(
        bound.holds(text.casefold().count(letter.casefold())) for letter, bound in self.letters.items()
    ),
    "capital_words": lambda self, text: (
        self.capital_words is not None and self.capital_words.holds(len(capitals(text)))
    ),
    "case": lambda self, text: text == (text.lower() if self.case == "lower" else text.upper()),
    "without_commas": lambda self, text: "," not in text and "，" not in text,
    "as_json": lambda self, text: is_json(text),
    "schema": lambda self, text: is_json(text),
    "choices": lambda self, text: any(choice in text for choice in self.choices),
    "title": lambda self, text: any(found.strip("<> ") for found in TITLE.findall(text)),
    "begin": lambda self, text: text.strip().casefold().startswith(self.begin.strip().casefold()),
    "end": lambda self, text: text.strip().strip('"').casefold().endswith(self.end.strip().casefold()),
    "postscript": lambda self, text: self.postscript.casefold() in text.casefold(),
    "quoted": lambda self, text: len(text.strip()) > 1 and text.strip()[0] == '"' == text.strip()[-1],
    "two_answers": _two_answers,
    "language": _language,
}
