"""Answers in time per second beside peers, under loads from a quarter of to three times the capacity.

    python -m benchmarks.peers.install setup          # once: the peers
    python -m benchmarks.promises.goodput              # about seven minutes
    python -m benchmarks.promises.goodput --only miaotui --seconds 10

The loads are those of `miaotui bench serve`: Poisson arrivals, prompts of 40 to 400 words, answers of 16 to 128 tokens,
over HTTP with streams. Each request is worth something only if its answer is whole within the deadline, as its client
sees it. This recipe adds what a server's address does not tell: starts of the same file on each engine, loads in
multiples of our own capacity, and the time of our steps outside of passes. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from benchmarks.machine import Strangers, describe, wait_until_quiet
from benchmarks.peers import models
from benchmarks.peers.install import LLAMA_CPP_PYTHON, OPENVINO_GENAI, Peers
from benchmarks.peers.report import check_table
from benchmarks.places import PEERS
from benchmarks.promises.goodput_report import Outcome, Row, checks, steps_of, table
from benchmarks.promises.goodput_servers import LLAMA_CPP, OPENVINO, OURS, Kind, Server, llama_cpp, openvino, ours
from miaotui.bench.load.arrivals import Arrivals
from miaotui.bench.load.http_target import HttpTarget, first_model
from miaotui.bench.load.outcome import RequestOutcome
from miaotui.bench.load.play import play_closed, play_open
from miaotui.bench.load.prompts import PlannedRequest, PromptPlan, planned_at
from miaotui.bench.load.summary import LatencyTargets, LoadSummary, summarised
from miaotui.bench.load.target import AskOptions

LOADS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
PROMPT, SHORT_PROMPT = (40, 400), (40, 40)
STREAMS = 8
NUMBERS = 100_000  # of prompts, between a load and one that is larger by the capacity: no load repeats another's
PATIENCE_S, PEER_PATIENCE_S = 30.0, 5.0  # for an answer; of a peer, what takes longer is late in any case
UNKNOWN_CAPACITY = 6.0  # answers per second, where ours was not measured


def main() -> None:
    """Measure what the arguments ask for."""
    args = _arguments()
    peers = Peers(args.peers)
    gguf = models.smollm2_q4_0(args.source or _default_source(), peers.models)
    makers: dict[str, Callable[[], Kind | None]] = {
        OURS: lambda: ours(gguf, args.threads),
        LLAMA_CPP: lambda: llama_cpp(peers, gguf, args.threads),
        OPENVINO: lambda: openvino(peers, gguf, args.threads),
    }
    machine = describe()
    print(f"load average {machine.load_average[0]:.2f}; {machine.processor}, {machine.cores} cores")
    outcome = Outcome(args.deadline_ms)
    with tempfile.TemporaryDirectory(prefix="goodput-") as folder:
        for name in args.only or makers:
            kind = makers[name]()
            if kind is None:
                print(f"{name} is not installed and left out; run: python -m benchmarks.peers.install setup")
                continue
            _Measurement(kind, args, Path(folder) / "server.log", outcome).run()
    promises = list(checks(outcome))
    print("\n" + table(outcome) + "\n\n" + check_table(promises))
    versions = {"llama-cpp-python": LLAMA_CPP_PYTHON, "openvino-genai": OPENVINO_GENAI}
    found = {"machine": machine.as_dict(), "versions": versions, **outcome.as_dict()}
    print(json.dumps(found | {"checks": [{**vars(check), "reached": check.verdict} for check in promises]}))


class _Measurement:
    """All loads on one engine; a peer gets a fresh server for each, since its line would never end."""

    def __init__(self, kind: Kind, args: argparse.Namespace, log: Path, outcome: Outcome) -> None:
        self.kind, self.args, self.log, self.outcome = kind, args, log, outcome
        self.is_ours = kind.name == OURS
        self.seconds = args.seconds if self.is_ours else args.peer_seconds

    def run(self) -> None:
        """Measure, and add rows to the outcome."""
        args, outcome = self.args, self.outcome
        wait_until_quiet(args.patience)
        server = Server(self.kind, self.log)
        try:
            self._closed(server, STREAMS, 2.0, seed=1)
            if self.is_ours:
                first = self._closed(server, STREAMS, self.seconds / 2, seed=2, prompt=SHORT_PROMPT)
                outcome.first_text = first.latencies["ttft"]
                busy = self._closed(server, 2 * STREAMS, self.seconds / 2, seed=3)
                outcome.capacity = args.capacity or busy.answered / busy.duration_s
                print(f"capacity: {outcome.capacity:.2f} answers per second", flush=True)
            outcome.capacity = outcome.capacity or args.capacity or UNKNOWN_CAPACITY
            loads = args.load if self.is_ours else args.peer_load or args.load
            for load in loads:
                if not self.is_ours and load != loads[0]:
                    server.stop()
                    server = Server(self.kind, self.log)
                outcome.rows.append(self._open(server, load))
                print(outcome.rows[-1].text(), flush=True)
        finally:
            server.stop()

    def _open(self, server: Server, load: float) -> Row:
        """One open load, with the same requests for every server."""
        rate, seed = load * self.outcome.capacity, self.args.seed
        times = Arrivals().times_s(rate, self.seconds, seed)
        planned = planned_at(times, PromptPlan(PROMPT, seed=seed), round(NUMBERS * load))
        deadline_ms = self.args.deadline_ms if self.is_ours else None
        patience_s = self.args.leave_after or (PATIENCE_S if self.is_ours else PEER_PATIENCE_S)
        before = steps_of(server) if self.is_ours else None
        strangers, own_s = Strangers([server.pid]), _own_s()
        outcomes = asyncio.run(self._played(server, planned, patience_s, deadline_ms))
        busy = strangers.cores() - (_own_s() - own_s) / self.seconds
        targets = LatencyTargets(e2e_ms=self.args.deadline_ms)
        summary = summarised(outcomes, self.seconds, targets, rate, deadline_ms)
        steps = steps_of(server).since(before) if before else None
        return Row(self.kind.name, load, summary, busy, steps)

    async def _played(
        self, server: Server, planned: Sequence[PlannedRequest], patience_s: float, deadline_ms: float | None
    ) -> list[RequestOutcome]:
        target = await self._target(server, patience_s, deadline_ms)
        try:
            return await play_open(target, planned)
        finally:
            await target.close()

    def _closed(
        self, server: Server, streams: int, seconds: float, *, seed: int, prompt: tuple[int, int] = PROMPT
    ) -> LoadSummary:
        """So many at a time, without deadlines."""
        plan = PromptPlan(prompt, seed=self.args.seed + 1_000 * seed)
        requests: Iterator[PlannedRequest] = (plan.planned(number) for number in count())

        async def played() -> list[RequestOutcome]:
            target = await self._target(server, PATIENCE_S, None)
            try:
                return await play_closed(target, requests, streams, seconds)
            finally:
                await target.close()

        outcomes = asyncio.run(played())
        lasted_s = max((each.done_s or 0.0 for each in outcomes), default=0.0)
        return summarised(outcomes, max(lasted_s, 1e-3), LatencyTargets(), streams=streams)

    async def _target(self, server: Server, patience_s: float, deadline_ms: float | None) -> HttpTarget:
        model = await first_model(server.url)
        options = AskOptions(patience_s, patience_s, deadline_ms, ignore_eos=True, temperature=self.kind.temperature)
        return HttpTarget(server.url, model, options, route="completions")


def _own_s() -> float:
    """The processor time of this process, which plays the loads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _default_source() -> Path:
    from miaotui.hub.resolve import resolve

    return resolve("smollm2-135m")


def _arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=[OURS, LLAMA_CPP, OPENVINO], help="servers to measure")
    add("--load", nargs="+", type=float, default=list(LOADS), help="multiples of the capacity")
    add("--peer-load", nargs="+", type=float, help="of the peers (default: the same)")
    add("--capacity", type=float, help="answers per second (default: measured first)")
    add("--deadline-ms", type=float, default=1000.0)
    add("--seconds", type=float, default=20.0, help="of each load on our server")
    add("--peer-seconds", type=float, default=10.0, help="of each load on a peer")
    add("--leave-after", type=float, help="seconds after which clients hang up (default: they wait)")
    add("--patience", type=float, default=20.0, help="seconds to wait for a quiet machine")
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0)
    add("--source", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf (default: fetched)")
    add("--peers", type=Path, default=PEERS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
