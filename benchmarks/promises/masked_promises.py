"""Promises of a masked model under mixed loads: how many are given, and how many of those are kept.

    python -m miaotui dmlm train texts.txt --out my-model --block 8
    python -m benchmarks.promises.masked_promises my-model --seconds 20

Starts ``miaotui serve`` with a folder of a masked model and measures how many answers a second it gives when a line
waits. Then requests come at random moments (a Poisson process), at several multiples of that. Prompts have 8 to
24 tokens, answers 8 to 32; two of three requests have a deadline of half to eight times an answer's median time alone,
the others none. A promise is given where a request with a deadline is not refused, and kept where the whole answer is
in its client's hands by then, over real HTTP. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import Strangers, describe
from benchmarks.promises.goodput_report import REFUSED, quantile
from benchmarks.promises.goodput_servers import Kind, Server, ours
from benchmarks.promises.promise import play_load
from miaotui.bench.report import aligned

PROMPT, ANSWER = (8, 24), (8, 32)
RATIOS = (0.5, 1.0, 2.0, 4.0, 8.0)  # deadlines, in multiples of the median time of an answer alone
PROMISED = 2 / 3  # share of the requests that have a deadline
PATIENCE_S, ALONE, PEOPLE = 20.0, 20, 8
HEAD = ["load", "asked", "with deadline", "promised", "kept", "refused", "others p50 / p99 ms", "in time per s"]
Fate = dict[str, Any]


@dataclass(frozen=True)
class LoadOutcome:
    """Fates of one load; ``deadlines_ms`` stands beside each, None for a request without one."""

    load: float
    seconds: float
    fates: Sequence[Fate]
    deadlines_ms: Sequence[float | None]
    strangers: float  # cores that other processes took

    def counts(self) -> dict[str, Any]:
        """Return what became of the requests; times in milliseconds."""
        dated = [(each, ms) for each, ms in zip(self.fates, self.deadlines_ms, strict=True) if ms is not None]
        promised = [(each, ms) for each, ms in dated if each["status"] != REFUSED]
        kept = sum(is_whole(each) and took_ms(each) <= ms for each, ms in promised)
        pairs = zip(self.fates, self.deadlines_ms, strict=True)
        others = [took_ms(each) for each, ms in pairs if ms is None and is_whole(each)]
        return {
            "load": self.load,
            "asked": len(self.fates),
            "with_deadline": len(dated),
            "promised": len(promised),
            "kept": kept,
            "refused": len(dated) - len(promised),
            "others_p50_ms": quantile(others, 0.5),
            "others_p99_ms": quantile(others, 0.99),
            "in_time_per_s": kept / self.seconds,
            "strangers_cores": self.strangers,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of a masked model")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="multiples of the capacity")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load (default: 20)")
    parser.add_argument("--vocabulary", type=int, default=500, help="token ids of prompts are below it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    kind = ours(chosen.model, chosen.threads)
    with (
        tempfile.TemporaryDirectory(prefix="masked-promises-") as folder,
        Server(kind, Path(folder) / "server.log") as server,
    ):
        source = random.Random(f"{chosen.seed} alone")
        alone = [(0.0, ask(kind, source, chosen.vocabulary, None)) for _ in range(ALONE)]
        answers = play_load(server, {"requests": alone, "pause_s": 0.05, "patience_s": PATIENCE_S})
        alone_ms = statistics.median(took_ms(each) for each in answers[ALONE // 4 :] if is_whole(each))
        capacity = capacity_of(server, source, chosen.vocabulary, chosen.seconds / 4)
        if not capacity:
            raise SystemExit("no answer was whole in time to measure the capacity: give more --seconds")
        print(f"an answer alone {alone_ms:.1f} ms, {capacity:.1f} answers a second at most", flush=True)
        found = [measured(server, chosen, load, load * capacity, alone_ms).counts() for load in chosen.loads]
    rows = [
        [
            f"{each['load']:g}",
            *(str(each[name]) for name in ("asked", "with_deadline", "promised", "kept", "refused")),
            f"{each['others_p50_ms']:.0f} / {each['others_p99_ms']:.0f}",
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
    at_s, requests, deadlines = 0.0, [], []
    while (at_s := at_s + source.expovariate(rate)) < chosen.seconds:
        deadline_ms = round(source.choice(RATIOS) * alone_ms, 1) if source.random() < PROMISED else None
        requests.append((at_s, ask(server.kind, source, chosen.vocabulary, deadline_ms)))
        deadlines.append(deadline_ms)
    strangers = Strangers([server.pid])
    fates = play_load(server, {"requests": requests, "patience_s": PATIENCE_S})
    return LoadOutcome(load, chosen.seconds, fates, deadlines, strangers.cores())


def capacity_of(server: Server, source: random.Random, vocabulary: int, seconds: float) -> float:
    """Return answers a second while `PEOPLE` ask again as soon as they are answered."""
    requests = [(0.0, ask(server.kind, source, vocabulary, None)) for _ in range(2000)]
    fates = play_load(server, {"requests": requests, "people": PEOPLE, "seconds": seconds, "patience_s": PATIENCE_S})
    return float(sum(is_whole(each) and each["done_s"] < seconds for each in fates) / seconds)


def ask(kind: Kind, source: random.Random, vocabulary: int, deadline_ms: float | None) -> str:
    """Return a request with a random prompt; ids 0 to 2 of a trained vocabulary are special."""
    prompt = [source.randrange(3, vocabulary) for _ in range(source.randint(*PROMPT))]
    return kind.request((prompt, source.randint(*ANSWER)), deadline_ms=deadline_ms)


def is_whole(fate: Fate) -> bool:
    return bool(fate["status"] == 200 and fate.get("done_s"))


def took_ms(fate: Fate) -> float:
    return float(1e3 * (fate["done_s"] - fate["sent_s"]))


if __name__ == "__main__":
    main()
