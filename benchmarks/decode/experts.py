"""Measures mixtures of experts, ours and llama.cpp's in turns, and prints a table and one JSON line.

    python -m benchmarks.peers.install setup                            # once: llama.cpp, compiled for this CPU
    python -m benchmarks.decode.experts --layers 4 --type Q4_0 Q4_K

The model has random weights in the layer shape of Qwen3-30B-A3B (128 experts of 768, 8 chosen), with fewer layers.
The read limit of a step is that of the bytes which one stream has to read: attention, router, chosen experts, head,
and keys and values at the mean length. Knows no engine. Random routers spread rows over experts more evenly than
trained ones do.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.decode.block_types import COLUMNS, default_source, measured, row
from benchmarks.decode.expert_files import describe_experts, random_experts
from benchmarks.machine import describe
from benchmarks.peers.install import LLAMA_CPP_PYTHON, Peers
from benchmarks.places import PEERS


def main() -> None:
    """Measure the types that the arguments name."""
    args = _arguments()
    peers = Peers(args.peers)
    found: dict[str, dict[str, Any]] = {}
    for kind in args.type:
        path = random_experts(args.source or default_source(), args.folder or peers.models, args.layers, kind)
        found[kind] = measured(describe_experts(kind, path), args, peers)
        print(row(kind, found[kind]), flush=True)
    print("\n" + "\n".join([f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]))
    print("\n".join(row(kind, each) for kind, each in found.items()))
    about = {"benchmark": "experts", "machine": describe().as_dict(), "llama-cpp-python": LLAMA_CPP_PYTHON}
    print(json.dumps({**about, "layers": args.layers, "threads": args.threads, "types": found}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--type", nargs="+", default=["Q4_0"], metavar="TYPE", help="block types of all matrices")
    add("--layers", type=int, default=4)
    add("--part", nargs="+", choices=["decode", "prefill"], default=["decode", "prefill"])
    add("--repetitions", type=int, default=3)
    add("--patience", type=float, default=0, help="seconds to wait for quiet before a sample")
    add("--threads", type=int, default=2)
    add("--isa", help="instruction set of ours (MIAOTUI_ISA)")
    add("--source", type=Path, help="a GGUF file with the tokenizer (default: the default model's)")
    add("--folder", type=Path, help="for the files of random weights (default: beside the peers)")
    add("--peers", type=Path, default=PEERS, help="folder of benchmarks.peers.install")
    return parser.parse_args()


if __name__ == "__main__":
    main()
