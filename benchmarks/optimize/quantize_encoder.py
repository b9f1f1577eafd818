"""Loss of a quantised encoder at equal bytes: ours, llama.cpp's rounding by importance, and one type for all matrices.

    python -m benchmarks.peers.install setup                                           # once: llama.cpp's library
    python -m benchmarks.optimize.quantize_encoder all-minilm-l6-v2 --data DATA         # a table and one JSON line
    python -m benchmarks.optimize.quantize_encoder whisper-base --speech --data DATA    # an encoder of sound

The source is in full precision, so every type is off its grid. The loss is the mean of 1 - cosine between embeddings
of the source and of the rounded model, over headlines (DATA has agnews) and reviews (sst2), or between states of sounds
(speech). Calibration is on texts that the default chat model wrote, or on other speakers. llama.cpp's side is its own
quantiser (``ggml_quantize_chunk``) with the same importance, one type for all matrices, and the type that it falls back
to where rows are no whole blocks. Owns the order of a run. Knows no method. Invariant: ours is never larger than what
it is compared with.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from benchmarks.optimize.speech_encoder import SpeechEncoder
from benchmarks.peers.install import Peers
from miaotui.config import Settings
from miaotui.hub.catalog import DEFAULT_MODEL
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.hub.resolve import resolve
from miaotui.optimize.encoders.measured import MeasuredEncoder, cosine_loss, feedback_of, importance_of, type_options
from miaotui.optimize.quantization.allocation import Option, allocate
from miaotui.optimize.quantization.block_grids import stored_kind
from miaotui.optimize.quantization.rounding import round_matrix, round_plainly
from miaotui.optimize.source import file_digest
from miaotui.optimize.texts.calibration import Moments
from miaotui.optimize.texts.own_texts import own_texts
from miaotui.text.encoders.load import load_encoder_tokenizer

Array = NDArray[np.float32]
LENGTH = 128  # tokens of a text, at most
PROBES = 48  # texts by which a matrix's cost is measured
TYPES = "Q3_K,Q4_0,IQ4_NL,Q4_K,Q5_0"


class Ggml:
    """llama.cpp's quantiser, by its C interface."""

    def __init__(self, library: Path) -> None:
        self._call = ctypes.CDLL(str(library)).ggml_quantize_chunk
        self._call.restype = ctypes.c_size_t
        self._call.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def rounded(self, weights: Array, kind: BlockType, importance: Array) -> Array:
        """Return the weights as they are read back."""
        weights, importance = (np.ascontiguousarray(each, np.float32) for each in (weights, importance))
        rows, cols = weights.shape
        out = np.zeros((rows, kind.row_bytes(cols)), np.uint8)
        self._call(kind.ggml_id, weights.ctypes.data, out.ctypes.data, 0, rows, cols, importance.ctypes.data)
        return StoredTensor("w", weights.shape, kind, out).float32()


def main() -> None:
    """Measure one encoder; print a table and a JSON line."""
    args = _arguments()
    path = resolve(args.model)
    encoder, known, tests = (_speech if args.speech else _texts)(path, args.data, args.texts_seed)
    moments = Moments(encoder.matrices)
    encoder.embeddings(known, {}, moments)
    hessians = {name: moments.of(name) for name in encoder.matrices}
    count = max(moments.tokens(name) or 0 for name in encoder.matrices)
    began_s = time.perf_counter()
    options = type_options(encoder, hessians, known[:PROBES], count)
    survey_s = time.perf_counter() - began_s
    bases = {name: encoder.embeddings(texts, {}) for name, texts in tests.items()}
    ggml = Ggml((args.library or Peers().build() / "bin") / "libggml-base.so")
    rows = []
    for name in args.types.split(","):
        kinds = {one: stored_kind(BlockType[name], encoder.weights[one].shape[1]) for one in encoder.matrices}
        size = sum(_bytes(encoder, one, kind) for one, kind in kinds.items())
        sides: dict[str, dict[str, Array]] = {"llama.cpp": {}, "plain": {}, "ours": {}}
        for one, kind in kinds.items():
            importance = importance_of(hessians[one], encoder.weights[one].shape[1])
            sides["llama.cpp"][one] = ggml.rounded(encoder.weights[one], kind, importance)
            sides["plain"][one] = round_plainly(encoder.weights[one], kind, importance)[1]
        found = allocate([[Option(*each[1:]) for each in options[one]] for one in encoder.matrices], size)
        for one, pick in zip(encoder.matrices, found.chosen, strict=True):
            sides["ours"][one] = _ours(encoder.weights[one], options[one][pick][0], hessians[one], count)
        losses = {
            side: {
                test: float(cosine_loss(bases[test], encoder.embeddings(texts, replaced)).mean())
                for test, texts in tests.items()
            }
            for side, replaced in sides.items()
        }
        rows.append({"type": name, "bytes": size, "our_bytes": found.size_bytes, "losses": losses})
        for test in tests:
            theirs, plain, ours = (losses[side][test] for side in sides)
            print(
                f"{name:7} {size:11,} bytes {test:7} 1-cos: llama.cpp {theirs:.5f}, plain {plain:.5f}, ours {ours:.5f} "
                f"({100 * (ours / theirs - 1):+.0f}%, {100 * (ours / plain - 1):+.0f}%)",
                flush=True,
            )
    about = {
        "benchmark": "quantize_encoder",
        "model": args.model,
        "texts_seed": args.texts_seed,
        "machine": describe().as_dict(),
    }
    print(json.dumps({**about, "survey_s": survey_s, "rows": rows}))


def _texts(path: Path, data: Path, seed: int) -> tuple[MeasuredEncoder, list[Any], dict[str, list[Any]]]:
    """Return an encoder of texts, the texts to calibrate on, and those of each test, as tokens."""
    encoder = MeasuredEncoder(path)
    tokenizer = load_encoder_tokenizer(encoder.opened.metadata, encoder.opened.folder)
    chat = resolve(DEFAULT_MODEL)
    calibration, _ = own_texts(chat, file_digest(chat), Settings.from_env(), seed=seed)

    def tokens(texts: Sequence[str]) -> list[list[int]]:
        return [list(tokenizer.encode_text(text, max_tokens=LENGTH, truncate=True).tokens) for text in texts]

    lines = [line for text in calibration.texts for line in text.splitlines() if len(line) > 40]
    return encoder, tokens(lines[:400]), {name: tokens(texts) for name, texts in _data(data, seed).items()}


def _speech(path: Path, data: Path, seed: int) -> tuple[SpeechEncoder, list[Any], dict[str, list[Any]]]:
    encoder = SpeechEncoder(path)
    return encoder, *encoder.sounds(data / "speech", seed)


def _bytes(encoder: MeasuredEncoder | SpeechEncoder, name: str, kind: BlockType) -> int:
    rows, cols = encoder.weights[name].shape
    return int(rows * kind.row_bytes(cols))


def _ours(weights: Array, kind: BlockType, hessian: Array | None, tokens: int) -> Array:
    data = round_matrix(weights, kind, feedback_of(hessian, weights.shape[1], tokens)).data
    return StoredTensor("w", weights.shape, kind, data).float32()


def _data(folder: Path, seed: int) -> dict[str, list[str]]:
    found = {}
    for name in ("agnews", "sst2"):
        lines = [
            line.strip()
            for path in sorted((folder / name).iterdir())
            if path.name != "SOURCE.md"
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        ]
        found[name] = [line for line in lines if len(line) > 40][200 * seed : 200 * (seed + 1)]
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="all-minilm-l6-v2")
    parser.add_argument("--data", type=Path, required=True, help="folder of evaluation data")
    parser.add_argument("--library", type=Path, help="folder of libggml-base.so (default: the peers')")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--texts-seed", type=int, default=0, help="another one: other texts or speakers on both sides")
    parser.add_argument("--speech", action="store_true", help="MODEL is Whisper's; DATA has recordings (speech/fsdd)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
