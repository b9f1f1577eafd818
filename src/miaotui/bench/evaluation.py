"""Evaluation of one way to do a task: answers to all items at once, then some alone, with what they took.

Owns the order of a run and the measurement of time, processor time and memory. Knows neither tasks nor models: a way
is a function from texts to answers. Invariants: nothing is timed before its first answers are there (models are
loaded and warm); a run without any answer to score is refused, so that no speed stands without its quality.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from miaotui.bench.scores import Metric, ScoredItem, ScoreInterval, scored
from miaotui.errors import RequestError

WARM = 2  # items before anything is timed
ALONE = 50  # items that are timed alone

Answers = Callable[[Sequence[str]], Sequence[ScoredItem]]


@dataclass(frozen=True)
class EvaluatedWay:
    """Quality and speed of one way. Times are in seconds, memory is the process's peak so far."""

    name: str
    items: int
    unanswered: int
    quality: Mapping[str, ScoreInterval]
    p50_s: float
    p99_s: float
    items_per_s: float
    cpu_s: float
    peak_bytes: int | None


def evaluate(
    name: str,
    answers: Answers,
    rows: Sequence[tuple[str, tuple[str, ...]]],
    metrics: Callable[[Sequence[ScoredItem]], Mapping[str, Metric]],
    *,
    alone: int = ALONE,
    seed: int = 0,
) -> EvaluatedWay:
    """Run a way over rows of text and references. Raises `RequestError` where nothing can be scored."""
    if not rows:
        raise RequestError("there is nothing to evaluate: the file has no rows")
    texts = [text for text, _ in rows]
    answers(texts[:WARM])
    before = os.times()
    began_s = time.perf_counter()
    found = [replace(item, references=references) for item, (_, references) in zip(answers(texts), rows, strict=True)]
    took_s = time.perf_counter() - began_s
    after = os.times()
    if not any(item.answer is not None or item.tokens for item in found):
        raise RequestError(f"{name} answered none of {len(rows)} rows: a speed is only printed with its quality")
    times = []
    for text in texts[:alone]:
        one_s = time.perf_counter()
        answers([text])
        times.append(time.perf_counter() - one_s)
    p50_s, p99_s = (float(each) for each in np.quantile(times, [0.5, 0.99]))
    return EvaluatedWay(
        name=name,
        items=len(rows),
        unanswered=sum(item.answer is None and not item.tokens for item in found),
        quality=scored(metrics(found), found, seed=seed),
        p50_s=p50_s,
        p99_s=p99_s,
        items_per_s=len(rows) / took_s,
        cpu_s=after.user - before.user + after.system - before.system,
        peak_bytes=peak_bytes(),
    )


def peak_bytes() -> int | None:
    """Return the most memory that this process has had resident; None where the system does not tell."""
    try:
        import resource  # noqa: PLC0415  (Unix alone has it)
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
