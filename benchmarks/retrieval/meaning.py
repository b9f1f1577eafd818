"""Retrieval by meaning: customers' questions found, answered and refused, and collections ranked, by words and hybrid.

    miaotui pull embedder reranker
    python -m benchmarks.retrieval.meaning                          # the question sets of the tests
    python -m benchmarks.retrieval.meaning --data FOLDER      # and shop-questions, XQuAD, CMRC, Vaswani, CACM there
    python -m benchmarks.retrieval.meaning --model qwen2.5-coder-0.5b   # answers of a chat model too

Question sets (nothing is fitted on ``check`` and on ``shop-questions``): the right section first, unanswerable
questions refused, answerable ones refused, right answers; ``--threads 1`` makes ``cpu ms`` the time of one core.
Collections (`meaning_collections.py`): recall@1 or nDCG@10 and recall@100, and a search's median and 99th percentile;
with ``--keep FOLDER`` their vectors stay there, and a run that was ended goes on where it was. ``--fit`` prints the
regressions of ``apps/meaning/decision.py``, fitted on the calibration sets and every second question of the others.
Prints a table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import miaotui
from benchmarks.places import TESTS
from benchmarks.retrieval.meaning_collections import COLLECTIONS, SEARCHES, ranked
from benchmarks.retrieval.question_sets import CustomerQuestion, Outcome, QuestionSet, ask_all, opened, read_sets
from miaotui.apps.meaning.decision import CHINESE, IN_ENGLISH, Signals
from miaotui.apps.meaning.encoders import Encoders, find_encoders
from miaotui.apps.qa_pipeline import QaPipeline, Question
from miaotui.llm import LLM
from miaotui.retrieval.meaning.languages import is_chinese

SETS = TESTS / "retrieval" / "questions"
MODES = ("words", "hybrid", "hybrid + rerank")


def outcomes(sets: list[QuestionSet], encoders: Encoders, llm: LLM | None) -> Iterator[tuple[str, list[Outcome]]]:
    """(set and mode, outcomes); Chinese questions are not reranked."""
    for one in sets:
        for mode in MODES:
            if mode == MODES[2] and is_chinese(one.page):
                continue
            embedder = None if mode == MODES[0] else encoders.embedder
            reranker = encoders.reranker if mode == MODES[2] else None
            yield f"{one.name}, {mode}", ask_all(one, embedder, reranker, llm, encoders.english)


def told(found: list[Outcome]) -> dict[str, Any]:
    """The measures of one set."""
    answerable = [one for one in found if one.question.is_answerable]
    others = [one for one in found if not one.question.is_answerable]
    times, cpu = sorted(one.took_ms for one in found), sorted(one.cpu_ms for one in found)
    return {
        "first": f"{sum(one.is_first for one in answerable)}/{len(answerable)}",
        "refused rightly": f"{sum(one.is_refused for one in others)}/{len(others)}",
        "refused wrongly": f"{sum(one.is_refused for one in answerable)}/{len(answerable)}",
        "right": f"{sum(one.is_right for one in found)}/{len(found)}",
        "p50 ms": round(times[len(times) // 2], 1),
        "most ms": round(times[-1], 1),
        "p50 cpu ms": round(cpu[len(cpu) // 2], 1),
    }


# ---- the decision's regressions ------------------------------------------------------------------


def signals_of(
    sets: list[QuestionSet], encoders: Encoders, reranked: bool
) -> Iterator[tuple[int, CustomerQuestion, Signals]]:
    """(number, question, signals) of every question whose page has a sentence for it."""
    for one in sets:
        with opened(one, encoders.embedder, encoders.english) as index:
            pipeline = QaPipeline(index, reranker=encoders.reranker if reranked else None)
            for number, question in enumerate(one.questions):
                signals = pipeline.evidence(Question(question.text, one.name)).signals
                if signals is not None:
                    yield number, question, signals


def fit(encoders: Encoders) -> Iterator[tuple[str, dict[str, float]]]:
    """Regressions by language, without and with the reranker."""
    from sklearn.linear_model import LogisticRegression

    sets, calibration = read_sets(SETS), read_sets(SETS / "calibration")
    for chinese, reranked, names in (
        (False, False, ["score", "gap", "offer", "strange"]),
        (False, True, ["score", "gap", "offer", "strange", "cross"]),
        (True, False, ["score", "gap", "offer", "strange"]),
    ):
        spread = (CHINESE if chinese else IN_ENGLISH).spread
        chosen = [one for one in sets if is_chinese(one.page) == chinese]
        rows = [row for row in signals_of(chosen, encoders, reranked) if row[0] % 2 == 0]
        more = [one for one in calibration if is_chinese(one.page) == chinese]
        rows += list(signals_of(more, encoders, reranked))
        values = [{str(name): value for name, value in signals.values(spread).items()} for _, _, signals in rows]
        model = LogisticRegression(class_weight="balanced")
        model.fit([[each[name] for name in names] for each in values], [row[1].is_answerable for row in rows])
        label = f"fit, {'Chinese' if chinese else 'English'}{', reranked' if reranked else ''}"
        weights = dict(zip(names, model.coef_[0].round(3).tolist(), strict=True))
        yield label, {"bias": round(float(model.intercept_[0]), 3), **weights}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = os.environ.get("MIAOTUI_EVALUATION_DATA")
    parser.add_argument("--data", type=Path, default=default and Path(default))
    parser.add_argument("--model", help="a chat model that writes the answers")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--most", type=int, default=500, help="queries of a collection (default: 500)")
    parser.add_argument("--collections", nargs="+", choices=COLLECTIONS, default=list(COLLECTIONS))
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES), help="in collections")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the collections' indexes stay")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="question sets, such as pool.en (default: all)")
    parser.add_argument("--only", choices=("sets", "collections"))
    parser.add_argument("--fit", action="store_true")
    parsed = parser.parse_args()
    encoders = find_encoders(threads=parsed.threads)
    if encoders is None:
        print("the embedder is not here: miaotui pull embedder", file=sys.stderr)
        return 2
    encoders.load()
    result: dict[str, Any] = {}

    def tell(label: str, row: dict[str, Any]) -> None:
        result[label] = row
        print(f"{label:36}", "  ".join(f"{name} {value}" for name, value in row.items()), flush=True)

    model = nullcontext(None) if parsed.model is None else miaotui.load(parsed.model, threads=parsed.threads)
    with encoders, model as llm:
        if parsed.fit:
            for label, row in fit(encoders):
                tell(label, row)
        elif parsed.only != "collections":
            sets = read_sets(SETS) + read_sets(SETS / "check")
            sets += read_sets(parsed.data / "shop-questions") if parsed.data else []
            chosen = [one for one in sets if parsed.sets is None or one.name in parsed.sets]
            for label, found in outcomes(chosen, encoders, llm):
                tell(label, told(found))
        if parsed.data and not parsed.fit and parsed.only != "sets":
            for name in parsed.collections:
                collection = COLLECTIONS[name](parsed.data)
                for label, row in ranked(collection, encoders, parsed.searches, parsed.most, parsed.keep):
                    tell(label, row)
    print(json.dumps({"benchmark": "meaning", "results": result}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
