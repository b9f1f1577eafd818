"""Fields of a hundred texts, English and Chinese: how many values are right, and whether each is in its text.

    python -m benchmarks.tasks.extraction [--model NAME] [--cache FILE] [--limit-s S]

The texts, their schemas and right values are those of `tests/tasks/extraction/extraction_cases.jsonl`, written for
this project. Every value is bound to its text (`verbatim`); right is an equal value, after the standard form of dates,
times and amounts. A run with --limit-s goes on where another one ended. Prints a table by language and one JSON line
last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import miaotui
from benchmarks.machine import describe
from benchmarks.places import TESTS
from miaotui.tasks import extract

CASES = TESTS / "tasks" / "extraction" / "extraction_cases.jsonl"
TOGETHER = 5


def read_cases() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The schemas by name, and the texts with their right values."""
    rows = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    return {row["name"]: row["schema"] for row in rows if "name" in row}, [row for row in rows if "name" not in row]


def answers(given: argparse.Namespace, schemas: dict[str, Any], cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Values and places by text; those in the cache are not asked for again."""
    known: dict[str, Any] = json.loads(given.cache.read_text()) if given.cache.exists() else {}
    left = [case for case in cases if case["text"] not in known]
    until_s = time.perf_counter() + given.limit_s
    if not left:
        return known
    with miaotui.load(given.model, threads=given.threads) as llm:
        for name, schema in schemas.items():
            texts = [case["text"] for case in left if case["schema"] == name]
            for first in range(0, len(texts), TOGETHER):
                if time.perf_counter() > until_s:
                    return known
                part = texts[first : first + TOGETHER]
                for text, found in zip(part, extract(part, schema, verbatim=True, model=llm), strict=True):
                    known[text] = {"values": dict(found.values), "inside": is_inside(text, found)}
                given.cache.write_text(json.dumps(known, ensure_ascii=False))
                print(f"{len(known)} texts", file=sys.stderr, flush=True)
    return known


def is_inside(text: str, found: Any) -> bool:
    """Whether every value that was found is the span of the text that it says it is."""
    return all(one is None or text[one.start : one.end] == one.text for one in found.fields.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--cache", type=Path, default=Path("extraction-answers.json"))
    parser.add_argument("--limit-s", type=float, default=1e9, help="stop asking after so long; run again to go on")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    schemas, cases = read_cases()
    known = answers(given, schemas, cases)
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for case in (case for case in cases if case["text"] in known):
        found, (form, _, language) = known[case["text"]], case["schema"].partition(".")
        right = sum(found["values"].get(field) == value for field, value in case["answer"].items())
        for name in (language, form, "all"):
            row = (1, right, len(case["answer"]), found["inside"])
            counts[name] = [old + new for old, new in zip(counts[name], row, strict=True)]
    print(f"{'':10}texts  fields  right  in the text")
    for name, (texts, right, fields, inside) in sorted(counts.items()):
        print(f"{name:10}{texts:5}  {fields:6}  {right / fields:.3f}  {inside / texts:.3f}")
    figures = {
        name: {"texts": texts, "fields": fields, "right": round(right / fields, 4), "inside": round(inside / texts, 4)}
        for name, (texts, right, fields, inside) in sorted(counts.items())
    }
    print(json.dumps({"benchmark": "extraction", "model": given.model, **figures, "machine": describe().as_dict()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
