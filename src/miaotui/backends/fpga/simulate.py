"""A block's circuit by hls4ml: C++ of fixed-point numbers, compiled and run here, set beside float step by step.

Owns the graph, the types of numbers and the report. Knows no model. hls4ml writes the C++ that a vendor's compiler
would turn into a circuit; here g++ runs it. Invariant: nothing is reported that only a vendor's compiler or a device
could say: no look-up tables, no clock, no speed. Source: Duarte et al., "Fast inference of deep neural networks in
FPGAs for particle physics" (2018), and hls4ml's documentation.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.backends.fpga.block import STEPS, FeedForwardBlock, Floats
from miaotui.errors import RequestError
from miaotui.libraries import need

LEVEL = "simulated"  # of proof: the C++ of the circuit ran on a processor
PRODUCTS = ("gate", "up", "down")
SIGMOID_TABLE = 4096  # entries over [-8, 8)


@dataclass(frozen=True)
class CircuitOptions:
    """Types and sizes of a circuit: ``bits`` of a number, of which ``whole`` before the point; each multiplier computes
    up to ``reuse`` products of one row.
    """

    bits: int = 24
    whole: int = 8
    reuse: int = 64

    def __post_init__(self) -> None:
        if not 2 <= self.whole < self.bits <= 64:
            raise RequestError(
                f"numbers need 2 to 63 bits before the point of at most 64, not {self.whole} of {self.bits}"
            )
        if not 1 <= self.reuse <= 1 << 20:
            raise RequestError(f"reuse must be 1 to {1 << 20:,}, not {self.reuse}")

    @property
    def number(self) -> str:
        """Return the type of all numbers: rounded to the nearest, held at the ends of its range."""
        return f"fixed<{self.bits},{self.whole},RND,SAT>"


@dataclass(frozen=True)
class StepReport:
    """One step of the block. Sizes are 0 where a step has no weights."""

    name: str
    worst_error: float
    error_share: float  # root mean square of errors over that of values
    products: int = 0  # of one row
    multipliers: int = 0  # products over the reuse that hls4ml has settled on
    reuse: int = 0
    weight_bits: int = 0


@dataclass(frozen=True)
class CircuitReport:
    """Errors of a block's circuit, and its size as hls4ml states it before any vendor's compiler."""

    level: str
    number: str
    rows: int
    steps: tuple[StepReport, ...]


def simulate(block: FeedForwardBlock, folder: Path, options: CircuitOptions | None = None) -> CircuitReport:
    """Write the circuit's C++ into ``folder``, compile and run it over the block's inputs, and compare.

    Raises `MissingLibraryError` without hls4ml, and `RequestError` without g++.
    """
    options = options or CircuitOptions()
    hls4ml = need("hls4ml")
    if shutil.which("g++") is None:
        raise RequestError("the simulation of a circuit needs a C++ compiler: install g++")
    with contextlib.redirect_stdout(sys.stderr):
        graph = _graph(hls4ml, block, folder, options)
        _, found = graph.trace(block.inputs)
    sizes = {layer.name: layer for layer in graph.get_layers()}
    steps = [_compared(name, wanted, found[name], sizes[name]) for name, wanted in block.steps().items()]
    return CircuitReport(LEVEL, options.number, len(block.inputs), tuple(steps))


def _graph(hls4ml: Any, block: FeedForwardBlock, folder: Path, options: CircuitOptions) -> Any:
    hidden = block.gate.shape[0]
    layers = [
        {"class_name": "InputLayer", "name": "x", "input_shape": [hidden], "inputs": []},
        _dense("gate", "x", block.gate),
        _dense("up", "x", block.up),
        {"class_name": "Activation", "name": "sigmoid", "activation": "sigmoid", "inputs": ["gate"]},
        {"class_name": "Merge", "name": "silu", "op": "multiply", "inputs": ["gate", "sigmoid"]},
        {"class_name": "Merge", "name": "product", "op": "multiply", "inputs": ["silu", "up"]},
        _dense("down", "product", block.down),
    ]
    named: dict[str, dict[str, Any]] = {name: {"Trace": True} for name in STEPS}
    named["sigmoid"] |= {"TableSize": SIGMOID_TABLE, "Precision": {"table": f"ufixed<{options.bits},0,RND,SAT>"}}
    config = {
        "OutputDir": str(folder),
        "ProjectName": "block",
        "Backend": "Vitis",
        "ClockPeriod": 5,
        "IOType": "io_parallel",
        "HLSConfig": {
            "Model": {"Precision": options.number, "ReuseFactor": options.reuse, "Strategy": "Resource"},
            "LayerName": named,
        },
    }
    return hls4ml.model.graph.ModelGraph.from_layer_list(config, layers)


def _dense(name: str, source: str, weights: Floats) -> dict[str, Any]:
    inputs, outputs = weights.shape
    return {
        "class_name": "Dense",
        "name": name,
        "inputs": [source],
        "n_in": inputs,
        "n_out": outputs,
        "weight_data": weights,
        "use_bias": False,
        "bias_data": np.zeros(outputs, np.float32),
    }


def _compared(name: str, wanted: np.ndarray[Any, Any], found: Sequence[Any], layer: Any) -> StepReport:
    errors = np.asarray(found, np.float64).reshape(wanted.shape) - wanted
    share = float(np.sqrt(np.mean(errors**2)) / np.sqrt(np.mean(wanted**2)))
    worst = float(np.abs(errors).max())
    if name not in PRODUCTS:
        return StepReport(name, worst, share)
    products, reuse = layer.get_attr("n_in") * layer.get_attr("n_out"), int(layer.get_attr("reuse_factor"))
    weights = next(each for each in layer.get_weights() if each.name.startswith("w"))
    return StepReport(
        name, worst, share, products, -(-products // reuse), reuse, products * int(weights.type.precision.width)
    )


def lines_of(report: CircuitReport) -> list[str]:
    """Return the report as lines of text."""
    found = [f"{report.level} over {report.rows} rows, numbers {report.number}; no device was there"]
    for step in report.steps:
        line = f"{step.name:<8} worst error {step.worst_error:.2e}, {step.error_share:.2e} of the values"
        if step.products:
            line += f"; {step.products:,} products, {step.multipliers:,} multipliers (reuse {step.reuse})"
            line += f", {step.weight_bits:,} bits of weights"
        found.append(line)
    return found


def level_by_platform(block: FeedForwardBlock, folder: Path) -> Mapping[str, str]:
    """Return the level of proof for a listing: what was simulated here, and how far it was off."""
    report = simulate(block, folder)
    return {"hls4ml C++": f"{report.level}, {report.steps[-1].error_share:.1e} of the values off"}
