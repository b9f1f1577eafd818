"""A model's feed-forward block as a circuit by hls4ml: its C++ simulated here, its errors step by step.

    python -m benchmarks.decode.fpga_block [MODEL] [--layer 0] [--bits 24] [--whole 8] [--reuse 64] [--tokens 16]

Needs ``pip install 'miaotui[fpga]'`` and g++. Prints a line for each step and one JSON line. No device, no vendor's
compiler: sizes are those that hls4ml itself states.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from miaotui.backends.fpga.block import read_block
from miaotui.backends.fpga.simulate import CircuitOptions, lines_of, simulate
from miaotui.hub.catalog import DEFAULT_MODEL
from miaotui.hub.resolve import resolve
from miaotui.model.reading.files import open_model
from miaotui.text.load import load_tokenizer

TEXT = "A circuit multiplies in every clock, and a processor must fetch each weight before it can use it once more."


def main() -> None:
    """Run the simulation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    for name, default in (("layer", 0), ("bits", 24), ("whole", 8), ("reuse", 64), ("tokens", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parsed = parser.parse_args()
    path = resolve(parsed.model)
    with open_model(path) as files:
        tokens = load_tokenizer(files.metadata, files.folder).encode(TEXT)[: parsed.tokens]
    block = read_block(path, parsed.layer, tokens)
    with tempfile.TemporaryDirectory() as folder:
        report = simulate(block, Path(folder), CircuitOptions(parsed.bits, parsed.whole, parsed.reuse))
    print("\n".join(lines_of(report)))
    print(json.dumps({"model": parsed.model, "layer": parsed.layer, **asdict(report)}))


if __name__ == "__main__":
    main()
