"""``miaotui translate``: translations of the texts of a file, written beside them.

Owns the columns and the reading of a glossary. Knows translations by their public calls, and rows by `row_files`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.tasks.row_files import Answer, Columns, RowTask, run_over_rows
from miaotui.errors import RequestError
from miaotui.retrieval.ingest.records import RecordReader, TextFile

if TYPE_CHECKING:
    from miaotui.translation.result import Translation

COLUMNS = ("translation", "language", "probability")


def translate(parsed: argparse.Namespace) -> int:
    """Translate the texts and return the exit status."""
    return run_over_rows(parsed, RowTask(COLUMNS, lambda: _answering(parsed), 32, 8))


@contextmanager
def _answering(parsed: argparse.Namespace) -> Iterator[Answer]:
    from miaotui.llm import load
    from miaotui.seq2seq.model import Seq2Seq
    from miaotui.tasks.translation.calls import TRANSLATION_MODEL, translated, translated_by
    from miaotui.tasks.writing.writer import Writer
    from miaotui.translation.result import PieceOptions, TranslationOptions

    glossary = {} if parsed.glossary is None else read_glossary(Path(parsed.glossary))
    languages = (parsed.to, parsed.source, parsed.markup, glossary)
    if parsed.model is None:
        TranslationOptions(*languages)  # says what is wrong before a model is loaded
    with ProgressBars() as progress, load(parsed.model or TRANSLATION_MODEL, progress=progress) as model:
        progress.close()
        if isinstance(model, Seq2Seq):
            plain = PieceOptions(*languages)
            yield lambda texts, first: _columns(translated_by(model, texts, plain, first=first))
            return
        writer, options = Writer(model), TranslationOptions(*languages)
        yield lambda texts, first: _columns(translated(writer, texts, options, first=first))


def read_glossary(path: Path) -> dict[str, str]:
    """Return the terms of a CSV or TSV file with two columns. Raises `RequestError`."""
    try:
        with path.open("rb", buffering=1 << 18) as file:
            reader = RecordReader(TextFile(file, str(path)), "\t" if path.suffix.lower() == ".tsv" else ",")
            reader.width = 2
            records = list(reader)
    except OSError as error:
        raise RequestError(f"the glossary {path} cannot be read: {error.strerror}") from error
    for record in records:
        if record.error is not None:
            raise RequestError(f"the glossary {path}, {record.error}")
        if len(record.fields) != 2:
            raise RequestError(f"the glossary {path}, line {record.line}: must be a term and its translation")
    return {term.strip(): translation.strip() for term, translation in (record.fields for record in records)}


def _columns(found: Sequence[Translation]) -> list[Columns]:
    return [
        {
            "translation": each.text,
            "language": each.source,
            "probability": None if each.error else round(each.probability, 4),
            "error": each.error,
        }
        for each in found
    ]
