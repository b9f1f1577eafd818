"""Whether embeddings and a cross-encoder may decide that two questions have one answer.

    miaotui pull embedder reranker
    python -m benchmarks.retrieval.near_answers [--data FOLDER] [--keep FOLDER]

Questions, a paraphrase and a near miss of each were written for this (``near_pairs.json``). With ``--data`` every
question of XQuAD and CMRC 2018 is looked up among all others there, and every test question of Banking77 among those of
other intents: none of these may be found. As in the cache of answers, negations, numbers and names must agree first;
then the nearest question counts. For each language: the least threshold of the cosine that keeps false hits within the
cache's bound (upper end of the 95% Clopper-Pearson interval), and the share of paraphrases beyond it; for English with
a least score of the cross-encoder in both directions, too. Prints a table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from benchmarks.kept import kept
from benchmarks.retrieval.ranking import questions
from miaotui.apps.meaning.encoders import Encoders, find_encoders
from miaotui.retrieval.answers.calibrate import DEFAULT_BOUND, upper_bound
from miaotui.retrieval.answers.similarity import marks_agree, read
from miaotui.retrieval.meaning.languages import is_chinese
from miaotui.retrieval.meaning.protocols import Floats, Reranker

PAIRS = Path(__file__).resolve().parent / "near_pairs.json"
NEAREST = 5  # questions by their cosines, of which the first that agrees counts
READ = 300  # lookups with the largest cosines, which the cross-encoder reads
LEAST_CROSS = (None, 0.0, 3.0, 6.0, 8.0)
KEPT_OF_INTENTS = 1_000
FILES = ("test.csv", "train.csv")
Embed = Callable[[list[str]], Floats]


@dataclass(frozen=True)
class Lookups:
    """Questions looked up, and kept questions that each may find; ``barred[i]`` are those of question ``i``'s own
    answer.
    """

    name: str
    asked: list[str]
    kept: list[str]
    barred: list[set[int]]


@dataclass(frozen=True)
class Match:
    """The kept question that a lookup finds, if any, and its likeness."""

    asked: str
    kept: str
    cosine: float = -1.0
    cross: float = float("inf")


def agree(first: str, second: str) -> bool:
    """Return whether the answer cache would compare the two by their likeness."""
    a, b = read(first), read(second)
    return a is not None and b is not None and marks_agree(a, b)


def differing(chinese: bool, rows: list[list[str]], data: Path | None) -> list[Lookups]:
    """Return lookups of which each hit is a false one."""
    found = [Lookups("near misses", [row[2] for row in rows], [row[0] for row in rows], [set[int]() for _ in rows])]
    if data is None:
        return found
    files = ["xquad/xquad.zh.json", "cmrc2018/cmrc2018_dev.json"] if chinese else ["xquad/xquad.en.json"]
    for file in files:
        texts = list(dict.fromkeys(" ".join(text.split()) for text in questions(file, data / file).queries.values()))
        found.append(Lookups(file, texts, texts, [{place} for place in range(len(texts))]))
    return found if chinese else [*found, of_intents(data / "banking77")]


def of_intents(folder: Path) -> Lookups:
    """Return Banking77's test questions, to be looked up among training questions of other intents."""
    asked, kept = ([tuple(row) for row in csv.reader((folder / name).open(encoding="utf-8"))][1:] for name in FILES)
    kept = kept[:: -(-len(kept) // KEPT_OF_INTENTS)]
    own = [{place for place, row in enumerate(kept) if row[1] == intent} for _, intent in asked]
    return Lookups("banking77", [row[0] for row in asked], [row[0] for row in kept], own)


def matches(lookups: Lookups, embed: Embed) -> list[Match]:
    """Return the nearest kept question of each lookup whose negations, numbers and names agree."""
    similar = embed(lookups.asked) @ embed(lookups.kept).T
    found = []
    for text, cosines, barred in zip(lookups.asked, similar, lookups.barred, strict=True):
        cosines[list(barred)] = -1.0
        nearest = np.argsort(-cosines)[:NEAREST]
        agreeing = (place for place in nearest if cosines[place] > -1 and agree(text, lookups.kept[place]))
        best = next(agreeing, None)
        found.append(Match(text, "") if best is None else Match(text, lookups.kept[best], float(cosines[best])))
    return found


def crossed(found: list[Match], reranker: Reranker) -> list[Match]:
    """Return the matches of the largest cosines with the cross-encoder's lesser score of both directions."""
    order = sorted((each for each in found if each.kept), key=lambda each: -each.cosine)[:READ]
    logits = reranker.score([(each.asked, each.kept) for each in order] + [(each.kept, each.asked) for each in order])
    both = np.asarray(logits).reshape(2, -1).min(axis=0) if order else []
    return [Match(each.asked, each.kept, each.cosine, float(cross)) for each, cross in zip(order, both, strict=True)]


def figures(wrong: list[Match], right: list[Match], trials: int, same: int) -> dict[str, object]:
    """Return the least threshold within the bound, and the share of paraphrases that it finds."""
    ordered = sorted((each.cosine for each in wrong), reverse=True)
    allowed = 0
    while allowed < len(ordered) and upper_bound(allowed + 1, trials) <= DEFAULT_BOUND:
        allowed += 1
    is_shown = upper_bound(allowed, trials) <= DEFAULT_BOUND
    threshold = ordered[allowed] if allowed < len(ordered) else -1.0
    found = sum(each.cosine > threshold for each in right)
    return {
        "lookups that differ": trials,
        "cosine above": round(threshold, 4) if is_shown else None,
        "paraphrases": same,
        "found": found if is_shown else 0,
        "found without a single false hit": sum(each.cosine > max(ordered, default=-1.0) for each in right),
    }


def language_rows(
    encoders: Encoders, chinese: bool, data: Path | None, keep: Path | None
) -> dict[str, dict[str, object]]:
    """Return the figures of one language, by the least score of the cross-encoder."""
    rows = [row for row in json.loads(PAIRS.read_text(encoding="utf-8")) if is_chinese(row[0]) == chinese]
    embedder = encoders.embedder if chinese or encoders.english is None else encoders.english
    wrong: list[Match] = []
    trials = 0
    name = f"near-{blake2b(embedder.identity.encode(), digest_size=6).hexdigest()}"
    for lookups in differing(chinese, rows, data):
        found = matches(lookups, lambda texts: kept(keep, name, texts, lambda part: embedder.embed(part, "query")))
        wrong, trials = wrong + [each for each in found if each.kept], trials + len(found)
        nearest = max(found, key=lambda each: each.cosine)
        print(f"{lookups.name}: {len(found)} lookups, nearest {nearest.cosine:.4f}: {nearest.asked} | {nearest.kept}")
    cosines = np.einsum("nd,nd->n", *(embedder.embed([row[i] for row in rows], "query") for i in range(2)))
    right = [Match(row[1], row[0], float(c)) for row, c in zip(rows, cosines, strict=True) if agree(row[0], row[1])]
    print(f"{len(right)} of {len(rows)} paraphrases agree in negations, numbers and names")
    leasts: Sequence[float | None] = LEAST_CROSS
    if chinese or encoders.reranker is None:
        leasts = (None,)
    else:
        wrong, right = crossed(wrong, encoders.reranker), crossed(right, encoders.reranker)
    return {
        "cosine" if least is None else f"cosine, cross-encoder from {least:g}": figures(
            [each for each in wrong if least is None or each.cross >= least],
            [each for each in right if least is None or each.cross >= least],
            trials,
            len(rows),
        )
        for least in leasts
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = os.environ.get("MIAOTUI_EVALUATION_DATA")
    parser.add_argument("--data", type=Path, default=default and Path(default))
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where embeddings stay")
    parser.add_argument("--threads", type=int)
    parsed = parser.parse_args()
    encoders = find_encoders(threads=parsed.threads)
    if encoders is None:
        print("the embedder is not here: miaotui pull embedder", file=sys.stderr)
        return 2
    result = {}
    with encoders:
        for language in ("English", "Chinese"):
            rows = language_rows(encoders, language == "Chinese", parsed.data, parsed.keep)
            for name, row in rows.items():
                result[f"{language}, {name}"] = row
                print(f"{language}, {name}:", "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    print(json.dumps({"benchmark": "near_answers", "results": result}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
