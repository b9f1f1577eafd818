"""Marian's binary models, written byte by byte, and folders of tiny models with a recurrent decoder (SSRU)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny_seq2seq import VOCAB

WIDTH, HEADS, FFN, LAYERS = 64, 2, 96, (2, 3)  # layers of the encoder, of the decoder
OPTIONS: dict[str, str] = {
    "type": "transformer",
    "dim-emb": str(WIDTH),
    "enc-depth": str(LAYERS[0]),
    "dec-depth": str(LAYERS[1]),
    "dec-cell": "ssru",
    "tied-embeddings-all": "true",
    "transformer-decoder-autoreg": "rnn",
    "transformer-heads": str(HEADS),
    "transformer-ffn-activation": "relu",
    "transformer-postprocess": "dan",
    "transformer-preprocess": '""',
    "transformer-train-position-embeddings": "false",
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TYPES = {"float32": 0x404, "float16": 0x402}
Arrays = Mapping[str, NDArray[Any]]


def marian_arrays(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random arrays under Marian's names; matrices are ``[inputs, outputs]``, vectors ``[1, n]``."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[np.float32]] = {}

    def matrix(name: str, rows: int, cols: int) -> None:
        arrays[name] = (1.3 * rows**-0.5 * rng.standard_normal((rows, cols))).astype(np.float32)

    def vector(name: str, width: int, middle: float = 0.0) -> None:
        arrays[name] = (middle + 0.1 * rng.standard_normal((1, width))).astype(np.float32)

    def norm(name: str) -> None:
        vector(f"{name}_ln_scale", WIDTH, 1.0)
        vector(f"{name}_ln_bias", WIDTH)

    def attention(name: str) -> None:
        for letter in "qkvo":
            matrix(f"{name}_W{letter}", WIDTH, WIDTH)
            vector(f"{name}_b{letter}", WIDTH)
        norm(f"{name}_Wo")

    arrays["Wemb"] = (WIDTH**-0.5 * rng.standard_normal((VOCAB, WIDTH))).astype(np.float32)
    vector("decoder_ff_logit_out_b", VOCAB)
    for stack, layers in zip(("encoder", "decoder"), LAYERS, strict=True):
        for layer in range(1, layers + 1):
            at = f"{stack}_l{layer}"
            if stack == "encoder":
                attention(f"{at}_self")
            else:
                matrix(f"{at}_rnn_W", WIDTH, WIDTH)
                matrix(f"{at}_rnn_Wf", WIDTH, WIDTH)
                vector(f"{at}_rnn_bf", WIDTH)
                norm(f"{at}_rnn_ffn")
                attention(f"{at}_context")
            matrix(f"{at}_ffn_W1", WIDTH, FFN)
            vector(f"{at}_ffn_b1", FFN)
            matrix(f"{at}_ffn_W2", FFN, WIDTH)
            vector(f"{at}_ffn_b2", WIDTH)
            norm(f"{at}_ffn_ffn")
    return arrays


def marian_binary(arrays: Arrays, options: Mapping[str, str] = OPTIONS, *, integers: bool = False) -> bytes:
    """The bytes of a file; ``integers``: matrices have 8 bits and a multiplier, as intgemm8 stores them."""
    items = [(name, *_stored(name, array, integers)) for name, array in arrays.items()]
    text = "".join(f"{name}: {value}\n" for name, value in options.items()).encode() + b"\0"
    items.append(("special:model.yml", 0x101, (len(text),), text))
    heads = [(len(name) + 1, kind, len(shape), len(data)) for name, kind, shape, data in items]
    content = struct.pack("<QQ", 1, len(items)) + b"".join(struct.pack("<4Q", *head) for head in heads)
    content += b"".join(name.encode() + b"\0" for name, *_ in items)
    content += b"".join(struct.pack(f"<{len(shape)}i", *shape) for _, _, shape, _ in items)
    gap = -(len(content) + 8) % 256
    return content + struct.pack("<Q", gap) + bytes(gap) + b"".join(data for *_, data in items)


def _stored(name: str, array: NDArray[Any], integers: bool) -> tuple[int, tuple[int, ...], bytes]:
    if not integers or array.shape[0] == 1:
        data = array.tobytes()
        return TYPES[array.dtype.name], array.shape, data + bytes(-len(data) % 256)
    codes, multiplier = rounded(array)
    data = (codes if name == "Wemb" else codes.T).tobytes() + struct.pack("<f", multiplier)
    return 0x4101, array.shape, data + bytes(-len(data) % 256)


def rounded(array: NDArray[Any]) -> tuple[NDArray[np.int8], float]:
    """A matrix as 8-bit integers and their multiplier."""
    multiplier = np.float32(127 / np.abs(array).max())
    return np.rint(array * multiplier).astype(np.int8), float(multiplier)


def marian_spm(size: int = VOCAB) -> bytes:
    """A Unigram SentencePiece model of the end, the unknown piece, letters with and without a space, and fillers."""
    pieces = [*LETTERS, *(f"▁{letter}" for letter in LETTERS), "▁"]
    pieces += [f"filler{number}" for number in range(size - 2 - len(pieces))]
    content = _piece("</s>", 0.0, 3) + _piece("<unk>", 0.0, 2)
    return content + b"".join(_piece(text, -1.0 - number / size, 1) for number, text in enumerate(pieces))


def _piece(text: str, score: float, kind: int) -> bytes:
    raw = text.encode()
    message = b"\x0a" + bytes([len(raw)]) + raw + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
    return b"\x0a" + bytes([len(message)]) + message


def marian_binary_folder(folder: Path, *, integers: bool = False, seed: int = 0) -> Path:
    """Write a model for English and Portuguese, and its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.enpt.bin").write_bytes(marian_binary(marian_arrays(seed), integers=integers))
    (folder / "vocab.enpt.spm").write_bytes(marian_spm())
    return folder
