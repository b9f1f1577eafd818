"""Promises of a masked model under mixed loads: how many are given, and how many of those are kept.

    python -m miaotui dmlm train texts.txt --out my-model --block 8
    python -m benchmarks.promises.masked_promises my-model --seconds 20

Starts ``miaotui serve`` with a folder of a masked model and measures how many answers a second it gives when a line
waits. Then requests come at random moments (a Poisson process), at several multiples of that. Prompts have 4 to
12 words, answers 8 to 32 tokens; two of three requests have a deadline of half to eight times an answer's median time
alone, the others none. A promise is given where a request with a deadline is not refused, and kept where the whole
answer is in its client's hands by then, over real HTTP. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.machine import Strangers, describe
from benchmarks.promises.goodput import NUMBERS
from benchmarks.promises.goodput_servers import Server, ours
from benchmarks.promises.promise import DeadlineTarget
from miaotui.bench.load.arrivals import Arrivals
from miaotui.bench.load.outcome import REFUSED, RequestOutcome
from miaotui.bench.load.play import play_closed, play_open
from miaotui.bench.load.prompts import PlannedRequest, PromptPlan, planned_at
from miaotui.bench.load.report import shown_ms
from miaotui.bench.load.summary import LatencySummary
from miaotui.bench.report import aligned

PROMPT, ANSWER = (4, 12), (8, 32)  # words, tokens
RATIOS = (0.5, 1.0, 2.0, 4.0, 8.0)  # deadlines, in multiples of the median time of an answer alone
PROMISED = 2 / 3  # share of the requests that have a deadline
ALONE, PEOPLE = 20, 8
HEAD = ["load", "asked", "with deadline", "promised", "kept", "refused", "others p50 / p99 ms", "in time per s"]


@dataclass(frozen=True)
class LoadOutcome:
    """Fates of one load; ``deadlines_ms`` stands beside each, None for a request without one."""

    load: float
    seconds: float
    fates: Sequence[RequestOutcome]
    deadlines_ms: Sequence[float | None]
    strangers: float  # cores that other processes took

    def counts(self) -> dict[str, Any]:
        """Return what became of the requests; times in milliseconds, null without any."""
        pairs = list(zip(self.fates, self.deadlines_ms, strict=True))
        dated = [(each, ms) for each, ms in pairs if ms is not None]
        promised = [(each, ms) for each, ms in dated if each.end != REFUSED]
        kept = sum(each.e2e_s is not None and 1e3 * each.e2e_s <= ms for each, ms in promised)
        others = LatencySummary.of((each.e2e_s for each, ms in pairs if ms is None), (50, 99)).as_dict()
        return {
            "load": self.load,
            "asked": len(pairs),
            "with_deadline": len(dated),
            "promised": len(promised),
            "kept": kept,
            "refused": len(dated) - len(promised),
            "others": others,
            "in_time_per_s": kept / self.seconds,
            "strangers_cores": self.strangers,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of a masked model")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="multiples of the capacity")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load (default: 20)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    kind = ours(chosen.model, chosen.threads)
    with (
        tempfile.TemporaryDirectory(prefix="masked-promises-") as folder,
        Server(kind, Path(folder) / "server.log") as server,
    ):
        alone_ms = asyncio.run(time_alone(server, chosen.seed))
        capacity = asyncio.run(capacity_of(server, chosen.seed, chosen.seconds / 4))
        if not capacity:
            raise SystemExit("no answer was whole in time to measure the capacity: give more --seconds")
        print(f"an answer alone {alone_ms:.1f} ms, {capacity:.1f} answers a second at most", flush=True)
        found = [measured(server, chosen, load, load * capacity, alone_ms).counts() for load in chosen.loads]
    rows = [
        [
            f"{each['load']:g}",
            *(str(each[name]) for name in ("asked", "with_deadline", "promised", "kept", "refused")),
            " / ".join(shown_ms(each["others"][name] or math.nan) for name in ("p50_ms", "p99_ms")),
            f"{each['in_time_per_s']:.1f}",
        ]
        for each in found
    ]
    print(aligned([HEAD, *rows]))
    about = {"benchmark": "masked_promises", "machine": describe().as_dict(), "alone_ms": alone_ms}
    print(json.dumps({**about, "capacity_per_s": capacity, "loads": found}))


def measured(server: Server, chosen: argparse.Namespace, load: float, rate: float, alone_ms: float) -> LoadOutcome:
    """Send requests at random moments, ``rate`` a second, and return what became of them."""
    source = random.Random(f"{chosen.seed} {load}")
    times = Arrivals().times_s(rate, chosen.seconds, chosen.seed)
    planned = planned_at(times, PromptPlan(PROMPT, ANSWER, chosen.seed), round(NUMBERS * load))
    deadlines = {
        each.number: round(source.choice(RATIOS) * alone_ms, 1) if source.random() < PROMISED else None
        for each in planned
    }
    strangers = Strangers([server.pid])
    fates = asyncio.run(played(server, planned, deadlines))
    return LoadOutcome(load, chosen.seconds, fates, [deadlines[each.number] for each in fates], strangers.cores())


async def played(
    server: Server, planned: Sequence[PlannedRequest], deadlines_ms: Mapping[int, float | None]
) -> list[RequestOutcome]:
    """Play one open load."""
    target = DeadlineTarget(server.url, deadlines_ms, route="completions")
    try:
        return await play_open(target, planned)
    finally:
        await target.close()


async def time_alone(server: Server, seed: int) -> float:
    """Return the median time of an answer alone in milliseconds, once the server is warm."""
    return 1e3 * statistics.median(
        each.e2e_s for each in (await one_by_one(server, seed, 1, ALONE, 0.0))[ALONE // 4 :] if each.e2e_s is not None
    )


async def capacity_of(server: Server, seed: int, seconds: float) -> float:
    """Return answers a second while `PEOPLE` ask again as soon as they are answered."""
    fates = await one_by_one(server, seed + 1, PEOPLE, 1, seconds)
    return sum(each.is_answered and (each.done_s or math.inf) < seconds for each in fates) / seconds


async def one_by_one(server: Server, seed: int, streams: int, least: int, seconds: float) -> list[RequestOutcome]:
    """Play one closed load without deadlines."""
    plan = PromptPlan(PROMPT, ANSWER, 1_000 + seed)
    target = DeadlineTarget(server.url, dict.fromkeys(range(100_000)), route="completions")
    try:
        return await play_closed(target, (plan.planned(number) for number in count()), streams, seconds, least)
    finally:
        await target.close()


if __name__ == "__main__":
    main()
