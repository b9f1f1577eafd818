"""Measures every block type of GGUF files, ours and llama.cpp's in turns, and prints a table and one JSON line.

    python -m benchmarks.peers.install setup          # once: llama.cpp, compiled for this CPU
    python -m benchmarks.decode.block_types             # Llama 3.2 1B's shape, four layers
    python -m benchmarks.decode.block_types --shape qwen2.5-0.5b --layers 24 --type Q4_K Q6_K

Files of random weights are made once (`block_files`). The read limit of a step is that of the file's own bytes: its
matrices, and keys and values at the mean length; the bandwidth is measured before and after each sample. Knows no
engine. ``--isa avx2`` restricts ours; llama.cpp has the same switch when it is compiled (GGML_AVX512=OFF).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.decode.block_files import SHAPES, TYPES, random_model
from benchmarks.machine import describe
from benchmarks.peers import engines as catalog
from benchmarks.peers import models
from benchmarks.peers.install import LLAMA_CPP_PYTHON, Peers
from benchmarks.peers.measure import BESIDE, Plan, Results, interleaved, open_sessions
from benchmarks.peers.report import KV_POSITION
from benchmarks.peers.workloads import DECODE_1, DECODE_8, PREFILL
from benchmarks.places import PEERS

N_VOCAB = 49_152
WORKLOADS = (replace(DECODE_1, new_tokens=48), replace(DECODE_8, new_tokens=32), PREFILL)
COLUMNS = (
    "type",
    "bits",
    *(f"{name} {what}" for name in ("1 stream", "8 streams", "prefill") for what in ("ours", "x")),
)


def main() -> None:
    """Measure the types that the arguments name."""
    args = _arguments()
    peers = Peers(args.peers)
    found: dict[str, dict[str, Any]] = {}
    print(f"{describe().processor}; {args.shape}, {args.layers} layers, {args.threads} threads", flush=True)
    for kind in args.type:
        path = random_model(args.source or default_source(), args.folder or peers.models, args.shape, args.layers, kind)
        found[kind] = measured(models.describe(kind, path), args, peers)
        print(row(kind, found[kind]), flush=True)
        if not args.keep:
            path.unlink()
    print("\n" + "\n".join([f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]))
    print("\n".join(row(kind, each) for kind, each in found.items()))
    about = {"benchmark": "block_types", "machine": describe().as_dict(), "llama-cpp-python": LLAMA_CPP_PYTHON}
    print(json.dumps({**about, "shape": args.shape, "layers": args.layers, "threads": args.threads, "types": found}))


def measured(model: models.ModelFile, args: argparse.Namespace, peers: Peers) -> dict[str, Any]:
    """Return the numbers of one file, of every engine."""
    ours = replace(catalog.ours(args.threads)[0], environment={"MIAOTUI_ISA": args.isa} if args.isa else {})
    under_test = [ours, *catalog.llama_cpp(peers, args.threads, variants=False)]
    plan = Plan(args.repetitions, args.patience, 0, N_VOCAB, args.threads)
    with tempfile.TemporaryDirectory(prefix="block-types-") as temporary, ExitStack() as stack:
        sessions = open_sessions(stack, under_test, model.path, Path(temporary))
        chosen = [workload for workload in WORKLOADS if workload.name.split(",")[0] in args.part]
        results = interleaved(sessions, chosen, plan)
    numbers: dict[str, Any] = {"bits_per_weight": 8 * model.weight_bytes / model.weights}
    for engine in under_test:
        numbers[engine.name] = _numbers(model, results, engine.label)
    return numbers


def _numbers(model: models.ModelFile, results: Results, label: str) -> dict[str, Any]:
    found = {w.name: results[label, w.name].as_dict() for w in WORKLOADS if (label, w.name) in results}
    if (label, BESIDE) in results:
        step_bytes = model.weight_bytes + KV_POSITION * model.kv_bytes_per_token
        rates = zip(results[label, DECODE_1.name].values, results[label, BESIDE].values, strict=True)
        shares = sorted(rate * step_bytes / bandwidth for rate, bandwidth in rates)
        found["share of the read limit"] = {"median": shares[len(shares) // 2], "min": shares[0], "max": shares[-1]}
    return found


def row(kind: str, numbers: dict[str, Any]) -> str:
    """Return a line of the table: rates of ours, and how many times llama.cpp's they are."""
    ours, theirs = numbers[catalog.OURS], numbers.get(catalog.LLAMA_CPP)
    cells = [kind, f"{numbers['bits_per_weight']:.2f}"]
    for workload in WORKLOADS:
        if workload.name not in ours:
            cells += ["", ""]
            continue
        rate, share = ours[workload.name]["median"], ""
        if workload is WORKLOADS[0]:
            share = f" ({ours['share of the read limit']['median']:.0%})"
        cells.append(f"{rate:.1f}{share}")
        cells.append(f"{rate / theirs[workload.name]['median']:.2f}" if theirs else "")
    return f"| {' | '.join(cells)} |"


def default_source() -> Path:
    """Return the default model's file, whose tokenizer the random models get."""
    from miaotui.hub.resolve import resolve

    return resolve("smollm2-135m")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--type", nargs="+", choices=TYPES, default=TYPES, metavar="TYPE", help=f"of {' '.join(TYPES)}")
    add("--shape", choices=SHAPES, default="llama-1b")
    add("--layers", type=int, default=4)
    add("--part", nargs="+", choices=["decode", "prefill"], default=["decode", "prefill"])
    add("--repetitions", type=int, default=3)
    add("--patience", type=float, default=0, help="seconds to wait for quiet before a sample")
    add("--threads", type=int, default=2)
    add("--isa", help="instruction set of ours (MIAOTUI_ISA)")
    add("--keep", action="store_true", help="keep the files of random weights")
    add("--source", type=Path, help="a GGUF file with the tokenizer (default: the default model's)")
    add("--folder", type=Path, help="for the files of random weights (default: beside the peers)")
    add("--peers", type=Path, default=PEERS, help="folder of benchmarks.peers.install")
    return parser.parse_args()


if __name__ == "__main__":
    main()
