"""Translation of the pieces of one text: asked for, checked, asked for again where a check fails, put together.

Owns the order of attempts and the result. Knows models by `PieceModel`, which says how a piece is asked for.
Invariants: markup of the text is markup of the translation, to the character; a translation with a loop or an echo is
never given: after the last attempt the text has an error.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Generic, Protocol, TypeVar

from miaotui.translation.guards import fault_of, left_words
from miaotui.translation.markup import MarkupPiece, TextFormat, joined_pieces
from miaotui.translation.result import PieceOptions, Translation

MARKS = "*_`[]|<>~$"  # of Markdown


class PieceAnswer(Protocol):
    """The translation of a piece. ``is_cut``: it ended at its limit of tokens."""

    @property
    def text(self) -> str:
        """Return what was written."""

    @property
    def is_cut(self) -> bool:
        """Return whether it ended at its limit of tokens."""

    @property
    def probability(self) -> float:
        """Return the geometric mean of its tokens' probabilities."""


Request = TypeVar("Request")
Request_co = TypeVar("Request_co", covariant=True)
Answer = TypeVar("Answer", bound=PieceAnswer)
PieceSteps = Generator[Sequence[Request], Sequence[Answer], Translation]


class PieceModel(Protocol[Request_co]):
    """Way in which one kind of model is asked for translations.

    ``attempts`` are made at most; later ones, for alternatives, have higher numbers.
    """

    attempts: int

    def request(self, text: str, source: str, target: str, terms: Mapping[str, str], attempt: int) -> Request_co:
        """Return the request for a piece; ``terms`` are those of the glossary that it has."""


class PieceJob(Generic[Request, Answer]):
    """The pieces of one text and their translations so far.

    ``blank`` is the result without a text; its languages are codes that `guards` knows. ``places`` are the pieces that
    are translated.
    """

    def __init__(
        self,
        blank: Translation,
        pieces: Sequence[MarkupPiece],
        places: Sequence[int],
        options: PieceOptions,
        model: PieceModel[Request],
    ) -> None:
        self.blank, self.pieces, self.places, self.options = blank, list(pieces), places, options
        self.model = model

    def steps(self) -> PieceSteps[Request, Answer]:
        """Translate all pieces, ask again for those with a fault, then for alternatives."""
        done: dict[int, Answer] = {}
        faults: dict[int, str] = {}
        mixed: dict[int, Answer] = {}  # first answers that have words of the source
        retried = 0
        for attempt in range(self.model.attempts):
            left = [place for place in self.places if place not in done]
            if not left:
                break
            answers = yield [self._request(place, attempt) for place in left]
            for place, answer in zip(left, answers, strict=True):
                fault = self._fault(place, answer, attempt)
                if fault is None and attempt == 0 and self._left_words(place, answer):
                    mixed[place] = answer
                elif fault is None:
                    done[place] = answer
                    retried += attempt > 0
                elif place in mixed:
                    done[place] = mixed[place]
                faults[place] = fault or ""
        for place in self.places:
            if place not in done:
                shown = self.pieces[place].text[:40]
                attempts = self.model.attempts
                reason = f"texts[{self.blank.index}]: {faults[place]} in {attempts} attempts, at {shown!r}"
                return replace(self.blank, error=reason)
        probability = 1.0
        for answer in done.values():
            probability *= answer.probability ** (1.0 / len(done))
        others = yield from self._alternatives()
        return replace(
            self.blank,
            text=self._text({place: answer.text for place, answer in done.items()}),
            probability=probability,
            alternatives=tuple(others),
            missed_terms=self._missed(done),
            pieces=len(self.places),
            retried=retried,
        )

    def _alternatives(self) -> Generator[Sequence[Request], Sequence[Answer], list[str]]:
        """Ask for other translations, by sampling; those with a fault are left out."""
        found: list[str] = []
        last = self.model.attempts
        for number in range(self.options.alternatives):
            answers = yield [self._request(place, last + number) for place in self.places]
            given = dict(zip(self.places, answers, strict=True))
            if all(self._fault(place, answer, last) is None for place, answer in given.items()):
                text = self._text({place: answer.text for place, answer in given.items()})
                found += [text] if text not in found else []
        return found

    def _text(self, by_place: Mapping[int, str]) -> str:
        kept = [
            replaced(piece, by_place[place], self.options.form) if place in by_place else piece
            for place, piece in enumerate(self.pieces)
        ]
        return joined_pieces(kept)

    def _terms(self, text: str) -> dict[str, str]:
        """Return the terms of the glossary that a piece has."""
        folded = text.casefold()
        return {term: wanted for term, wanted in self.options.glossary.items() if term.casefold() in folded}

    def _missed(self, done: Mapping[int, Answer]) -> tuple[str, ...]:
        return tuple(
            term
            for place, answer in done.items()
            for term, wanted in self._terms(self.pieces[place].text).items()
            if wanted.casefold() not in answer.text.casefold()
        )

    def _fault(self, place: int, answer: Answer, attempt: int) -> str | None:
        text = self.pieces[place].text
        if answer.is_cut:
            return "the translation did not come to an end"
        fault = fault_of(text, answer.text, self.blank.source, self.blank.target)
        if fault is None and attempt < self.model.attempts - 1 and self._missed({place: answer}):
            return "the translation has not the glossary's term"
        return fault

    def _left_words(self, place: int, answer: Answer) -> list[str]:
        return left_words(self.pieces[place].text, answer.text, self.blank.target)

    def _request(self, place: int, attempt: int) -> Request:
        text = self.pieces[place].text
        return self.model.request(text, self.blank.source, self.blank.target, self._terms(text), attempt)


def replaced(piece: MarkupPiece, text: str, form: TextFormat) -> MarkupPiece:
    """Return a piece with its translation in its place: one line as the piece is, and no markup that it has not."""
    line = " ".join(text.split())
    if form == "html":
        line = escape(line, quote=False)
    elif form == "markdown":
        line = "".join(letter for letter in line if letter not in MARKS or letter in piece.text)
    return MarkupPiece(line, piece.translated)
