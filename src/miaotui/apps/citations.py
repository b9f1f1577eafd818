"""Numbered citations, checked: a passage is cited only for what it says.

Owns the check (shared content words, all numbers) and the stream in which a model's own markers are examined, dropped
or replaced. Knows no model. Invariant: the resulting text is the model's except for ``[n]`` markers, each of which
stands after a sentence that passage n supports. It does not depend on how the text was cut into pieces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from miaotui.apps.segmentation import terms_of

SUPPORTED = 0.6  # of a sentence's content words
_MARKER = re.compile(r"\s?[\[【](?:\d{1,2})(?:\s?[,，、]\s?\d{1,2})*[\]】]")
_NUMBERS_IN = re.compile(r"\d{1,2}")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_OPEN = re.compile(r"\s?[\[【][\d\s,，、]{0,8}$|\s$")
_ABBREVIATION = re.compile(r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|No|Inc|Ltd|Co)|\.[A-Za-z])\.$")
_ENDS, _CLOSING = "。！？!?\n", "”’\"')）」』"


def support(statement: str, passage_terms: set[str], passage: str) -> float:
    """Return the share of a statement's content words that a passage has; 0 if a number is missing there."""
    numbers = {_plain(number) for number in _NUMBER.findall(statement)}
    if not numbers <= {_plain(number) for number in _NUMBER.findall(passage)}:
        return 0.0
    terms = {term for term in terms_of(statement) if not term[0].isdigit()}
    folded = passage.casefold()
    return sum(t in passage_terms or t in folded for t in terms) / len(terms) if terms else float(bool(numbers))


def _plain(number: str) -> str:
    return number.replace(",", "").rstrip(".")


@dataclass(frozen=True)
class Cited:
    """Sentence of an answer and the number (from 1) of the passage that supports it, or None."""

    sentence: str
    passage: int | None
    support: float


@dataclass
class Citing:
    """Stream of text in pieces that returns text with checked markers.

    ``passages`` are numbered from 1. `cited` has one entry for each sentence so far, `dropped` the numbers that the
    text claimed without support.
    """

    passages: Sequence[str]
    cited: list[Cited] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    _held: str = ""
    _sentence: str = ""
    _claimed: list[int] = field(default_factory=list)
    _terms: list[set[str]] = field(default_factory=list)

    def push(self, piece: str) -> str:
        """Add a piece of text. Returns the text that can be shown now."""
        self._held += piece
        held = _OPEN.search(self._held)
        ready = self._held[: held.start()] if held else self._held
        self._held = self._held[len(ready) :]
        return self._take(ready)

    def close(self) -> str:
        """Return the rest, with the last sentence's marker."""
        rest, self._held = self._held, ""
        text = self._take(rest)
        return (text if text.strip() else "") + self._end()

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the passages cited so far, each once, in order of appearance."""
        return tuple(dict.fromkeys(c.passage for c in self.cited if c.passage is not None))

    @property
    def all_supported(self) -> bool:
        """Return whether every sentence so far has a passage."""
        return bool(self.cited) and all(each.passage is not None for each in self.cited)

    def _take(self, text: str) -> str:
        out, place = [], 0
        for match in _MARKER.finditer(text):
            out.append(self._plain(text[place : match.start()]))
            self._claimed += map(int, _NUMBERS_IN.findall(match.group()))
            place = match.end()
        out.append(self._plain(text[place:]))
        return "".join(out)

    def _plain(self, text: str) -> str:
        """Add text without markers. A sentence's marker goes where the next one begins."""
        out = []
        for letter in text:
            if self._is_over(letter):
                out.append(self._end())
            out.append(letter)
            self._sentence += letter
        return "".join(out)

    def _is_over(self, letter: str) -> bool:
        """Return whether the sentence ended before this letter."""
        said = self._sentence.rstrip(_CLOSING)
        if letter in _CLOSING + _ENDS or not said.strip():
            return False
        if said[-1] in _ENDS:
            return True
        return letter.isspace() and said.endswith(".") and not _ABBREVIATION.search(said)

    def _end(self) -> str:
        """End a sentence. Returns its marker, and stores its entry."""
        sentence, self._sentence = self._sentence.strip(), ""
        claimed, self._claimed = self._claimed, []
        if not any(letter.isalnum() for letter in sentence):
            return ""
        if not self._terms:
            self._terms = [terms_of(passage) for passage in self.passages]
        found = [support(sentence, terms, passage) for terms, passage in zip(self._terms, self.passages, strict=True)]
        named = [n for n in claimed if 1 <= n <= len(found) and found[n - 1] >= SUPPORTED]
        self.dropped += [n for n in claimed if n not in named]
        choice = named or [n for n, share in enumerate(found, 1) if share >= SUPPORTED]
        if not choice:
            self.cited.append(Cited(sentence, None, max(found, default=0.0)))
            return ""
        best = max(choice, key=lambda n: (found[n - 1], -n))
        self.cited.append(Cited(sentence, best, found[best - 1]))
        return f" [{best}]"
