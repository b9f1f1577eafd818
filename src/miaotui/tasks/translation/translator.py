"""Translation of one text by a chat model, in pieces: asked for, checked, asked for again where a check fails.

Owns the prompts, the order of attempts and the result. Knows models by `WriteSteps`. Invariants: markup of the text
is markup of the translation, to the character; a translation with a loop or an echo is never given: after the last
attempt the text has an error.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from typing import Any

from miaotui.engine.grammar.source import Grammar, from_pattern
from miaotui.errors import FieldError, RequestError
from miaotui.tasks.checks import require_text
from miaotui.tasks.translation.guards import fault_of, left_words, names_of, weight
from miaotui.tasks.translation.languages import AUTO, LANGUAGES, detect, language_code
from miaotui.tasks.translation.markup import MarkupPiece, TextFormat, joined_pieces, pieces_of
from miaotui.tasks.writing.steps import WriteRequest, WrittenAnswer
from miaotui.types import SamplingParams

MAX_CHARACTERS = 200_000
MAX_TERMS = 256  # of a glossary
MAX_TERM_CHARACTERS = 200
MAX_ALTERNATIVES = 3
ATTEMPTS = 4
MAX_NAMES = 64  # of a piece that a translation may keep
MARKS = "*_`[]|<>~$"  # of Markdown
_NO_CJK = r"[^\u{3040}-\u{30ff}\u{3400}-\u{9fff}\u{ac00}-\u{d7af}]+"
_SHOTS: Mapping[str, str] = {  # a sentence whose translation is known, by language
    "en": "How was your day today?",
    "zh": "你今天过得怎么样？",
    "de": "Wie war dein Tag heute?",
    "fr": "Comment s'est passée ta journée ?",
    "es": "¿Qué tal tu día hoy?",
}


@dataclass(frozen=True)
class TranslationOptions:
    """Options of translations. ``glossary`` maps terms of the source to those of the target.

    Raises `FieldError` for languages that are not known, a glossary that is too large, and other wrong values.
    """

    target: str
    source: str = AUTO
    form: TextFormat = "text"
    glossary: Mapping[str, str] = field(default_factory=dict)
    alternatives: int = 0
    model: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", language_code(self.target, "target"))
        if self.source != AUTO:
            object.__setattr__(self, "source", language_code(self.source, "source"))
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


TranslationSteps = Generator[Sequence[WriteRequest], Sequence[WrittenAnswer], Translation]


def translation_steps(text: str, options: TranslationOptions, *, index: int = 0) -> TranslationSteps:
    """Ask for the translation of a text; a text that cannot be taken gives a result with an error."""
    blank = Translation(index=index, target=options.target, model=options.model)
    try:
        require_text(text, index, MAX_CHARACTERS)
        pieces = pieces_of(text, options.form)
        found = detect(joined_pieces([piece for piece in pieces if piece.translated]))
        source = found.code if options.source == AUTO else options.source
        blank = replace(blank, source=source, confidence=found.confidence if options.source == AUTO else None)
        places = [n for n, piece in enumerate(pieces) if piece.translated and source != options.target]
        if not places:
            return replace(blank, text=text, probability=1.0, alternatives=())
        job = _Job(blank, pieces, places, options)
        return (yield from job.steps())
    except RequestError as error:
        reason = str(error)
        return replace(blank, error=reason if reason.startswith("texts[") else f"texts[{index}]: {reason}")


class _Job:
    """The pieces of one text and their translations so far."""

    def __init__(
        self, blank: Translation, pieces: Sequence[MarkupPiece], places: Sequence[int], options: TranslationOptions
    ) -> None:
        self.blank, self.pieces, self.places, self.options = blank, list(pieces), places, options

    def steps(self) -> TranslationSteps:
        """Translate all pieces, ask again for those with a fault, then for alternatives."""
        done: dict[int, WrittenAnswer] = {}
        faults: dict[int, str] = {}
        mixed: dict[int, WrittenAnswer] = {}  # first answers that have words of the source
        retried = 0
        for attempt in range(ATTEMPTS):
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
                reason = f"texts[{self.blank.index}]: {faults[place]} in {ATTEMPTS} attempts, at {shown!r}"
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

    def _alternatives(self) -> Generator[Sequence[WriteRequest], Sequence[WrittenAnswer], list[str]]:
        """Ask for other translations, by sampling; those with a fault are left out."""
        found: list[str] = []
        for number in range(self.options.alternatives):
            answers = yield [self._request(place, ATTEMPTS + number) for place in self.places]
            given = dict(zip(self.places, answers, strict=True))
            if all(self._fault(place, answer, ATTEMPTS) is None for place, answer in given.items()):
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

    def _missed(self, done: Mapping[int, WrittenAnswer]) -> tuple[str, ...]:
        return tuple(
            term
            for place, answer in done.items()
            for term, wanted in self._terms(self.pieces[place].text).items()
            if wanted.casefold() not in answer.text.casefold()
        )

    def _fault(self, place: int, answer: WrittenAnswer, attempt: int) -> str | None:
        text = self.pieces[place].text
        if answer.is_cut:
            return "the translation did not come to an end"
        fault = fault_of(text, answer.text, self.blank.source, self.blank.target)
        if fault is None and attempt < ATTEMPTS - 1 and self._missed({place: answer}):
            return "the translation has not the glossary's term"
        return fault

    def _left_words(self, place: int, answer: WrittenAnswer) -> list[str]:
        return left_words(self.pieces[place].text, answer.text, self.blank.target)

    def _request(self, place: int, attempt: int) -> WriteRequest:
        text = self.pieces[place].text
        terms = self._terms(text)
        messages = messages_for(text, self.blank.source, self.blank.target, terms, with_example=attempt > 0)
        limit = weight(text) // 2 + 64
        if attempt == 0:
            return WriteRequest(messages, SamplingParams(max_tokens=limit, logprobs=0))
        grammar = None if attempt >= ATTEMPTS else grammar_for(self.blank.target, terms, text)
        if attempt == 1:
            params = SamplingParams(max_tokens=limit, logprobs=0, repetition_penalty=1.1)
        else:
            params = SamplingParams(max_tokens=limit, logprobs=0, temperature=0.7, top_p=0.9, seed=attempt)
        return WriteRequest(messages, params, grammar)


def replaced(piece: MarkupPiece, text: str, form: TextFormat) -> MarkupPiece:
    """Return a piece with its translation in its place: one line as the piece is, and no markup that it has not."""
    line = " ".join(text.split())
    if form == "html":
        line = escape(line, quote=False)
    elif form == "markdown":
        line = "".join(letter for letter in line if letter not in MARKS or letter in piece.text)
    return MarkupPiece(line, piece.translated)


def messages_for(
    text: str, source: str, target: str, terms: Mapping[str, str], *, with_example: bool = False
) -> list[dict[str, str]]:
    """Return the conversation that asks for the translation of a piece."""
    system = (
        f"You are a professional translator. Translate {LANGUAGES[source]} to {LANGUAGES[target]}. "
        "Reply with the translation only."
    )
    if terms:
        system += " Use these terms: " + "; ".join(f"{term} = {wanted}" for term, wanted in terms.items()) + "."
    messages = [{"role": "system", "content": system}]
    if with_example and source in _SHOTS and target in _SHOTS:
        messages += [{"role": "user", "content": _SHOTS[source]}, {"role": "assistant", "content": _SHOTS[target]}]
    return [*messages, {"role": "user", "content": text}]


def grammar_for(target: str, terms: Mapping[str, str], source: str) -> Grammar | None:
    """Return a grammar that later attempts are held to: the target's script, and the glossary's term if it is one.

    A Chinese or Japanese translation may have Latin letters in the names of the ``source`` alone.
    """
    if len(terms) == 1:
        (wanted,) = terms.values()
        return from_pattern(f"(?s:.*){escaped(wanted)}(?s:.*)")
    if target in ("zh", "ja") and not terms:
        names = "".join(f"|{name}" for name in names_of(source)[:MAX_NAMES])
        return from_pattern(f"(?:[^A-Za-z]{names})+")
    if target not in ("zh", "ja", "ko"):
        return from_pattern(_NO_CJK.replace("\\u{", "\\x{"))
    return None


def escaped(text: str) -> str:
    """Return a pattern that matches a text, by code points."""
    return "".join(letter if letter.isalnum() else f"\\x{{{ord(letter):x}}}" for letter in text)
