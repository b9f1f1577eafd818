"""Candidate spans of questions with their features, for ``span_weights.py`` to fit weights of.

    python -m benchmarks.apps.span_features --data FOLDER --language en --write FEATURES            # searched by words
    python -m benchmarks.apps.span_features --data FOLDER --language en --write FEATURES --meaning  # and by meaning
    python -m benchmarks.apps.span_features --data FOLDER --language zh --write FEATURES --others 1500

FOLDER holds ``xquad`` and ``cmrc2018`` as published. Questions are those of `spans.fitting`: no paragraph of a reported
question is among them. ``--others`` takes questions of CMRC 2018 with their own paragraph instead. FEATURES gets a file
for every 50 questions; files that are there are not made again, so that a run goes on after ``--seconds``.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.apps.answers import Asked, cut_chinese, cut_english, score, xquad
from benchmarks.apps.spans import fitting, opened
from miaotui.apps.evidence import Evidence, Passage, gather
from miaotui.apps.meaning.encoders import find_encoders
from miaotui.apps.qa_pipeline import Question, look_up
from miaotui.apps.spans import features, ranking
from miaotui.apps.spans.candidates import candidates

QUESTIONS = 50  # of a file


@dataclass(frozen=True)
class Found:
    """Candidates of one question: texts, features by name, exact match and F1; where the paragraph is, its evidence."""

    number: int
    texts: list[str]
    rows: list[dict[str, float]]
    scores: list[tuple[float, float]]


def found_for(one: Asked, number: int, evidence: Evidence, language: str) -> Found:
    """The candidates of the likely sentences; those of other paragraphs are wrong."""
    cut = cut_english if language == "en" else cut_chinese
    texts = [passage.text for passage in evidence.passages]
    asked, sentences = ranking.weighed(one.question, texts, () if evidence.signals is None else evidence.ranked)
    best = ranking.likely(sentences)
    most = max((sentence.support for sentence in best), default=0.0)
    found = Found(number, [], [], [])
    for sentence in best:
        text = texts[sentence.passage]
        for first, last in candidates(sentence.words, asked.kind):
            start, end = ranking.bounds_of(text, sentence.words[first : last + 1])
            span = text[start:end]
            found.texts.append(span)
            found.rows.append(dict(features.features(asked, sentence, first, last, span, most)))
            found.scores.append(score(span, one.answers, cut) if text == one.paragraph else (0.0, 0.0))
    return found


def others(data: Path) -> list[Asked]:
    """Questions of CMRC 2018 in an order of chance; the number of the paragraph stands for the article's."""
    articles = json.loads((data / "cmrc2018" / "cmrc2018_dev.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    asked = [
        Asked(number, paragraph["context"], one["question"], [answer["text"] for answer in one["answers"]])
        for number, paragraph in enumerate(paragraphs)
        for one in paragraph["qas"]
    ]
    random.Random(3).shuffle(asked)
    return asked


def write(path: Path, found: list[Found], asked: list[Asked]) -> None:
    """Write candidates as arrays: a sparse matrix of features by rows, and where each question's rows begin."""
    names = sorted({name for one in found for row in one.rows for name in row})
    columns = {name: number for number, name in enumerate(names)}
    rows = [row for one in found for row in one.rows]
    arrays: dict[str, Any] = {
        "names": np.array(names),
        "columns": np.array([columns[name] for row in rows for name in row], np.int32),
        "values": np.array([value for row in rows for value in row.values()], np.float32),
        "row_ends": np.cumsum([0, *(len(row) for row in rows)]),
        "question_ends": np.cumsum([0, *(len(one.rows) for one in found)]),
        "scores": np.array([each for one in found for each in one.scores], np.float32).reshape(-1, 2),
        "texts": np.array([text for one in found for text in one.texts]),
        "numbers": np.array([one.number for one in found]),
        "paragraphs": np.array([asked[one.number].paragraph for one in found]),
    }
    np.savez_compressed(path, **arrays)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--language", choices=("en", "zh"), required=True)
    parser.add_argument("--write", type=Path, required=True, metavar="FEATURES", help="folder of the files")
    parser.add_argument("--meaning", action="store_true", help="search by words and meaning")
    parser.add_argument("--others", type=int, default=0, metavar="N", help="questions of CMRC 2018 instead")
    parser.add_argument("--most", type=int, help="questions, at most")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many, to go on later")
    parser.add_argument("--threads", type=int)
    parsed = parser.parse_args()
    parsed.write.mkdir(parents=True, exist_ok=True)
    due_s = time.perf_counter() + parsed.seconds
    with sources(parsed) as (name, asked, numbers, evidence_of):
        for place in range(0, len(numbers), QUESTIONS):
            path = parsed.write / f"{name}-{place:05}.npz"
            if path.exists():
                continue
            if time.perf_counter() > due_s:
                print(f"{place} of {len(numbers)} questions so far")
                return 0
            part = numbers[place : place + QUESTIONS]
            write(path, [found_for(asked[n], n, evidence_of(asked[n]), parsed.language) for n in part], asked)
    print("all files are there")
    return 0


@contextmanager
def sources(parsed: argparse.Namespace) -> Iterator[tuple[str, list[Asked], list[int], Callable[[Asked], Evidence]]]:
    """The questions: a name, all of them, the numbers of those that are wanted, and what is found for one."""
    if parsed.others:
        asked = others(parsed.data)
        yield (
            "others",
            asked,
            list(range(parsed.others)),
            lambda one: gather(one.question, [Passage("", one.paragraph)]),
        )
        return
    asked, documents = xquad(parsed.data / "xquad", parsed.language)
    encoders = find_encoders(threads=parsed.threads) if parsed.meaning else None
    reranker = None if encoders is None else encoders.reranker
    name = f"{parsed.language}-meaning" if parsed.meaning else parsed.language
    with encoders or nullcontext(), opened(parsed.write / f"index-{parsed.language}", documents, encoders) as index:
        yield (
            name,
            asked,
            fitting(asked)[: parsed.most],
            lambda one: look_up(index, Question(one.question, "x"), reranker),
        )


if __name__ == "__main__":
    raise SystemExit(main())
