"""Weights of the features of spans (``apps/spans/span_weights.json``), fitted on candidates of ``span_features.py``.

    python -m benchmarks.apps.span_weights FEATURES --way en [--write] [--held FILE]
    python -m benchmarks.apps.span_weights FEATURES --way en-meaning --further en
    python -m benchmarks.apps.span_weights FEATURES --way zh-meaning --further others

A way is a language, with ``-meaning`` where passages were found by meaning. A softmax over the candidates of a question
learns to prefer those that match exactly, and a little those with high F1 (listwise, Cao et al., 2007), with a penalty
on squares. No paragraph of the questions that ``spans.py`` reports has a part in it. ``--further`` adds questions of
another way, or ``others`` (CMRC 2018), each of half the weight. Prints exact match and F1 of held-out paragraphs (4
parts) for each penalty, writes the weights of the best one with ``--write``, and with ``--held`` the scores that
candidates get from weights that were not fitted on their paragraph. One JSON line is last.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.apps.spans import features
from miaotui.libraries import need

Floats = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[np.int64]]
PENALTIES = (0.5, 1.0, 2.0)
PARTS = 4
FURTHER_WEIGHT = 0.5  # of a question of another way
PARTIAL = 0.3  # of the square of a candidate's F1, beside candidates that match exactly
LEAST_QUESTIONS = 3  # that have a feature: rarer ones get no weight


@dataclass(frozen=True)
class Candidates:
    """Candidates of one question: features, sparse ``[n, names]``, exact match and F1 ``[n, 2]``, their paragraph."""

    values: Any  # of scipy.sparse
    scores: Floats
    texts: list[str]
    number: int
    paragraph: str
    weight: float = 1.0


def read(folder: Path, own: str, further: Sequence[str]) -> tuple[list[str], list[Candidates]]:
    """Names of the features, and the candidates of every question that has some, of all files of some ways."""
    files = [(way, np.load(path)) for way in (own, *further) for path in sorted(folder.glob(f"{way}-[0-9]*.npz"))]
    names = sorted({name for _, file in files for name in file["names"].tolist()})
    columns = {name: number for number, name in enumerate(names)}
    found = [one for way, file in files for one in questions(file, columns, 1.0 if way == own else FURTHER_WEIGHT)]
    return names, found


def questions(file: Any, columns: dict[str, int], weight: float) -> Iterator[Candidates]:
    """The questions of one file."""
    own = np.array([columns[name] for name in file["names"].tolist()], np.int32)
    arrays = (file["values"], own[file["columns"]], file["row_ends"])
    values = need("scipy.sparse").csr_matrix(arrays, shape=(len(arrays[2]) - 1, len(columns)))
    scores, texts, ends = file["scores"].astype(float), file["texts"].tolist(), file["question_ends"].tolist()
    for place, number in enumerate(file["numbers"].tolist()):
        rows = slice(ends[place], ends[place + 1])
        if ends[place] < ends[place + 1]:
            yield Candidates(values[rows], scores[rows], texts[rows], number, str(file["paragraphs"][place]), weight)


def fitted(found: Sequence[Candidates], penalty: float, partial: float = PARTIAL) -> Floats:
    """Weights ``[names]`` of the smallest cross-entropy between candidates' shares and their scores."""
    usable = [one for one in found if one.scores.any()]
    marks = [wanted_shares(one.scores, partial) for one in usable]
    sparse, optimize = need("scipy.sparse"), need("scipy.optimize")
    values = sparse.vstack([one.values for one in usable]).tocsr()
    counts = np.array([one.values.shape[0] for one in usable])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    # Features that few candidates have are not scaled up, which would all but free them of the penalty.
    scale = np.maximum(1.0, np.sqrt(np.asarray(values.multiply(values).mean(axis=0)).ravel()))
    scale[_rare(values, starts, counts)] = np.inf
    values = values @ sparse.diags(1 / scale)
    transposed = values.T.tocsr()
    wanted = np.concatenate([each / each.sum() for each in marks])
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
    found_weights = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
    return np.asarray(found_weights / scale)


def wanted_shares(scores: Floats, partial: float) -> Floats:
    """What each candidate is wanted for, by exact match and F1 ``[n, 2]``: the first, and ``partial`` of F1 squared.

    Where no candidate matches exactly, the square of F1 alone.
    """
    exact, overlap = scores[:, 0], scores[:, 1] ** 2
    return np.asarray(exact + partial * overlap * (1.0 - exact) if exact.any() else overlap)


def _rare(values: Any, starts: Integers, counts: Integers) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which features fewer than `LEAST_QUESTIONS` questions have."""
    question = np.repeat(np.arange(len(counts)), counts)
    pairs = need("scipy.sparse").csr_matrix(
        (np.ones(values.nnz), (np.repeat(question, np.diff(values.indptr)), values.indices))
    )
    pairs.resize(len(starts), values.shape[1])
    return np.asarray((pairs > 0).sum(axis=0)).ravel() < LEAST_QUESTIONS


def reached(found: Sequence[Candidates], weights: Floats) -> Floats:
    """Sum of exact match and F1 of the best candidates."""
    return np.asarray(sum(one.scores[int(np.argmax(one.values @ weights))] for one in found))


def held_out(
    found: Sequence[Candidates], penalty: float, partial: float
) -> tuple[list[float], dict[int, dict[str, float]]]:
    """Exact match and F1, in %, of paragraphs that the weights were not fitted on, and the scores there."""
    own = [one for one in found if one.weight == 1.0]
    order = {text: number for number, text in enumerate(sorted({one.paragraph for one in own}))}
    total, scores = np.zeros(2), {}
    for part in range(PARTS):
        inside = [one for one in found if order.get(one.paragraph, part + 1) % PARTS != part]
        outside = [one for one in own if order[one.paragraph] % PARTS == part]
        weights = fitted(inside, penalty, partial)
        total += reached(outside, weights)
        for one in outside:
            points = (one.values @ weights).round(3).tolist()
            scores[one.number] = dict(sorted(zip(one.texts, points, strict=True), key=lambda each: each[1]))
    return [round(float(each), 1) for each in 100 * total / len(own)], scores


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder that span_features.py wrote")
    parser.add_argument("--way", choices=("en", "zh", "en-meaning", "zh-meaning"), required=True)
    parser.add_argument("--further", nargs="*", default=[], metavar="WAY", help="questions of half the weight")
    parser.add_argument("--penalty", type=float, action="append", help="to try (default: several)")
    parser.add_argument("--partial", type=float, default=PARTIAL, help=f"worth of F1 squared (default: {PARTIAL})")
    parser.add_argument("--write", action="store_true", help="write the weights into the package")
    parser.add_argument("--held", type=Path, metavar="FILE", help="for the held-out scores of the best penalty")
    parsed = parser.parse_args()
    way = parsed.way
    names, rows = read(parsed.features, way, parsed.further)
    tried = {penalty: held_out(rows, penalty, parsed.partial) for penalty in parsed.penalty or PENALTIES}
    penalty = max(tried, key=lambda each: sum(tried[each][0]))
    print(way, len(rows), "questions, held out:", {each: scores for each, (scores, _) in tried.items()}, flush=True)
    if parsed.write:
        write(way, dict(zip(names, fitted(rows, penalty, parsed.partial), strict=True)))
    if parsed.held:
        parsed.held.write_text(json.dumps(tried[penalty][1], ensure_ascii=False), encoding="utf-8")
    print(json.dumps({"benchmark": "span_weights", "results": {way: tried[penalty][0]}}))
    return 0


def write(way: str, weights: dict[str, float]) -> None:
    """Write the weights of one language and way of search beside the others."""
    kept = json.loads(features.WEIGHTS.read_text(encoding="utf-8"))
    kept[way] = {name: round(float(each), 3) for name, each in weights.items() if abs(each) >= 0.005}
    features.WEIGHTS.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
