"""Predictions of `miaotui optimize` beside measurements: speed, time of an answer, peak memory.

    python -m benchmarks.optimize.predictions smollm2-135m made-1.gguf made-2.gguf    # a table and one JSON line

The first model's own speed gives the scale, as in a plan; the cost of the other files (quantised or pruned from it) is
predicted from their types and sizes, then measured in processes of their own, in turns with the first. Owns the order
of a run. Knows no method. Invariant: nothing that is measured of a file goes into its prediction.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.machine import describe
from miaotui.cli.advice.machine_speeds import known_speeds
from miaotui.cli.doctor import measure
from miaotui.config import Settings
from miaotui.hub.resolve import resolve
from miaotui.kernels.platform.cpu import probe
from miaotui.optimize.cost import AnswerCost, MachineRates, answer_cost, cost_scale
from miaotui.optimize.folder_copy import as_gguf
from miaotui.optimize.source import open_source
from miaotui.optimize.speed import MeasuredSpeed, measured_speed


def main() -> None:
    """Measure; print a table and a JSON line."""
    args = _arguments()
    first, files = as_gguf(resolve(args.model), Settings.from_env()), [Path(name) for name in args.files]
    speeds = known_speeds(probe(), Settings.from_env()) or measure(probe().team_size)[-1]
    rates = MachineRates(speeds.read_gb_per_s, speeds.int8_gmac_per_s)
    own: list[MeasuredSpeed] = []
    found: dict[Path, list[MeasuredSpeed]] = {file: [] for file in files}
    for _ in range(args.rounds):
        for file in files:
            own.append(measured_speed(first, args.prompt, args.answer))
            found[file].append(measured_speed(file, args.prompt, args.answer))
    base = _median(own)
    measured = base["tokens_per_s"], base["seconds"], int(base["peak_bytes"])
    scale = cost_scale(_predicted(first, rates, args), args.answer, *measured)
    scaled = MachineRates(rates.read_gb_per_s, rates.int8_gmac_per_s, scale)
    print(
        f"{first.name}: {base['tokens_per_s']:.1f} tokens/s, {base['seconds']:.3f} s, "
        f"{base['peak_bytes'] / 1e6:.0f} MB; {scale}"
    )
    rows = []
    for file in files:
        predicted, real = asdict(_predicted(file, scaled, args)), _median(found[file])
        errors = {name: predicted[name] / real[name] - 1 for name in predicted}
        about = {"file": file.name, "bytes": file.stat().st_size}
        rows.append({**about, "predicted": predicted, "measured": real, "errors": errors})
        print(
            f"{file.name[:36]:36} {real['tokens_per_s']:7.1f} tokens/s ({100 * errors['tokens_per_s']:+.1f}%), "
            f"{real['seconds']:.3f} s ({100 * errors['seconds']:+.1f}%), {real['peak_bytes'] / 1e6:.0f} MB "
            f"({100 * errors['peak_bytes']:+.1f}%), {real['tokens_per_s'] / base['tokens_per_s']:.2f} x the first",
            flush=True,
        )
    about = {"benchmark": "predictions", "model": args.model, "machine": describe().as_dict(), "scale": asdict(scale)}
    print(json.dumps({**about, "rates": asdict(rates), "first": base, "rows": rows}))


def _predicted(file: Path, rates: MachineRates, args: argparse.Namespace) -> AnswerCost:
    with open_source(file) as source:
        kinds = {one.name: source.file.tensors[one.name].kind for one in source.matrices}
        return answer_cost(source, kinds, rates, args.prompt, args.answer)


def _median(runs: list[MeasuredSpeed]) -> dict[str, float]:
    return {
        name: median(float(getattr(one, name) or 0) for one in runs)
        for name in ("tokens_per_s", "seconds", "peak_bytes")
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--prompt", type=int, default=300)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
