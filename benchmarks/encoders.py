"""Speed of encoders: short and long texts in batches, beside ONNX Runtime and OpenVINO on an export of the model.

    python benchmarks/encoders.py FOLDER [--onnx FILE] [--peers PYTHON] [--threads 2]

FOLDER is any encoder we load; FILE its ONNX export (default: FOLDER/model.onnx), PYTHON an interpreter that has
onnxruntime, openvino or both. Short texts have 15 to 45 tokens, 30 in the mean; the peers pad them to the longest of a
batch, we do not. Engines take turns in each round; the table has medians, and the last line is one JSON object. Shares
are of the multiply-adds of the weight matrices at the machine's rate of 8-bit products: that of 4-bit weights, which
`miaotui doctor` prints, and that of 8-bit weights, which is lower where the processor has no instruction for them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

import numpy as np

from machine import describe
from miaotui.backends.cpu.encoder.build import build_encoder
from miaotui.backends.encoder_backend import EncoderBackend, EncoderLimits, TextRows
from miaotui.config import Settings
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.platform.measure import int8_rate
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.opened import open_encoder

WORKER = Path(__file__).resolve().parent / "subjects" / "run_onnx_encoder.py"
SHORT = (15, 45)  # tokens
Texts = list[list[int]]
Seconds = tuple[float, float]  # by the clock; of processor time, all threads


@dataclass(frozen=True)
class Shape:
    """One workload."""

    name: str
    texts: Texts

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.texts))


class Peer:
    """An engine in a process of its own."""

    def __init__(self, python: str, engine: str, model: Path, threads: int) -> None:
        command = [python, str(WORKER), engine, str(model), "--threads", str(threads)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        if not self._read():
            raise OSError(f"{engine} did not start: is it installed for {python}?")

    def run(self, texts: Texts) -> Seconds:
        """Measure one batch."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(texts) + "\n")
        self._process.stdin.flush()
        clock, processor = self._read()
        return clock, processor

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Any:
        pipe: IO[str] | None = self._process.stdout
        assert pipe is not None
        line = pipe.readline()
        return json.loads(line) if line else None


class Ours:
    """The compiled backend of this process."""

    def __init__(self, backend: EncoderBackend) -> None:
        self._backend = backend

    def run(self, texts: Texts) -> Seconds:
        """Measure one batch."""
        rows = [TextRows(text) for text in texts]
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        self._backend.encode(rows)
        return time.perf_counter() - begun_s, time.process_time() - begun_cpu_s

    def close(self) -> None:
        """Leave the backend to the end of the process."""


def shapes(config: EncoderConfig, tokens: int, batches: Sequence[int], most_long: int) -> Iterator[Shape]:
    """Short and long texts of random tokens; fewer long ones, as they take long."""
    rng = np.random.default_rng(0)

    def text(count: int) -> list[int]:
        return rng.integers(min(1000, config.vocab_size // 2), config.vocab_size, count).tolist()

    yield Shape("query of 12", [text(12)])
    for batch in batches:
        sizes = [30] if batch == 1 else rng.integers(SHORT[0], SHORT[1] + 1, batch).tolist()
        yield Shape(f"short x {batch}", [text(size) for size in sizes])
    for batch in batches:
        if batch <= most_long:
            yield Shape(f"long ({tokens}) x {batch}", [text(tokens) for _ in range(batch)])


def products(config: EncoderConfig) -> int:
    """Multiply-adds of the weight matrices for one token."""
    width, ffn = config.n_heads * config.head_dim, config.ffn_size * (3 if config.gated else 2)
    return config.n_layers * config.hidden_size * (4 * width + ffn)


def measured(engines: dict[str, Peer | Ours], shape: Shape, rounds: int) -> dict[str, list[Seconds]]:
    """Measure all engines in turns, after one round that does not count."""
    found: dict[str, list[Seconds]] = {name: [] for name in engines}
    for number in range(rounds + 1):
        for name, engine in engines.items():
            seconds = engine.run(shape.texts)
            if number:
                found[name].append(seconds)
    return found


def started(options: argparse.Namespace, backends: dict[str, EncoderBackend]) -> dict[str, Peer | Ours]:
    """Ours, and the peers that start."""
    engines: dict[str, Peer | Ours] = {name: Ours(backend) for name, backend in backends.items()}
    model = options.onnx or options.model / "model.onnx"
    for name in ("onnxruntime", "openvino") if options.peers else ():
        try:
            engines[name] = Peer(options.peers, name, model, options.threads)
        except OSError as error:
            print(f"{name}: left out, {error}", file=sys.stderr)
    return engines


def row_of(shape: Shape, found: dict[str, list[Seconds]], macs: int, rates: dict[str, float]) -> dict[str, Any]:
    """One row of the table: medians in ms, and shares of the limits."""
    row: dict[str, Any] = {"shape": shape.name, "texts": len(shape.texts), "tokens": shape.tokens}
    for name, times in found.items():
        row[f"{name}_ms"] = 1e3 * median(clock for clock, _ in times)
        row[f"{name}_cpu_ms"] = 1e3 * median(processor for _, processor in times)
    for name, rate in rates.items():
        row[f"share_{name}"] = macs * shape.tokens / (rate * 1e9) / (row["miaotui_ms"] / 1e3)
    return row


def print_row(row: dict[str, Any], names: Sequence[str]) -> None:
    """Print medians by the clock (and of processor time), and shares."""
    cells = [f"{name} {row[name + '_ms']:9.2f} ({row[name + '_cpu_ms']:.2f})" for name in names]
    shares = " ".join(f"{key}={row[key]:.2f}" for key in row if key.startswith("share"))
    print(f"{row['shape']:>16}: " + "  ".join(cells) + f"  {shares}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--peers", metavar="PYTHON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--most-long", type=int, default=32, help="the largest batch of long texts")
    parser.add_argument("--f32", action="store_true", help="measure our float32 arithmetic, too")
    options = parser.parse_args()
    with open_encoder(options.model) as opened:
        config = opened.config
        tokens = min(512, config.max_tokens)
        limits = EncoderLimits(max(options.batches) * max(tokens, SHORT[1]), tokens)
        forms = {"miaotui": Format.Q8} | ({"miaotui_f32": Format.F32} if options.f32 else {})
        backends: dict[str, EncoderBackend] = {
            name: build_encoder(
                options.model, opened, Settings.from_env(), form=form, threads=options.threads, limits=limits
            )
            for name, form in forms.items()
        }
    engines = started(options, backends)
    rates = {"int8": int8_rate(options.threads), "int8_q8": int8_rate(options.threads, form=Format.Q8)}
    machine = describe()
    print(f"{machine.processor}, {options.threads} threads, load {machine.load_average[0]:.1f}, GMAC/s: {rates}")
    print("milliseconds by the clock (processor time of all threads), medians")
    rows = []
    for shape in shapes(config, tokens, options.batches, options.most_long):
        rounds = options.rounds if shape.tokens < 4096 else max(2, options.rounds // 3)
        rows.append(row_of(shape, measured(engines, shape, rounds), products(config), rates))
        print_row(rows[-1], list(engines))
    for engine in engines.values():
        engine.close()
    print(json.dumps({"machine": machine.as_dict(), "threads": options.threads, "gmac_s": rates, "rows": rows}))


if __name__ == "__main__":
    main()
