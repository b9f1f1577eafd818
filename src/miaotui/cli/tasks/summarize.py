"""``miaotui summarize``: summaries of the texts of a file, written beside them.

Owns the columns. Knows summaries by their public calls, and rows by `row_files`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.tasks.row_files import Answer, Columns, RowTask, run_over_rows
from miaotui.errors import RequestError

if TYPE_CHECKING:
    from miaotui.tasks.summaries.result import TextSummary

COLUMNS = ("summary", "places", "method")


def summarize(parsed: argparse.Namespace) -> int:
    """Summarise the texts and return the exit status."""
    if parsed.model is not None and not parsed.write:
        raise RequestError("--model names the chat model of --write: give both, or neither")
    together, limited = (64, 8) if parsed.write else (256, 16)
    return run_over_rows(parsed, RowTask(COLUMNS, lambda: _answering(parsed), together, limited))


@contextmanager
def _answering(parsed: argparse.Namespace) -> Iterator[Answer]:
    from miaotui.llm import load
    from miaotui.seq2seq.model import Seq2Seq
    from miaotui.tasks.summaries.calls import SUMMARY_MODEL, extracted, written, written_by
    from miaotui.tasks.summaries.result import SummaryLength
    from miaotui.tasks.writing.writer import Writer

    unit = "clause" if parsed.clauses else "sentence"
    length = SummaryLength(parsed.sentences, parsed.word_count, parsed.seconds, unit)  # type: ignore[arg-type]  # one of two
    if not parsed.write:
        yield lambda texts, first: _columns(extracted(texts, length, first=first))
        return
    with ProgressBars() as progress, load(parsed.model or SUMMARY_MODEL, progress=progress) as model:
        progress.close()
        if isinstance(model, Seq2Seq):
            yield lambda texts, first: _columns(written_by(model, texts, length, first=first))
            return
        writer = Writer(model)
        yield lambda texts, first: _columns(written(writer, texts, length, first=first))


def _columns(found: Sequence[TextSummary]) -> list[Columns]:
    return [
        {
            "summary": each.text,
            "places": "; ".join(f"{part.start}-{part.end}" for part in each.parts),
            "method": None if each.error else each.method,
            "error": each.error,
        }
        for each in found
    ]
