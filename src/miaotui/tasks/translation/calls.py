"""The call `translate`: it opens the model that it needs and closes it after.

Owns the default model. Knows no prompts. Invariant: a model that a caller gives stays open.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from miaotui.llm import LLM
from miaotui.tasks.translation.translator import translation_steps
from miaotui.tasks.vectors import listed
from miaotui.tasks.writing.open import opened_llm
from miaotui.tasks.writing.writer import Writer
from miaotui.translation.languages import AUTO
from miaotui.translation.markup import TextFormat
from miaotui.translation.result import Translation, TranslationOptions

TRANSLATION_MODEL = "qwen2.5-coder-0.5b"


def translate(
    texts: str | Iterable[str],
    target: str,
    *,
    source: str = AUTO,
    format: TextFormat = "text",
    glossary: Mapping[str, str] | None = None,
    alternatives: int = 0,
    model: str | os.PathLike[str] | LLM = TRANSLATION_MODEL,
    deadline_ms: float | None = None,
) -> list[Translation]:
    """Return the translation of each text; a text that cannot be taken, or translated soundly, has an error.

    Languages are codes or English names; the ``source`` is detected unless it is named. ``format`` is ``text``,
    ``html`` or ``markdown``, whose markup is kept. ``glossary`` maps terms of the source to those of the target. Raises
    a `MiaotuiError`.
    """
    given = listed(texts)
    options = TranslationOptions(target, source, format, dict(glossary or {}), alternatives)
    with opened_llm(model) as llm:
        return translated(Writer(llm), given, options, deadline_ms=deadline_ms)


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
