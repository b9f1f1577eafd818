"""The call `extract`: it opens the model that it needs and closes it after.

Owns the default model. Knows no prompts. Invariants: a model that a caller gives stays open; keywords alone need none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from miaotui.llm import LLM
from miaotui.tasks.extraction.dates import DateReading
from miaotui.tasks.extraction.extractor import Extraction, ExtractionOptions, extraction_steps
from miaotui.tasks.extraction.fields import ExtractedField, entity_fields, read_schema
from miaotui.tasks.vectors import listed
from miaotui.tasks.writing.open import opened_llm
from miaotui.tasks.writing.steps import RunningTask
from miaotui.tasks.writing.writer import Writer

EXTRACTION_MODEL = "qwen2.5-coder-0.5b"
Wanted = Mapping[str, Any] | Sequence[str]


def extract(
    texts: str | Iterable[str],
    wanted: Wanted | None = None,
    *,
    keywords: int = 0,
    verbatim: bool = False,
    threshold: float = 0.0,
    dates: DateReading | None = None,
    model: str | os.PathLike[str] | LLM = EXTRACTION_MODEL,
    deadline_ms: float | None = None,
) -> list[Extraction]:
    """Return values of each text; a text that cannot be taken has an error.

    ``wanted`` is a JSON schema of a flat object (strings, with ``format`` date, time, email, url, phone or amount;
    numbers, enums, booleans, and arrays of those), or names of types of entities, perhaps with descriptions.
    ``keywords`` is how many are given. Strings are always spans of the text; with ``verbatim`` every value is. See
    `ExtractionOptions`. Raises a `MiaotuiError`.
    """
    given = listed(texts)
    options = ExtractionOptions(asked_fields(wanted), keywords, verbatim, threshold, dates or DateReading())
    if not options.fields:
        return keyed(given, options)
    with opened_llm(model) as llm:
        return extracted_from(Writer(llm), given, options, deadline_ms=deadline_ms)


def asked_fields(wanted: Wanted | None) -> tuple[ExtractedField, ...]:
    """Return the fields of a schema, or of types of entities. Raises `FieldError`."""
    if wanted is None:
        return ()
    if isinstance(wanted, Mapping) and ("properties" in wanted or wanted.get("type") == "object"):
        return tuple(read_schema(wanted))
    return tuple(entity_fields(wanted))


def keyed(texts: Iterable[object], options: ExtractionOptions, *, first: int = 0) -> list[Extraction]:
    """Return the keywords of texts; no model is needed."""
    found = []
    for index, text in enumerate(texts, first):
        began_s = time.perf_counter()
        task = RunningTask(extraction_steps(text, options, index=index)).start()  # type: ignore[arg-type]
        found.append(replace(task.result, took_ms=(time.perf_counter() - began_s) * 1e3))
    return found


def extracted_from(
    writer: Writer,
    texts: Iterable[object],
    options: ExtractionOptions,
    *,
    first: int = 0,
    deadline_ms: float | None = None,
) -> list[Extraction]:
    """Return values by an open model; ``first`` is the number of the first text."""
    named = replace(options, model=writer.name)
    return writer.answers(partial(extraction_steps, options=named), texts, first=first, deadline_ms=deadline_ms)
