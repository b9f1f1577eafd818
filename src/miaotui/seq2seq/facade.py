"""The meaning of calls to an encoder-decoder: their options, sources and results, for threads and event loops alike.

Owns `Seq2SeqFacade`, the base of `Seq2Seq` and `AsyncSeq2Seq`. Knows neither how they wait nor how a model is opened.
Invariant: a call whose options or texts are wrong is refused before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from miaotui.closing import LoopHolder
from miaotui.engine.search.search import FoundTarget
from miaotui.engine.seq2seq.loaded import LoadedSeq2Seq, SourceTask
from miaotui.engine.seq2seq.loop import Seq2SeqLoop, Wanted
from miaotui.errors import RequestError
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.submission import require_known
from miaotui.translation.languages import AUTO
from miaotui.translation.markup import TextFormat
from miaotui.translation.result import PieceOptions
from miaotui.translation.rounds import TextRounds
from miaotui.translation.sources import SourceAnswer, SourceRequest, answer_of, source_steps

SEARCH_OPTIONS = tuple(each.name for each in fields(GenerationSettings))


@dataclass(frozen=True)
class TargetText:
    """Text that an encoder-decoder wrote. ``score``: mean log-probability of its tokens, by the length's penalty.

    ``is_cut``: it ended at the limit of its length.
    """

    text: str
    score: float
    token_ids: tuple[int, ...]
    source_tokens: int
    is_cut: bool


class Seq2SeqFacade(LoopHolder[Seq2SeqLoop]):
    """Base of `Seq2Seq` and `AsyncSeq2Seq`: one loop, its model, and what calls to it mean."""

    @property
    def model(self) -> LoadedSeq2Seq:
        """Return the model's parts. Raises `EngineError` when the model is closed."""
        return self.loop.model

    @property
    def languages(self) -> list[str]:
        """Return the codes of the languages that `translate` takes; empty for a model that has no codes."""
        return sorted(self.model.tokenizer.languages)

    def settings(self, search: Mapping[str, Any]) -> GenerationSettings:
        """Return the model's settings of a search with the options of a call. Raises `RequestError`."""
        require_known(search, SEARCH_OPTIONS)
        return replace(self.model.generation, **search)

    def plain_task(self, source: str | None, target: str | None, search: Mapping[str, Any]) -> SourceTask:
        """Return the task of texts as they are, between two languages if they are named. Raises `RequestError`."""
        settings = self.settings(search)
        named = source is not None or target is not None
        return self.model.translation(source, target, settings) if named else self.model.plain(settings)

    def wanted(self, texts: str | Iterable[str], task: SourceTask) -> list[Wanted]:
        """Return the sources of texts. Raises `RequestError`."""
        return [(task.source(text), task.settings) for text in listed_texts(texts)]

    def target_text(self, found: FoundTarget, wanted: Wanted) -> TargetText:
        """Return a target as text."""
        source, settings = wanted
        text, written, is_cut = self.model.text(found.tokens, settings)
        return TargetText(text, found.score, written, len(source), is_cut)

    def translation_rounds(
        self, texts: Iterable[object], options: PieceOptions, search: Mapping[str, Any]
    ) -> TextRounds:
        """Return the translation of texts, to be run round by round. Raises `RequestError`."""
        settings = self.settings(search)
        if options.source != AUTO:
            self.model.translation(options.source, options.target, settings)  # says what is wrong with the languages
        given = enumerate(texts)
        return TextRounds([source_steps(self.model, text, options, settings, index=index) for index, text in given])

    def answers(self, requests: Sequence[SourceRequest], found: Sequence[FoundTarget]) -> list[SourceAnswer]:
        """Return the answers that targets are."""
        return [answer_of(self.model, *each) for each in zip(requests, found, strict=True)]


def piece_options(
    model: LoadedSeq2Seq,
    source: str | None,
    target: str | None,
    form: TextFormat,
    glossary: Mapping[str, str] | None,
    alternatives: int,
) -> PieceOptions:
    """Return the options of a translation; a model of one pair need not be told its languages. Raises `FieldError`."""
    pair = model.pairs[0] if len(model.pairs) == 1 else ("", "")
    if not target:
        model.translation(source, target, model.generation)  # says what is missing where there are several
    wanted = target or pair[1]
    return PieceOptions(wanted, source or pair[0] or AUTO, form, dict(glossary or {}), alternatives)


def listed_texts(texts: str | Iterable[str]) -> list[str]:
    """Return one text or several as a list. Raises `RequestError` for what is no text."""
    given = [texts] if isinstance(texts, str) else list(texts)
    if not all(isinstance(text, str) for text in given):
        raise RequestError("texts must be strings: give one, or several")
    return given
