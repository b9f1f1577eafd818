"""Scores of answers against references: accuracy, F1, calibration, BLEU, chrF, ROUGE and perplexity, with intervals.

Owns the metrics by name and their bootstrap intervals (Efron and Tibshirani 1993, percentile method). Knows no models
and no clocks. Invariants: a metric is a function of items, so that it can be drawn anew from the same items; the same
seed gives the same interval. BLEU and chrF are sacrebleu's, ROUGE is rouge-score's (extra ``eval``).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from miaotui.libraries import need

DRAWS = 200
BINS = 10  # of the calibration error
COVERED = 0.95  # of the draws, within an interval


@dataclass(frozen=True)
class ScoredItem:
    """Answer and its references. ``probability`` is that of a label; ``nats`` and ``tokens`` are those of a text."""

    answer: str | None = None  # None: it could not be given
    references: tuple[str, ...] = ()
    probability: float | None = None
    nats: float = 0.0
    tokens: int = 0
    size_bytes: int = 0


Metric = Callable[[Sequence[ScoredItem]], float]


class ScoreInterval(NamedTuple):
    """Value of a metric and its interval."""

    value: float
    low: float
    high: float


def scored(
    metrics: Mapping[str, Metric], items: Sequence[ScoredItem], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, ScoreInterval]:
    """Return each metric over all items, with the interval that resampled items give."""
    source = np.random.default_rng(seed)
    samples = source.integers(0, len(items), (draws, len(items)))
    found = {}
    for name, metric in metrics.items():
        drawn = [metric([items[at] for at in sample]) for sample in samples]
        low, high = np.quantile(drawn, [(1 - COVERED) / 2, (1 + COVERED) / 2]) if drawn else (math.nan, math.nan)
        found[name] = ScoreInterval(metric(items), float(low), float(high))
    return found


def label_metrics(items: Sequence[ScoredItem]) -> dict[str, Metric]:
    """Return the metrics of labels; the calibration error only where answers have probabilities."""
    metrics: dict[str, Metric] = {"accuracy": accuracy, "macro F1": macro_f1}
    if any(item.probability is not None for item in items):
        metrics["calibration error"] = calibration_error
    return metrics


def accuracy(items: Sequence[ScoredItem]) -> float:
    """Return the share of right labels."""
    return sum(item.answer in item.references for item in items) / len(items)


def macro_f1(items: Sequence[ScoredItem]) -> float:
    """Return the mean over the references' labels of their F1."""
    right, wanted, given = Counter[str](), Counter[str](), Counter[str]()
    for item in items:
        (label,) = item.references[:1]
        wanted[label] += 1
        if item.answer is not None:
            given[item.answer] += 1
            right[label] += item.answer == label
    return sum(2 * right[label] / (wanted[label] + given[label]) for label in wanted) / len(wanted)


def calibration_error(items: Sequence[ScoredItem]) -> float:
    """Return the expected calibration error of the labels' probabilities, in `BINS` bins (Guo et al. 2017)."""
    known = [item for item in items if item.probability is not None]
    bins: dict[int, list[tuple[float, bool]]] = {}
    for item in known:
        probability = float(item.probability or 0.0)
        place = min(int(probability * BINS), BINS - 1)
        bins.setdefault(place, []).append((probability, item.answer in item.references))
    gaps = (abs(sum(p for p, _ in each) - sum(right for _, right in each)) for each in bins.values())
    return sum(gaps) / max(len(known), 1)


def field_metrics(items: Sequence[ScoredItem]) -> dict[str, Metric]:
    """Return the metrics of values as JSON objects: fields that are right, and texts all of whose fields are."""
    return {"field accuracy": field_accuracy, "all fields": lambda them: _mean(them, _has_all)}


def field_accuracy(items: Sequence[ScoredItem]) -> float:
    """Return the share of the references' fields whose value is the reference's; null is as good as absent."""
    right = [each for item in items for each in _fields(item)]
    return sum(right) / max(len(right), 1)


def _fields(item: ScoredItem) -> list[bool]:
    wanted: dict[str, Any] = json.loads(item.references[0])
    given: dict[str, Any] = {} if item.answer is None else json.loads(item.answer)
    return [given.get(name) == value for name, value in wanted.items()]


def _has_all(item: ScoredItem) -> bool:
    return item.answer is not None and all(_fields(item))


def _mean(items: Sequence[ScoredItem], of: Callable[[ScoredItem], bool]) -> float:
    return sum(map(of, items)) / len(items)


def translation_metrics(target: str) -> tuple[dict[str, Metric], dict[str, str]]:
    """Return BLEU and chrF for a target language, and sacrebleu's signatures of them."""
    sacrebleu = need("sacrebleu.metrics")
    bleu = sacrebleu.BLEU(tokenize="zh" if target.startswith("zh") else "13a", effective_order=False)
    chrf = sacrebleu.CHRF()

    def corpus(metric: Any) -> Metric:
        return lambda items: float(metric.corpus_score(*_columns(items)).score)

    metrics = {"BLEU": corpus(bleu), "chrF": corpus(chrf)}
    bleu.corpus_score(["a"], [["a"]])
    chrf.corpus_score(["a"], [["a"]])
    return metrics, {"BLEU": str(bleu.get_signature()), "chrF": str(chrf.get_signature())}


def _columns(items: Sequence[ScoredItem]) -> tuple[list[str], list[list[str]]]:
    """Return answers, and one list of references for each place; a missing one is given as the first one again."""
    most = max(len(item.references) for item in items)
    references = [[item.references[min(at, len(item.references) - 1)] for item in items] for at in range(most)]
    return [item.answer or "" for item in items], references


def summary_metrics(chinese: bool) -> dict[str, Metric]:
    """Return ROUGE-1, -2 and -L (F1, the best over the references); each item is scored once."""
    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = need("rouge_score.rouge_scorer").RougeScorer(
        list(kinds), **({"tokenizer": _Words()} if chinese else {"use_stemmer": True})
    )
    known: dict[ScoredItem, dict[str, float]] = {}

    def of(item: ScoredItem) -> dict[str, float]:
        if item not in known:
            found = [scorer.score(reference, item.answer or "") for reference in item.references]
            known[item] = {kind: max(float(each[kind].fmeasure) for each in found) for kind in kinds}
        return known[item]

    def mean(kind: str) -> Metric:
        return lambda items: sum(of(item)[kind] for item in items) / len(items)

    return {f"ROUGE-{kind.removeprefix('rouge')}": mean(kind) for kind in kinds}


class _Words:
    """Tokenizer of rouge-score for Chinese: words as jieba cuts them, without marks."""

    def tokenize(self, text: str) -> list[str]:
        return [word for word in need("rjieba").cut(text) if any(letter.isalnum() for letter in word)]


def text_metrics() -> dict[str, Metric]:
    """Return perplexity by token and bits by byte, which texts of other tokenizers can be compared by."""
    return {
        "perplexity": lambda items: math.exp(sum(i.nats for i in items) / max(sum(i.tokens for i in items), 1)),
        "bits per byte": lambda items: (
            sum(i.nats for i in items) / math.log(2.0) / max(sum(i.size_bytes for i in items), 1)
        ),
    }
