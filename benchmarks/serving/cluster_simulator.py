"""Routing over up to a thousand replicas, simulated with costs that a real replica has published.

The router is the real one (`miaotui.cluster.routing.router`); replicas are simulated: each reads prompts one after the
other in steps of 128 tokens, and up to its width of answers get a token in each step, or one at the published cost of a
token for so many while nothing is read. Under "promise" a replica refuses what would break a promise that it has given,
as a real one does, and up to three others are asked. Conversations of several turns arrive at random (Poisson) and
share system prompts. Real times differ from published ones by a random factor for each replica, so that forecasts err.
Everything follows from ``--seed``. Compared with: in turn, at random, fewest in flight; ``--level`` levels numbers of
requests whatever that costs. "Gap" is the difference between the largest and the smallest number of requests that
replicas have, after each choice; answers that end change it too. The last line is JSON.

    python -m benchmarks.serving.cluster_simulator --replicas 1000
    python -m benchmarks.serving.cluster_simulator --policies promise fewest --level
    python -m benchmarks.serving.cluster_simulator --measure smollm2-135m  # publish costs of this machine, and use them
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from miaotui.cluster.membership import cost_of
from miaotui.cluster.routing.forecast import ReplicaCost
from miaotui.cluster.routing.prefixes import PAGE_TOKENS
from miaotui.cluster.routing.router import CROWD, EQUAL_S, Router, RouteRequest, Ticket
from miaotui.errors import RefusedError

POLICIES = ("promise", "fewest", "random", "in_turn")
CHUNK = 128  # prompt tokens of a step
MOST_REFUSALS = 3
DONE = 1e-9  # tokens
ERROR = 0.15  # standard deviation of the logarithm of a replica's real over its published speed


@dataclass
class Turn:
    """One turn of a conversation."""

    talk: int
    pages: list[int]
    prompt: int
    answer: int
    arrived_s: float
    deadline_s: float
    first_turn: bool
    known: int  # tokens of the turns before, in whole pages
    ticket: Ticket | None = None
    held: int = 0
    done_s: float = 0.0


@dataclass
class Machine:
    """A simulated replica: one reader, several answers that share each pass."""

    cost: ReplicaCost
    slower: float
    reading: deque[Turn] = field(default_factory=deque)
    read_left: float = 0.0  # tokens of the first in `reading`
    answering: dict[int, list[Any]] = field(default_factory=dict)  # key: [tokens left, turn]
    kept: dict[int, None] = field(default_factory=dict)
    at_s: float = 0.0
    version: int = 0

    def held(self, pages: list[int]) -> int:
        count = 0
        for page in pages:
            if page not in self.kept:
                break
            count += 1
        return count

    def keep(self, pages: list[int]) -> None:
        for page in reversed(pages):
            self.kept.pop(page, None)
            self.kept[page] = None
        while len(self.kept) > self.cost.kept_pages:
            del self.kept[next(iter(self.kept))]

    def rates(self) -> tuple[float, float]:
        """Prompt tokens and tokens of each answer that a second brings now."""
        token_s = self.cost.token_s(len(self.answering)) if self.answering else 0.0
        if not self.reading or len(self.answering) >= self.cost.width:
            return 0.0, 1.0 / token_s if self.answering else 0.0
        step_s = CHUNK * self.cost.read_s + token_s
        return CHUNK / step_s, 1.0 / step_s

    def advance(self, now_s: float) -> None:
        """Compute up to ``now_s``."""
        passed = (now_s - self.at_s) / self.slower
        self.at_s = now_s
        read, answered = self.rates()
        for each in self.answering.values():
            each[0] -= passed * answered
        self.read_left -= passed * read

    def next_s(self) -> float:
        """When something is done, if nothing else comes."""
        read, answered = self.rates()
        times = []
        if self.answering:
            times.append(max(min(each[0] for each in self.answering.values()), 0.0) / answered)
        if read:
            times.append(max(self.read_left, 0.0) / read)
        return self.at_s + self.slower * min(times) if times else float("inf")

    def step(self, number: Iterator[int]) -> list[Turn]:
        """End answers that are whole, and begin those whose prompts are read; the ended ones."""
        ended = [self.answering.pop(key)[1] for key in [k for k, each in self.answering.items() if each[0] <= DONE]]
        while self.reading and self.read_left <= DONE and len(self.answering) < self.cost.width:
            turn = self.reading.popleft()
            self.answering[next(number)] = [float(turn.answer), turn]
            self.read_left = self.reading[0].prompt - self.reading[0].held if self.reading else 0.0
        return ended

    def accept(self, turn: Turn) -> None:
        self.reading.append(turn)
        if len(self.reading) == 1:
            self.read_left = turn.prompt - turn.held

    def keeps_all(self, turn: Turn, now_s: float) -> bool:
        """Whether all promises hold with one more request, as far as the published costs tell."""
        after = Machine(self.cost, self.cost.allowance)
        after.at_s, after.reading, after.read_left = now_s, deque(self.reading), self.read_left
        after.answering = {key: list(each) for key, each in self.answering.items()}
        after.accept(turn)
        number = itertools.count(1 << 40)
        while (at_s := after.next_s()) < float("inf"):
            after.advance(at_s)
            if any(at_s > each.arrived_s + each.deadline_s for each in after.step(number)):
                return False
        return True


class Simulation:
    """One run of one policy."""

    def __init__(self, cost: ReplicaCost, replicas: int, policy: str, seed: int, level_s: float = EQUAL_S) -> None:
        rng = random.Random(seed)
        self.policy, self.rng, self.cost = policy, random.Random(seed + 1), cost
        self.machines = {f"r{i}": Machine(cost, rng.lognormvariate(0.0, ERROR)) for i in range(replicas)}
        self.names = list(self.machines)
        self.router = Router(level_s)
        for name in self.names:
            self.router.add(name, cost)
        self.in_turn = itertools.cycle(self.names)
        self.events: list[tuple[float, int, str, Any]] = []
        self.count = itertools.count()
        self.pick_s: list[float] = []
        self.done: list[Turn] = []
        self.refused = 0
        self.oracle = self.found = 0
        self.gaps: list[int] = []

    def run(self, arrivals: list[Turn]) -> dict[str, Any]:
        for turn in arrivals:
            heapq.heappush(self.events, (turn.arrived_s, next(self.count), "arrive", turn))
        while self.events:
            now_s, _, what, value = heapq.heappop(self.events)
            if what == "arrive":
                self.arrive(value, now_s)
            else:
                machine, version = value
                if machine.version == version:
                    self.settle(machine, now_s)
        return self.report()

    def arrive(self, turn: Turn, now_s: float) -> None:
        request = RouteRequest(turn.prompt, turn.answer, turn.pages, turn.talk, total_s=turn.deadline_s)
        machine = self.choose(turn, request, now_s)
        if machine is None:
            self.refused += 1
            return
        if not turn.first_turn:
            self.oracle += turn.known
            self.found += min(turn.held, turn.known)
        machine.keep(turn.pages)
        machine.accept(turn)
        self.settle(machine, now_s)
        counts = [len(each.reading) + len(each.answering) for each in self.machines.values()]
        self.gaps.append(max(counts) - min(counts))

    def choose(self, turn: Turn, request: RouteRequest, now_s: float) -> Machine | None:
        tried: list[str] = []
        while len(tried) <= MOST_REFUSALS:
            try:
                name = self.pick(turn, request, now_s, tried)
            except RefusedError:
                return None
            machine = self.machines[name]
            machine.advance(now_s)
            turn.held = min(machine.held(turn.pages) * PAGE_TOKENS, turn.prompt - 1)
            if turn.ticket is None or machine.keeps_all(turn, now_s):
                return machine
            self.router.done(turn.ticket, "refused", now_s)
            tried.append(name)
        return None

    def pick(self, turn: Turn, request: RouteRequest, now_s: float, tried: list[str]) -> str:
        if self.policy == "promise":
            start_s = time.perf_counter()
            try:
                turn.ticket = self.router.pick(request, now_s, tried)
            finally:
                self.pick_s.append(time.perf_counter() - start_s)
            return turn.ticket.replica
        if self.policy == "in_turn":
            return next(self.in_turn)
        if self.policy == "random":
            return self.rng.choice(self.names)
        return min(self.names, key=lambda name: len(self.machines[name].reading) + len(self.machines[name].answering))

    def settle(self, machine: Machine, now_s: float) -> None:
        """Bring a machine up to date and look for its next event."""
        machine.advance(now_s)
        before = set(machine.answering)
        for turn in machine.step(self.count):
            turn.done_s = now_s
            self.done.append(turn)
            if turn.ticket is not None:
                self.router.done(turn.ticket, "finished", now_s)
        for key in set(machine.answering) - before:
            turn = machine.answering[key][1]
            if turn.ticket is not None:
                self.router.progress(turn.ticket, 1)
        machine.version += 1
        at_s = machine.next_s()
        if at_s < float("inf"):
            heapq.heappush(self.events, (max(at_s, now_s), next(self.count), "machine", (machine, machine.version)))

    def report(self) -> dict[str, Any]:
        took = sorted(turn.done_s - turn.arrived_s for turn in self.done)
        met = sum(turn.done_s - turn.arrived_s <= turn.deadline_s for turn in self.done)
        total = len(self.done) + self.refused
        found: dict[str, Any] = {
            "goodput": round(met / max(total, 1), 4),
            "missed": len(self.done) - met,
            "refused": self.refused,
            "p50_s": round(took[len(took) // 2], 3),
            "p99_s": round(took[int(0.99 * (len(took) - 1))], 3),
            "prefix_hits_of_oracle": round(self.found / max(self.oracle, 1), 4),
            "gap_p50": sorted(self.gaps)[len(self.gaps) // 2],
            "gaps_above_2": round(sum(gap > CROWD for gap in self.gaps) / len(self.gaps), 4),
        }
        if self.pick_s:
            ordered = sorted(self.pick_s)
            found["pick_us_p50"] = round(1e6 * statistics.median(ordered), 1)
            found["pick_us_p99"] = round(1e6 * ordered[int(0.99 * (len(ordered) - 1))], 1)
            assert self.router.in_flight == 0, "a ticket was left"
        return found


def arrivals(cost: ReplicaCost, replicas: int, requests: int, load: float, seed: int) -> list[Turn]:
    """Turns of conversations; ``load`` is the share of the time that all machines would be busy."""
    rng = random.Random(seed)
    pages = itertools.count(1)
    systems = [[next(pages) for _ in range(16)] for _ in range(8)]
    turns: list[Turn] = []
    starts: list[tuple[float, int]] = []
    answer, turn_tokens = 48, 64
    alone_s = turn_tokens * cost.read_s + answer * cost.token_s(1)
    busy_s = turn_tokens * cost.read_s + answer * cost.token_s(8) / 8  # of a machine's time for one turn
    rate = load * replicas / busy_s  # turns a second
    at_s = 0.0
    while len(starts) * 4 < requests:
        at_s += rng.expovariate(rate / 4)
        starts.append((at_s, len(starts)))
    for start_s, talk in starts:
        known, at_s = list(rng.choice(systems)), start_s
        for number in range(4):
            before = len(known) * PAGE_TOKENS
            known = known + [next(pages) for _ in range(turn_tokens // PAGE_TOKENS)]
            prompt = len(known) * PAGE_TOKENS + 7
            cold_s = prompt * cost.read_s + answer * cost.token_s(1)
            wanted_s = 3 * cold_s
            turns.append(Turn(talk, list(known), prompt, answer, at_s, wanted_s, number == 0, before))
            at_s += 4 * cold_s + rng.expovariate(1 / (4 * alone_s))
    return sorted(turns, key=lambda turn: turn.arrived_s)


def measured(model: str) -> ReplicaCost:
    """Costs of a real replica on this machine."""
    from miaotui.cluster.replica import Replica

    replica = Replica.open("measured", model)
    try:
        report = replica.report()
    finally:
        replica.close()
    print("published:", json.dumps(report["cost"]), file=sys.stderr)
    return cost_of(report)


# of smollm2-135m on two cores of an AMD EPYC with AVX-512 VNNI: medians of `miaotui bench` in docs/figures.jsonl,
# without drafts; that of eight answers, which were faster than four there, is that of four
SMOLLM2 = ReplicaCost(0.545e-3, (3.4e-3, 4.3e-3, 6.0e-3, 6.0e-3, 7.1e-3), 1.1, 16, 2048)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, nargs="+", default=[3, 30, 300, 1000])
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--level", action="store_true", help="level numbers of requests whatever that costs")
    parser.add_argument("--measure", metavar="MODEL")
    parsed = parser.parse_args()
    cost = measured(parsed.measure) if parsed.measure else SMOLLM2
    rows = []
    for replicas in parsed.replicas:
        requests = max(parsed.requests, 8 * replicas)
        for policy in parsed.policies:
            turns = arrivals(cost, replicas, requests, parsed.load, parsed.seed)
            start_s = time.perf_counter()
            row = {"replicas": replicas, "policy": policy, "requests": len(turns)}
            level_s = math.inf if parsed.level else EQUAL_S
            row |= Simulation(cost, replicas, policy, parsed.seed, level_s).run(turns)
            row["simulated_in_s"] = round(time.perf_counter() - start_s, 2)
            rows.append(row)
            print(json.dumps(row))
    found = {"benchmark": "cluster_simulator", "load": parsed.load, "seed": parsed.seed, "level": parsed.level}
    print(json.dumps(found | {"rows": rows}))


if __name__ == "__main__":
    main()
