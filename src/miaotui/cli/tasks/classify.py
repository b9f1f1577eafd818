"""``miaotui classify``: labels, or sentiments, of the texts of a file, written beside them.

Owns the ways to make a classifier from the command line. Knows classifiers by their public calls, and rows by
`row_files`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.cli.output import messages
from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.output.terminal import printable
from miaotui.cli.tasks.lists import listed
from miaotui.cli.tasks.row_files import Answer, Columns, RowTask, run_over_rows
from miaotui.errors import RequestError
from miaotui.tasks.rows import LABEL_COLUMNS, InputRow, RowReader, format_of

if TYPE_CHECKING:
    from miaotui.tasks.result import TaskResult

BATCH, SMALL_BATCH = 256, 32  # texts that are computed together; few where time is limited


def classify(parsed: argparse.Namespace) -> int:
    """Label the texts and return the exit status."""
    columns = ("label", "probability", *(("words",) if parsed.word_count else ()))
    return run_over_rows(parsed, RowTask(columns, lambda: _answering(parsed), BATCH, SMALL_BATCH))


def _columns(found: Sequence[TaskResult]) -> list[Columns]:
    return [_columns_of(each) for each in found]


def _columns_of(found: TaskResult) -> Columns:
    values: dict[str, Any] = {"label": found.label, "error": found.error}
    if found.error is None:
        values["probability"] = round(found.probability, 4)
    values["words"] = "; ".join(f"{each.word} {each.effect:+.2f}" for each in getattr(found, "words", ()))
    return values


@contextmanager
def _answering(parsed: argparse.Namespace) -> Iterator[Answer]:
    """Open the model and make what answers texts."""
    ways = [parsed.labels, parsed.examples, parsed.head]
    if sum(each is not None for each in ways) != 1 and not (parsed.sentiment and not any(ways)):
        raise RequestError(messages.ONE_WAY())
    engine = _engine(parsed)
    with _by_logits(parsed) if engine == "logits" else _by_encoder(parsed, engine) as answer:
        yield answer


def _engine(parsed: argparse.Namespace) -> str | None:
    """Return the engine of labels by name, by model or by the table; None for sentiments and saved heads."""
    from miaotui.tasks.calls import engine_for

    if parsed.sentiment or parsed.head is not None:
        if parsed.engine is not None and (parsed.sentiment or parsed.engine != "head"):
            raise RequestError(messages.NO_ENGINE())
        return None
    rows = [] if parsed.examples is None else _examples(parsed)
    pairs = [(row.text or "", label) for row, label in rows]
    labels = (
        list(labels_of(parsed.labels))
        if parsed.labels is not None
        else list(dict.fromkeys(label for _, label in pairs))
    )
    choice = engine_for([], labels, pairs, model=parsed.model if parsed.engine is None else None, engine=parsed.engine)
    if parsed.explain:
        print(printable("\n".join(choice.lines())), file=sys.stderr)
    return choice.engine


@contextmanager
def _by_logits(parsed: argparse.Namespace) -> Iterator[Answer]:
    from miaotui.tasks.calls import DECISION_MODEL, classify_by_logits
    from miaotui.tasks.decisions.decider import Decider
    from miaotui.tasks.writing.open import opened_llm

    labels = labels_of(parsed.labels) if parsed.labels is not None else _names_of_examples(parsed)
    if parsed.save is not None:
        raise RequestError(messages.NO_HEAD())
    with opened_llm(parsed.model or DECISION_MODEL) as llm:
        decider = Decider(llm)
        yield lambda texts, first: _columns(
            classify_by_logits(decider, texts, labels, first=first, threshold=parsed.threshold)
        )


@contextmanager
def _by_encoder(parsed: argparse.Namespace, engine: str | None) -> Iterator[Answer]:
    from miaotui.tasks.calls import ENGLISH_ENCODER, SENTIMENT_ENCODER, opened_encoder
    from miaotui.tasks.classification import Classifier
    from miaotui.tasks.heads.head_file import load_head
    from miaotui.tasks.sentiments import SentimentClassifier

    head = None if parsed.head is None else load_head(parsed.head)
    usual = SENTIMENT_ENCODER if parsed.sentiment else ENGLISH_ENCODER
    name = parsed.model or (usual if head is None else head.encoder)
    kind = SentimentClassifier if parsed.sentiment else Classifier
    with ProgressBars() as progress, opened_encoder(name, progress, parsed.backend) as encoder:
        progress.close()
        if head is not None:
            classifier: Classifier = kind(encoder, head)
        elif parsed.examples is not None and engine != "similarity":
            classifier = _fitted(parsed, kind, encoder)
        elif parsed.labels is not None or parsed.examples is not None:
            labels = labels_of(parsed.labels) if parsed.labels is not None else _names_of_examples(parsed)
            classifier = kind.from_names(encoder, labels, template=parsed.template)
        else:
            classifier = SentimentClassifier.untrained(encoder)
        if parsed.save is not None:
            classifier.save(parsed.save)
        if parsed.explain:
            _explain(classifier)
        if isinstance(classifier, SentimentClassifier):
            sentiments = classifier.sentiments
            yield lambda texts, first: _columns(sentiments(texts, first=first, words=parsed.word_count))
        else:
            yield lambda texts, first: _columns(classifier.classify(texts, first=first, threshold=parsed.threshold))


def _names_of_examples(parsed: argparse.Namespace) -> list[str]:
    return list(dict.fromkeys(label for _, label in _examples(parsed) if label))


def _examples(parsed: argparse.Namespace) -> list[tuple[InputRow, str]]:
    """Return the rows of the file of examples with their labels, "" where there is none. Raises `RequestError`."""
    path = Path(parsed.examples)
    try:
        with path.open("rb", buffering=1 << 18) as file:
            form = format_of(path)
            if form == "lines":
                raise RequestError(f"{path} must be .csv, .tsv or .jsonl with columns for texts and labels")
            reader = RowReader(file, form, parsed.text_column, str(path))
            column = reader.column(parsed.label_column, LABEL_COLUMNS, "--label-column")
            return [(row, str(row.fields.get(column) or "").strip()) for row in reader]
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def _fitted(parsed: argparse.Namespace, kind: Any, encoder: Any) -> Any:
    """Fit a classifier to a file of examples; rows that are left out are reported on standard error."""
    path, rows = Path(parsed.examples), _examples(parsed)
    classifier = kind.fit(encoder, [row.text or "" for row, _ in rows], [label for _, label in rows])
    for left_out in classifier.errors[:20]:
        print(messages.WARNING(text=f"{path}: {rows[left_out.index][0].error or left_out.reason}"), file=sys.stderr)
    return classifier


def labels_of(text: str) -> dict[str, str | None]:
    """Return the labels of an option: names with commas between, each perhaps with ``=`` and a description."""
    found: dict[str, str | None] = {}
    for each in listed(text):
        name, _, about = each.partition("=")
        if not name.strip():
            raise RequestError("--labels has an empty name: write them with commas between")
        if name.strip() in found:
            raise RequestError(f"--labels names {name.strip()!r} twice")
        found[name.strip()] = about.strip() or None
    return found


def _explain(classifier: Any) -> None:
    from miaotui.tasks.heads.kernel_ridge import KernelLayer

    head = classifier.head
    held_out = head.held_out
    kind = "kernel ridge" if isinstance(head.layer, KernelLayer) else "linear"
    lines = [
        f"{head.source} · {head.encoder} · {kind} · {len(head.labels)} labels · temperature {head.temperature:.3g}"
    ]
    if head.n_names and head.source == "examples":
        lines.append(f"names of labels count as {head.name_weight:g} examples each")
    if held_out is not None:
        lines.append(
            f"held out: {held_out.n} examples, {held_out.accuracy:.1%} right, "
            f"calibration error {held_out.calibration_error:.3f}"
        )
    print(printable("\n".join(lines)), file=sys.stderr)
