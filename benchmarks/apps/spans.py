"""Short answers over an index of XQuAD: exact match and F1 of the span that `QaPipeline` gives, by language.

    miaotui pull embedder reranker
    python -m benchmarks.apps.spans --data FOLDER --language en                              # cut out, without a model
    python -m benchmarks.apps.spans --data FOLDER --language zh --model qwen2.5-coder-0.5b   # selected by a chat model

FOLDER holds ``xquad`` as published. The index has all paragraphs; search is by words and meaning. Weights, prompts and
thresholds were tried on questions of other paragraphs (`fitting`) than those that are `reported`. With ``--keep`` the
index and the answers stay in a folder, and the next run goes on after ``--seconds`` of the one before. ``--given``
reads the question's own paragraph alone. Prints exact match and F1 with 95% intervals (bootstrap of paragraphs),
why questions were lost, and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import miaotui
from benchmarks.apps.answers import Asked, Score, cut_chinese, cut_english, score, xquad
from benchmarks.apps.span_losses import REASONS, reason
from miaotui.apps.answering import Answer
from miaotui.apps.evidence import Evidence, Passage, gather
from miaotui.apps.meaning.encoders import Encoders, find_encoders
from miaotui.apps.qa_pipeline import QaPipeline, Question
from miaotui.apps.spans.ranking import ranked_sentences
from miaotui.llm import LLM
from miaotui.retrieval import Document, Index
from miaotui.retrieval.meaning.bilingual import MeaningVectors
from miaotui.retrieval.meaning.hybrid import HybridIndex

NO_LIMIT_MS = 600_000.0
FIRST = 100  # questions whose paragraphs no weight was fitted on
SAMPLES = 1_000  # of paragraphs, for the intervals


@contextmanager
def opened(folder: Path, documents: list[Document], encoders: Encoders | None) -> Iterator[Any]:
    """The index of all paragraphs, made if it is not there; by meaning where there are encoders."""
    made = folder.exists()
    with Index.open(folder) if made else Index.create(folder) as index:
        if not made:
            index.add(documents)
        if encoders is None:
            yield index
            return
        vectors = MeaningVectors(index, encoders.embedder, encoders.english)
        vectors.update()
        yield HybridIndex(vectors)


class GivenParagraph(QaPipeline):
    """Pipeline that reads one paragraph instead of searching."""

    paragraph = ""

    def evidence(self, question: Question, within_ms: float | None = None) -> Evidence:
        found = gather(question.text, [Passage("given", self.paragraph)])
        ranked = found.ranked or tuple(ranked_sentences(question.text, [self.paragraph]))
        return replace(found, least=0.0, ranked=ranked)


def answered(pipeline: QaPipeline, one: Asked, deadline_ms: float = NO_LIMIT_MS) -> Answer:
    """The answer from the index, or from the question's own paragraph."""
    if isinstance(pipeline, GivenParagraph):
        pipeline.paragraph = one.paragraph
    question = Question(one.question, "xquad", "extractive" if pipeline.llm is None else "generated", deadline_ms)
    *_, answer = pipeline.ask(question)
    assert isinstance(answer, Answer)
    return answer


def reported(asked: list[Asked]) -> list[int]:
    """Numbers of the questions that are reported, in an order of chance that is always the same.

    After the first `FIRST` of four fifths of all come the others of the same paragraphs, so that a longer report needs
    no more paragraphs. Every fifth question was used for development once and is left out.
    """
    numbers = [number for number in range(len(asked)) if number % 5]
    random.Random(1).shuffle(numbers)
    paragraphs = {asked[number].paragraph for number in numbers[:FIRST]}
    return [*numbers[:FIRST], *(n for n in numbers[FIRST:] if asked[n].paragraph in paragraphs)]


def fitting(asked: list[Asked]) -> list[int]:
    """Numbers of the questions whose paragraphs have none of those that are reported, in an order of chance."""
    paragraphs = {asked[number].paragraph for number in reported(asked)}
    numbers = [number for number, one in enumerate(asked) if one.paragraph not in paragraphs]
    random.Random(2).shuffle(numbers)
    return numbers


def kept_rows(path: Path | None) -> dict[int, dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["number"]: row for row in rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--language", choices=("en", "zh"), required=True)
    parser.add_argument("--model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--part", choices=("reported", "fitting"), default="reported")
    parser.add_argument("--most", type=int, help="questions, at most")
    parser.add_argument("--words", action="store_true", help="search by words alone")
    parser.add_argument("--given", action="store_true", help="the question's paragraph instead of a search")
    parser.add_argument("--deadline-ms", type=float, default=NO_LIMIT_MS, help="of each question (default: none)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of the index and the answers")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many, to go on later")
    parsed = parser.parse_args()
    encoders = None if parsed.words or parsed.given else find_encoders(threads=parsed.threads)
    model = miaotui.load(parsed.model, threads=parsed.threads) if parsed.model else nullcontext(None)
    with encoders or nullcontext(), model as llm, tempfile.TemporaryDirectory() as place:
        rows = measured(parsed, encoders, llm, parsed.keep or Path(place))
    cut = cut_english if parsed.language == "en" else cut_chinese
    name = f"XQuAD-{parsed.language}, {parsed.model or 'extracted'}, {parsed.part}"
    name += ", paragraph given" if parsed.given else ", by words" if parsed.words else ""
    times = sorted(row["ms"] for row in rows)
    figures = with_intervals([score(row["span"], row["answers"], cut) for row in rows], [row["place"] for row in rows])
    print(f"{name}: {len(rows)} questions, median {times[len(times) // 2]:.0f} ms")
    for measure, (value, low, high) in figures.items():
        print(f"{measure:12} {value:5.1f}  ({low:.1f} to {high:.1f})")
    if parsed.deadline_ms < NO_LIMIT_MS:
        late = sum(row["ms"] > parsed.deadline_ms for row in rows)
        left_out = Counter(each for row in rows for each in row["left_out"])
        print(f"within {parsed.deadline_ms:.0f} ms: {late} late, the slowest {times[-1]:.0f} ms")
        print("left out:", ", ".join(f"{each} {count}" for each, count in left_out.most_common()) or "nothing")
    lost = Counter(row["reason"] for row in rows)
    print("\n".join(f"{lost[each]:5}  {each}" for each in REASONS))
    print(json.dumps({"benchmark": "spans", "results": {name: figures}, "questions": len(rows), "lost": lost}))
    return 0


def with_intervals(scores: list[Score], places: list[str]) -> dict[str, list[float]]:
    """Exact match and F1 in %, each with its 95% interval by samples of paragraphs."""
    values, groups = np.array(scores), np.unique(places, return_inverse=True)[1]
    sums = np.array([values[groups == group].sum(axis=0) for group in range(groups.max() + 1)])
    counts = np.bincount(groups)
    drawn = np.random.default_rng(0).integers(0, len(counts), (SAMPLES, len(counts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)[:, None]
    bounds = np.quantile(means, (0.025, 0.975), axis=0)
    triples = 100 * np.vstack([values.mean(axis=0), bounds])
    return {name: triples[:, n].round(1).tolist() for n, name in enumerate(("exact match", "F1"))}


def measured(
    parsed: argparse.Namespace, encoders: Encoders | None, llm: LLM | None, folder: Path
) -> list[dict[str, Any]]:
    """The answers of the part, those that were kept included."""
    asked, documents = xquad(parsed.data / "xquad", parsed.language)
    numbers = (reported(asked) if parsed.part == "reported" else fitting(asked))[: parsed.most]
    cut = cut_english if parsed.language == "en" else cut_chinese
    count = len if llm is None else lambda text: len(llm.tokenizer.encode(text, special=False))
    way = "given" if parsed.given else "words" if parsed.words else "meaning"
    way += f"-{parsed.deadline_ms:.0f}" if parsed.deadline_ms < NO_LIMIT_MS else ""
    path = folder / f"{parsed.language}-{way}-{parsed.model or 'extracted'}.jsonl" if parsed.keep else None
    rows, due_s = kept_rows(path), time.perf_counter() + parsed.seconds
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"index-{parsed.language}"
    with opened(place, documents, encoders) if not parsed.given else nullcontext(None) as index:
        made = GivenParagraph if parsed.given else QaPipeline
        pipeline = made(index or _NoIndex(), llm, reranker=encoders.reranker if encoders else None)
        for number in numbers:
            if number in rows or time.perf_counter() > due_s:
                continue
            one, started = asked[number], time.perf_counter()
            answer = answered(pipeline, one, parsed.deadline_ms)
            span = answer.span if answer.found else ""
            ms = 1e3 * (time.perf_counter() - started)
            rows[number] = {
                "number": number,
                "span": span,
                "text": answer.text,
                "how": answer.how,
                "ms": ms,
                "left_out": answer.left_out,
            }
            rows[number] |= {"question": one.question, "answers": one.answers, "place": one.paragraph[:40]}
            evidence = pipeline.evidence(Question(one.question, "xquad"))
            rows[number]["reason"] = reason(one, evidence, answer, count, cut)
            if path is not None:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[number], ensure_ascii=False) + "\n")
    found = [rows[number] for number in numbers if number in rows]
    if len(found) < len(numbers):
        print(f"{len(found)} of {len(numbers)} questions so far", file=sys.stderr)
    return found


class _NoIndex:
    """Index that is never searched."""

    version = ""

    def search(self, query: str, limit: int = 10, *, offset: int = 0, plain: bool = False) -> Any:
        raise AssertionError("the paragraph was given")


if __name__ == "__main__":
    raise SystemExit(main())
