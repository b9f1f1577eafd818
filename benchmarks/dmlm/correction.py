"""Correction measured: how many sentences with errors are mended, and how many right ones are spoiled.

    python -m benchmarks.dmlm.correction --model qwen2.5-coder-0.5b --set fourth

The sets beside this file were written for it, half English and half Chinese, and half of their sentences have one or
two errors of common kinds. The first one, of 200, is tuned on. The fresh and the third one, of 100 each, were read
before the last rules were made; the fourth one, of 100, was written after them and is measured once. A sentence is
mended if the result is the right sentence, character for character; a right one is spoiled if anything in it changes.
``--kept FILE`` holds what is done already, so that a run can be cut into slices. Last comes one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import miaotui
from miaotui.tasks.correction.calls import corrected

SETS = {
    "first": "correction_sentences.tsv",
    "fresh": "correction_fresh.tsv",
    "third": "correction_third.tsv",
    "fourth": "correction_fourth.tsv",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--set", choices=SETS, default="fourth", help="the sentences (default: fourth)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--kept", type=Path, help="results so far, one JSON line each; the run goes on from there")
    parser.add_argument("--minutes", type=float, default=9, help="of this slice")
    chosen = parser.parse_args()
    sentences = Path(__file__).with_name(SETS[chosen.set]).read_text(encoding="utf-8")
    rows = [line.split("\t") for line in sentences.splitlines()]
    found: dict[int, dict[str, Any]] = {}
    if chosen.kept is not None and chosen.kept.exists():
        found = {each["row"]: each for each in map(json.loads, chosen.kept.read_text(encoding="utf-8").splitlines())}
    end_s = time.monotonic() + 60 * chosen.minutes
    order = sorted(range(len(rows)), key=lambda row: row % 10)  # a slice holds some of each kind
    with miaotui.load(chosen.model, threads=chosen.threads) as llm:
        for row in order:
            if row in found or time.monotonic() > end_s:
                continue
            language, given, right = rows[row]
            (result,) = corrected(llm, [given])
            found[row] = {
                "row": row, "language": language, "given": given, "right": right, "text": result.text,
                "edits": [[each.before, each.after, round(each.gain, 2)] for each in result.edits],
                "ms": round(result.took_ms),
            }  # fmt: skip
            if chosen.kept is not None:
                with chosen.kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found[row], ensure_ascii=False) + "\n")
    report = {
        language: shares([each for each in found.values() if each["language"] == language]) for language in ("en", "zh")
    }
    print(f"{'':4} {'mended':>12} {'spoiled':>12} {'ms a sentence':>14}")
    for language, each in report.items():
        mended, spoiled = (f"{each[name]} of {each[f'of_{name}']}" for name in ("mended", "spoiled"))
        print(f"{language:4} {mended:>12} {spoiled:>12} {each['ms']:14.0f}")
    print(
        json.dumps({"benchmark": "correction", "model": chosen.model, "set": chosen.set, "done": len(found), **report})
    )


def shares(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many sentences with errors are mended, and how many without are spoiled."""
    wrong = [each for each in rows if each["given"] != each["right"]]
    fine = [each for each in rows if each["given"] == each["right"]]
    return {
        "mended": sum(each["text"] == each["right"] for each in wrong),
        "of_mended": len(wrong),
        "spoiled": sum(each["text"] != each["right"] for each in fine),
        "of_spoiled": len(fine),
        "ms": sum(each["ms"] for each in rows) / max(len(rows), 1),
    }


if __name__ == "__main__":
    main()
