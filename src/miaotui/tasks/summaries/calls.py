"""The call `summarize`: it opens the models that it needs and closes them after.

Owns the choice between extracting and writing. Knows no arithmetic. Invariants: a model that a caller gives stays open;
without a model nothing is loaded, and the summary is extracted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from miaotui.encoder import Encoder, deadline_of
from miaotui.errors import FieldError, RequestError
from miaotui.llm import LLM
from miaotui.seq2seq.model import Seq2Seq
from miaotui.tasks.summaries.abstractive import written_summary
from miaotui.tasks.summaries.extractive import Vectors, extract_summary
from miaotui.tasks.summaries.features import Doubles
from miaotui.tasks.summaries.result import SummaryLength, SummaryMethod, TextSummary
from miaotui.tasks.summaries.sources import SummarySources
from miaotui.tasks.summaries.units import UnitKind
from miaotui.tasks.vectors import embed_texts, listed
from miaotui.tasks.writing.open import WritingModel, opened_writer
from miaotui.tasks.writing.steps import RunningTask
from miaotui.tasks.writing.writer import Writer

SUMMARY_MODEL = "qwen2.5-coder-0.5b"


def summarize(
    texts: str | Iterable[str],
    *,
    sentences: int | None = None,
    words: int | None = None,
    seconds: float | None = None,
    unit: UnitKind = "sentence",
    method: SummaryMethod | None = None,
    model: WritingModel | Encoder | None = None,
    deadline_ms: float | None = None,
) -> list[TextSummary]:
    """Return the summary of each text; a text that cannot be taken has an error.

    The length is at most so many ``sentences`` (of the text, or clauses with ``unit``), ``words`` (Chinese: characters)
    and ``seconds`` to read aloud; three sentences or one clause where nothing is said. ``method`` is ``extract``
    (the default: it beats a 0.5 B model that writes, see docs/tasks.md) or ``write``. ``model`` is the chat model or
    encoder-decoder that writes, or an `Encoder` whose embeddings join the words in what is central. Raises a
    `MiaotuiError`.
    """
    given = listed(texts)
    length = SummaryLength(sentences, words, seconds, unit)
    chosen = method or ("write" if isinstance(model, (LLM, Seq2Seq)) else "extract")
    if chosen not in ("extract", "write"):
        raise FieldError("method", f"must be 'extract' or 'write', not {chosen!r}")
    if chosen == "extract":
        if isinstance(model, (LLM, Seq2Seq)):
            raise FieldError("model", "that model writes: leave out method, or give an encoder")
        due_s = None if deadline_ms is None else time.perf_counter() + deadline_ms / 1e3
        return extracted(given, length, encoder=model if isinstance(model, Encoder) else None, due_s=due_s)
    if isinstance(model, Encoder):
        raise FieldError("model", "an encoder writes no text: give a chat model or an encoder-decoder")
    with opened_writer(model or SUMMARY_MODEL) as opened:
        if isinstance(opened, Seq2Seq):
            return written_by(opened, given, length, deadline_ms=deadline_ms)
        return written(Writer(opened), given, length, deadline_ms=deadline_ms)


def extracted(
    texts: Iterable[object],
    length: SummaryLength,
    *,
    encoder: Encoder | None = None,
    first: int = 0,
    due_s: float | None = None,
) -> list[TextSummary]:
    """Return extracted summaries; ``first`` is the number of the first text.

    Texts that have not begun at ``due_s`` (`time.perf_counter`) have an error.
    """
    vectors = None if encoder is None else partial(unit_vectors, encoder)
    return [_extracted_one(text, length, index, vectors, due_s) for index, text in enumerate(texts, first)]


def written(
    writer: Writer, texts: Iterable[object], length: SummaryLength, *, first: int = 0, deadline_ms: float | None = None
) -> list[TextSummary]:
    """Return summaries that a chat model writes, and sentences of the text where it writes nothing sound."""
    steps = partial(written_summary, length=length, model=writer.name)
    return writer.answers(steps, texts, first=first, deadline_ms=deadline_ms)


def written_by(
    model: Seq2Seq, texts: Iterable[object], length: SummaryLength, *, first: int = 0, deadline_ms: float | None = None
) -> list[TextSummary]:
    """Return summaries that an encoder-decoder writes, and sentences of the text where it writes nothing sound."""
    began_s, name = time.perf_counter(), model.model.path.name
    steps = (written_summary(text, length, index=n, model=name) for n, text in enumerate(texts, first))  # type: ignore[arg-type]  # checked there
    sources = SummarySources(model.model, model.settings({}), [RunningTask(each).start() for each in steps])
    if sources.wanted:
        sources.send(model.loop.run(sources.wanted, deadline_of(deadline_ms), began_s))
    took_ms = (time.perf_counter() - began_s) * 1e3
    return [replace(each, took_ms=took_ms) for each in sources.results]


def unit_vectors(encoder: Encoder, texts: Iterable[str]) -> Doubles:
    """Return the unit embeddings of a text's units, float64 ``[n, d]``."""
    return embed_texts(encoder, list(texts), prompt=None).values.astype("float64")


def _extracted_one(
    text: object, length: SummaryLength, index: int, vectors: Vectors | None, due_s: float | None
) -> TextSummary:
    began_s = time.perf_counter()
    if due_s is not None and began_s >= due_s:
        return TextSummary(index=index, error=f"texts[{index}]: no time was left: give more time, or fewer texts")
    try:
        found = extract_summary(text, length, index=index, vectors=vectors)  # type: ignore[arg-type]  # checked there
    except RequestError as error:
        found = TextSummary(index=index, error=str(error))
    return replace(found, took_ms=(time.perf_counter() - began_s) * 1e3)
