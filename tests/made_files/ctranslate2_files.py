"""CTranslate2's ``model.bin``, written byte by byte, and whole folders of tiny models in that form."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.model.seq2seq.opened import open_seq2seq
from miaotui.model.seq2seq.positions import sinusoidal_table
from miaotui.model.seq2seq.reading.from_ctranslate2 import ACTIVATIONS, _sources
from tiny_seq2seq import tiny_folder

DTYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
PIECES = ["<unk>", "<s>", "</s>"]


def model_bin(
    arrays: Mapping[str, NDArray[Any]], aliases: Mapping[str, str] | None = None, *, version: int = 6,
    spec: str = "TransformerSpec"
) -> bytes:  # fmt: skip
    """The bytes of a file."""
    content = struct.pack("<I", version) + _text(spec) + struct.pack("<II", 7, len(arrays))
    for name, array in arrays.items():
        content += _text(name) + struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
        content += struct.pack("<BI", DTYPES.index(array.dtype.name), array.nbytes) + array.tobytes()
    content += struct.pack("<I", len(aliases or {}))
    return content + b"".join(_text(alias) + _text(name) for alias, name in (aliases or {}).items())


def _text(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def tiny_arrays(folder: Path, kind: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays and aliases of the safetensors model in `folder`, matrices as `kind` (float32, float16, int8)."""
    opened = open_seq2seq(folder)
    config = opened.config
    parts: dict[str, dict[int, NDArray[Any]]] = defaultdict(dict)
    for name, (stored, start, _) in _sources(config).items():
        if name in opened.weights:
            parts[stored][start] = opened.weights[name].float32()
    arrays: dict[str, NDArray[Any]] = {}
    for stored, rows in parts.items():
        arrays[stored] = np.concatenate([rows[start] for start in sorted(rows)])
    if config.position.startswith("sinusoidal"):
        table = sinusoidal_table(config, config.encoder.max_tokens + config.position_offset)
        for stack in ("encoder", "decoder"):
            arrays[f"{stack}/position_encodings/encodings"] = table[config.position_offset :]
    if config.position == "learned":
        for stack in ("encoder", "decoder"):
            name = f"{stack}/position_encodings/encodings"
            arrays[name] = np.ascontiguousarray(arrays[name][config.position_offset :])
    arrays = {name: array for stored, values in arrays.items() for name, array in _as(stored, values, kind).items()}
    embedding = "decoder/embeddings/weight"
    aliases = {"encoder/embeddings_0/weight": embedding}
    if config.tied_head:
        aliases["decoder/projection/weight"] = embedding
    if kind == "int8":
        aliases |= {f"{alias}_scale": f"{name}_scale" for alias, name in aliases.items()}
    return arrays | _scalars(config), aliases


def _as(name: str, values: NDArray[np.float32], kind: str) -> dict[str, NDArray[Any]]:
    if kind == "int8" and name.endswith("/weight"):
        scale = (127 / np.abs(values).max(axis=1)).astype(np.float32)
        return {name: np.rint(values * scale[:, None]).astype(np.int8), f"{name}_scale": scale}
    return {name: values.astype(np.float16 if kind == "float16" else np.float32)}


def _scalars(config: Any) -> dict[str, NDArray[Any]]:
    numbers: dict[str, NDArray[Any]] = {"decoder/scale_outputs": np.array(config.logit_scale, np.float32)}
    activation = next(number for number, name in ACTIVATIONS.items() if name == config.activation)
    for name in ("encoder", "decoder"):
        stack = config.stack(name)
        numbers |= {
            f"{name}/num_heads": np.array(stack.n_heads, np.int16),
            f"{name}/pre_norm": np.array(config.norm_first, np.int8),
            f"{name}/activation": np.array(activation, np.int8),
            f"{name}/scale_embeddings": np.array(config.embedding_scale, np.float32),
        }
        for layer in range(stack.n_layers):
            for part in ("self_attention", "attention")[: 1 + (name == "decoder")]:
                scale = np.array(config.attention_scale, np.float32)
                numbers[f"{name}/layer_{layer}/{part}/queries_scale"] = scale
                if config.position == "relative" and part == "self_attention":
                    distance = np.array(config.relative_distance, np.int32)
                    numbers[f"{name}/layer_{layer}/{part}/relative_attention_max_distance"] = distance
    return numbers


def ctranslate2_folder(folder: Path, variant: str, kind: str, seed: int = 0) -> tuple[Path, Path]:
    """Write a tiny model twice: as transformers and as CTranslate2 do; returns both folders."""
    theirs, ours = folder / "hf", folder / "ct2"
    tiny_folder(theirs, variant, seed)
    ours.mkdir()
    arrays, aliases = tiny_arrays(theirs, kind)
    for name in [each for each in arrays if each.endswith("layer_0/self_attention/relative_attention_bias")]:
        for layer in range(1, 3):  # CTranslate2 has one for each layer
            aliases[name.replace("layer_0", f"layer_{layer}")] = name
    (ours / "model.bin").write_bytes(model_bin(arrays, aliases))
    size = arrays["decoder/embeddings/weight"].shape[0]
    tokens = [*PIECES, *(f"▁w{i}" for i in range(size - len(PIECES)))]
    (ours / "shared_vocabulary.json").write_text(json.dumps(tokens))
    eps = {"t5": 1e-6}.get(variant, 1e-5)
    config: dict[str, Any] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "decoder_start_token": "<s>",
    }
    config |= {"add_source_bos": False, "add_source_eos": False}
    (ours / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": eps}))
    return theirs, ours
