"""Accuracy of the block types of real files: our logits against float32 on exactly the weights that a file holds.

    python -m benchmarks.decode.block_accuracy smollm2-135m gemma3-270m qwen2.5-coder-0.5b
    python -m benchmarks.decode.block_accuracy qwen2.5-coder-0.5b --windows 1 --length 128     # a sample

The forward pass in NumPy reads the decoded weights twice: in float32, and with inputs of products rounded to 8 bits for
each 32, as a perfect implementation of our arithmetic would. The aims: a mean KL of at most 0.003 nats, and top-1
agreement within half a point of that second reference. Both are compared at the same positions, so the standard error
of their difference comes from those where one of them alone agrees with float32. Text: prose of Python's documentation.
One JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import miaotui
from miaotui.hub.resolve import resolve
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from tests.made_models.packed_oracle import PackedOracle
from tests.made_models.reference_models import Comparison, Logits, english, windows

MOST_KL, MOST_POINTS = 0.003, 0.005


def block_types(path: Path) -> dict[str, float]:
    """The share of each block type in a file's matrices."""
    with open_model(path) as files:
        counts: Counter[str] = Counter()
        for tensor in files.tensors.values():
            if len(tensor.shape) == 2:
                counts[tensor.kind.name] += tensor.shape[0] * tensor.shape[1]
    return {name: round(count / counts.total(), 3) for name, count in counts.most_common()}


@dataclass
class Found:
    """Agreement of ours and of the reference with 8-bit inputs, each with float32."""

    ours: Comparison = field(default_factory=Comparison)
    rounded: Comparison = field(default_factory=Comparison)
    ours_alone: int = 0  # positions where ours has float32's likeliest token, and the reference has not
    rounded_alone: int = 0

    def add(self, part: list[int], ours: Logits, rounded: Logits, exact: Logits) -> None:
        """Count one stretch of text, logits ``[n, vocab]``."""
        self.ours.add(part, ours, exact)
        self.rounded.add(part, rounded, exact)
        best = exact.argmax(axis=1)
        ours_same, rounded_same = ours.argmax(axis=1) == best, rounded.argmax(axis=1) == best
        self.ours_alone += int((ours_same & ~rounded_same).sum())
        self.rounded_alone += int((rounded_same & ~ours_same).sum())

    def difference(self) -> tuple[float, float]:
        """Top-1 agreement of ours less the reference's, and its standard error: shares of all positions."""
        n = self.ours.agreement.tokens
        mean = (self.ours_alone - self.rounded_alone) / n
        return mean, math.sqrt(max((self.ours_alone + self.rounded_alone) / n - mean**2, 0.0) / n)


def compare(path: Path, count: int, length: int) -> Found:
    """Ours and the reference with 8-bit inputs, each against float32, on ``count`` stretches of text."""
    found = Found()
    with miaotui.load(path) as llm, open_model(path) as files:
        tokens = llm.tokenizer.encode(english(), whole=False)
        weights = {name: tensor.float32() for name, tensor in files.tensors.items()}
        exact, with_bytes = Oracle(files.config, weights), PackedOracle(files.config, weights)
        for part in windows(tokens, max(count, 2), length, llm.tokenizer.roles.prefix)[:count]:
            found.add(part, llm.logits(part), with_bytes.logits(part), exact.logits(part))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--length", type=int, default=384)
    parsed, rows = parser.parse_args(), []
    for name in parsed.models:
        path = resolve(name)
        found = compare(path, parsed.windows, parsed.length)
        ours, rounded = found.ours.agreement, found.rounded.agreement
        less, error = found.difference()
        holds = ours.mean_kl <= MOST_KL and less >= -MOST_POINTS
        print(f"{name}, {block_types(path)}")
        print(f"  ours:         {ours}")
        print(f"  8-bit inputs: {rounded}")
        print(f"  difference:   {100 * less:+.2f} points, standard error {100 * error:.2f}", flush=True)
        row = {"model": name, "types": block_types(path), "tokens": ours.tokens, "kl": ours.mean_kl, "top1": ours.top1}
        row |= {"top1_difference": less, "standard_error": error}
        rows.append(row | {"kl_8_bit_inputs": rounded.mean_kl, "top1_8_bit_inputs": rounded.top1, "holds": holds})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
