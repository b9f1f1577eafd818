"""Translation of one text by an encoder-decoder: sentence by sentence, each with the search of its attempt.

Owns which sources a text gives and what each attempt changes. Knows the order of attempts by `pieces`, and models by
`LoadedSeq2Seq`. Invariants: each sentence is a source of its own, so none is left out; a sentence that the model cannot
take whole is cut between words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from miaotui.engine.search.search import FoundTarget
from miaotui.engine.seq2seq.loaded import LoadedSeq2Seq, SourceTask
from miaotui.errors import FieldError, RequestError
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.text.seq2seq.languages import LONG_CODES
from miaotui.translation.languages import AUTO, LANGUAGES, detect, language_code
from miaotui.translation.markup import MarkupPiece, joined_pieces, pieces_of
from miaotui.translation.pieces import PieceJob
from miaotui.translation.result import MAX_CHARACTERS, PieceOptions, Translation

ATTEMPTS = 4
NGRAM = 3  # tokens of a run that the second attempt does not repeat
TEMPERATURES = (0.4, 0.8)  # of the third and the fourth
LONGEST, BESIDE = 3, 32  # target tokens for each of the source's, and beside them
_SHORT = {long: short for short, long in LONG_CODES.items()}
_SCRIPTS = {"Hans": "zh", "Hant": "zh", "Jpan": "ja", "Hang": "ko"}


@dataclass(frozen=True)
class SourceRequest:
    """A source whose target is wanted, and how it is searched for."""

    tokens: tuple[int, ...]
    settings: GenerationSettings


@dataclass(frozen=True)
class SourceAnswer:
    """The target of a source, as a translation of a piece."""

    text: str
    is_cut: bool
    probability: float


SourceSteps = Generator[Sequence[SourceRequest], Sequence[SourceAnswer], Translation]


class SourcePieces:
    """A `PieceModel` of encoder-decoders: by the model's own search, without repeated runs, then by sampling."""

    attempts = ATTEMPTS

    def __init__(self, task: SourceTask) -> None:
        self._task = task

    def request(self, text: str, source: str, target: str, terms: Mapping[str, str], attempt: int) -> SourceRequest:
        """Return the request for a piece, in which terms of the glossary stand as they are wanted."""
        tokens = tuple(self._task.source(with_terms(text, terms)))
        settings = self._task.settings
        most = max(LONGEST * len(tokens) + BESIDE, settings.min_length, len(settings.prefix) + 2)
        settings = replace(settings, max_length=min(settings.max_length, most))
        if attempt:
            settings = replace(settings, no_repeat_ngram_size=settings.no_repeat_ngram_size or NGRAM)
        if attempt > 1:
            hot = TEMPERATURES[min(attempt - 2, len(TEMPERATURES) - 1)]
            settings = replace(settings, num_beams=1, temperature=hot, seed=attempt)
        return SourceRequest(tokens, settings)


def source_steps(
    model: LoadedSeq2Seq, text: object, options: PieceOptions, settings: GenerationSettings, *, index: int = 0
) -> SourceSteps:
    """Ask for the translation of a text; a text that cannot be taken gives a result with an error."""
    blank = Translation(index=index, target=guard_code(options.target), model=options.model)
    try:
        if not isinstance(text, str):
            raise RequestError(f"must be a text, not {type(text).__name__}")
        if len(text) > MAX_CHARACTERS:
            raise RequestError(f"has {len(text):,} characters, at most {MAX_CHARACTERS:,} are taken: give parts of it")
        pieces = pieces_of(text, options.form, most=0)
        source, confidence = source_language(model, options, pieces)
        blank = replace(blank, source=guard_code(source), confidence=confidence)
        same = bool(source) and blank.source == blank.target
        task = model.translation(source or None, options.target, settings)
        pieces = fitting(pieces, lambda part: len(task.source(part)) <= model.max_tokens)
        places = [n for n, piece in enumerate(pieces) if piece.translated and not same]
        if not places:
            return replace(blank, text=text, probability=1.0)
        job: PieceJob[SourceRequest, SourceAnswer] = PieceJob(blank, pieces, places, options, SourcePieces(task))
        return (yield from job.steps())
    except RequestError as error:
        return replace(blank, error=f"texts[{index}]: {error}")


def answer_of(model: LoadedSeq2Seq, request: SourceRequest, found: FoundTarget) -> SourceAnswer:
    """Return the answer that a target is."""
    text, written, is_cut = model.text(found.tokens, request.settings)
    count = max(len(written), 1)
    mean = found.score * count**request.settings.length_penalty / count
    return SourceAnswer(text, is_cut, math.exp(min(mean, 0.0)))


def source_language(
    model: LoadedSeq2Seq, options: PieceOptions, pieces: Sequence[MarkupPiece]
) -> tuple[str, float | None]:
    """Return the language of a text, in the model's words, and how sure that is; it is detected where nothing says it.

    A model of one pair, and one whose sources carry no language, translate from what they translate from.
    """
    if options.source != AUTO:
        return options.source, None
    known = {pair[0] for pair in model.pairs if pair[1] == options.target}
    if len(known) == 1:
        return next(iter(known)), None
    found = detect(joined_pieces([piece for piece in pieces if piece.translated]))
    return found.code, found.confidence


def guard_code(code: str) -> str:
    """Return the code by which `guards` knows a language of a model; its own where they have no rule for it."""
    short = _SHORT.get(code) or _SCRIPTS.get(code.rpartition("_")[2]) or code
    try:
        return language_code(short.partition("_")[0] if short not in LANGUAGES else short, "target")
    except FieldError:
        return code


def with_terms(text: str, terms: Mapping[str, str]) -> str:
    """Return a text in which each term, whatever its case, stands as it is wanted: models keep such words mostly."""
    for term, wanted in terms.items():
        place, folded = 0, text.casefold()
        if len(folded) != len(text):  # places would not agree
            continue
        parts = []
        while (found := folded.find(term.casefold(), place)) >= 0:
            parts += [text[place:found], wanted]
            place = found + len(term)
        text = "".join([*parts, text[place:]])
    return text


def fitting(pieces: Sequence[MarkupPiece], fits: Callable[[str], bool]) -> list[MarkupPiece]:
    """Return pieces of which those that are translated fit the model."""
    return [part for piece in pieces for part in (_parts(piece.text, fits) if piece.translated else [piece])]


def _parts(text: str, fits: Callable[[str], bool]) -> Iterator[MarkupPiece]:
    """Cut a text in half between words until its parts fit; one word is cut anywhere."""
    if len(text) < 2 or fits(text):
        yield MarkupPiece(text, True)
        return
    middle = len(text) // 2
    spaces = [place for place, letter in enumerate(text) if letter.isspace() and 0 < place < len(text) - 1]
    cut = min(spaces, key=lambda place: abs(place - middle)) if spaces else middle
    yield from _parts(text[:cut], fits)
    if spaces:
        yield MarkupPiece(text[cut], False)
    yield from _parts(text[cut + bool(spaces) :], fits)
