"""Speed of a model whose layers are shared out over processes on one machine, beside one process.

    python -m benchmarks.serving.stage_speed [MODEL] [--ways 1x2,2x2,2x1] [--rounds 3] [--prompt 512] [--tokens 64]

A way is stages x threads of each process. Ways take turns, each opened anew in every round. Prints medians with their
range, and one JSON line. Nothing is drafted; prompts differ, so that no prefix is found.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.machine import describe
from miaotui.backends.options import EngineOptions
from miaotui.engine.model_loop import ModelLoop
from miaotui.engine.reading import readers
from miaotui.hub.catalog import DEFAULT_MODEL
from miaotui.runtime import ModelOptions, open_model
from miaotui.types import SamplingParams

REPEATS = 3  # of each speed, in a round


def measured(model: str, stages: int, threads: int, prompt: int, tokens: int) -> dict[str, list[float]]:
    """Return prompt tokens and answer tokens per second, of one answer at a time and of four together."""
    engine = EngineOptions(context=2048, stages=stages, threads=threads)
    random = np.random.default_rng(stages * 100 + threads)

    def ids(count: int) -> list[int]:
        return [int(each) for each in random.integers(100, 1000, count)]

    found: dict[str, list[float]] = {"prompt": [], "answer": [], "answers of 4": []}
    with closing(open_model(model, ModelOptions(engine, speculate=False))) as loop:
        timed(loop, [ids(prompt)], 4)  # compiles, and takes memory
        for _ in range(REPEATS):
            found["prompt"].append(prompt / timed(loop, [ids(prompt)], 1))
            found["answer"].append((tokens - 1) / (timed(loop, [ids(8)], tokens) - timed(loop, [ids(8)], 1)))
            many = [ids(8) for _ in range(4)]
            found["answers of 4"].append(4 * (tokens - 1) / (timed(loop, many, tokens) - timed(loop, many, 1)))
    return found


def timed(loop: ModelLoop, prompts: Sequence[Sequence[int]], tokens: int) -> float:
    """Return the seconds of answers to all prompts together."""
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    start_s = time.perf_counter()
    readers.whole(loop, lambda: (loop.submit(prompt, params) for prompt in prompts))
    return time.perf_counter() - start_s


def summary(values: Sequence[float]) -> Mapping[str, float]:
    """Return the median and the range."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--ways", default="1x2,2x2,2x1")
    for name, default in (("rounds", 3), ("prompt", 512), ("tokens", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parsed = parser.parse_args()
    ways = [tuple(map(int, way.split("x"))) for way in parsed.ways.split(",")]
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(parsed.rounds):
        for stages, threads in ways:
            speeds = measured(parsed.model, stages, threads, parsed.prompt, parsed.tokens)
            kept = found.setdefault(f"{stages} stages, {threads} threads each", {name: [] for name in speeds})
            for name, values in speeds.items():
                kept[name] += values
    rows: dict[str, Any] = {way: {name: summary(each) for name, each in kept.items()} for way, kept in found.items()}
    for way, kept in rows.items():
        texts = (
            f"{name} {each['median']:.1f} ({each['least']:.1f}-{each['most']:.1f}) tok/s" for name, each in kept.items()
        )
        print(f"{way}: {'; '.join(texts)}")
    print(json.dumps({"model": parsed.model, "ways": rows, "machine": asdict(describe())}))


if __name__ == "__main__":
    main()
