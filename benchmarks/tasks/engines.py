"""Measures the engines of labels, head, likeness and logits, and writes the table that `tasks.classify` chooses by.

    python -m benchmarks.tasks.engines DATA [--texts N] [--answers FILE] [--write FILE] [--threads N]

DATA holds a folder for each set. Texts are the test questions of ``decisions.py``: sst2, agnews and banking77 (Latin
script), tnews (other scripts). Heads learn from 8 and 32 examples of each label, of the training parts. ``--answers``
are answers of ``decisions.py``, whose accuracy and time are those of logits; without them logits are left out.
``--write`` gives the table's place. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import miaotui
from benchmarks.machine import describe
from benchmarks.tasks.decisions import Asked, questions, sets_of
from benchmarks.tasks.labels import per_class
from miaotui.tasks import Classifier

LATIN, OTHER = "all-minilm-l6-v2", "embedder"
EXAMPLES = (8, 32)
MOST_EXAMPLES = 500  # a head of more is left out: banking77's 77 labels take minutes to embed
SCRIPTS = {"latin": (LATIN, ["sst2", "agnews", "banking77"]), "other": (OTHER, ["tnews"])}
Row = dict[str, Any]


def by_set(asked: Sequence[Asked]) -> dict[str, list[Asked]]:
    found: dict[str, list[Asked]] = defaultdict(list)
    for each in asked:
        found[each[0]].append(each)
    return found


def similarity(encoder: miaotui.Encoder, asked: Sequence[Asked]) -> Iterator[bool]:
    """Whether likeness to names is right, question by question: their options may differ."""
    known: dict[tuple[str, ...], Classifier] = {}
    for _, text, question, right in asked:
        options = tuple(question.options)
        if options not in known:
            known[options] = Classifier.from_names(encoder, options)
        yield known[options].classify(text)[0].label == right


def head(
    encoder: miaotui.Encoder, data: Path, name: str, asked: Sequence[Asked], each: int
) -> tuple[list[bool], float, int] | None:
    """Whether a head over so many examples of each label is right, its milliseconds per text, and the examples."""
    tests = {text for _, text, _, _ in asked}
    pairs = [pair for pair in sets_of(data, "development")[name][0] if pair[0] not in tests]
    pairs = [(text, label.removeprefix("news_")) for text, label in pairs]
    train, _ = per_class(pairs, each, 0)
    most = len(train) / len({label for _, label in train})
    if most < 0.75 * each or len(train) > MOST_EXAMPLES:
        return None
    classifier = Classifier.fit(encoder, [text for text, _ in train], [label for _, label in train])
    texts = [text for _, text, _, _ in asked]
    classifier.classify(texts[:4])
    began_s = time.perf_counter()
    found = classifier.classify(texts)
    took_ms = (time.perf_counter() - began_s) * 1e3 / len(texts)
    right = []
    for (_, _, question, answer), result in zip(asked, found, strict=True):
        offered = {option: result.scores.get(option, 0.0) for option in question.options}
        right.append(max(offered, key=offered.__getitem__) == answer)
    return right, took_ms, each


def encoder_rows(
    data: Path, asked: dict[str, list[Asked]], threads: int | None, wanted: dict[str, tuple[str, list[str]]]
) -> Iterator[Row]:
    """Rows of likeness and of heads."""
    for script, (name, sets) in wanted.items():
        with miaotui.load_encoder(name, threads=threads) as encoder:
            right = [float(np.mean(list(similarity(encoder, asked[each])))) for each in sets]
            texts = [text for each in sets for _, text, _, _ in asked[each]]
            by_name = Classifier.from_names(encoder, ["one", "other"])
            by_name.classify(texts[:4])
            began_s = time.perf_counter()
            by_name.classify(texts)
            took_ms = (time.perf_counter() - began_s) * 1e3 / len(texts)
            yield row("similarity", script, 0, name, right, took_ms, sets)
            for count in EXAMPLES:
                tried = {each: head(encoder, data, each, asked[each], count) for each in sets}
                found = {each: some for each, some in tried.items() if some is not None}
                if found:
                    shares = [float(np.mean(some[0])) for some in found.values()]
                    yield row("head", script, count, name, shares, max(x[1] for x in found.values()), list(found))


def logits_rows(answers: Path, model: str) -> Iterator[Row]:
    """Rows of logits, from answers of ``decisions.py``."""
    found: dict[str, list[Row]] = defaultdict(list)
    for each in map(json.loads, answers.read_text().splitlines()):
        found[each["set"]].append(each)
    for script, (_, sets) in SCRIPTS.items():
        answered = [each for each in sets if found[each]]
        if answered:
            right = [
                float(np.mean([max(x["logits"], key=x["logits"].__getitem__) == x["right"] for x in found[each]]))
                for each in answered
            ]
            took_ms = float(np.median([x["took_ms"] for each in answered for x in found[each]]))
            yield row("logits", script, 0, model, right, took_ms, answered)


def row(
    engine: str, script: str, examples: int, model: str, right: Sequence[float], took_ms: float, sets: Sequence[str]
) -> Row:
    return {
        "engine": engine, "script": script, "examples": examples, "model": model,
        "accuracy": {name: round(each, 3) for name, each in zip(sets, right, strict=True)},
        "ms_per_text": round(took_ms, 2),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--texts", type=int, default=100, help="of each set")
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="that gave the answers")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--scripts", default="latin,other", help="rows of others are kept as --write has them")
    parser.add_argument("--threads", type=int)
    parsed = parser.parse_args()
    asked = by_set(questions(parsed.data, 4 * parsed.texts))
    wanted = {script: SCRIPTS[script] for script in parsed.scripts.split(",")}
    rows = list(encoder_rows(parsed.data, asked, parsed.threads, wanted))
    if parsed.answers is not None:
        rows += [each for each in logits_rows(parsed.answers, parsed.model) if each["script"] in wanted]
    if parsed.write is not None and parsed.write.exists():
        rows += [each for each in json.loads(parsed.write.read_text())["rows"] if each["script"] not in wanted]
    rows.sort(key=lambda each: (each["script"], each["engine"], each["examples"]))
    table = {"machine": describe().processor, "texts_per_set": parsed.texts, "rows": rows}
    if parsed.write is not None:
        parsed.write.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
