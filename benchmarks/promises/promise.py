"""Whether promises are given where they can be kept: of requests alone, and how soon refusals come.

    python -m benchmarks.promises.promise                          # about four minutes
    python -m benchmarks.promises.promise --python OLD/bin/python  # the server of another installation
    python -m benchmarks.promises.promise --only idle refusals

Each part starts ``miaotui serve`` on a free port. *idle*: the same requests, one after another, on two fresh
servers: first with a deadline that is no limit, which gives the time of each alone and the time promised, then with
deadlines of that time divided by a ratio. *refusals*: how soon a request that cannot be done in time is refused, on
an idle server and beside half a request a second. Prints tables and one JSON line. Answers within a second at several
loads are a matter of `miaotui bench serve URL --rate 0.5,1,2,4,8 --deadline-ms 1000`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import Strangers, describe
from benchmarks.places import ROOT
from benchmarks.promises.goodput_servers import OURS, Kind, Server
from miaotui.bench.load.http_target import HttpTarget, Route
from miaotui.bench.load.outcome import RequestOutcome
from miaotui.bench.load.play import play_open
from miaotui.bench.load.prompts import PlannedRequest
from miaotui.bench.load.summary import LatencySummary
from miaotui.bench.load.target import AskOptions
from miaotui.bench.report import aligned

RATIOS = (0.5, 0.6, 0.7, 0.8, 0.87, 0.95)
WORDS, ANSWER = (60, 200), (24, 96)
NO_LIMIT_MS = 30_000.0
SHORTEST_MS = 30.0  # in which nothing can be done
PAUSE_S = 0.3  # between an answer and the next request of one person
FIRST = 10  # requests after a start that are told apart
PARTS = ("idle", "refusals")


class DeadlineTarget(HttpTarget):
    """Our server, asked with a deadline for each request, by its number; None: without one."""

    def __init__(self, url: str, deadlines_ms: Mapping[int, float | None], route: Route = "chat") -> None:
        super().__init__(url, "bench", AskOptions(ignore_eos=True, temperature=1.0), route=route)
        self.deadlines_ms = deadlines_ms

    def body(self, planned: PlannedRequest) -> dict[str, Any]:
        """Return the request's JSON."""
        deadline_ms = self.deadlines_ms[planned.number]
        return super().body(planned) | ({} if deadline_ms is None else {"deadline_ms": deadline_ms})


@dataclass(frozen=True)
class Idle:
    """A request alone: its time, the time that was promised, and its fate with a deadline."""

    question: PlannedRequest
    alone_ms: float
    promised_ms: float
    ratio: float
    admitted: bool
    met: bool
    predicted_ms: float
    took_ms: float


def main() -> None:
    """Measure the parts that the arguments ask for."""
    args = _arguments()
    machine = describe()
    print(f"{machine.processor}, {machine.cores} cores; load average {machine.load_average[0]:.2f}")
    found: dict[str, Any] = {"machine": machine.as_dict(), "label": args.label}
    with tempfile.TemporaryDirectory(prefix="promise-") as folder:
        log = Path(folder) / "server.log"
        for part in args.only:
            measure = {"idle": _idle, "refusals": _refusals}[part]
            found[part] = measure(args, log)
    print(json.dumps(found))


def questions(count: int, seed: int) -> list[PlannedRequest]:
    """Messages of 60 to 200 words; no two share their beginning."""
    source = random.Random(seed)
    words = (ROOT / "LICENSE").read_text(encoding="utf-8").split()
    asked = []
    for index in range(count):
        length, start = source.randint(*WORDS), source.randrange(len(words))
        text = " ".join((words * 2)[start : start + length - 12])
        wish = source.choice(
            ("Summarise this", "Explain this to a child", "Reply to this letter", "Write a poem on it")
        )
        prompt = f"{index}{source.random()}. {wish}: {text}"
        asked.append(PlannedRequest(0.0, prompt, source.randint(*ANSWER), index))
    return asked


def _server(args: argparse.Namespace, log: Path) -> Server:
    model = args.model or "smollm2-135m"
    options = [f"bench={model}", "--threads", str(args.threads), *args.serve]
    command = [args.python, "-m", "miaotui", "serve", *options]
    return Server(Kind(OURS, lambda port: [*command, "--port", str(port)], "/ready"), log)


def _idle(args: argparse.Namespace, log: Path) -> list[dict[str, Any]]:
    """Requests of a person alone: how many are admitted and met, by their time's share of the deadline."""
    asked = questions(args.requests, args.seed)
    with _server(args, log) as server:
        strangers = Strangers([server.pid])
        alone = asyncio.run(_in_turn(server, asked, [NO_LIMIT_MS] * len(asked)))
        busy = strangers.cores()
    times = [_took_ms(each) for each in alone]
    promised = [each.predicted_ms or 0.0 for each in alone]
    results: list[Idle] = []
    for turn in range(args.turns):
        ratios = [RATIOS[(index + turn) % len(RATIOS)] for index in range(len(asked))]
        with _server(args, log) as server:
            limits = [ms / ratio for ms, ratio in zip(times, ratios, strict=True)]
            fates = asyncio.run(_in_turn(server, asked, limits))
        rows = zip(asked, times, promised, ratios, fates, strict=True)
        results += [_idle_of(*row) for row in rows]
    print(f"\nidle: {len(asked)} requests on {1 + args.turns} fresh servers; strangers used {busy:.2f} cores")
    print(_idle_table(results, times, promised))
    return [_idle_dict(each) for each in results]


def _idle_of(question: PlannedRequest, alone_ms: float, promised_ms: float, ratio: float, fate: RequestOutcome) -> Idle:
    met = fate.is_answered and _took_ms(fate) <= alone_ms / ratio
    predicted_ms = fate.predicted_ms or 0.0
    return Idle(question, alone_ms, promised_ms, ratio, fate.is_answered, met, predicted_ms, _took_ms(fate))


def _idle_table(results: Sequence[Idle], times: Sequence[float], promised: Sequence[float]) -> str:
    rows = [["time / deadline", "asked", "admitted", "of them met", "promised / time would allow"]]
    for ratio in RATIOS:
        of_ratio = [each for each in results if each.ratio == ratio]
        admitted = [each for each in of_ratio if each.admitted]
        allowed = [p * ratio <= t for p, t in zip(promised, times, strict=True)]
        rows.append([f"{ratio:g}", *_shares(of_ratio, admitted), _percent(sum(allowed), len(allowed))])
    first = [each for turn in _turns(results, len(times)) for each in turn[:FIRST]]
    rows.append([f"first {FIRST}", *_shares(first, [each for each in first if each.admitted]), ""])
    ratios = sorted(p / t for p, t in zip(promised, times, strict=True))
    text = ", ".join(f"p{100 * share:.0f} {_quantile(ratios, share):.2f}" for share in (0.05, 0.5, 0.95))
    alone = (
        f"time alone: {_quantile(times, 0.0):.0f} to {_quantile(times, 1.0):.0f} ms, median {_quantile(times, 0.5):.0f}"
    )
    begin = " ".join(f"{p / t:.2f}" for p, t in list(zip(promised, times, strict=True))[:FIRST])
    return f"{aligned(rows)}\n{alone}; promised / time: {text}; the first {FIRST}: {begin}"


def _turns(results: Sequence[Idle], length: int) -> Iterator[Sequence[Idle]]:
    for start in range(0, len(results), length):
        yield results[start : start + length]


def _shares(asked: Sequence[Idle], admitted: Sequence[Idle]) -> list[str]:
    met = sum(each.met for each in admitted)
    return [str(len(asked)), _percent(len(admitted), len(asked)), _percent(met, len(admitted))]


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.1f}%" if of else "-"


def _idle_dict(each: Idle) -> dict[str, Any]:
    values = {name: value for name, value in vars(each).items() if name != "question"}
    return {"words": len(each.question.prompt.split()), "answer_tokens": each.question.max_tokens, **values}


def _refusals(args: argparse.Namespace, log: Path) -> dict[str, Any]:
    """How soon refusals come: a request of 200 words and 96 tokens within 30 ms cannot be done."""
    asked, beside = questions(2 * args.refusals, args.seed + 1), questions(30, args.seed + 2)
    found: dict[str, Any] = {}
    rows = [["refusals", "asked", "refused", "p50 [ms]", "p99 [ms]", "longest [ms]"]]
    with _server(args, log) as server:
        half = args.refusals
        for name, first, load in (("idle", 0, []), ("beside 0.5/s", half, beside)):
            source = random.Random(args.seed)
            spaced = [
                replace(q, at_s=index * 0.1 + source.random() / 20) for index, q in enumerate(asked[first:][:half])
            ]
            others = [
                replace(q, at_s=2.0 * at, number=len(asked) + at) for at, q in enumerate(load) if 2.0 * at < 0.1 * half
            ]
            limits = dict.fromkeys([q.number for q in others]) | {q.number: SHORTEST_MS for q in spaced}
            planned = sorted([*spaced, *others], key=lambda q: q.at_s)
            told = LatencySummary.of(
                [each.refusal_s for each in asyncio.run(_played(server, planned, limits))], (50, 99, 100)
            )
            p50, p99, longest = (told.percentiles_ms[percent] for percent in (50, 99, 100))
            found[name] = {"refused": told.count, "p50_ms": p50, "p99_ms": p99}
            rows.append([name, str(len(spaced)), str(told.count), *(f"{each:.1f}" for each in (p50, p99, longest))])
    print("\n" + aligned(rows))
    return found


async def _in_turn(server: Server, asked: Sequence[PlannedRequest], limits_ms: Sequence[float]) -> list[RequestOutcome]:
    """One person's requests: each is sent a moment after the answer to the one before."""
    target = DeadlineTarget(server.url, {q.number: ms for q, ms in zip(asked, limits_ms, strict=True)})
    found: list[RequestOutcome] = []
    try:
        for each in asked:
            await asyncio.sleep(PAUSE_S)
            found += await play_open(target, [each])
    finally:
        await target.close()
    return found


async def _played(
    server: Server, planned: Sequence[PlannedRequest], limits_ms: Mapping[int, float | None]
) -> list[RequestOutcome]:
    target = DeadlineTarget(server.url, limits_ms)
    try:
        return await play_open(target, planned)
    finally:
        await target.close()


def _took_ms(fate: RequestOutcome) -> float:
    if fate.done_s is None or fate.sent_s is None:
        raise SystemExit(f"request {fate.number} was not sent: {fate.end}")
    return 1e3 * (fate.done_s - fate.sent_s)


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share))


def _arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    add("--python", default=sys.executable, help="interpreter that has the miaotui to serve with")
    add("--model", help="name or file (default: smollm2-135m)")
    add("--serve", nargs="*", default=[], help="more options of miaotui serve")
    add("--requests", type=int, default=60, help="of the idle part, on each server")
    add("--turns", type=int, default=2, help="servers of the idle part that are asked with deadlines")
    add("--refusals", type=int, default=150, help="of each kind")
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0)
    add("--label", default="", help="kept in the JSON line")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
