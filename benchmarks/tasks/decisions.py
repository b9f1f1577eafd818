"""Decisions on questions of public sets: by a model's logits, by likeness of an encoder, by both, and by a grammar.

    python -m benchmarks.tasks.decisions DATA [--model NAME] [--questions N] [--development N] [--answers FILE]
        [--limit-s T] [--logits-alone]

DATA holds a folder for each set. Weights and temperatures are fitted on development questions, of the sets' training
parts (agnews has none: texts that no test question has), and judged on test questions. Each answer is a line of
``--answers``, so that a run goes on where another one ended; ``--limit-s`` ends it in time. The questions, their order
and the shuffles come from fixed seeds. A grammar writes the label after the first prompt of each question;
``--logits-alone`` leaves the grammar and the shuffles out. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import miaotui
from benchmarks.tasks.labels import Pairs, json_lines, news, rows, tabbed
from miaotui.tasks import ChoiceQuestion, Decider, OptionEncoder
from miaotui.tasks.calibration import report
from miaotui.tasks.decisions.decider import padded_rows
from miaotui.tasks.decisions.questions import messages_of, read_question, spoken
from miaotui.tasks.decisions.weights import SourcedOptions, fit_weights, kind_of, logits_of, weights_for

ENGLISH, OTHER = "bge-small-en", "embedder"
DEVELOPMENT = 480  # questions that can be asked for calibration
Asked = tuple[str, str, ChoiceQuestion, str]  # set, text, question, the right option
Row = dict[str, Any]


def sets_of(data: Path, part: str) -> dict[str, tuple[Pairs, str]]:
    """Each set's labelled texts of a part, and its question."""
    test = part == "test"
    return {
        "sst2": (tabbed(data / f"sst2/{'dev' if test else 'train'}.tsv"), "What is the sentiment of this film review?"),
        "agnews": (news(data), "What is the topic of this news article?"),
        "tnews": (json_lines(data / f"tnews/{'dev_0' if test else 'train_0'}.json"), "这条新闻标题属于哪个类别？"),
        "banking77": (
            rows(data / f"banking77/{'test' if test else 'train'}.csv", "text", "category"),
            "What does the customer of the bank ask about?",
        ),
    }


def questions(data: Path, count: int, part: str = "test", without: Sequence[Asked] = ()) -> list[Asked]:
    """Questions of four sets in turns, none about a text of ``without``."""
    rng = np.random.default_rng(7 if part == "test" else 11)
    made: dict[str, list[Asked]] = defaultdict(list)
    known = {text for _, text, _, _ in without}
    for name, (pairs, text) in sets_of(data, part).items():
        options = sorted({label for _, label in pairs})
        intents = options
        for place in rng.permutation(len(pairs)).tolist():
            if len(made[name]) == count // 4:
                break
            if pairs[place][0] in known:
                continue
            chosen = options
            if name == "banking77":  # the right one and seven others
                chosen = [pairs[place][1], *[x for x in rng.permutation(intents).tolist() if x != pairs[place][1]][:7]]
            shown = {each: each.removeprefix("news_") for each in chosen}
            question = ChoiceQuestion(text, list(shown.values()))
            made[name].append((name, pairs[place][0], question, shown[pairs[place][1]]))
    return [each for some in zip(*made.values(), strict=True) for each in some]


def decided(decider: Decider, part: str, place: int, asked: Asked) -> Row:
    """Decide one question by the logits alone, and tell its options' log-probabilities."""
    name, text, question, answer = asked
    (found,) = decider.decide(text, question)
    return {
        "part": part, "place": place, "set": name, "right": answer, "logits": dict(found.log_probabilities),
        "mass": found.label_mass, "agree": found.orders_agree, "took_ms": round(found.took_ms, 1),
        "prompt_tokens": found.prompt_tokens, "cached_tokens": found.cached_tokens,
    }  # fmt: skip


def beside(llm: miaotui.LLM, decider: Decider, place: int, asked: Asked) -> Row:
    """Decide a question again in another order of the request, and generate its label under a grammar."""
    _, text, question, _ = asked
    options = list(question.options)
    shuffled = ChoiceQuestion(question.text, np.random.default_rng(place).permutation(options).tolist())
    (again,) = decider.decide(text, shuffled)
    read = read_question("0", question)
    wanted = {"choice": [spoken(each) for each in options]}
    written = llm.chat(messages_of(text, read, read.orders[0]), structured_outputs=wanted, max_tokens=32).text
    return {"shuffled": dict(again.log_probabilities), "written": written}


def with_likeness(found: Sequence[Row], asked: dict[tuple[str, int], Asked]) -> Iterator[tuple[Row, list[float]]]:
    """Each answered question with the likeness of its options, in the order of their log-probabilities."""
    with miaotui.load_encoder(ENGLISH) as english, miaotui.load_encoder(OTHER) as other:
        encoder = OptionEncoder(english, other)
        for row in found:
            _, text, question, _ = asked[row["part"], row["place"]]
            read = read_question("0", replace(question, options=list(row["logits"])))
            yield row, encoder.likeness(text, {"0": read})["0"]


def judged(train: Sequence[SourcedOptions], test: Sequence[SourcedOptions], names: Sequence[str]) -> Row:
    """Figures of one way on the test questions, with weights fitted on the others."""
    overall, by_kind = fit_weights(train)
    logits = [
        logits_of(each.log_probabilities, each.likeness, weights_for(each.kind, overall, by_kind)) for each in test
    ]
    ok = np.array([int(np.argmax(row)) == each.right for row, each in zip(logits, test, strict=True)])
    draws = np.random.default_rng(0).integers(0, len(ok), (2000, len(ok)))
    low, high = np.percentile(ok[draws].mean(axis=1), [2.5, 97.5])
    found = report(padded_rows(logits), [each.right for each in test])
    return {
        "accuracy": round(float(ok.mean()), 4), "interval": [round(float(low), 4), round(float(high), 4)],
        "ece": round(found.calibration_error, 4), "log_loss": round(found.log_loss, 4),
        "by_set": {name: round(float(ok[[each == name for each in names]].mean()), 4) for name in dict.fromkeys(names)},
        "weights": [round(each, 3) for each in overall],
    }  # fmt: skip


def sourced(row: Row, likeness: Sequence[float] | None, *, logits: bool = True) -> SourcedOptions:
    """A row as calibration takes it, with either source or both."""
    values = list(row["logits"].values())
    place = list(row["logits"]).index(row["right"])
    return SourcedOptions(values if logits else [0.0] * len(values), likeness, place, kind_of("choice", len(values)))


def again_figures(asked: Sequence[Row]) -> Row:
    """Figures of the questions that were asked in another order and of a grammar too."""
    best = [max(row["logits"], key=row["logits"].__getitem__) for row in asked]
    again = [max(row["shuffled"], key=row["shuffled"].__getitem__) for row in asked]
    return {
        "asked_again": len(asked),
        "grammar_bound": round(float(np.mean([row["written"] == spoken(row["right"]) for row in asked])), 4),
        "changed_by_order": float(np.mean([first != second for first, second in zip(best, again, strict=True)])),
    }


def summary(found: Sequence[tuple[Row, list[float]]], model: str) -> Row:
    """Figures of all ways on the test questions that are answered."""
    parts = {part: [each for each in found if each[0]["part"] == part] for part in ("development", "test")}
    names = [row["set"] for row, _ in parts["test"]]
    ways: dict[str, Callable[[Row, Sequence[float] | None], SourcedOptions]] = {
        "logits": lambda row, _: sourced(row, None),
        "likeness": lambda row, like: sourced(row, like, logits=False),
        "both": sourced,
    }
    tests = [row for row, _ in parts["test"]]
    whole = [row for row in tests if "written" in row]
    return {
        "benchmark": "decisions", "model": model, "encoders": [ENGLISH, OTHER],
        "development": len(parts["development"]), "questions": len(tests),
        **{
            name: judged([make(*each) for each in parts["development"]], [make(*each) for each in parts["test"]], names)
            for name, make in ways.items()
        },
        **(again_figures(whole) if whole else {}),
        "orders_agree": round(float(np.mean([row["agree"] for row in tests])), 4),
        "label_mass": round(float(np.mean([row["mass"] for row in tests])), 3),
        "median_ms": float(np.median([row["took_ms"] for row in tests])),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--development", type=int, default=120, help=f"questions for calibration, up to {DEVELOPMENT}")
    parser.add_argument("--answers", type=Path, default=Path("decisions.jsonl"))
    parser.add_argument("--limit-s", type=float, default=1e9)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--logits-alone", action="store_true", help="without other orders and a grammar")
    parsed = parser.parse_args()
    began_s = time.perf_counter()
    test = questions(parsed.data, parsed.questions)
    other = questions(parsed.data, DEVELOPMENT, "development", questions(parsed.data, 500))[: parsed.development]
    asked = {("development", place): each for place, each in enumerate(other)}
    asked |= {("test", place): each for place, each in enumerate(test)}
    lines = parsed.answers.read_text().splitlines() if parsed.answers.exists() else []
    done = {(row["part"], row["place"]): row for row in map(json.loads, lines)}
    if asked.keys() - done.keys():
        with (
            miaotui.load(parsed.model, speculate=False, threads=parsed.threads) as llm,
            parsed.answers.open("a") as file,
        ):
            decider = Decider(llm)
            for key, each in asked.items():
                if time.perf_counter() - began_s > parsed.limit_s:
                    break
                if key in done:
                    continue
                row = decided(decider, *key, each)
                again = key[0] == "test" and not parsed.logits_alone
                done[key] = row | (beside(llm, decider, key[1], each) if again else {})
                print(json.dumps(done[key], ensure_ascii=False), file=file, flush=True)
    rows_ = [done[key] for key in asked if key in done]
    print(json.dumps(summary(list(with_likeness(rows_, asked)), parsed.model)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
