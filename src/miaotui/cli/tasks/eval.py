"""``miaotui eval``: how well and how fast a task runs on rows whose right answers are known.

Owns which way a task is done by name, and the rivals. Knows tasks by their public calls. Invariants: every way answers
the same rows in the same order; a speed is printed in the row of its quality.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from miaotui.bench.evaluation import Answers, evaluate
from miaotui.bench.report import json_line, table_of
from miaotui.bench.scores import (
    Metric,
    ScoredItem,
    field_metrics,
    label_metrics,
    summary_metrics,
    text_metrics,
    translation_metrics,
)
from miaotui.cli.tasks.lists import listed
from miaotui.errors import RequestError
from miaotui.tasks.rows import LABEL_COLUMNS, RowReader, format_of

LABELLED = ("classify", "sentiment", "decide")
TASKS = (*LABELLED, "extract", "generate", "summarize", "translate", "perplexity")
RIVALS = {**dict.fromkeys(LABELLED, ("majority", "tfidf")), "summarize": ("lead",)}
REFERENCES = {
    **dict.fromkeys(LABELLED, "label"),
    **dict.fromkeys(("generate", "summarize", "translate"), "reference"),
    "extract": "values",
}
MAX_ROWS = 1_000_000
DECISION_QUESTION = "Which of the options fits the text best?"

Rows = list[tuple[str, tuple[str, ...]]]
Metrics = Callable[[Sequence[ScoredItem]], Mapping[str, Metric]]


class _Plan(NamedTuple):
    """Task, its rows and examples, and how answers are scored."""

    task: str
    rows: Rows
    examples: Rows
    metrics: Metrics
    protocol: dict[str, Any]


def eval(parsed: argparse.Namespace) -> int:
    """Evaluate the task and return the exit status."""
    task, path = parsed.words
    if task not in TASKS:
        raise RequestError(f"there is no evaluation of {task!r}: choose from {', '.join(TASKS)}")
    plan = _planned(task, Path(path), parsed)
    names = [parsed.model or "default", *([] if parsed.against is None else [parsed.against])]
    ways = []
    for at, name in enumerate(dict.fromkeys(names)):
        with _opened(plan, name, is_rival=at > 0, parsed=parsed) as answers:
            ways.append(evaluate(name, answers, plan.rows, plan.metrics, alone=parsed.alone, seed=parsed.seed))
    print(table_of(ways))
    print(json_line(task, plan.protocol, ways))
    return 0


def _planned(task: str, path: Path, parsed: argparse.Namespace) -> _Plan:
    column = parsed.reference_column or REFERENCES.get(task)
    rows = read_rows(path, parsed.text_column, column, parsed.count)
    examples = [] if parsed.examples is None else read_rows(Path(parsed.examples), parsed.text_column, column, None)
    protocol: dict[str, Any] = {"file": path.name, "rows": len(rows), "examples": len(examples), "seed": parsed.seed}
    metrics: Metrics = label_metrics
    if task == "extract":
        if parsed.schema is None:
            raise RequestError("--schema is needed: the JSON schema of the values, which the column 'values' holds")
        metrics = field_metrics
    elif task in ("summarize", "generate"):
        chinese = any("\u4e00" <= letter <= "\u9fff" for text, _ in rows[:20] for letter in text[:200])
        metrics = _always(summary_metrics(chinese))
    elif task == "translate":
        if parsed.to is None:
            raise RequestError("--to is needed: the language of the translations, for example --to zh")
        fixed, protocol["signatures"] = translation_metrics(parsed.to)
        metrics = _always(fixed)
    elif task == "perplexity":
        metrics = _always(text_metrics())
    return _Plan(task, rows, examples, metrics, protocol)


def _always(metrics: Mapping[str, Metric]) -> Metrics:
    return lambda _: metrics


def read_rows(path: Path, text_column: str | None, reference_column: str | None, count: int | None) -> Rows:
    """Read texts with their references; rows without either are named and left out. Raises `RequestError`."""
    rows: Rows = []
    try:
        with path.open("rb", buffering=1 << 18) as file:
            reader = RowReader(file, format_of(path), text_column, path.name)
            if reference_column is not None:
                usual = LABEL_COLUMNS if reference_column in LABEL_COLUMNS else ()
                reference_column = reader.column(reference_column, usual, "--reference-column")
            for number, row in enumerate(reader, 1):
                found = () if reference_column is None else _references(row.fields.get(reference_column))
                if row.text is None or (reference_column is not None and not found):
                    reason = row.error or f"row {number}: has no {reference_column!r}"
                    print(f"miaotui: {reason}: left out", file=sys.stderr)
                    continue
                rows.append((row.text, found))
                if len(rows) == (count or MAX_ROWS):
                    break
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from error
    if not rows:
        wanted = "text" if reference_column is None else f"text and {reference_column!r}"
        raise RequestError(f"{path} has no row with {wanted}: a speed is only printed with its quality")
    return rows


def _references(value: Any) -> tuple[str, ...]:
    if isinstance(value, dict):  # values of an extraction
        return (json.dumps(value, ensure_ascii=False, sort_keys=True),)
    texts = value if isinstance(value, list) else [value]
    return tuple(text for text in texts if isinstance(text, str) and text.strip())


@contextmanager
def _opened(plan: _Plan, name: str, *, is_rival: bool, parsed: argparse.Namespace) -> Iterator[Answers]:
    """Open a way by the name of a model or of a rival."""
    if is_rival and name in RIVALS.get(plan.task, ()):
        yield _rival(plan, name)
        return
    model = None if name == "default" else name
    opened = _WAYS.get(plan.task, _labels)
    with opened(plan, model, parsed) as answers:
        yield answers


def _rival(plan: _Plan, name: str) -> Answers:
    if name == "lead":
        from miaotui.retrieval.sentences import sentences

        return lambda texts: [ScoredItem(text[slice(*sentences(text)[0])]) for text in texts]
    if not plan.examples:
        raise RequestError(f"--against {name} learns from examples: give --examples FILE")
    labels = [references[0] for _, references in plan.examples]
    if name == "majority":
        label, count = Counter(labels).most_common(1)[0]
        return lambda texts: [ScoredItem(label, probability=count / len(labels)) for _ in texts]
    from miaotui.libraries import need

    features = need("sklearn.feature_extraction.text").TfidfVectorizer(sublinear_tf=True)
    model = need("sklearn.linear_model").LogisticRegression(max_iter=1000)
    pipeline = need("sklearn.pipeline").make_pipeline(features, model)
    pipeline.fit([text for text, _ in plan.examples], labels)

    def answers(texts: Sequence[str]) -> list[ScoredItem]:
        rows = pipeline.predict_proba(list(texts))
        return [ScoredItem(str(pipeline.classes_[row.argmax()]), probability=float(row.max())) for row in rows]

    return answers


@contextmanager
def _labels(plan: _Plan, model: str | None, parsed: argparse.Namespace) -> Iterator[Answers]:
    from miaotui.tasks.calls import SENTIMENT_ENCODER, encoder_for, opened_encoder
    from miaotui.tasks.classification import Classifier
    from miaotui.tasks.sentiments import SentimentClassifier

    usual = (SENTIMENT_ENCODER,) if plan.task == "sentiment" else ()
    with opened_encoder(model or encoder_for([text for text, _ in plan.rows], *usual)) as encoder:
        texts, labels = [text for text, _ in plan.examples], [references[0] for _, references in plan.examples]
        run: Callable[[list[str]], Sequence[Any]]
        if plan.task == "sentiment":
            judge = SentimentClassifier.fit(encoder, texts, labels) if texts else SentimentClassifier.untrained(encoder)
            run = judge.sentiments
        elif texts:
            run = Classifier.fit(encoder, texts, labels).classify
        else:
            names = listed(parsed.labels) if parsed.labels else sorted({each[0] for _, each in plan.rows})
            run = Classifier.from_names(encoder, names).classify
        yield lambda texts: [ScoredItem(each.label, probability=each.probability) for each in run(list(texts))]


@contextmanager
def _summaries(plan: _Plan, model: str | None, parsed: argparse.Namespace) -> Iterator[Answers]:
    from miaotui.tasks.summaries.calls import extracted, written
    from miaotui.tasks.summaries.result import SummaryLength
    from miaotui.tasks.writing.open import opened_llm
    from miaotui.tasks.writing.writer import Writer

    length = SummaryLength(parsed.sentences)
    if model is None:
        yield lambda texts: [ScoredItem(each.text) for each in extracted(list(texts), length)]
        return
    with opened_llm(model) as llm:
        writer = Writer(llm)
        yield lambda texts: [ScoredItem(each.text) for each in written(writer, list(texts), length)]


@contextmanager
def _translations(plan: _Plan, model: str | None, parsed: argparse.Namespace) -> Iterator[Answers]:
    from miaotui.tasks.translation.calls import TRANSLATION_MODEL, translated
    from miaotui.tasks.writing.open import opened_llm
    from miaotui.tasks.writing.writer import Writer
    from miaotui.translation.result import TranslationOptions

    options = TranslationOptions(parsed.to)
    with opened_llm(model or TRANSLATION_MODEL) as llm:
        writer = Writer(llm)
        yield lambda texts: [ScoredItem(each.text) for each in translated(writer, texts, options)]


@contextmanager
def _texts(plan: _Plan, model: str | None, parsed: argparse.Namespace) -> Iterator[Answers]:
    from miaotui.hub.catalog import DEFAULT_MODEL
    from miaotui.tasks.writing.open import opened_llm

    with opened_llm(model or DEFAULT_MODEL) as llm:

        def answers(texts: Sequence[str]) -> list[ScoredItem]:
            found = []
            for text in texts:
                tokens = llm.tokenizer.encode(text)[: llm.context]
                if len(tokens) < 2:
                    found.append(ScoredItem())
                    continue
                (score,) = llm.score(tokens[:1], [tokens[1:]])
                size = len(llm.tokenizer.decode(tokens[1:]).encode())
                found.append(ScoredItem(nats=-score.logprob, tokens=len(tokens) - 1, size_bytes=size))
            return found

        yield answers


@contextmanager
def _decisions(plan: _Plan, model: str | None, parsed: argparse.Namespace) -> Iterator[Answers]:
    from miaotui.tasks.calls import DECISION_MODEL, classify_by_logits
    from miaotui.tasks.decisions.decider import Decider
    from miaotui.tasks.decisions.questions import ChoiceQuestion
    from miaotui.tasks.writing.open import opened_llm

    names = listed(parsed.labels) if parsed.labels else sorted({each[0] for _, each in plan.rows})
    with opened_llm(model or DECISION_MODEL) as llm:
        decider = Decider(llm)
        if plan.examples:
            asked = ChoiceQuestion(DECISION_QUESTION, names)
            decider.calibrate((text, asked, references[0]) for text, references in plan.examples)
        yield lambda texts: [
            ScoredItem(each.label, probability=each.probability)
            for each in classify_by_logits(decider, texts, names, question=DECISION_QUESTION)
        ]


@contextmanager
def _extractions(plan: _Plan, model: str | None, parsed: argparse.Namespace) -> Iterator[Answers]:
    from miaotui.cli.tasks.extract import read_schema_file
    from miaotui.tasks.extraction.calls import EXTRACTION_MODEL, asked_fields, extracted_from
    from miaotui.tasks.extraction.extractor import ExtractionOptions
    from miaotui.tasks.writing.open import opened_llm
    from miaotui.tasks.writing.writer import Writer

    options = ExtractionOptions(asked_fields(read_schema_file(Path(parsed.schema))))
    with opened_llm(model or EXTRACTION_MODEL) as llm:
        writer = Writer(llm)
        yield lambda texts: [
            ScoredItem(None if each.error else json.dumps(each.values, ensure_ascii=False, sort_keys=True))
            for each in extracted_from(writer, texts, options)
        ]


@contextmanager
def _generations(plan: _Plan, model: str | None, parsed: argparse.Namespace) -> Iterator[Answers]:
    from miaotui.tasks.generation.calls import GENERATION_MODEL, generate
    from miaotui.tasks.writing.open import opened_llm

    with opened_llm(model or GENERATION_MODEL) as llm:
        yield lambda texts: [ScoredItem(None if each.error else each.text) for each in generate(texts, model=llm)]


_WAYS = {
    "decide": _decisions,
    "extract": _extractions,
    "generate": _generations,
    "summarize": _summaries,
    "translate": _translations,
    "perplexity": _texts,
}
