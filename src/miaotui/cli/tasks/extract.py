"""``miaotui extract``: values of the texts of a file, a column for each field.

Owns the columns and the reading of a schema. Knows extraction by its public calls, and rows by `row_files`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.tasks.lists import listed
from miaotui.cli.tasks.row_files import Answer, Columns, RowTask, run_over_rows
from miaotui.errors import RequestError

if TYPE_CHECKING:
    from miaotui.tasks.extraction.extractor import Extraction, ExtractionOptions


def extract(parsed: argparse.Namespace) -> int:
    """Extract values from the texts and return the exit status."""
    from miaotui.tasks.extraction.calls import asked_fields
    from miaotui.tasks.extraction.dates import DateReading
    from miaotui.tasks.extraction.extractor import ExtractionOptions

    if parsed.schema is not None and parsed.entities is not None:
        raise RequestError("give --schema or --entities, not both: arrays of a schema hold entities")
    wanted: Any = None if parsed.schema is None else read_schema_file(Path(parsed.schema))
    if parsed.entities is not None:
        wanted = listed(parsed.entities)
    dates = DateReading(None if parsed.today is None else dt.date.fromisoformat(parsed.today), parsed.day_order)
    options = ExtractionOptions(asked_fields(wanted), parsed.keywords, parsed.verbatim, parsed.threshold, dates)
    columns = [*(each.name for each in options.fields), *(("keywords",) if parsed.keywords else ())]
    return run_over_rows(parsed, RowTask(columns, lambda: _answering(parsed, options), 32, 8))


@contextmanager
def _answering(parsed: argparse.Namespace, options: ExtractionOptions) -> Iterator[Answer]:
    from miaotui.llm import load
    from miaotui.tasks.extraction.calls import EXTRACTION_MODEL, extracted_from, keyed
    from miaotui.tasks.writing.writer import Writer

    if not options.fields:
        yield lambda texts, first: _columns(keyed(texts, options, first=first))
        return
    with ProgressBars() as progress, load(parsed.model or EXTRACTION_MODEL, progress=progress) as llm:
        progress.close()
        writer = Writer(llm)
        yield lambda texts, first: _columns(extracted_from(writer, texts, options, first=first))


def read_schema_file(path: Path) -> Any:
    """Return the JSON schema in a file. Raises `RequestError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"the schema {path} cannot be read: {error}") from error


def _columns(found: Sequence[Extraction]) -> list[Columns]:
    return [
        {
            **{name: _shown(value) for name, value in each.values.items()},
            "keywords": "; ".join(word.text for word in each.keywords),
            "error": each.error,
        }
        for each in found
    ]


def _shown(value: Any) -> str | None:
    """Return a value as a cell holds it: several ones with semicolons between."""
    if value is None or value == []:
        return None
    if isinstance(value, list):
        return "; ".join(str(_shown(each)) for each in value)
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values() if part is not None)
    return str(value).lower() if isinstance(value, bool) else str(value)
