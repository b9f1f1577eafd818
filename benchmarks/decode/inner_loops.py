"""Instructions of the inner loop of each weight format, counted in what LLVM makes of it.

    python -m benchmarks.decode.inner_loops             # AVX2 (Zen 3) and AVX-512 VNNI (Zen 4); runs on any machine
    python -m benchmarks.decode.inner_loops --format q6_k q4_k

A group is 32 inputs of 16 outputs: 512 weights. One row is decoding of one stream, a block the rows that a prompt's
products compute together. Instructions of inner loops alone are counted; nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator

from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.tiles import TILINGS, emit_unit, groups_together
from miaotui.kernels.platform.cpu import Isa
from tests.kernels.emitted import Target, assembly

TARGETS = (Target(Isa.AVX2, cpu="znver3"), Target(Isa.AVX512_VNNI, cpu="znver4"))
TILES = 2  # of a unit
MULTIPLIES = ("vpmaddubsw", "vpdpbusd", "vfmadd")  # the first that occurs is the one that multiplies weights


def inner_loops(text: str) -> Iterator[list[str]]:
    """The instructions of each loop that contains no other, from the text of a function."""
    lines = [line.split("#")[0].rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line.strip()]
    labels = {found[1]: at for at, line in enumerate(lines) if (found := re.match(r"(\.LBB\w+):", line))}
    loops = [
        (labels[found[1]], at)
        for at, line in enumerate(lines)
        if (found := re.match(r"\s+j\w+\s+(\.LBB\w+)", line)) and labels.get(found[1], at) < at
    ]
    for first, last in loops:
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in loops):
            yield [line.split()[0] for line in lines[first : last + 1] if not line.startswith(".")]


def counts(form: Format, rows: int, target: Target) -> tuple[float, float]:
    """Instructions of a group and tile for ``rows`` rows, and those of them that multiply weights."""
    unit = emit_unit(form, rows, TILINGS[target.isa])
    found = Counter(op for body in inner_loops(assembly({"unit": (unit, "iiiiiiiii")}, target)) for op in body)
    per = TILES * groups_together(form, rows) if not form.is_float else TILES / 32  # a loop of floats is one input long
    multiply = next(name for name in MULTIPLIES if any(op.startswith(name) for op in found))
    return sum(found.values()) / per, sum(n for op, n in found.items() if op.startswith(multiply)) / per


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", nargs="+", choices=[form.value for form in Format], metavar="FORMAT")
    chosen = parser.parse_args().format
    result = []
    for target in TARGETS:
        block = TILINGS[target.isa].block
        for form in Format:
            if chosen and form.value not in chosen:
                continue
            one, many = counts(form, 1, target), counts(form, block, target)
            row = {"isa": target.isa.value, "format": form.value, "bytes": form.record_bytes / form.record_groups}
            result.append(row | {"one": one[0], "block": many[0], "block_multiplies": many[1], "rows": block})
            print(
                f"{target.isa.value:12} {form.value:8} {row['bytes']:6.0f} {one[0]:6.0f} {many[0]:6.0f} {many[1]:6.0f}"
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
