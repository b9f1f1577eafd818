"""Weights of the features of spans (``apps/spans/span_weights.json``), fitted on XQuAD and CMRC 2018.

    python benchmarks/span_weights.py --data FOLDER --language en     # FOLDER holds xquad and cmrc2018 as published

A softmax over the candidates of a question learns to prefer those with high F1 (listwise, Cao et al., 2007), with a
penalty on squares. Candidates come from what a search over all paragraphs finds. No paragraph of the questions that
``spans.py`` reports has a part in it; Chinese weights learn from CMRC 2018 too. Prints exact match and F1 of held-out
paragraphs (4 parts) for each penalty, writes the weights of the best one with ``--write``, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, diags, vstack
from sklearn.feature_extraction import DictVectorizer

from apps import Asked, cut_chinese, cut_english, score, xquad
from miaotui.apps.qa_pipeline import Question, look_up
from miaotui.apps.spans import features, ranking
from miaotui.apps.spans.candidates import candidates
from miaotui.retrieval import Index
from spans import fitting

Floats = np.ndarray[Any, np.dtype[np.float64]]
PENALTIES = (1.0, 3.0, 10.0)
PARTS = 4
PASSAGES = 4
SENTENCES = 5
OTHERS_WEIGHT = 0.5  # of a question of CMRC 2018
MOST_OTHERS = 1_500


@dataclass(frozen=True)
class Candidates:
    """Candidates of one question: features, sparse ``[n, names]``, exact match and F1 ``[n, 2]``, their paragraph."""

    values: csr_matrix
    scores: Floats
    paragraph: str
    weight: float = 1.0


@dataclass(frozen=True)
class Found:
    """Candidates of one question, by the names of their features."""

    rows: list[dict[str, float]]
    scores: list[tuple[float, float]]
    paragraph: str
    weight: float


def found_for(one: Asked, texts: Sequence[str], weight: float, language: str) -> Found:
    """The candidates of the sentences that share most with a question; those of other paragraphs are wrong."""
    cut = cut_english if language == "en" else cut_chinese
    rows, scores = [], []
    words, sentences = ranking._weigh(one.question, texts)
    best = [sentence for sentence in sentences if sentence.matched][:SENTENCES]
    most = max((sentence.support for sentence in best), default=0.0)
    for sentence in best:
        text = texts[sentence.passage]
        for first, last in candidates(sentence.words, words.kind):
            span = text[sentence.words[first].start : sentence.words[last].end]
            rows.append(dict(features.features(words, sentence, first, last, span, most)))
            scores.append(score(span, one.answers, cut) if text == one.paragraph else (0.0, 0.0))
    return Found(rows, scores, one.paragraph, weight)


def searched(data: Path, language: str) -> Iterator[Found]:
    """The questions that nothing else is measured on, with what a search over all paragraphs finds."""
    asked, documents = xquad(data / "xquad", language)
    with tempfile.TemporaryDirectory() as place, Index.create(Path(place) / "x") as index:
        index.add(documents)
        for number in fitting(asked):
            passages = look_up(index, Question(asked[number].question, "x")).passages[:PASSAGES]
            yield found_for(asked[number], [passage.text for passage in passages], 1.0, language)


def others(data: Path) -> Iterator[Found]:
    """Questions of CMRC 2018 with their own paragraph."""
    articles = json.loads((data / "cmrc2018" / "cmrc2018_dev.json").read_text(encoding="utf-8"))["data"]
    asked = [
        Asked(0, paragraph["context"], one["question"], [answer["text"] for answer in one["answers"]])
        for article in articles
        for paragraph in article["paragraphs"]
        for one in paragraph["qas"]
    ]
    random.Random(3).shuffle(asked)
    for each in asked[:MOST_OTHERS]:
        yield found_for(each, [each.paragraph], OTHERS_WEIGHT, "zh")


def as_arrays(found: Sequence[Found]) -> tuple[list[str], list[Candidates]]:
    """Names of the features, and the candidates of every question that has some."""
    vectorizer = DictVectorizer(dtype=np.float32)
    values = vectorizer.fit_transform([row for one in found for row in one.rows])
    each, place = [], 0
    for one in found:
        rows = values[place : place + len(one.rows)]
        place += len(one.rows)
        if one.rows:
            each.append(Candidates(rows, np.array(one.scores), one.paragraph, one.weight))
    return list(vectorizer.get_feature_names_out()), each


def fitted(found: Sequence[Candidates], penalty: float) -> Floats:
    """Weights ``[names]`` of the smallest cross-entropy between candidates' shares and their scores."""
    usable = [one for one in found if one.scores.any()]
    marks = [one.scores.mean(axis=1) * one.scores[:, 1] for one in usable]
    values = vstack([one.values for one in usable]).tocsr()
    scale = np.sqrt(np.asarray(values.multiply(values).mean(axis=0)).ravel()) + 1e-3
    values = values @ diags(1 / scale)
    transposed = values.T.tocsr()
    wanted = np.concatenate([each / each.sum() for each in marks])
    counts = np.array([one.values.shape[0] for one in usable])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    weight = np.repeat([one.weight for one in usable], counts)

    def loss(weights: Floats) -> tuple[float, Floats]:
        points = values @ weights
        points -= np.repeat(np.maximum.reduceat(points, starts), counts)
        shares = np.exp(points)
        totals = np.repeat(np.add.reduceat(shares, starts), counts)
        entropy = -float((weight * wanted * (points - np.log(totals))).sum())
        slope = transposed @ (weight * (shares / totals - wanted))
        return entropy + penalty * float(weights @ weights), slope + 2 * penalty * weights

    start = np.zeros(values.shape[1])
    found_weights = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 150}).x
    return np.asarray(found_weights / scale)


def reached(found: Sequence[Candidates], weights: Floats) -> Floats:
    """Sum of exact match and F1 of the best candidates."""
    return np.asarray(sum(one.scores[int(np.argmax(one.values @ weights))] for one in found))


def held_out(found: Sequence[Candidates], penalty: float) -> list[float]:
    """Exact match and F1, in %, of paragraphs of XQuAD that the weights were not fitted on."""
    own = [one for one in found if one.weight == 1.0]
    order = {text: number for number, text in enumerate(sorted({one.paragraph for one in own}))}
    total = np.zeros(2)
    for part in range(PARTS):
        inside = [one for one in found if order.get(one.paragraph, -1) % PARTS != part or one.weight != 1.0]
        outside = [one for one in own if order[one.paragraph] % PARTS == part]
        total += reached(outside, fitted(inside, penalty))
    return [round(float(each), 1) for each in 100 * total / len(own)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--language", choices=("en", "zh"), required=True)
    parser.add_argument("--penalty", type=float, action="append", help="to try (default: several)")
    parser.add_argument("--write", action="store_true", help="write the weights into the package")
    parsed = parser.parse_args()
    found = list(searched(parsed.data, parsed.language))
    if parsed.language == "zh":
        found += others(parsed.data)
    names, rows = as_arrays(found)
    tried = {penalty: held_out(rows, penalty) for penalty in parsed.penalty or PENALTIES}
    penalty = max(tried, key=lambda each: sum(tried[each]))
    print(parsed.language, "held out:", tried, flush=True)
    if parsed.write:
        weights = fitted(rows, penalty)
        write(parsed.language, dict(zip(names, weights, strict=True)))
    print(json.dumps({"benchmark": "span_weights", "results": {parsed.language: tried[penalty]}}))
    return 0


def write(language: str, weights: dict[str, float]) -> None:
    """Write the weights of one language beside those of the other."""
    kept = json.loads(features.WEIGHTS.read_text(encoding="utf-8"))
    kept[language] = {name: round(float(each), 3) for name, each in weights.items() if abs(each) >= 0.005}
    features.WEIGHTS.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
