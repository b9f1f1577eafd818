"""The call `correct`: it opens the model that it needs and closes it after.

Owns the default model. Knows no candidates. Invariant: a model that a caller gives stays open.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from miaotui.engine.reading.readers import whole
from miaotui.engine.request import Request, RequestOptions
from miaotui.llm import LLM
from miaotui.tasks.correction.corrector import CorrectionLanguages, ScoredSentences, SentenceScore, correction_steps
from miaotui.tasks.correction.reading import languages_of, score_read, score_requests
from miaotui.tasks.correction.result import CorrectedText
from miaotui.tasks.vectors import listed
from miaotui.tasks.writing.open import opened_llm

CORRECTION_MODEL = "qwen2.5-coder-0.5b"


def correct(
    texts: str | Iterable[str],
    *,
    model: str | os.PathLike[str] | LLM = CORRECTION_MODEL,
    deadline_ms: float | None = None,
) -> list[CorrectedText]:
    """Mend spelling and grammar of English and Chinese texts; one that cannot be taken has an error.

    Only what the model finds far likelier is changed; each change is an edit of the result. Texts that have not begun
    by ``deadline_ms`` have an error. Raises a `MiaotuiError`.
    """
    given = listed(texts)
    due_s = None if deadline_ms is None else time.perf_counter() + deadline_ms / 1e3
    with opened_llm(model) as llm:
        return corrected(llm, given, due_s=due_s)


def corrected(llm: LLM, texts: Iterable[object], *, first: int = 0, due_s: float | None = None) -> list[CorrectedText]:
    """Return corrections by an open model; ``first`` is the number of the first text."""
    languages = languages_of(llm.tokenizer)
    return [_corrected_one(llm, languages, text, index, due_s) for index, text in enumerate(texts, first)]


def _corrected_one(
    llm: LLM, languages: CorrectionLanguages, text: object, index: int, due_s: float | None
) -> CorrectedText:
    began_s, name = time.perf_counter(), llm.loop.model.path.name
    if due_s is not None and began_s >= due_s:
        return CorrectedText(index=index, model=name, error=f"texts[{index}]: no time was left: give more time")
    steps = correction_steps(text, languages, index=index, model=name)
    scores: list[SentenceScore] | None = None
    while True:
        try:
            wanted = next(steps) if scores is None else steps.send(scores)
        except StopIteration as ended:
            found: CorrectedText = ended.value
            return replace(found, took_ms=(time.perf_counter() - began_s) * 1e3)
        scores = _scores(llm, wanted)


def _scores(llm: LLM, wanted: ScoredSentences) -> list[SentenceScore]:
    loop = llm.loop
    requests = score_requests(wanted, llm.tokenizer, llm.context)

    def submit() -> Iterator[Request]:
        return (loop.submit(prompt, params, RequestOptions()) for prompt, params in requests)

    return [score_read(each, llm.tokenizer) for each in whole(loop, submit)]
