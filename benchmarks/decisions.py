"""Decisions of a chat model on questions made of public sets, against its answers under a grammar of the options.

    python benchmarks/decisions.py DATA [--model NAME] [--questions N] [--answers FILE] [--limit-s T]

DATA holds a folder for each set. Each answer is a line of ``--answers``, so that a run goes on where another one
ended. The questions, their order and the shuffles come from fixed seeds; the temperature is fitted on every second
question and judged on the others. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import miaotui
from miaotui.tasks import ChoiceQuestion, Decider
from miaotui.tasks.calibration import fit_temperature, report
from miaotui.tasks.decisions.decider import padded_rows
from miaotui.tasks.decisions.questions import messages_of, read_question, spoken
from tasks import json_lines, news, rows, tabbed

Asked = tuple[str, str, ChoiceQuestion, str]  # set, text, question, the right option


def questions(data: Path, count: int) -> list[Asked]:
    """Questions of four sets in turns."""
    rng, made = np.random.default_rng(7), defaultdict(list)
    banking = rows(data / "banking77/test.csv", "text", "category")
    intents = sorted({label for _, label in banking})
    sets = {
        "sst2": (tabbed(data / "sst2/dev.tsv"), "What is the sentiment of this film review?"),
        "agnews": (news(data), "What is the topic of this news article?"),
        "tnews": (json_lines(data / "tnews/dev_0.json"), "这条新闻标题属于哪个类别？"),
        "banking77": (banking, "What does the customer of the bank ask about?"),
    }
    for name, (pairs, text) in sets.items():
        options = sorted({label for _, label in pairs})
        for place in rng.permutation(len(pairs))[: count // 4].tolist():
            chosen = options
            if name == "banking77":  # the right one and seven others
                chosen = [pairs[place][1], *[x for x in rng.permutation(intents).tolist() if x != pairs[place][1]][:7]]
            shown = {each: each.removeprefix("news_") for each in chosen}
            made[name].append(
                (name, pairs[place][0], ChoiceQuestion(text, list(shown.values())), shown[pairs[place][1]])
            )
    return [each for some in zip(*made.values(), strict=True) for each in some]


def answered(llm: miaotui.LLM, decider: Decider, place: int, asked: Asked) -> dict[str, Any]:
    """Decide one question in two orders of the request, and generate its label under a grammar."""
    name, text, question, answer = asked
    options = list(question.options)
    found = decider.decide(text, question)[0]
    shuffled = ChoiceQuestion(question.text, np.random.default_rng(place).permutation(options).tolist())
    again = decider.decide(text, shuffled)[0]
    read = read_question("0", question)
    messages = messages_of(text, read, read.orders[0])
    wanted = {"choice": [spoken(each) for each in options]}
    written = llm.chat(messages, structured_outputs=wanted, max_tokens=32).text
    return {
        "place": place, "set": name, "right": answer, "best": found.best, "shuffled": again.best, "written": written,
        "probabilities": dict(found.probabilities), "mass": found.label_mass, "agree": found.orders_agree,
        "took_ms": round(found.took_ms, 1), "prompt_tokens": found.prompt_tokens, "cached_tokens": found.cached_tokens,
    }  # fmt: skip


def summary(found: Sequence[dict[str, Any]], model: str) -> dict[str, Any]:
    logits = [np.log(np.maximum(list(each["probabilities"].values()), 1e-30)).tolist() for each in found]
    targets = np.array([list(each["probabilities"]).index(each["right"]) for each in found])
    padded, half = padded_rows(logits), np.arange(len(found)) // 4 % 2 == 0  # whole rounds of the four sets
    temperature = fit_temperature(padded[half], targets[half])
    right: dict[str, list[bool]] = defaultdict(list)
    for each in found:
        right[each["set"]].append(each["best"] == each["right"])
    ok = np.array([each["best"] == each["right"] for each in found])
    written = np.array([each["written"] == spoken(each["right"]) for each in found])
    draws = np.random.default_rng(0).integers(0, len(found), (2000, len(found)))
    low, high = np.percentile(ok[draws].mean(axis=1), [2.5, 97.5])
    return {
        "benchmark": "decisions", "model": model, "questions": len(found), "accuracy": round(float(ok.mean()), 4),
        "interval": [round(float(low), 4), round(float(high), 4)], "grammar_bound": round(float(written.mean()), 4),
        "by_set": {name: round(float(np.mean(some)), 4) for name, some in right.items()},
        "changed_by_order": float(np.mean([each["shuffled"] != each["best"] for each in found])),
        "orders_agree": round(float(np.mean([each["agree"] for each in found])), 4),
        "ece": round(report(padded[~half], targets[~half], temperature).calibration_error, 4),
        "temperature": round(temperature, 3), "label_mass": round(float(np.mean([x["mass"] for x in found])), 3),
        "median_ms": float(np.median([each["took_ms"] for each in found])),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--answers", type=Path, default=Path("decisions.jsonl"))
    parser.add_argument("--limit-s", type=float, default=1e9)
    parsed = parser.parse_args()
    began_s = time.perf_counter()
    asked = questions(parsed.data, parsed.questions)
    done = [json.loads(line) for line in parsed.answers.read_text().splitlines()] if parsed.answers.exists() else []
    if len(done) < len(asked):
        with miaotui.load(parsed.model, speculate=False) as llm, parsed.answers.open("a") as file:
            decider = Decider(llm)
            for place in range(len(done), len(asked)):
                if time.perf_counter() - began_s > parsed.limit_s:
                    break
                done.append(answered(llm, decider, place, asked[place]))
                print(json.dumps(done[-1], ensure_ascii=False), file=file, flush=True)
    print(json.dumps(summary(done[: len(asked)], parsed.model)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
