"""Summaries: extracted ones against the lead and LexRank, and a chat model's, by ROUGE on public sets.

    python -m benchmarks.tasks.summaries DATA [--sets scitldr,csl] [--fit] [--write N] [--model NAME]

DATA holds ``scitldr/test.jsonl`` and ``csl-titles/{dev,test}.tsv``. scitldr: one sentence of an abstract, the best
ROUGE over a paper's references (as its authors score); the first 200 papers are for fitting, the other 418 are
scored. csl-titles: one clause of an abstract; dev is for fitting, test is scored. The lead is the first unit,
LexRank the one of highest centrality (Erkan and Radev 2004, continuous, TF-IDF cosine). ROUGE by rouge-score, with its
stemmer for English and jieba's words for Chinese. ``--fit`` learns the mixture of features anew (ListNet, Cao et al.
2007) from the fitting part and prints it; ``--write N`` scores N summaries of a chat model beside the others.
Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rouge_score import rouge_scorer, tokenizers

import miaotui
from miaotui.libraries import need
from miaotui.tasks import SummaryLength
from miaotui.tasks.summaries.calls import written
from miaotui.tasks.summaries.extractive import WEIGHTS
from miaotui.tasks.summaries.features import NAMES, features_of
from miaotui.tasks.summaries.units import units_of
from miaotui.tasks.writing.writer import Writer

KINDS = ("rouge1", "rouge2", "rougeL")
CENTRALITY = NAMES.index("centrality")
FITTED = 200  # papers of scitldr
TEMPERATURE, STEPS, RATE, DECAY = 0.05, 400, 0.05, 1e-3
Pairs = list[tuple[str, list[str]]]
Score = Callable[[str, Sequence[str]], list[float]]


class ChineseWords(tokenizers.Tokenizer):  # type: ignore[misc]
    """Words as jieba cuts them, without marks."""

    def tokenize(self, text: str) -> list[str]:
        return [word for word in need("rjieba").cut(text) if any(letter.isalnum() for letter in word)]


def scorer(chinese: bool) -> Score:
    """A function from a summary and its references to the best F-measure of each kind."""
    options: dict[str, Any] = {"tokenizer": ChineseWords()} if chinese else {"use_stemmer": True}
    rouge = rouge_scorer.RougeScorer(list(KINDS), **options)

    def score(summary: str, references: Sequence[str]) -> list[float]:
        found = [rouge.score(reference, summary) for reference in references]
        return [max(each[kind].fmeasure for each in found) for kind in KINDS]

    return score


def scitldr(data: Path) -> tuple[Pairs, Pairs]:
    rows = [json.loads(line) for line in (data / "scitldr/test.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [(" ".join(part.strip() for part in row["source"]), row["target"]) for row in rows]
    return pairs[:FITTED], pairs[FITTED:]


def csl(data: Path) -> tuple[Pairs, Pairs]:
    parts = []
    for name in ("dev", "test"):
        rows = (data / f"csl-titles/{name}.tsv").read_text(encoding="utf-8").split("\n")
        parts.append([(row.split("\t")[1], [row.split("\t")[2]]) for row in rows if row.count("\t") == 2])
    return parts[0], parts[1]


def fit(pairs: Pairs, kind: Any, score: Score) -> list[float]:
    """The mixture of features under which shares of units are nearest to those of their ROUGE."""
    inputs, targets = [], []
    for text, references in pairs:
        units = units_of(text, kind)
        inputs.append(features_of(units)[0])
        rewards = np.array([np.mean(score(unit.text, references)) for unit in units])
        shares = np.exp((rewards - rewards.max()) / TEMPERATURE)
        targets.append(shares / shares.sum())
    spread = np.concatenate(inputs).std(axis=0) + 1e-9
    scaled = [each / spread for each in inputs]
    weights, mean, square = np.zeros(len(NAMES)), np.zeros(len(NAMES)), np.zeros(len(NAMES))
    for step in range(1, STEPS + 1):
        slope = DECAY * weights
        for rows, shares in zip(scaled, targets, strict=True):
            logits = rows @ weights
            given = np.exp(logits - logits.max())
            slope = slope + rows.T @ (given / given.sum() - shares) / len(scaled)
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope * slope
        weights = weights - RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
    return [round(float(each), 2) for each in weights / spread]


def chosen(text: str, kind: Any, weights: Sequence[float]) -> dict[str, str]:
    """The one unit that each way chooses."""
    units = units_of(text, kind)
    features, _ = features_of(units)
    mixed = int((features @ np.asarray(weights)).argmax())
    return {
        "lead": units[0].text, "lexrank": units[int(features[:, CENTRALITY].argmax())].text, "ours": units[mixed].text,
    }  # fmt: skip


def mean_of(rows: Sequence[Sequence[float]]) -> dict[str, float]:
    return dict(zip(KINDS, (round(float(each), 4) for each in np.mean(rows, axis=0)), strict=True))


def measured(name: str, data: Path, options: argparse.Namespace) -> dict[str, Any]:
    kind: Any = "sentence" if name == "scitldr" else "clause"
    fitting, tests = scitldr(data) if name == "scitldr" else csl(data)
    score = scorer(name == "csl")
    weights = fit(fitting, kind, score) if options.fit else list(WEIGHTS[kind])
    if options.fit:
        print(f"{name}: {dict(zip(NAMES, weights, strict=True))}", file=sys.stderr)
    rows: dict[str, list[list[float]]] = {"lead": [], "lexrank": [], "ours": []}
    for text, references in tests:
        for way, summary in chosen(text, kind, weights).items():
            rows[way].append(score(summary, references))
    report: dict[str, Any] = {way: mean_of(found) for way, found in rows.items()}
    if options.write:
        sample = tests[: options.write]
        with miaotui.load(options.model, threads=options.threads) as llm:
            found = written(Writer(llm), [text for text, _ in sample], SummaryLength(sentences=1, unit=kind))
        report["of_the_first"] = len(sample)
        report["written"] = mean_of([score(one.text or "", refs) for one, (_, refs) in zip(found, sample, strict=True)])
        report["written_by_model"] = sum(one.method == "write" for one in found)
        report["ours_there"] = mean_of(rows["ours"][: len(sample)])
    return {"set": name, "unit": kind, "texts": len(tests), **report}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="scitldr,csl")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--write", type=int, default=0, metavar="N")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--threads", type=int)
    parsed = parser.parse_args()
    results = [measured(name, parsed.data, parsed) for name in parsed.sets.split(",")]
    for each in results:
        for way in ("lead", "lexrank", "ours", "ours_there", "written"):
            if way in each:
                print(f"{each['set']:10}{way:12}{each[way]}", file=sys.stderr)
    print(json.dumps({"benchmark": "summaries", "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
