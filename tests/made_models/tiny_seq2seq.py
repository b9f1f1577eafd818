"""Tiny random encoder-decoders of every family, made without torch: configurations, arrays and folders.

All forms of one (variant, seed) are the same model: two or three layers of 64 values, 160 tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.kernels.linear.formats import Format
from miaotui.model.seq2seq.names import seq2seq_shapes
from miaotui.model.seq2seq.reading.from_hf import HEAD, HEAD_BIAS, seq2seq_config_from_hf, stored_names
from tiny_models import _write_safetensors

Array = NDArray[np.float32]
VOCAB = 160

_BART: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 80,
    "activation_function": "gelu",
    "is_encoder_decoder": True,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 64,
    "d_kv": 32,
    "d_ff": 96,
    "num_layers": 3,  # transformers' cache takes the decoder to have as many
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "layer_norm_epsilon": 1e-6,
    "is_encoder_decoder": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "t5": _T5 | {"model_type": "t5", "feed_forward_proj": "relu"},
    "flan-t5": _T5 | {"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": _T5 | {"model_type": "mt5", "feed_forward_proj": "gated-gelu"},
    "bart": _BART | {"model_type": "bart", "decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1},
    "mbart": _BART | {"model_type": "mbart", "scale_embedding": True, "decoder_start_token_id": 2, "eos_token_id": 2},
    "pegasus": _BART | {"model_type": "pegasus", "activation_function": "relu", "scale_embedding": True},
    "marian": _BART
    | {
        "model_type": "marian",
        "activation_function": "swish",
        "scale_embedding": True,
        "pad_token_id": VOCAB - 1,
        "eos_token_id": 0,
        "decoder_start_token_id": VOCAB - 1,
    },
    "m2m100": _BART | {"model_type": "m2m_100", "activation_function": "relu", "scale_embedding": True},
}
LEAST_COSINE = {Format.F32: 0.99999, Format.Q8: 0.85}  # of a row's scores, in the middle; random weights, 64 values
_HEADS = ("flan-t5", "mt5")  # with an output matrix of their own
_BIASED = ("bart", "mbart", "pegasus", "marian")


def tiny_arrays(variant: str, seed: int = 0) -> dict[str, Array]:
    """Random tensors under transformers' names; large enough that tokens differ."""
    values = VARIANTS[variant]
    hints: dict[str, StoredTensor] = {}
    rng = np.random.default_rng(seed)
    for name in ((HEAD,) if variant in _HEADS else ()) + ((HEAD_BIAS,) if variant in _BIASED else ()):
        hints[name] = StoredTensor.from_bytes(name, (1, 1), BlockType.F32, np.zeros(4, np.uint8))
    config = seq2seq_config_from_hf(values, hints)
    shapes = seq2seq_shapes(config)
    arrays = {}
    for name, stored in stored_names(config, values, hints).items():
        shape = (1, *shapes[name]) if name == "head_bias" else shapes[name]
        arrays[stored] = _drawn(rng, name, shape)
    return arrays


def _drawn(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    if name.endswith("norm"):
        return (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    scale = 0.1 if name.endswith("_bias") else 1.0 if "relative" in name else 1.3 * shape[-1] ** -0.5
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def tiny_folder(folder: Path, variant: str, seed: int = 0, generation: Mapping[str, Any] | None = None) -> Path:
    """Write a model as transformers does, without a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(VARIANTS[variant]))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(dict(generation)))
    _write_safetensors(folder / "model.safetensors", tiny_arrays(variant, seed))
    return folder


def cosines(found: Array, expected: Array) -> Array:
    """How alike the scores of each row are, whatever they have in common."""
    one, other = (each - each.mean(axis=-1, keepdims=True) for each in (found, expected))
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    result: Array = (one * other).sum(axis=-1) / lengths
    return result
