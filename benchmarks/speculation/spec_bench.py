"""Gain of speculation, and equality of the answers' bytes, on Spec-Bench's six tasks.

    python -m benchmarks.speculation.spec_bench --data question.jsonl --sample 8      # some minutes
    python -m benchmarks.speculation.spec_bench --data question.jsonl --identity      # all 480, bytes alone

Every question is answered twice in one process, with speculation and without, one right after the
other and taking turns at going first; pages and past answers of one question are unknown to the
next (*cold*), unless ``--warm`` says what was answered before: the same questions (``again``), the
same in other words (``reworded``) or with another seed (``seed``). Speed is decode speed: tokens
after the first, by the time they took. Ends with one JSON line.

``--free`` drafts as if rows and a head's steps cost nothing. The tokens of a pass are then the most that these drafters
can bring, on any machine; the speed means nothing. ``--code`` adds questions of code and of edits of code, which are
made from HumanEval's problems.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.machine import QUIET_CORES, Strangers, describe
from benchmarks.speculation.spec_questions import TASKS, Question, read_code, read_questions, runs_in_circles, sample
from miaotui import __version__
from miaotui.backends.options import EngineOptions
from miaotui.config import Settings
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.hub.resolve import resolve
from miaotui.runtime import load_model
from miaotui.speculation.controller import Speculation
from miaotui.speculation.drafters.head import head_for
from miaotui.speculation.drafters.suffix import suffix_speculation
from miaotui.speculation.policy import RowCost
from miaotui.types import SamplingParams

CONTEXT = 4096
BATCH = 16
ATTEMPTS = 3  # at a pair that other processes disturb
WARM = ("again", "reworded", "seed")
HISTORY = 1 << 30  # the namespace whose past answers a warm run may see
REWORDED = "Please help me with this.\n\n{question}\n\nThank you!"


@dataclass(frozen=True)
class Pair:
    """One answer without and with speculation: tokens after the first, seconds of them, of all."""

    task: str
    tokens: int
    plain_s: float
    drafted_s: float
    plain_total_s: float
    drafted_total_s: float
    loops: bool
    same: bool
    passes: int  # with speculation, after the first token


class Free(RowCost):
    """Rows that cost nothing, and passes so long that a head's steps cost nothing."""

    def ratio(self, rows: int) -> float:
        """Of any pass."""
        return 1.0

    def seconds(self, rows: int) -> float:
        """So long that all else is short."""
        return 1e9


class Bench:
    """One model with two engines over it, one of which speculates."""

    def __init__(self, model: str, threads: int | None, max_tokens: int, use_head: bool) -> None:
        settings = Settings.from_env()
        options = EngineOptions(context=CONTEXT, threads=threads)
        self.loaded = load_model(resolve(model, settings=settings), options, settings)
        head = head_for(self.loaded.parts.backend, settings) if use_head else None
        self.plain = Engine(self.loaded.parts, self.loaded.tokenizer)
        self.drafted = Engine(self.loaded.parts, self.loaded.tokenizer, suffix_speculation(head=head))
        self.max_tokens, self.disturbed = max_tokens, 0
        self._namespaces = itertools.count(1)

    def params(self, temperature: float, seed: int = 0) -> SamplingParams:
        """How every question is answered."""
        return SamplingParams(max_tokens=self.max_tokens, temperature=temperature, seed=seed)

    def prompt(self, said: Sequence[str]) -> list[int]:
        """Tokens of a conversation in which user and assistant alternate."""
        roles = itertools.cycle(("user", "assistant"))
        messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
        return self.loaded.tokenizer.encode(self.loaded.template.render(messages, add_generation_prompt=True))

    def fresh(self) -> int:
        """A namespace in which nothing was said."""
        return next(self._namespaces)

    def pairs(self, question: Question, params: SamplingParams, namespace: int | None) -> Iterator[Pair]:
        """Answer each turn both ways; ``namespace`` is the drafted one's, None: a fresh one."""
        said: list[str] = []
        for turn in question.turns:
            said.append(turn)
            prompt = self.prompt(said)
            if len(prompt) + self.max_tokens > CONTEXT:
                return
            plain, pair = self._calm_pair(question, prompt, params, namespace)
            yield pair
            said.append(plain.completion().text)

    def _calm_pair(
        self, question: Question, prompt: list[int], params: SamplingParams, namespace: int | None
    ) -> tuple[Request, Pair]:
        """The least disturbed of some attempts; one alone where it would warm the next."""
        best: tuple[float, Request, Pair] | None = None
        for attempt in range(ATTEMPTS if namespace is None else 1):
            strangers = Strangers(())
            drafted_in = self.fresh() if namespace is None else namespace
            order = [(self.plain, self.fresh()), (self.drafted, drafted_in)]
            way = -1 if (question.number + attempt) % 2 else 1
            ran = [run(engine, prompt, params, n) for engine, n in order[::way]]
            (plain, _), (drafted, passes) = ran[::way]
            found = strangers.cores(), plain, _pair(question.task, plain, drafted, passes)
            if best is None or found[0] < best[0]:
                best = found
            if best[0] <= QUIET_CORES:
                break
        assert best is not None, "there is one attempt at least"
        self.disturbed += best[0] > QUIET_CORES
        return best[1:]

    def remember(self, questions: Sequence[Question], how: str, temperature: float) -> None:
        """Answer the first turns with the speculating engine, so that its past is warm."""
        seed = 1000 if how == "seed" else 0
        form = REWORDED if how == "reworded" else "{question}"
        prompts = [self.prompt([form.format(question=q.turns[0])]) for q in questions]
        prompts = [prompt for prompt in prompts if len(prompt) + self.max_tokens <= CONTEXT]
        run_all(self.drafted, prompts, self.params(temperature, seed), HISTORY)


def run(engine: Engine, prompt: list[int], params: SamplingParams, namespace: int) -> tuple[Request, int]:
    """Answer one prompt alone; also the passes after its first token."""
    request, passes = engine.submit(prompt, params, namespace), 0
    while engine.step():
        passes += engine.passes if len(request.token_ids) > 1 else 0
    return request, passes


def run_all(
    engine: Engine, prompts: Sequence[list[int]], params: SamplingParams, namespace: int
) -> list[tuple[int, ...]]:
    """Answer prompts, some at a time."""
    answers = []
    for first in range(0, len(prompts), BATCH):
        requests = [engine.submit(prompt, params, namespace) for prompt in prompts[first : first + BATCH]]
        while engine.step():
            pass
        answers += [request.completion().token_ids for request in requests]
        print(f"  {len(answers)} of {len(prompts)} answered", file=sys.stderr)
    return answers


def _pair(task: str, plain: Request, drafted: Request, passes: int) -> Pair:
    one, other = plain.completion(), drafted.completion()
    tokens = len(one.token_ids) - 1
    plain_s, drafted_s = (tokens / each.timing.decode_tokens_per_s if tokens else 0.0 for each in (one, other))
    same = (one.token_ids, one.text, one.finish_reason) == (other.token_ids, other.text, other.finish_reason)
    whole_s, drafted_whole_s, loops = one.timing.total_s, other.timing.total_s, runs_in_circles(one.token_ids)
    return Pair(task, tokens, plain_s, drafted_s, whole_s, drafted_whole_s, loops, same, passes)


def summary(pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Per task and over all: answers, plain tokens per second, ratios of decode and whole time.

    Tokens per pass with speculation hardly depend on how quiet the machine is.
    """
    result = {}
    for task in (*TASKS, "overall"):
        chosen = [p for p in pairs if task in ("overall", p.task) and p.tokens]
        if chosen:
            plain_s, drafted_s = sum(p.plain_s for p in chosen), sum(p.drafted_s for p in chosen)
            result[task] = {
                "answers": len(chosen),
                "plain_tokens_per_s": round(sum(p.tokens for p in chosen) / plain_s, 1),
                "tokens_per_pass": round(sum(p.tokens for p in chosen) / sum(p.passes for p in chosen), 2),
                "decode_ratio": round(plain_s / drafted_s, 3),
                "whole_ratio": round(sum(p.plain_total_s for p in chosen) / sum(p.drafted_total_s for p in chosen), 3),
            }
    return result


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a table."""
    print(f"\n{title}\n  {'task':<16}{'answers':>8}{'plain tok/s':>13}{'per pass':>10}{'decode':>9}{'whole':>8}")
    for task, row in rows.items():
        print(
            f"  {task:<16}{row['answers']:>8}{row['plain_tokens_per_s']:>13}"
            f"{row['tokens_per_pass']:>10.2f}{row['decode_ratio']:>8.2f}x{row['whole_ratio']:>7.2f}x"
        )


def measure(bench: Bench, questions: Sequence[Question], temperature: float, warm: str | None) -> dict[str, object]:
    """All pairs at one temperature, shown and as a dictionary."""
    if warm is not None:
        questions = [replace(question, turns=question.turns[:1]) for question in questions]
        bench.remember(questions, warm, temperature)
    bench.disturbed, started = 0, time.perf_counter()
    pairs: list[Pair] = []
    for number, question in enumerate(questions, 1):
        namespace = None if warm is None else HISTORY
        pairs += bench.pairs(question, bench.params(temperature), namespace)
        print(f"  {number} of {len(questions)}: {question.task}", file=sys.stderr)
    title = f"temperature {temperature:g}, {'cold' if warm is None else 'warm: ' + warm}"
    everything, straight = summary(pairs), summary([p for p in pairs if not p.loops])
    show(f"{title}, all answers", everything)
    show(f"{title}, without those that run in circles", straight)
    wrong = sum(not pair.same for pair in pairs)
    print(f"  answers that differ: {wrong} of {len(pairs)}; disturbed: {bench.disturbed}")
    return {
        "temperature": temperature,
        "warm": warm,
        "all": everything,
        "without_loops": straight,
        "loops": sum(pair.loops for pair in pairs),
        "answers": len(pairs),
        "different": wrong,
        "disturbed": bench.disturbed,
        "seconds": round(time.perf_counter() - started),
    }


def identity(bench: Bench, questions: Sequence[Question], temperature: float) -> dict[str, object]:
    """Whether all first turns get the same tokens with and without, sixteen at a time."""
    prompts = [bench.prompt([question.turns[0]]) for question in questions]
    prompts = [prompt for prompt in prompts if len(prompt) + bench.max_tokens <= CONTEXT]
    params, namespace = bench.params(temperature), bench.fresh()
    plain = run_all(bench.plain, prompts, params, namespace)
    drafted = run_all(bench.drafted, prompts, params, namespace)
    wrong = sum(one != other for one, other in zip(plain, drafted, strict=True))
    tokens = sum(map(len, plain))
    print(f"temperature {temperature:g}: {wrong} of {len(plain)} answers differ, {tokens:,} tokens")
    return {"temperature": temperature, "answers": len(plain), "tokens": tokens, "different": wrong}


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="question.jsonl, or the folder it is in")
    parser.add_argument("--code", type=Path, help="HumanEval.jsonl: questions of code and edits as well")
    parser.add_argument("--only", choices=TASKS, nargs="+", default=TASKS, help="questions of these tasks alone")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sample", type=int, default=0, help="questions of each task; 0: all")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--warm", choices=WARM, help="what was answered before")
    parser.add_argument("--no-head", action="store_true", help="draft from texts alone")
    parser.add_argument("--free", action="store_true", help="as if drafting cost nothing")
    parser.add_argument("--identity", action="store_true", help="compare bytes alone, in batches")
    chosen = parser.parse_args()
    asked = read_questions(chosen.data) + (read_code(chosen.code) if chosen.code else [])
    questions = [each for each in sample(asked, chosen.sample) if each.task in chosen.only]
    if not questions:
        raise SystemExit("no question is of these tasks: name others by --only, or HumanEval.jsonl by --code")
    bench = Bench(chosen.model, chosen.threads, chosen.max_tokens, not chosen.no_head)
    speculation = bench.drafted.speculation
    assert isinstance(speculation, Speculation), "the drafted engine has it"
    if chosen.free:
        speculation.cost = Free()
    list(bench.pairs(questions[0], bench.params(0.0), None))  # warms the machine up
    results = [
        identity(bench, questions, temperature)
        if chosen.identity
        else measure(bench, questions, temperature, chosen.warm)
        for temperature in chosen.temperatures
    ]
    sources = [
        {
            "name": s.name,
            "drafts": s.drafts,
            "proposed": s.proposed,
            "accepted": s.accepted,
            "mean_accepted": round(s.mean_accepted, 2),
            "saved_s": round(s.saved_s, 1),
        }
        for s in speculation.report()
    ]
    print(
        json.dumps(
            {
                "benchmark": "spec_bench",
                "model": chosen.model,
                "miaotui": __version__,
                "max_tokens": chosen.max_tokens,
                "machine": describe().as_dict(),
                "results": results,
                "sources": sources,
            }
        )
    )


if __name__ == "__main__":
    main()
