"""Loading files into an index: read, repair, analyse in parallel, without duplicates.

Owns the order of the steps and the report of what was left out. Knows formats and the index by their functions only.
Invariant: at most a few chunks per worker are in memory at once, however large the files are; passages are added in
the order of the files, so a load gives equal results with any number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from miaotui.errors import DocumentIndexError, RequestError
from miaotui.retrieval.document import Document
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.index.schema import Row, row_of
from miaotui.retrieval.index.settings import IndexSettings
from miaotui.retrieval.ingest.duplicates import Fingerprint, Seen, fingerprint
from miaotui.retrieval.ingest.files import FileSource, Read, Skipped, holds_rows, read, sources
from miaotui.retrieval.ingest.language_id import language_of
from miaotui.retrieval.ingest.passages import split
from miaotui.retrieval.ingest.tables import TableForm
from miaotui.retrieval.query.analysis import Analyzer
from miaotui.types import Progress

CHUNK_ROWS, CHUNK_FILES = 256, 8
_SMALL_FILE_BYTES = 1_000_000
_KEPT_REASONS = 1_000

Prepared: TypeAlias = "tuple[Row, Fingerprint | None] | Skipped | TableForm"


@dataclass(frozen=True)
class Preparation:
    """Steps applied to each document on its way in."""

    keep_duplicates: bool = False
    detect_language: bool = True
    repair_spelling: bool = False
    tags: tuple[str, ...] = ()
    workers: int = 1  # processes; more need a main module that can be imported

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 256:
            raise RequestError(f"workers must be 1 to 256, not {self.workers}")


@dataclass
class IngestReport:
    """Result of a load. ``skipped`` names the first thousand things left out, ``tables`` how the first thousand tables
    were read.
    """

    files: int = 0
    passages: int = 0
    duplicates: int = 0
    skipped_count: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    tables: list[TableForm] = field(default_factory=list)
    languages: Counter[str] = field(default_factory=Counter)

    def skip(self, what: Skipped) -> None:
        """Count something left out."""
        self.skipped_count += 1
        if len(self.skipped) < _KEPT_REASONS:
            self.skipped.append(what)


def load(
    index: Index, paths: Iterable[Path], preparation: Preparation | None = None, progress: Progress | None = None
) -> IngestReport:
    """Add the files at ``paths``, and all files in folders among them. Returns a summary.

    ``progress`` is called with ("index", files read, files in all). A document of an existing name is replaced.
    Raises what `Index.add` raises.
    """
    preparation = preparation or Preparation()
    found = list(sources(list(paths)))
    summary = IngestReport()
    for missing in found:
        if isinstance(missing, Skipped):
            summary.skip(missing)
    files = [source for source in found if isinstance(source, FileSource)]
    tell = progress or (lambda *_: None)

    def told() -> Iterator[FileSource]:
        for source in files:
            tell("index", summary.files, len(files))
            summary.files += 1
            yield source

    prepare = _Prepare(index.plan, index.analyzer, preparation)
    index.add_rows(_without_repetitions(_prepared(told(), prepare, summary), summary))
    tell("index", len(files), len(files))
    return summary


def _without_repetitions(items: Iterable[Prepared], summary: IngestReport) -> Iterator[Row]:
    seen = Seen()
    for item in items:
        if isinstance(item, Skipped):
            summary.skip(item)
            continue
        if isinstance(item, TableForm):
            if len(summary.tables) < _KEPT_REASONS:
                summary.tables.append(item)
            continue
        row, mark = item
        if mark is not None:
            before = seen.before(mark)
            if before is not None:
                summary.duplicates += 1
                summary.skip(Skipped(row.id, f"it repeats {before}"))
                continue
            seen.add(mark, row.id)
        summary.passages += 1
        summary.languages[row.language] += 1
        yield row


def _prepared(files: Iterator[FileSource], prepare: _Prepare, summary: IngestReport) -> Iterator[Prepared]:
    chunks = _chunks(files)
    workers = prepare.preparation.workers
    if workers == 1:
        yield from chain.from_iterable(map(prepare, chunks))
        return
    context = multiprocessing.get_context("spawn")  # the index's threads must not be forked
    waiting: deque[Future[list[Prepared]]] = deque()
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=os.nice, initargs=(5,)) as pool:
            for chunk in chunks:
                waiting.append(pool.submit(prepare, chunk))
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DocumentIndexError(
            "a process that prepares documents has died (killed, or out of memory); nothing of the "
            "last step was added. Run again with fewer workers"
        ) from error


def _chunks(files: Iterator[FileSource]) -> Iterator[list[FileSource] | list[Read]]:
    """Group small files, and cut large lists of rows into chunks, in the order of the files."""
    together: list[FileSource] = []
    for source in files:
        streamed = holds_rows(source) or source.path.stat().st_size > _SMALL_FILE_BYTES
        if not streamed:
            together.append(source)
        if together and (streamed or len(together) == CHUNK_FILES):
            yield together
            together = []
        if streamed:
            yield from _row_chunks(source)
    if together:
        yield together


def _row_chunks(source: FileSource) -> Iterator[list[Read]]:
    rows: list[Read] = []
    for row in read(source):
        rows.append(row)
        large = isinstance(row, Document) and len(row.body) > 100_000
        if large or len(rows) == CHUNK_ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


@dataclass(frozen=True)
class _Prepare:
    """Task of a worker: files or rows in, analysed passages out. Picklable."""

    plan: IndexSettings
    analyzer: Analyzer
    preparation: Preparation

    def __call__(self, chunk: list[FileSource] | list[Read]) -> list[Prepared]:
        items: list[Prepared] = []
        for part in chunk:
            for one in read(part) if isinstance(part, FileSource) else (part,):
                items += self._rows(one) if isinstance(one, Document) else [one]
        return items

    def _rows(self, document: Document) -> list[Prepared]:
        options = self.preparation
        if options.repair_spelling:
            from miaotui.retrieval.ingest.spelling import corrected  # noqa: PLC0415  (loads a dictionary)

            document = replace(document, body=corrected(document.body))
        if options.detect_language and not document.language:
            document = replace(document, language=language_of(document.body))
        if options.tags:
            document = replace(document, tags=(*document.tags, *options.tags))
        rows: list[Prepared] = []
        for passage in split(document, self.plan):
            mark = None if options.keep_duplicates else fingerprint(passage.body)
            rows.append((row_of(passage, self.analyzer), mark))
        return rows
