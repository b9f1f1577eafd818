"""Rows of a file through a task: read, answered in batches, written beside their results.

Owns the order of reading, computing and writing, the limit of time, and what is printed of the rows. Knows a task as a
function from texts to columns. Invariants: results go to the output, everything else to standard error; after an
interruption the output ends with a whole row, and ``--resume`` continues it.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from miaotui.cli.output import messages
from miaotui.errors import RequestError
from miaotui.tasks.rows import InputRow, RowFormat, RowReader, RowWriter, format_of, whole_rows

Columns = Mapping[str, Any]
Answer = Callable[[Sequence[str], int], Sequence[Columns]]
"""Columns of texts; the number is that of the first text's row. A text that cannot be taken has ``error``."""


@dataclass(frozen=True)
class RowTask:
    """Task over rows: the columns that it adds (``error`` is added too), and what opens its models and answers.

    ``batch`` texts are computed together, ``limited_batch`` where time is limited.
    """

    columns: Sequence[str]
    opened: Callable[[], AbstractContextManager[Answer]]
    batch: int
    limited_batch: int


def run_over_rows(parsed: argparse.Namespace, task: RowTask) -> int:
    """Answer the rows that the command line names and return the exit status."""
    with ExitStack() as stack:
        rows = stack.enter_context(opened_rows(parsed))
        done, output = _output(parsed, rows)
        marked = rows.marked and parsed.output is not None
        writer = RowWriter(output, _form(parsed, rows), rows.columns, [*task.columns, "error"], marked=marked)
        answer = stack.enter_context(task.opened())
        if not done:
            writer.begin()
        left = _write_all(parsed, task, itertools.islice(rows, done, None), answer, writer, output, done)
        output.flush()
        if output is not sys.stdout:
            output.close()
    if left:
        print(messages.ROWS_LEFT(limit=f"{parsed.limit_s:g}"), file=sys.stderr)
    return 0


def _write_all(
    parsed: argparse.Namespace,
    task: RowTask,
    rows: Iterator[InputRow],
    answer: Answer,
    writer: RowWriter,
    output: IO[str],
    done: int,
) -> bool:
    """Answer rows in batches and write each batch at once; whether some are left when time is over."""
    began_s = batch_s = time.perf_counter()
    size = task.batch if parsed.limit_s is None else task.limited_batch
    errors = 0
    first = done
    while batch := list(itertools.islice(rows, size)):
        now_s = time.perf_counter()
        if parsed.limit_s is not None and now_s - began_s + (now_s - batch_s) > parsed.limit_s:
            _count(done - first, errors, now_s - began_s)
            return True
        batch_s = now_s
        errors += _write(batch, answer, writer, done)
        output.flush()
        done += len(batch)
    _count(done - first, errors, time.perf_counter() - began_s)
    return False


def _write(batch: Sequence[InputRow], answer: Answer, writer: RowWriter, first: int) -> int:
    """Write one batch and return how many of its rows have errors."""
    texts = [row.text for row in batch if row.text is not None]
    results = iter(answer(texts, first) if texts else ())
    errors = 0
    for row in batch:
        values: Columns = {"error": row.error} if row.text is None else next(results)
        errors += values.get("error") is not None
        writer.write(row.fields, {name: values.get(name) for name in writer.names})
    return errors


def _count(done: int, errors: int, took_s: float) -> None:
    rate = f"{done / took_s:.0f}" if took_s > 0 else "-"
    print(messages.ROWS_DONE(rows=done, errors=errors, took=f"{took_s:.2f}", rate=rate), file=sys.stderr)


@contextmanager
def opened_rows(parsed: argparse.Namespace) -> Iterator[RowReader]:
    """Open the rows that the command line names: a file, standard input for ``-``, or a text itself."""
    (word,) = parsed.words
    path = Path(word)
    if word == "-":
        yield RowReader(sys.stdin.buffer, parsed.format or "lines", parsed.text_column, "standard input")
    elif not path.suffix or (" " in word and not path.exists()):
        if path.is_file():
            with path.open("rb", buffering=1 << 18) as file:
                yield RowReader(file, parsed.format or "lines", parsed.text_column, word)
            return
        yield RowReader(io.BytesIO(word.encode("utf-8", "surrogateescape")), "lines")
    else:
        try:
            opened = path.open("rb", buffering=1 << 18)
        except OSError as error:
            raise RequestError(f"{word} cannot be read: {error.strerror}") from error
        with opened as file:
            yield RowReader(file, parsed.format or format_of(path), parsed.text_column, word)


def _form(parsed: argparse.Namespace, rows: RowReader) -> RowFormat:
    if parsed.json:
        return "jsonl"
    return "csv" if rows.form == "lines" else rows.form


def _output(parsed: argparse.Namespace, rows: RowReader) -> tuple[int, IO[str]]:
    """Return how many rows are done already, and where the others go."""
    if parsed.output is None:
        return 0, sys.stdout
    path, done = Path(parsed.output), 0
    try:
        if path.exists() and path.stat().st_size:
            if not parsed.resume:
                raise RequestError(f"{path} exists: continue it with --resume, or name another file")
            done, size = whole_rows(path, _form(parsed, rows))
            with path.open("rb+") as file:
                file.truncate(size if done or _form(parsed, rows) == "jsonl" else 0)
        return done, path.open("a", encoding="utf-8", newline="")
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from error
