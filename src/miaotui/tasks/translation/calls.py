"""The call `translate`: it opens the model that it needs and closes it after.

Owns the default model. Knows no prompts. Invariant: a model that a caller gives stays open.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from miaotui.seq2seq.model import Seq2Seq
from miaotui.tasks.translation.translator import translation_steps
from miaotui.tasks.vectors import listed
from miaotui.tasks.writing.open import WritingModel, opened_writer
from miaotui.tasks.writing.writer import Writer
from miaotui.translation.languages import AUTO, model_language
from miaotui.translation.markup import TextFormat
from miaotui.translation.result import PieceOptions, Translation, TranslationOptions

TRANSLATION_MODEL = "qwen2.5-coder-0.5b"


def translate(
    texts: str | Iterable[str],
    target: str,
    *,
    source: str = AUTO,
    format: TextFormat = "text",
    glossary: Mapping[str, str] | None = None,
    alternatives: int = 0,
    model: WritingModel = TRANSLATION_MODEL,
    deadline_ms: float | None = None,
) -> list[Translation]:
    """Return the translation of each text; a text that cannot be taken, or translated soundly, has an error.

    Languages are codes or English names; the ``source`` is detected unless it is named. ``format`` is ``text``,
    ``html`` or ``markdown``, whose markup is kept. ``glossary`` maps terms of the source to those of the target.
    ``model`` is a chat model or an encoder-decoder that translates. Raises a `MiaotuiError`.
    """
    given = listed(texts)
    with opened_writer(model) as opened:
        if isinstance(opened, Seq2Seq):
            plain = PieceOptions(target, source, format, dict(glossary or {}), alternatives)
            return translated_by(opened, given, plain, deadline_ms=deadline_ms)
        options = TranslationOptions(target, source, format, dict(glossary or {}), alternatives)
        return translated(Writer(opened), given, options, deadline_ms=deadline_ms)


def translated_by(
    model: Seq2Seq, texts: Sequence[str], options: PieceOptions, *, first: int = 0, deadline_ms: float | None = None
) -> list[Translation]:
    """Return translations by an open encoder-decoder, whose languages may be named in English too.

    ``first`` is the number of the first text.
    """
    began_s = time.perf_counter()
    found = model.translate(
        texts,
        source=None if options.source == AUTO else model_language(options.source),
        target=model_language(options.target),
        format=options.form,
        glossary=options.glossary,
        alternatives=options.alternatives,
        deadline_ms=deadline_ms,
    )
    took_ms, name = (time.perf_counter() - began_s) * 1e3, model.model.path.name
    return [replace(each, index=first + each.index, model=name, took_ms=took_ms) for each in found]


def translated(
    writer: Writer,
    texts: Iterable[object],
    options: TranslationOptions,
    *,
    first: int = 0,
    deadline_ms: float | None = None,
) -> list[Translation]:
    """Return translations by an open model; ``first`` is the number of the first text."""
    named = replace(options, model=writer.name)
    return writer.answers(partial(translation_steps, options=named), texts, first=first, deadline_ms=deadline_ms)
