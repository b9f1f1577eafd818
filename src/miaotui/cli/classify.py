"""``miaotui classify``: labels, or sentiments, of the texts of a file, written beside them.

Owns the order of reading, computing and writing, the limit of time, and what is printed. Knows classifiers and rows by
their public calls. Invariants: results go to the output, everything else to standard error; after an interruption the
output ends with a whole row, and ``--resume`` continues it.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from miaotui.cli.output import messages
from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.output.terminal import printable
from miaotui.errors import RequestError
from miaotui.tasks.rows import InputRow, RowFormat, RowReader, RowWriter, format_of, whole_rows

if TYPE_CHECKING:
    from miaotui.tasks.result import TaskResult

BATCH, SMALL_BATCH = 256, 32  # texts that are computed together; few where time is limited
Answer = Callable[[Sequence[str], int], Sequence["TaskResult"]]


def classify(parsed: argparse.Namespace) -> int:
    """Label the texts and return the exit status."""
    with ExitStack() as stack:
        rows = stack.enter_context(_opened(parsed))
        done, output = _output(parsed, rows)
        added = ("label", "probability", *(("words",) if parsed.word_count else ()), "error")
        writer = RowWriter(output, _form(parsed, rows), rows.columns, added)
        answer = stack.enter_context(_answering(parsed))
        if not done:
            writer.begin()
        left = _write_all(parsed, itertools.islice(rows, done, None), answer, writer, output, done)
        output.flush()
        if output is not sys.stdout:
            output.close()
    if left:
        print(messages.ROWS_LEFT(limit=f"{parsed.limit_s:g}"), file=sys.stderr)
    return 0


def _write_all(
    parsed: argparse.Namespace, rows: Iterator[InputRow], answer: Answer, writer: RowWriter, output: IO[str], done: int
) -> bool:
    """Answer rows in batches and write each batch at once; whether some are left when time is over."""
    began_s = batch_s = time.perf_counter()
    size = BATCH if parsed.limit_s is None else SMALL_BATCH
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
    results = iter(answer(texts, first))
    errors = 0
    for row in batch:
        found = None if row.text is None else next(results)
        error = row.error if found is None else found.error
        errors += error is not None
        label = None if found is None else found.label
        values: dict[str, Any] = {"label": label, "probability": None, "error": error}
        if found is not None and found.error is None:
            values["probability"] = round(found.probability, 4)
        if "words" in writer.names:
            values["words"] = "; ".join(f"{each.word} {each.effect:+.2f}" for each in getattr(found, "words", ()))
        writer.write(row.fields, values)
    return errors


def _count(done: int, errors: int, took_s: float) -> None:
    rate = f"{done / took_s:.0f}" if took_s > 0 else "-"
    print(messages.ROWS_DONE(rows=done, errors=errors, took=f"{took_s:.2f}", rate=rate), file=sys.stderr)


@contextmanager
def _opened(parsed: argparse.Namespace) -> Iterator[RowReader]:
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


@contextmanager
def _answering(parsed: argparse.Namespace) -> Iterator[Answer]:
    """Open the model and make what answers texts."""
    from miaotui.tasks.calls import ENGLISH_ENCODER, opened_encoder
    from miaotui.tasks.classification import Classifier
    from miaotui.tasks.head_file import load_head
    from miaotui.tasks.sentiments import SentimentClassifier

    ways = [parsed.labels, parsed.examples, parsed.head]
    if sum(each is not None for each in ways) != 1 and not (parsed.sentiment and not any(ways)):
        raise RequestError(messages.ONE_WAY())
    head = None if parsed.head is None else load_head(parsed.head)
    name = parsed.model or (ENGLISH_ENCODER if head is None else head.encoder)
    kind = SentimentClassifier if parsed.sentiment else Classifier
    with ProgressBars() as progress, opened_encoder(name, progress, parsed.backend) as encoder:
        progress.close()
        if head is not None:
            classifier: Classifier = kind(encoder, head)
        elif parsed.examples is not None:
            classifier = _fitted(parsed, kind, encoder)
        elif parsed.labels is not None:
            classifier = kind.from_names(encoder, labels_of(parsed.labels), template=parsed.template)
        else:
            classifier = SentimentClassifier.untrained(encoder)
        if parsed.save is not None:
            classifier.save(parsed.save)
        if parsed.explain:
            _explain(classifier)
        if isinstance(classifier, SentimentClassifier):
            sentiments = classifier.sentiments
            yield lambda texts, first: sentiments(texts, first=first, words=parsed.word_count)
        else:
            yield lambda texts, first: classifier.classify(texts, first=first, threshold=parsed.threshold)


def _fitted(parsed: argparse.Namespace, kind: Any, encoder: Any) -> Any:
    """Fit a classifier to a file of examples; rows that are left out are reported on standard error."""
    path = Path(parsed.examples)
    try:
        with path.open("rb", buffering=1 << 18) as file:
            form = format_of(path)
            if form == "lines":
                raise RequestError(f"{path} must be .csv, .tsv or .jsonl with columns for texts and labels")
            rows = list(RowReader(file, form, parsed.text_column, str(path)))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    classifier = kind.fit(
        encoder, [row.text or "" for row in rows], [str(row.fields.get(parsed.label_column) or "") for row in rows]
    )
    for left_out in classifier.errors[:20]:
        print(messages.WARNING(text=f"{path}: {rows[left_out.index].error or left_out.reason}"), file=sys.stderr)
    return classifier


def labels_of(text: str) -> dict[str, str | None]:
    """Return the labels of an option: names with commas between, each perhaps with ``=`` and a description."""
    found: dict[str, str | None] = {}
    for each in text.split(","):
        name, _, about = each.partition("=")
        if name.strip() in found:
            raise RequestError(f"--labels names {name.strip()!r} twice")
        found[name.strip()] = about.strip() or None
    return found


def _explain(classifier: Any) -> None:
    head = classifier.head
    held_out = head.held_out
    lines = [f"{head.source} · {head.encoder} · {len(head.labels)} labels · temperature {head.temperature:.3g}"]
    if held_out is not None:
        lines.append(
            f"held out: {held_out.n} examples, {held_out.accuracy:.1%} right, "
            f"calibration error {held_out.calibration_error:.3f}"
        )
    print(printable("\n".join(lines)), file=sys.stderr)
