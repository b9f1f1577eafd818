"""Cost of a step held to a grammar beside a free one, and of compiling grammars.

Owns the pairs of runs: the same model, prompt and number of tokens, free and held to a JSON schema,
taking turns; what a mask costs is the median of the pairs' ratios, since a machine may change its
pace between two of them. Knows nothing of HTTP. Invariant: a masked run that did not end as its schema
says counts as a fault, not as a measurement. The last line is JSON.

    python -m benchmarks.decode.grammar [MODEL] [--tokens 96] [--rounds 12]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.machine import Strangers, describe
from miaotui.backends.options import EngineOptions
from miaotui.config import Settings
from miaotui.engine.engine import Engine
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.grammar.source import from_schema
from miaotui.engine.loaded_model import LoadedModel
from miaotui.hub.resolve import resolve
from miaotui.runtime import load_model
from miaotui.speculation.drafters.suffix import suffix_speculation
from miaotui.types import SamplingParams

QUESTION = "Describe a friend of yours: name, age, home, hobbies and a story about them."
TEXT = {"type": "string", "minLength": 20, "maxLength": 80}
PERSON = {
    "type": "object",
    "properties": {
        "name": TEXT,
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "home": {"enum": ["town", "village", "farm"]},
        "hobbies": {"type": "array", "items": TEXT, "minItems": 2, "maxItems": 4},
    },
    "required": ["name", "age", "home", "hobbies"],
    "additionalProperties": False,
}
FRIENDS = {"type": "array", "items": PERSON, "minItems": 20, "maxItems": 20}


@dataclass
class Steps:
    """Milliseconds of the decode steps of one way to run, over all rounds."""

    ms: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        ranked = sorted(self.ms)
        return {
            "p50_ms": round(statistics.median(ranked), 3),
            "p99_ms": round(ranked[int(len(ranked) * 0.99)], 3),
            "mean_ms": round(statistics.fmean(ranked), 3),
        }


def decode(engine: Engine, prompt: list[int], params: SamplingParams, constraint: Any, namespace: int = 0) -> Steps:
    """The decode steps of one answer; the steps of the prompt, and the first token, are left out."""
    request = engine.prepare(prompt, params, namespace, constraint)
    engine.enter(request)
    while not request.token_ids:
        engine.step()
    steps = Steps()
    while not request.is_over:
        start = time.perf_counter()
        engine.step()
        done = engine.passes  # passes that followed each other: a step as it was counts each
        steps.ms += [(time.perf_counter() - start) * 1e3 / done] * done
    completion = request.completion()
    assert completion.finish_reason == "length", "a run that ended early measures other steps"
    assert constraint is None or completion.text.startswith('[{"name": "')
    return steps


def compare(
    engine: Engine, grammars: Grammars, prompt: list[int], tokens: int, rounds: int
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Free and masked runs in turn, greedy and sampled; and by how much a masked step takes longer."""
    found: dict[str, Steps] = {}
    ratios: dict[str, list[float]] = {}
    grammar = from_schema(FRIENDS)
    for repetition in range(-1, rounds):  # the first warms everything up
        for temperature in (0.0, 0.8):
            masked = SamplingParams(max_tokens=tokens, temperature=temperature, seed=repetition + 1)
            free = replace(masked, ignore_eos=True)
            kind = "greedy" if temperature == 0 else "sampled"
            p50_ms = []
            for name, params in (("free", free), ("masked", masked)):
                constraint = grammars.constraint(grammar) if name == "masked" else None
                steps = decode(engine, prompt, params, constraint)
                p50_ms.append(statistics.median(steps.ms))
                if repetition >= 0:
                    found.setdefault(f"{kind} {name}", Steps()).ms += steps.ms
            if repetition >= 0:
                ratios.setdefault(kind, []).append(p50_ms[1] / p50_ms[0])
    extra = {kind: round(statistics.median(each) - 1, 4) for kind, each in ratios.items()}
    return {name: steps.summary() for name, steps in found.items()}, extra


def drafted(loaded: LoadedModel, grammars: Grammars, prompt: list[int], tokens: int) -> dict[str, Any]:
    """The same masked answer with and without drafts of what the grammar forces."""
    found: dict[str, Any] = {}
    for name, speculation in (("plain", None), ("drafted", suffix_speculation())):
        engine = Engine(loaded.parts, loaded.tokenizer, speculation)
        params = SamplingParams(max_tokens=tokens)
        for run in range(3):  # the controller learns what rows cost, but sees no earlier answer
            constraint = grammars.constraint(from_schema(FRIENDS))
            steps = decode(engine, prompt, params, constraint, namespace=run)
        found[f"{name}_steps"] = len(steps.ms)
        found[f"{name}_ms"] = round(sum(steps.ms), 1)
    return found


def compiling(grammars: Grammars, repetitions: int = 20) -> float:
    """Median milliseconds to compile a schema that was not seen before."""
    times = []
    for i in range(repetitions):
        grammar = from_schema({**PERSON, "title": f"person {i}"})
        start = time.perf_counter()
        grammars.constraint(grammar)
        times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times), 3)


def main() -> None:
    """Measure, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    loaded = load_model(resolve(options.model), EngineOptions(), Settings.from_env())
    engine = Engine(loaded.parts, loaded.tokenizer)
    grammars = Grammars(loaded.tokenizer, loaded.config.vocab_size)
    start = time.perf_counter()
    grammars.warm()
    warm_s = round(time.perf_counter() - start, 3)
    prompt = loaded.tokenizer.encode(loaded.template.render([{"role": "user", "content": QUESTION}]))
    strangers = Strangers([])
    steps, extra = compare(engine, grammars, prompt, options.tokens, options.rounds)
    print(f"{'decode step, one request':28}{'p50 ms':>9}{'p99 ms':>9}{'mean ms':>9}")
    for name, summary in steps.items():
        print(f"{name:28}" + "".join(f"{value:9.3f}" for value in summary.values()))
    compile_ms = compiling(grammars)
    drafts = drafted(loaded, grammars, prompt, options.tokens)
    for kind, share in extra.items():
        print(f"a masked step costs {share:+.1%} ({kind}, median of the pairs' p50)")
    print(f"vocabulary made ready in {warm_s} s; a new schema compiles in {compile_ms} ms")
    print(
        f"{options.tokens} masked tokens take {drafts['plain_steps']} steps "
        f"({drafts['plain_ms']} ms), with drafts {drafts['drafted_steps']} ({drafts['drafted_ms']} ms)"
    )
    result = {
        "model": options.model,
        "vocabulary": loaded.config.vocab_size,
        "steps": steps,
        "extra": extra,
        "warm_s": warm_s,
        "compile_ms": compile_ms,
        "drafts": drafts,
        "strangers_cores": round(strangers.cores(), 3),
        "machine": describe().as_dict(),
    }
    print(json.dumps(result))
    loaded.parts.backend.close()


if __name__ == "__main__":
    main()
