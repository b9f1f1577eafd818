"""Speed of encoders: short and long texts in batches, beside ONNX Runtime, OpenVINO, fastembed and llama.cpp.

    python -m benchmarks.encoders.speed FOLDER [--onnx FILE] [--peers PYTHON] [--threads 2] [--engines NAME ...]

FOLDER is any encoder we load; FILE its ONNX export (default: FOLDER/model.onnx), each PYTHON an interpreter that has
onnxruntime, openvino, fastembed or cyllama. llama.cpp runs BERT models, on the weights of FOLDER in Q8_0 (needs
``gguf`` here). Short texts have 15 to 45 tokens, 30 in the mean; the first three peers pad them to the longest of a
batch, llama.cpp and we do not. ``miaotui``, ONNX Runtime, OpenVINO and llama.cpp are measured from token ids to states,
``library``, ``server`` and fastembed from words to embeddings. Each peer has a process of its own.
Engines take turns in each round, after a rest in which the threads
of the one before go to sleep; the table has medians, and the last line is one JSON object. Shares
are of the multiply-adds of the weight matrices at the machine's rate of 8-bit products: that of 4-bit weights, which
`miaotui doctor` prints, and that of 8-bit weights, which is lower where the processor has no instruction for them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import miaotui
from benchmarks.encoders.engines import OURS, PEERS, Backend, EncoderEngine, Library, Peer, Seconds, Server, Texts
from benchmarks.encoders.gguf_file import write_gguf
from benchmarks.machine import describe
from miaotui.backends.cpu.encoder.build import build_encoder
from miaotui.backends.encoder_backend import EncoderBackend, EncoderLimits
from miaotui.config import Settings
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.platform.measure import int8_rate
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.opened import open_encoder
from miaotui.text.encoders.load import load_encoder_tokenizer
from miaotui.text.encoders.tokenizer import EncoderTokenizer

SHORT = (15, 45)  # tokens
LONG = 512
FORMS = {OURS[0]: Format.Q8, OURS[1]: Format.F32}


@dataclass(frozen=True)
class Shape:
    """One workload."""

    name: str
    texts: Texts

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.texts.ids))


class Words:
    """Texts of any number of tokens, of words that the tokenizer keeps whole."""

    def __init__(self, tokenizer: EncoderTokenizer) -> None:
        self._tokenizer, self._rng = tokenizer, np.random.default_rng(0)
        self._around = len(tokenizer.encode_text("").tokens)
        parts = [tokenizer.token_text(token) for token in range(tokenizer.vocab_size)]
        words = sorted({part.strip("▁ ") for part in parts if re.fullmatch(r"▁?[a-z]{3,9}", part.strip())})
        self._words = [word for word in words[:: max(len(words) // 4000, 1)] if self._is_whole(word)]

    def batch(self, counts: Sequence[int]) -> Texts:
        """Return texts of so many tokens."""
        words = [" ".join(self._rng.choice(self._words, count - self._around)) for count in counts]
        ids = [self._tokenizer.encode_text(text).tokens for text in words]
        if [len(each) for each in ids] != list(counts):
            sys.exit("words of this tokenizer change beside each other: texts of a given length cannot be made")
        return Texts(words, ids)

    def _is_whole(self, word: str) -> bool:
        return len(self._tokenizer.encode_text(f"the {word} the").tokens) == self._around + 3


def shapes(words: Words, tokens: int, batches: Sequence[int], most_long: int) -> Iterator[Shape]:
    """Short and long texts of random words; fewer long ones, as they take long."""
    rng = np.random.default_rng(0)
    yield Shape("query of 12", words.batch([12]))
    for batch in batches:
        sizes = [30] if batch == 1 else rng.integers(SHORT[0], SHORT[1] + 1, batch).tolist()
        yield Shape(f"short x {batch}", words.batch(sizes))
    for batch in batches:
        if batch <= most_long:
            yield Shape(f"long ({tokens}) x {batch}", words.batch([tokens] * batch))


def products(config: EncoderConfig) -> int:
    """Multiply-adds of the weight matrices for one token."""
    width, ffn = config.n_heads * config.head_dim, config.ffn_size * (3 if config.gated else 2)
    return config.n_layers * config.hidden_size * (4 * width + ffn)


def measured(engines: dict[str, EncoderEngine], shape: Shape, rounds: int, rest_s: float) -> dict[str, list[Seconds]]:
    """Measure all engines in turns, after one round that does not count."""
    found: dict[str, list[Seconds]] = {name: [] for name in engines}
    for number in range(rounds + 1):
        for name, engine in engines.items():
            time.sleep(rest_s)
            seconds = engine.run(shape.texts)
            if number:
                found[name].append(seconds)
    return found


def started(options: argparse.Namespace, backends: dict[str, EncoderBackend], folder: Path) -> dict[str, EncoderEngine]:
    """Start the chosen engines; the first interpreter that has a peer runs it. llama.cpp's file lies in ``folder``."""
    engines: dict[str, EncoderEngine] = {name: Backend(backend) for name, backend in backends.items()}
    if "library" in options.engines:
        engines["library"] = Library(miaotui.load_encoder(options.model, threads=options.threads))
    if "server" in options.engines:
        engines["server"] = Server(options.model, options.threads)
    for name in (name for name in PEERS if options.peers and name in options.engines):
        model = options.onnx or options.model / "model.onnx"
        if name == "llama.cpp":
            model = folder / "encoder.gguf"
            write_gguf(options.model, model)
        for python in options.peers:
            try:
                engines[name] = Peer(python, name, model, options.threads)
                break
            except OSError as error:
                print(f"{name}: left out, {error}", file=sys.stderr)
    return engines


def row_of(shape: Shape, found: dict[str, list[Seconds]], macs: int, rates: dict[str, float]) -> dict[str, Any]:
    """One row of the table: medians in ms, and shares of the limits."""
    row: dict[str, Any] = {"shape": shape.name, "texts": len(shape.texts.ids), "tokens": shape.tokens}
    for name, times in found.items():
        row[f"{name}_ms"] = 1e3 * median(clock for clock, _ in times)
        row[f"{name}_cpu_ms"] = 1e3 * median(processor for _, processor in times)
    for name, rate in rates.items():
        if "miaotui_ms" in row:
            row[f"share_{name}"] = macs * shape.tokens / (rate * 1e9) / (row["miaotui_ms"] / 1e3)
    return row


def print_row(row: dict[str, Any], names: Sequence[str]) -> None:
    """Print medians by the clock (and of processor time), and shares."""
    cells = [f"{name} {row[name + '_ms']:9.2f} ({row[name + '_cpu_ms']:.2f})" for name in names]
    shares = " ".join(f"{key}={row[key]:.2f}" for key in row if key.startswith("share"))
    print(f"{row['shape']:>16}: " + "  ".join(cells) + f"  {shares}", flush=True)


def opened_here(options: argparse.Namespace) -> tuple[EncoderConfig, Words, dict[str, EncoderBackend]]:
    """Return the model's configuration, its words, and the chosen backends of this process."""
    with open_encoder(options.model) as opened:
        words = Words(load_encoder_tokenizer(opened.metadata, opened.folder, lower_case=opened.lower_case))
        tokens = min(LONG, opened.config.max_tokens)
        limits = EncoderLimits(max(options.batches) * max(tokens, SHORT[1]), tokens)
        forms = {name: form for name, form in FORMS.items() if name in options.engines}
        backends: dict[str, EncoderBackend] = {
            name: build_encoder(
                options.model, opened, Settings.from_env(), form=form, threads=options.threads, limits=limits
            )
            for name, form in forms.items()
        }
        return opened.config, words, backends


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--peers", metavar="PYTHON", nargs="+", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--shapes", nargs="+", default=["query", "short", "long"], help="beginnings of shapes' names")
    parser.add_argument("--most-long", type=int, default=32, help="the largest batch of long texts")
    parser.add_argument("--rest", type=float, default=0.3, metavar="SECONDS", help="before each measurement")
    names = [*OURS, *PEERS]
    parser.add_argument("--engines", nargs="+", choices=names, default=[name for name in names if name != OURS[1]])
    options = parser.parse_args()
    config, words, backends = opened_here(options)
    tokens = min(LONG, config.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        engines = started(options, backends, Path(folder))
    rates = {"int8": int8_rate(options.threads), "int8_q8": int8_rate(options.threads, form=Format.Q8)}
    machine = describe()
    print(f"{machine.processor}, {options.threads} threads, load {machine.load_average[0]:.1f}, GMAC/s: {rates}")
    print("milliseconds by the clock (processor time of all threads), medians")
    rows = []
    for shape in shapes(words, tokens, options.batches, options.most_long):
        if not shape.name.startswith(tuple(options.shapes)):
            continue
        rounds = options.rounds if shape.tokens < 4096 else max(2, options.rounds // 3)
        rows.append(row_of(shape, measured(engines, shape, rounds, options.rest), products(config), rates))
        print_row(rows[-1], list(engines))
    for engine in engines.values():
        engine.close()
    print(json.dumps({"machine": machine.as_dict(), "threads": options.threads, "gmac_s": rates, "rows": rows}))


if __name__ == "__main__":
    main()
