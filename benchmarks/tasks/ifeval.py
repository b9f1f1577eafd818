"""Instruction following: IFEval's checkable instructions, by a small model alone and under `TextRequirements`.

    python -m benchmarks.tasks.ifeval DATA [--count N] [--model NAME] [--cache FILE] [--limit-s S]

DATA holds ``ifeval/input_data.jsonl``. The sample is drawn with seed 0. Both answers are greedy with as many tokens;
alone is the model's first answer to the prompt, without any requirement. The checks are this project's own, from the
descriptions in the paper (Zhou et al. 2023, arXiv:2311.07911, strict): words and sentences are counted by
`tasks.generation.requirements`, languages told by py3langid, where the paper's program uses NLTK and langdetect.
Prints shares by kind of instruction, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import miaotui
from benchmarks.machine import describe
from miaotui.tasks.generation.generator import (
    GeneratedText,
    GenerationOptions,
    GenerationSteps,
    bound_of,
    generation_steps,
)
from miaotui.tasks.generation.requirements import STARS, Bound, TextRequirements
from miaotui.tasks.writing.steps import WrittenAnswer
from miaotui.tasks.writing.writer import Writer

CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
TOKENS = 512
TOGETHER = 8


def fields_of(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of `TextRequirements` that one instruction of IFEval means."""
    table: dict[str, Any] = {
        "keywords:existence": lambda: {"include": dict.fromkeys(given["keywords"], Bound(1))},
        "keywords:frequency": lambda: {"include": {given["keyword"]: bound_of(given["frequency"], given["relation"])}},
        "keywords:forbidden_words": lambda: {"avoid": tuple(given["forbidden_words"])},
        "keywords:letter_frequency": lambda: {
            "letters": {given["letter"]: bound_of(given["let_frequency"], given["let_relation"])}
        },
        "language:response_language": lambda: {"language": given["language"]},
        "length_constraints:number_sentences": lambda: {
            "sentences": bound_of(given["num_sentences"], given["relation"])
        },
        "length_constraints:number_words": lambda: {"words": bound_of(given["num_words"], given["relation"])},
        "length_constraints:number_paragraphs": lambda: {"paragraphs": given["num_paragraphs"], "separator": STARS},
        "length_constraints:nth_paragraph_first_word": lambda: {
            "paragraphs": given["num_paragraphs"],
            "first_words": {given["nth_paragraph"]: given["first_word"]},
        },
        "detectable_content:number_placeholders": lambda: {"placeholders": given["num_placeholders"]},
        "detectable_content:postscript": lambda: {"postscript": given["postscript_marker"]},
        "detectable_format:number_bullet_lists": lambda: {"bullets": given["num_bullets"]},
        "detectable_format:constrained_response": lambda: {"choices": CHOICES},
        "detectable_format:number_highlighted_sections": lambda: {"highlights": given["num_highlights"]},
        "detectable_format:multiple_sections": lambda: {"sections": (given["section_spliter"], given["num_sections"])},
        "detectable_format:json_format": lambda: {"as_json": True},
        "detectable_format:title": lambda: {"title": True},
        "combination:two_responses": lambda: {"two_answers": True},
        "combination:repeat_prompt": lambda: {"begin": given["prompt_to_repeat"]},
        "startend:end_checker": lambda: {"end": given["end_phrase"]},
        "startend:quotation": lambda: {"quoted": True},
        "change_case:capital_word_frequency": lambda: {
            "capital_words": bound_of(given["capital_frequency"], given["capital_relation"])
        },
        "change_case:english_capital": lambda: {"case": "upper"},
        "change_case:english_lowercase": lambda: {"case": "lower"},
        "punctuation:no_comma": lambda: {"without_commas": True},
    }
    fields: dict[str, Any] = table[kind]()
    return fields


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Prompts with the requirements of each instruction, and those of all together."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        each = [fields_of(kind, given) for kind, given in zip(row["instruction_id_list"], row["kwargs"], strict=True)]
        whole: dict[str, Any] = {}
        for fields in each:
            for name, value in fields.items():
                old = whole.get(name)
                whole[name] = {**old, **value} if isinstance(old, dict) else value
        row["each"], row["whole"] = [TextRequirements(**fields) for fields in each], TextRequirements(**whole)
    return rows


def followed(row: dict[str, Any], text: str) -> list[bool]:
    return [bool(text.strip()) and wanted.holds(text) for wanted in row["each"]]


def reusing(prompt: str, options: GenerationOptions, alone: str) -> GenerationSteps:
    """The steps under requirements; a first request that is the one without any has its answer already."""
    steps = generation_steps(prompt, options)
    try:
        requests = next(steps)
        if requests[0].grammar is None:
            requests = steps.send([WrittenAnswer(alone)])
        while True:
            requests = steps.send((yield requests))
    except StopIteration as ended:
        found: GeneratedText = ended.value
        return found


def answers(
    rows: list[dict[str, Any]], name: str, cache: Path, until_s: float, threads: int | None
) -> dict[str, dict[str, str]]:
    """Answers by key, alone and under requirements; those in the cache are not asked for again."""
    known: dict[str, dict[str, str]] = json.loads(cache.read_text()) if cache.exists() else {}
    left = [row for row in rows if str(row["key"]) not in known]
    if not left:
        return known
    with miaotui.load(name, threads=threads) as llm:
        writer = Writer(llm)
        for first in range(0, len(left), TOGETHER):
            if time.perf_counter() > until_s:
                break
            batch = left[first : first + TOGETHER]
            free = GenerationOptions(max_tokens=TOKENS)
            alone_all = writer.run([partial(generation_steps, row["prompt"], free) for row in batch])
            tasks = [
                partial(reusing, row["prompt"], GenerationOptions(row["whole"], max_tokens=TOKENS), alone.raw)
                for row, alone in zip(batch, alone_all, strict=True)
            ]
            held_all = writer.run(tasks)
            for row, alone, held in zip(batch, alone_all, held_all, strict=True):
                known[str(row["key"])] = {"alone": alone.raw, "held": held.text or "", "error": held.error or ""}
            cache.write_text(json.dumps(known, ensure_ascii=False))
            print(f"{len(known)} prompts", file=sys.stderr, flush=True)
    return known


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=541)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--cache", type=Path, default=Path("ifeval-answers.json"))
    parser.add_argument("--limit-s", type=float, default=1e9, help="stop asking after so long; run again to go on")
    parser.add_argument("--threads", type=int)
    parsed = parser.parse_args()
    rows = read_prompts(parsed.data / "ifeval/input_data.jsonl")
    rows = random.Random(0).sample(rows, min(parsed.count, len(rows)))
    known = answers(rows, parsed.model, parsed.cache, time.perf_counter() + parsed.limit_s, parsed.threads)
    rows = [row for row in rows if str(row["key"]) in known]
    scores: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    totals: dict[str, float] = {}
    for way in ("alone", "held"):
        results = [followed(row, known[str(row["key"])][way]) for row in rows]
        totals[f"prompts_{way}"] = sum(map(all, results)) / len(rows)
        totals[f"instructions_{way}"] = sum(map(sum, results)) / sum(map(len, results))
        for row, found in zip(rows, results, strict=True):
            for kind, holds in zip(row["instruction_id_list"], found, strict=True):
                scores[kind][("alone", "held").index(way)] += holds
                scores[kind][2] += way == "alone"
    for kind, (alone, held, count) in sorted(scores.items()):
        print(f"{kind:48} {alone:4} {held:4} of {count:4}", file=sys.stderr)
    shown = {name: round(value, 4) for name, value in totals.items()}
    gain = round(100 * (totals["prompts_held"] - totals["prompts_alone"]), 1)
    report = {"benchmark": "ifeval", "model": parsed.model, "prompts": len(rows), "seed": 0, "max_tokens": TOKENS}
    print(json.dumps({**report, **shown, "gain_points": gain, "machine": describe().as_dict()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
