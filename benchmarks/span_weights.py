"""Weights of the features of spans, fitted on XQuAD's development part: the questions whose number 5 divides.

    python benchmarks/span_weights.py --data FOLDER      # which holds xquad as published

A softmax over the candidates of a question's own paragraph learns to prefer those with high F1 (listwise, Cao et al.,
2007), with a penalty on squares. Prints exact match and F1 of held-out paragraphs (6 parts), then the weights for
``apps/spans/features.py``, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from apps import Asked, cut_chinese, cut_english, score, xquad
from miaotui.apps.spans import ranking
from miaotui.apps.spans.features import features

PENALTIES = (10.0, 30.0, 100.0)
PARTS = 6


@dataclass(frozen=True)
class Candidates:
    """Candidates of one question: features ``[n, names]``, exact match and F1 ``[n, 2]``, and their paragraph."""

    values: np.ndarray[Any, Any]
    scores: np.ndarray[Any, Any]
    paragraph: str


def candidates(asked: Sequence[Asked], language: str) -> tuple[list[str], list[Candidates]]:
    """Names of the features, and the candidates of every question."""
    cut = cut_english if language == "en" else cut_chinese
    rows: list[list[dict[str, float]]] = []
    scores = []
    for one in asked:
        words, sentences = ranking._weigh(one.question, [one.paragraph])
        best = [sentence for sentence in sentences if sentence.matched][: ranking.MOST_SENTENCES]
        most = max((sentence.support for sentence in best), default=0.0)
        rows.append([])
        scores.append([])
        for sentence in best:
            for first, last in ranking._candidates(sentence.words, words.kind):
                text = one.paragraph[sentence.words[first].start : sentence.words[last].end]
                rows[-1].append(dict(features(words, sentence, first, last, text, most)))
                scores[-1].append(score(text, one.answers, cut))
    names = sorted({name for each in rows for row in each for name in row})
    found = [
        Candidates(np.array([[row.get(name, 0.0) for name in names] for row in each]), np.array(marks), one.paragraph)
        for one, each, marks in zip(asked, rows, scores, strict=True)
        if each
    ]
    return names, found


def fitted(found: Sequence[Candidates], penalty: float) -> np.ndarray[Any, Any]:
    """Weights ``[names]`` of the smallest cross-entropy between candidates' shares and their scores."""
    scale = np.concatenate([one.values for one in found]).std(axis=0) + 1e-6
    wanted = [one.scores.mean(axis=1) * one.scores[:, 1] for one in found]
    rows = [(one.values / scale, marks / marks.sum()) for one, marks in zip(found, wanted, strict=True) if marks.any()]

    def loss(weights: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        total, slope = penalty * float(weights @ weights), 2 * penalty * weights
        for values, marks in rows:
            points = values @ weights
            points -= points.max()
            shares = np.exp(points) / np.exp(points).sum()
            total -= float(marks @ np.log(shares))
            slope = slope + values.T @ (shares - marks)
        return total, slope

    found_weights = minimize(loss, np.zeros(len(scale)), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return np.asarray(found_weights / scale)


def reached(found: Sequence[Candidates], weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Sum of exact match and F1 of the best candidates."""
    return np.asarray(sum(one.scores[int(np.argmax(one.values @ weights))] for one in found))


def held_out(found: Sequence[Candidates], penalty: float) -> list[float]:
    """Exact match and F1, in %, of paragraphs that the weights were not fitted on."""
    order = {text: number for number, text in enumerate(sorted({one.paragraph for one in found}))}
    total = np.zeros(2)
    for part in range(PARTS):
        inside = [one for one in found if order[one.paragraph] % PARTS != part]
        outside = [one for one in found if order[one.paragraph] % PARTS == part]
        total += reached(outside, fitted(inside, penalty))
    return [round(float(each), 1) for each in 100 * total / len(found)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--language", choices=("en", "zh"), action="append")
    parsed = parser.parse_args()
    results: dict[str, Any] = {}
    for language in parsed.language or ("en", "zh"):
        asked, _ = xquad(parsed.data / "xquad", language)
        names, found = candidates(asked[::5], language)
        tried = {penalty: held_out(found, penalty) for penalty in PENALTIES}
        penalty = max(tried, key=lambda each: sum(tried[each]))
        weights = fitted(found, penalty)
        print(language, "held out:", tried, flush=True)
        kept = {name: round(float(each), 2) for name, each in zip(names, weights, strict=True) if abs(each) >= 0.01}
        print(json.dumps(kept))
        results[language] = {"held out": tried[penalty], "weights": kept}
    print(json.dumps({"benchmark": "span_weights", "results": results}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
