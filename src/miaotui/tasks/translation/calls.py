"""The call `translate`: it opens the model that it needs and closes it after.

Owns the default model. Knows no prompts. Invariant: a model that a caller gives stays open.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from miaotui.llm import LLM
from miaotui.tasks.translation.languages import AUTO
from miaotui.tasks.translation.markup import TextFormat
from miaotui.tasks.translation.translator import Translation, TranslationOptions, translation_steps
from miaotui.tasks.vectors import listed
from miaotui.tasks.writing.open import opened_llm
from miaotui.tasks.writing.writer import Writer

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
    began_s = time.perf_counter()
    named = replace(options, model=writer.name)
    tasks = [
        partial(translation_steps, text, named, index=index)  # type: ignore[arg-type]  # checked there
        for index, text in enumerate(texts, first)
    ]
    found = writer.run(tasks, deadline_ms=deadline_ms)
    took_ms = (time.perf_counter() - began_s) * 1e3
    return [replace(each, took_ms=took_ms) for each in found]
