"""How right the block types of real files are: our logits against float32 on exactly the weights that a file holds.

    python benchmarks/block_accuracy.py smollm2-135m gemma3-270m qwen2.5-coder-0.5b
    python benchmarks/block_accuracy.py qwen2.5-coder-0.5b --windows 1 --length 128     # a sample

The forward pass in NumPy reads the decoded weights twice: in float32, and with inputs of products rounded to 8 bits for
each 32, as a perfect implementation of our arithmetic would. The aims: a mean KL of at most 0.003 nats, and top-1
agreement within half a point of that second reference. Text: prose of Python's documentation. One JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import miaotui
from miaotui.hub.resolve import resolve
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from packed_oracle import PackedOracle
from reference_models import Agreement, Comparison, english, windows

MOST_KL, MOST_POINTS = 0.003, 0.005


def block_types(path: Path) -> dict[str, float]:
    """The share of each block type in a file's matrices."""
    with open_model(path) as files:
        counts: Counter[str] = Counter()
        for tensor in files.tensors.values():
            if len(tensor.shape) == 2:
                counts[tensor.kind.name] += tensor.shape[0] * tensor.shape[1]
    return {name: round(count / counts.total(), 3) for name, count in counts.most_common()}


def compare(path: Path, count: int, length: int) -> tuple[Agreement, Agreement]:
    """Ours, and the reference with 8-bit inputs, each against float32."""
    ours, rounded = Comparison(), Comparison()
    with miaotui.load(path) as llm:
        tokens = llm.tokenizer.encode(english(), whole=False)
        parts = windows(tokens, max(count, 2), length, llm.tokenizer.roles.prefix)[:count]
        logits = [llm.logits(part) for part in parts]
    with open_model(path) as files:
        weights = {name: tensor.float32() for name, tensor in files.tensors.items()}
        exact, with_bytes = Oracle(files.config, weights), PackedOracle(files.config, weights)
        for part, found in zip(parts, logits, strict=True):
            expected = exact.logits(part)
            ours.add(part, found, expected)
            rounded.add(part, with_bytes.logits(part), expected)
    return ours.agreement, rounded.agreement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--length", type=int, default=384)
    parsed, rows = parser.parse_args(), []
    for name in parsed.models:
        path = resolve(name)
        ours, rounded = compare(path, parsed.windows, parsed.length)
        holds = ours.mean_kl <= MOST_KL and ours.top1 >= rounded.top1 - MOST_POINTS
        print(f"{name}, {block_types(path)}")
        print(f"  ours:         {ours}")
        print(f"  8-bit inputs: {rounded}", flush=True)
        row = {"model": name, "types": block_types(path), "tokens": ours.tokens, "kl": ours.mean_kl, "top1": ours.top1}
        rows.append(row | {"kl_8_bit_inputs": rounded.mean_kl, "top1_8_bit_inputs": rounded.top1, "holds": holds})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
