"""Measures miaotui and its peers on this machine, in one run, and prints a table and one JSON line.

    python -m benchmarks.peers.install setup          # once: install the peers (about 10 minutes)
    python -m benchmarks.peers.speed                # everything, about 20 minutes on two cores
    python -m benchmarks.peers.speed --quick        # fewer repetitions, the small model only

See README.md beside this file for what is measured and the rules of fairness. The machine should be
quiet: the benchmark waits for that, and marks what was disturbed all the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.peers import engines as catalog
from benchmarks.peers import models
from benchmarks.peers.engines import Engine
from benchmarks.peers.install import LLAMA_CPP_PYTHON, OPENVINO_GENAI, Peers
from benchmarks.peers.measure import Plan, Results, beside_neighbour, interleaved, open_sessions
from benchmarks.peers.report import Outcome, as_dict, check_table, checks, table
from benchmarks.peers.session import EngineError
from benchmarks.peers.starts import starts
from benchmarks.peers.workloads import DECODE_1, all_workloads
from benchmarks.places import PEERS

SMALL, LARGE = "smollm2-135m", "llama-1b-random"
N_VOCAB = 49_152
PARTS = ["start", "speed", "neighbour"]


def main() -> None:
    """Measure what the arguments ask for."""
    args = _arguments()
    try:
        _run(args)
    except EngineError as error:
        raise SystemExit(f"benchmark stopped: {error}") from error


def _run(args: argparse.Namespace) -> None:
    machine = describe()
    found = _versions()
    print(f"load average {machine.load_average[0]:.2f}; {machine.processor}, {machine.cores} cores")
    print("; ".join(f"{name} {number}" for name, number in found.items()), flush=True)
    line: dict[str, object] = {}
    for name in args.model:
        outcome = _measure(name, args)
        promises = list(checks(outcome))
        line[name] = as_dict(outcome, promises)
        slow, fast = (each / 1e9 for each in outcome.bandwidths)
        limits = " to ".join(f"{outcome.limit(each):.0f}" for each in outcome.bandwidths)
        print(
            f"\n{name}: read bandwidth {slow:.1f} to {fast:.1f} GB/s with {args.threads} threads; "
            f"at that limit {limits} tok/s\n"
        )
        print(table(outcome, all_workloads(True)))
        if promises:
            print("\n" + check_table(promises))
        sys.stdout.flush()
    about = {"machine": machine.as_dict(), "versions": found, "threads": args.threads}
    print(json.dumps({**about, "models": line}))


def _measure(name: str, args: argparse.Namespace) -> Outcome:
    peers = Peers(args.peers)
    source = args.source or _default_source()
    make = models.smollm2_q4_0 if name == SMALL else models.random_llama_1b
    model = models.describe(name, make(source, peers.models))
    under_test = _engines(args, peers, model.path)
    plan = Plan(args.repetitions, args.patience, args.seed, N_VOCAB, args.threads)
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        if "start" in args.part:
            results.update(starts(under_test, model.path, plan, folder))
        sessions = open_sessions(stack, under_test, model.path, folder)
        if "speed" in args.part:
            results.update(interleaved(sessions, all_workloads(name == SMALL), plan))
        if "neighbour" in args.part:
            results.update(beside_neighbour(sessions, DECODE_1, plan))
        memory = {s.engine.label: s.memory() for s in sessions if "speed" in args.part}
    return Outcome(model, under_test, results, memory)


def _engines(args: argparse.Namespace, peers: Peers, gguf: Path) -> list[Engine]:
    everyone = [
        *catalog.ours(args.threads),
        *catalog.llama_cpp(peers, args.threads, args.variants),
        *catalog.openvino(peers, args.threads, args.variants),
    ]
    chosen = [engine for engine in everyone if not args.only or engine.name in args.only]
    for name in (catalog.LLAMA_CPP, catalog.OPENVINO):
        if not any(engine.name == name for engine in everyone):
            print(f"{name} is not installed and left out; run: python -m benchmarks.peers.install setup")
    if any(engine.converted for engine in chosen):
        catalog.convert(peers, gguf)
    if not chosen:
        raise SystemExit("no engine is left to measure; check --only and benchmarks.peers.install status")
    return chosen


def _default_source() -> Path:
    """The default model's file, fetched when it is missing."""
    from miaotui.hub.resolve import resolve

    return resolve(SMALL)


def _versions() -> dict[str, str]:
    found = {"llama-cpp-python": LLAMA_CPP_PYTHON, "openvino-genai": OPENVINO_GENAI}
    for package in ("miaotui", "numba", "llvmlite", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", nargs="+", choices=[SMALL, LARGE], default=[SMALL, LARGE])
    add("--part", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    add("--only", nargs="+", choices=catalog.NAMES, help="engines to measure (default: all)")
    add("--variants", action="store_true", help="try the peers' other settings too")
    add("--repetitions", type=int, default=5)
    add("--quick", action="store_true", help="2 repetitions, the small model, no starts")
    add("--patience", type=float, default=30, help="seconds to wait for quiet before a sample")
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0, help="of the prompts")
    add("--source", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf (default: fetched)")
    add("--peers", type=Path, default=PEERS, help="folder of benchmarks.peers.install and the models")
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.model, args.part = 2, [SMALL], ["speed", "neighbour"]
    return args


if __name__ == "__main__":
    main()
