"""Readings of candidate spans by a chat model, and the weights beside them (``apps/spans/selection.py``).

    python -m benchmarks.apps.span_readings READINGS --data FOLDER --language en --held HELD --most 150
    python -m benchmarks.apps.span_readings READINGS --language en --held HELD     # what span_weights.py --held wrote

HELD has extractor's scores that were not fitted on the question's paragraph: with those that were, the right spans
would be read more often than they are elsewhere. The first form reads the spans of questions of `spans.fitting` after
the pipeline's own prompt, all that come within `SLACK` nats of the best at a small weight of the score, and adds a line
for each question to READINGS; it goes on after ``--seconds`` of a run. The second fits three weights, of the model's
log-probability, of the extractor's score and of the number of tokens (listwise, as in ``span_weights.py``), and prints
exact match and F1 of each weight of the score beside the log-probability. One JSON line is last.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import miaotui
from benchmarks.apps.answers import cut_chinese, cut_english, score, xquad
from benchmarks.apps.spans import fitting, opened
from miaotui.apps.meaning.encoders import find_encoders
from miaotui.apps.qa_pipeline import Question, look_up
from miaotui.apps.spans.phrase_scores import CandidatePhrase, PhraseReader
from miaotui.apps.spans.selection import TOKEN_WEIGHT, select
from miaotui.libraries import need
from miaotui.llm import LLM

SLACK = 4.0
LEAST_WEIGHT = 0.7  # of the extractor's score while spans are read; larger ones prefer fewer of them
UNLIMITED_TOKENS = 4_096
MOST_PATHS = 6
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Reading:
    """Candidates of one question: log-probability, extractor's score and tokens ``[n, 3]``, exact match and F1."""

    values: Floats
    scores: Floats
    whole: Floats


def read_one(llm: LLM, evidence: Any, held: dict[str, float]) -> tuple[list[list[Any]], float]:
    """(text, log-probability, tokens, whether all were read, held-out score) of each span, and the time in ms."""
    selection = select(evidence, lambda text: len(llm.tokenizer.encode(text, special=False)), UNLIMITED_TOKENS)
    spans = selection.spans()
    if not spans:
        return [], 0.0
    started = time.perf_counter()
    reader = PhraseReader(llm, llm.chat_tokens(selection.messages))
    least = min(held.values(), default=0.0)
    scores = [held.get(span.text, least) for span in spans]
    phrases = [CandidatePhrase(span.text, LEAST_WEIGHT * each) for span, each in zip(spans, scores, strict=True)]
    trie = reader.trie(phrases, per_token=TOKEN_WEIGHT)
    reader.read(trie, MOST_PATHS, SLACK)
    took_ms = 1e3 * (time.perf_counter() - started)
    found = zip(trie.scores(), trie.tokens, scores, strict=True)
    return [
        [each.phrase.text, round(each.logprob, 3), len(tokens), each.is_whole, round(score, 3)]
        for each, tokens, score in found
    ], took_ms


def collect(parsed: argparse.Namespace) -> None:
    asked, documents = xquad(parsed.data / "xquad", parsed.language)
    held = json.loads(parsed.held.read_text(encoding="utf-8"))
    known = {json.loads(line)["number"] for line in lines_of(parsed.readings)}
    encoders = None if parsed.words else find_encoders(threads=parsed.threads)
    place, due_s = parsed.readings.parent / f"index-{parsed.language}", time.perf_counter() + parsed.seconds
    with (
        encoders or nullcontext(),
        opened(place, documents, encoders) as index,
        miaotui.load(parsed.model, threads=parsed.threads) as llm,
        parsed.readings.open("a", encoding="utf-8") as file,
    ):
        for number in fitting(asked)[: parsed.most]:
            if number in known or time.perf_counter() > due_s:
                continue
            evidence = look_up(index, Question(asked[number].question, "x"), encoders.reranker if encoders else None)
            found, took_ms = read_one(llm, evidence, held.get(str(number), {})) if evidence.ranked else ([], 0.0)
            row = {"number": number, "answers": asked[number].answers, "weak": evidence.is_weak, "ms": round(took_ms)}
            file.write(json.dumps(row | {"spans": found}, ensure_ascii=False) + "\n")
            file.flush()


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def readings(path: Path, held: dict[str, dict[str, float]], language: str) -> list[Reading]:
    """The questions that were read; spans that the held-out scores lack get the least of them."""
    cut = cut_english if language == "en" else cut_chinese
    found = []
    for row in map(json.loads, lines_of(path)):
        own = held.get(str(row["number"]), {})
        least = min(own.values(), default=0.0)
        values = [[logprob, own.get(text, least), tokens] for text, logprob, tokens, _, _ in row["spans"]]
        scores = [score(text, row["answers"], cut) for text, *_ in row["spans"]]
        whole = np.array([each[3] for each in row["spans"]], bool)
        found.append(Reading(np.array(values).reshape(-1, 3), np.array(scores).reshape(-1, 2), whole))
    return found


def fitted(found: Sequence[Reading]) -> Floats:
    """Weights of the log-probability, the extractor's score and the tokens."""
    usable = [each for each in found if each.scores.any()]

    def loss(weights: Floats) -> float:
        total = 0.0
        for each in usable:
            points = each.values @ weights
            wanted = each.scores.mean(axis=1) * each.scores[:, 1]
            total -= float(wanted / wanted.sum() @ points) - float(np.log(np.exp(points - points.max()).sum()))
            total += float(points.max())
        return total

    return np.asarray(need("scipy.optimize").minimize(loss, np.array([1.0, 0.5, 0.3]), method="Nelder-Mead").x)


def reached(found: Sequence[Reading], weights: Floats) -> list[float]:
    """Exact match and F1, in %, of the best candidates that were read whole."""
    total = np.zeros(2)
    for each in found:
        if each.whole.any():
            points = np.where(each.whole, each.values @ weights, -np.inf)
            total += each.scores[int(np.argmax(points))]
    return [round(float(each), 1) for each in 100 * total / max(1, len(found))]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("readings", type=Path, metavar="READINGS")
    parser.add_argument("--language", choices=("en", "zh"), required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--words", action="store_true", help="search by words alone")
    parser.add_argument("--most", type=int, default=150, help="questions, at most")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many, to go on later")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--held", type=Path, required=True, help="held-out scores of the extractor")
    parsed = parser.parse_args()
    if parsed.data is not None:
        collect(parsed)
        return 0
    found = readings(parsed.readings, json.loads(parsed.held.read_text(encoding="utf-8")), parsed.language)
    weights = fitted(found)
    ratios = (0.0, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
    tried = {ratio: reached(found, np.array([1.0, ratio, TOKEN_WEIGHT])) for ratio in ratios}
    bound = [round(float(each), 1) for each in 100 * np.mean([r.scores.max(axis=0, initial=0) for r in found], axis=0)]
    print(
        parsed.language, len(found), "questions, weights", weights.round(2).tolist(), "reached", reached(found, weights)
    )
    print("by weight of the score:", tried, "bound", bound)
    print(json.dumps({"benchmark": "span_readings", "weights": weights.round(3).tolist()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
