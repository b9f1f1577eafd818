"""Speed of encoder-decoders beside CTranslate2 int8, on the same random weights.

    python -m venv peer && peer/bin/pip install ctranslate2
    python -m benchmarks.translation.seq2seq FOLDER --peer peer/bin/python [--shape opus-mt] [--threads 1] [--rounds 3]

Makes a model of a shape (opus-mt's: 512 wide, 6 + 6 layers, 58,101 words; NLLB-600M's: 1,024 wide, 12 + 12 layers,
256,206 words) in FOLDER, in CTranslate2's own form with 8-bit weights, unless it is there. Both sides then read that
file: 30 tokens in, exactly 30 out, 1 text and 32, greedy and with 4 beams. Each case is measured in turns, and the best
of the rounds counts. Prints a row for each case, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENS = 30  # of a source, its end included, and of a target
CASES = ((1, 1), (1, 4), (32, 1), (32, 4))  # texts, beams
DTYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
RELU, SWISH = 0, 2
SPECIAL = ["<unk>", "<s>", "</s>"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    hidden: int
    heads: int
    ffn: int
    layers: int
    vocab: int
    positions: int
    pre_norm: bool
    activation: int


SHAPES = {
    "opus-mt": Shape(512, 8, 2048, 6, 58_101, 512, False, SWISH),
    "nllb-600m": Shape(1024, 16, 4096, 12, 256_206, 1024, True, RELU),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer", help="a Python that has ctranslate2; without it only miaotui is measured")
    parser.add_argument("--shape", choices=SHAPES, default="opus-mt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="", help="texts x beams, such as 1x1,32x4; all by default")
    parser.add_argument("--side", choices=SIDES, help="measure one side in this process: a round for each line read")
    options = parser.parse_args()
    folder = options.folder / options.shape
    if options.side:
        serve(SIDES[options.side](folder, options.threads))
        return
    if not (folder / "config.json").exists():
        write_model(folder, SHAPES[options.shape])
    chosen = [tuple(map(int, case.split("x"))) for case in options.cases.split(",") if case] or list(CASES)
    best = compare(options, chosen)
    for case, times in best.items():
        print(f"{case[0]:3} texts, {case[1]} beams: " + ", ".join(f"{n} {1e3 * t:.1f} ms" for n, t in times.items()))
    rows = [{"texts": case[0], "beams": case[1], **_row(times)} for case, times in best.items()]
    print(json.dumps({"shape": options.shape, "threads": options.threads, "rows": rows}))


def _row(times: dict[str, float]) -> dict[str, float]:
    row = {f"{name}_ms": round(1e3 * seconds, 2) for name, seconds in times.items()}
    if len(times) == 2:
        row["ratio"] = round(times["ctranslate2"] / times["miaotui"], 3)
    return row


def compare(options: argparse.Namespace, cases: list[tuple[int, ...]]) -> dict[tuple[int, ...], dict[str, float]]:
    """Return the best time of each case and side, in seconds."""
    pythons = {"miaotui": sys.executable} | ({"ctranslate2": options.peer} if options.peer else {})
    sides = {}
    for name, python in pythons.items():
        command = [python, __file__, str(options.folder), "--shape", options.shape, "--side", name]
        command += ["--threads", str(options.threads)]
        sides[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    best: dict[tuple[int, ...], dict[str, float]] = {case: {} for case in cases}
    for turn in range(options.rounds + 1):  # the first one warms up
        for case in cases:
            for name, side in sides.items():
                assert side.stdin is not None
                assert side.stdout is not None
                side.stdin.write(json.dumps(case) + "\n")
                side.stdin.flush()
                took_s = float(side.stdout.readline())
                if turn:
                    best[case][name] = min(took_s, best[case].get(name, took_s))
    for side in sides.values():
        side.communicate()
    return best


def serve(translate: Callable[[list[list[int]], int], None]) -> None:
    """Time a case for each line of standard input."""
    for line in sys.stdin:
        texts, beams = json.loads(line)
        rng = np.random.default_rng(texts)
        sources = [[*map(int, rng.integers(len(SPECIAL), 5000, TOKENS - 1)), 2] for _ in range(texts)]
        start_s = time.perf_counter()
        translate(sources, beams)
        print(time.perf_counter() - start_s, flush=True)


def open_miaotui(folder: Path, threads: int) -> Callable[[list[list[int]], int], None]:
    """Return our translation of sources."""
    from dataclasses import replace

    from miaotui.backends.build_seq2seq import Seq2SeqOptions, build_seq2seq_backend
    from miaotui.config import Settings
    from miaotui.engine.seq2seq.searches import SearchQueue
    from miaotui.model.seq2seq.opened import open_seq2seq

    opened = open_seq2seq(folder)
    backend = build_seq2seq_backend(opened, Seq2SeqOptions(threads=threads), Settings.from_env())
    queue = SearchQueue(backend, opened.config.vocab_size)

    def translate(sources: list[list[int]], beams: int) -> None:
        length = TOKENS + 1
        settings = replace(opened.generation, num_beams=beams, min_length=length, max_length=length)
        requests = [queue.submit(source, settings) for source in sources]
        while not queue.is_idle:
            queue.step()
        assert all(each.result is not None and len(each.result.tokens) == length for each in requests)

    return translate


def open_ctranslate2(folder: Path, threads: int) -> Callable[[list[list[int]], int], None]:
    """Return CTranslate2's translation of sources."""
    import ctranslate2

    translator = ctranslate2.Translator(
        str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
    )
    words = json.loads((folder / "shared_vocabulary.json").read_text())

    def translate(sources: list[list[int]], beams: int) -> None:
        found = translator.translate_batch(
            [[words[token] for token in source] for source in sources],
            beam_size=beams,
            min_decoding_length=TOKENS,
            max_decoding_length=TOKENS,
        )
        assert all(len(each.hypotheses[0]) == TOKENS for each in found)

    return translate


SIDES = {"miaotui": open_miaotui, "ctranslate2": open_ctranslate2}


# the model ------------------------------------------------------------------------------------------------------------


def write_model(folder: Path, shape: Shape) -> None:
    """Write a random model as CTranslate2 does, with 8-bit weights."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = list(model_arrays(shape))
    shared = "decoder/embeddings/weight"
    aliases = {"encoder/embeddings_0/weight": shared, "decoder/projection/weight": shared}
    aliases |= {f"{alias}_scale": f"{name}_scale" for alias, name in aliases.items()}
    with (folder / "model.bin").open("wb") as file:
        file.write(struct.pack("<I", 6) + _text("TransformerSpec") + struct.pack("<II", 7, len(arrays)))
        for name, array in arrays:
            file.write(_text(name) + struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape))
            file.write(struct.pack("<BI", DTYPES.index(array.dtype.name), array.nbytes) + array.tobytes())
        file.write(struct.pack("<I", len(aliases)))
        for alias, name in aliases.items():
            file.write(_text(alias) + _text(name))
    words = [*SPECIAL, *(f"▁w{number}" for number in range(shape.vocab - len(SPECIAL)))]
    (folder / "shared_vocabulary.json").write_text(json.dumps(words))
    config: dict[str, Any] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "decoder_start_token": "<s>",
    }
    config |= {"add_source_bos": False, "add_source_eos": False, "layer_norm_epsilon": 1e-5}
    (folder / "config.json").write_text(json.dumps(config))


def _text(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def model_arrays(shape: Shape) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield arrays by CTranslate2's names."""
    rng = np.random.default_rng(0)

    def matrix(name: str, outputs: int, inputs: int, bias: bool = True) -> Iterator[tuple[str, NDArray[Any]]]:
        yield f"{name}/weight", rng.integers(-127, 128, (outputs, inputs), np.int8)
        yield f"{name}/weight_scale", np.full(outputs, 73 * inputs**0.5, np.float32)  # weights of variance 1 / inputs
        if bias:
            yield f"{name}/bias", (0.1 * rng.standard_normal(outputs)).astype(np.float32)

    def norm(name: str) -> Iterator[tuple[str, NDArray[Any]]]:
        yield f"{name}/gamma", np.ones(shape.hidden, np.float32)
        yield f"{name}/beta", np.zeros(shape.hidden, np.float32)

    hidden = shape.hidden
    yield from matrix("decoder/embeddings", shape.vocab, hidden, bias=False)
    yield "decoder/scale_outputs", np.array(1.0, np.float32)
    for stack in ("encoder", "decoder"):
        table = 0.1 * rng.standard_normal((shape.positions, hidden))
        yield f"{stack}/position_encodings/encodings", table.astype(np.float32)
        yield f"{stack}/num_heads", np.array(shape.heads, np.int16)
        yield f"{stack}/pre_norm", np.array(shape.pre_norm, np.int8)
        yield f"{stack}/activation", np.array(shape.activation, np.int8)
        yield f"{stack}/scale_embeddings", np.array(hidden**0.5, np.float32)
        if shape.pre_norm:
            yield from norm(f"{stack}/layer_norm")
        for layer in range(shape.layers):
            at = f"{stack}/layer_{layer}"
            for part, sizes in (("self_attention", (3, 1)), ("attention", (1, 2, 1)))[: 1 + (stack == "decoder")]:
                yield from norm(f"{at}/{part}/layer_norm")
                for number, times in enumerate(sizes):
                    yield from matrix(f"{at}/{part}/linear_{number}", times * hidden, hidden)
            yield from norm(f"{at}/ffn/layer_norm")
            yield from matrix(f"{at}/ffn/linear_0", shape.ffn, hidden)
            yield from matrix(f"{at}/ffn/linear_1", hidden, shape.ffn)


if __name__ == "__main__":
    main()
