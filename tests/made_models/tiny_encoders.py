"""Tiny random encoders of every family, made without torch: configurations, arrays, folders or GGUF files.

All forms of one (variant, seed) are the same model. A few layers of 64 values, 320 tokens.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.names import encoder_shapes
from miaotui.model.encoder.reading.from_hf import encoder_config_from_hf, encoder_sources
from tiny_models import _add, _write_safetensors

Array = NDArray[np.float32]

BASE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 80,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
DEBERTA: dict[str, Any] = {
    "model_type": "deberta-v2",
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "position_buckets": 16,
    "max_relative_positions": -1,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "pooler_hidden_size": 64,
    "pooler_hidden_act": "gelu",
}
MODERNBERT: dict[str, Any] = {
    "model_type": "modernbert",
    "num_hidden_layers": 5,
    "hidden_activation": "gelu",
    "local_attention": 16,
    "global_attn_every_n_layers": 3,
    "norm_eps": 1e-5,
    "type_vocab_size": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "cls_token_id": None,
    "sep_token_id": None,
}
NTK = {"type": "ntk", "factor": 2.0}

# Values of config.json besides BASE; None takes one of BASE away.
VARIANTS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert"},
    "roberta": {"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 82, "type_vocab_size": 1},
    "xlm-roberta": {"model_type": "xlm-roberta", "pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "distilbert": {
        "model_type": "distilbert",
        "dim": 64,
        "hidden_dim": 96,
        "n_layers": 3,
        "n_heads": 2,
        "activation": "gelu",
    },
    "albert": {"model_type": "albert", "embedding_size": 32, "hidden_act": "gelu_new"},
    "modernbert": MODERNBERT,
    "modernbert-bias": MODERNBERT
    | {
        "norm_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_activation": "silu",
        "classifier_bias": True,
        "classifier_pooling": "mean",
    },
    "nomic-bert": {"model_type": "nomic_bert", "hidden_act": "silu", "type_vocab_size": 2},
    "gte": {"model_type": "gte", "type_vocab_size": 1},
    "gte-untyped": {"model_type": "gte", "type_vocab_size": 0},
    "mpnet": {"model_type": "mpnet", "pad_token_id": 1, "max_position_embeddings": 82, "type_vocab_size": None},
    "deberta-v3": DEBERTA,
    "deberta-v3-plain": DEBERTA | {"position_buckets": -1, "max_relative_positions": 12, "type_vocab_size": 2},
    "jina-bert-v2": {"model_type": "bert", "position_embedding_type": "alibi", "feed_forward_type": "geglu"},
}


def tiny_encoder_values(variant: str, **overrides: Any) -> dict[str, Any]:
    """The variant's ``config.json``; ``overrides`` replace values."""
    values = BASE | VARIANTS[variant] | overrides
    return {key: value for key, value in values.items() if value is not None}


def tiny_encoder_config(variant: str, **overrides: Any) -> EncoderConfig:
    return encoder_config_from_hf(tiny_encoder_values(variant, **overrides))


def tiny_encoder_weights(config: EncoderConfig, seed: int = 0) -> dict[str, Array]:
    """Random canonical weights in float32 for any configuration."""
    return random_weights(encoder_shapes(config), seed)


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: _random(rng, name, shape) for name, shape in shapes.items()}


def stored(weights: Mapping[str, Array]) -> dict[str, StoredTensor]:
    """Float32 arrays as tensors of a file."""
    return {
        name: StoredTensor.from_bytes(
            name, array.shape, BlockType.F32, np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        )
        for name, array in weights.items()
    }


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("norm"):
        return 1 + np.float32(0.2) * values
    if len(shape) == 1 or "embed" in name or name == "relative_bias":
        return np.float32(0.5) * values
    return values * np.float32(1.5 / np.sqrt(shape[1]))


def hf_tensors(values: Mapping[str, Any], weights: Mapping[str, Array]) -> dict[str, Array]:
    """The body's weights as transformers names and fuses them."""
    _, sources = encoder_sources(encoder_config_from_hf(values), values, {})
    parts: dict[str, list[tuple[int, Array]]] = defaultdict(list)
    for name, source in sources.items():
        parts[source.name].append((source.start, weights[name]))
    return {
        name: np.concatenate([array for _, array in sorted(found, key=lambda part: part[0])])
        for name, found in parts.items()
    }


def make_tiny_encoder(folder: Path, variant: str, seed: int = 0, **overrides: Any) -> Path:
    """Write config.json and model.safetensors (float32); return the new folder."""
    values = tiny_encoder_values(variant, **overrides)
    weights = tiny_encoder_weights(encoder_config_from_hf(values), seed)
    return write_encoder(folder / f"{variant}-{seed}", values, hf_tensors(values, weights))


def write_encoder(path: Path, values: Mapping[str, Any], tensors: dict[str, Array]) -> Path:
    """Write config.json and model.safetensors into a folder."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    _write_safetensors(path / "model.safetensors", tensors)
    return path


GGUF_NAMES = {"nomic-bert": "nomic-bert", "jina-bert-v2": "jina-bert-v2", "modernbert": "modern-bert"}  # else "bert"


def make_tiny_encoder_gguf(folder: Path, variant: str, seed: int = 0, kind: str = "F32", **metadata: Any) -> Path:
    """Write the model as llama.cpp's converter does, matrices in block type ``kind``; ``metadata`` replaces values."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants  # noqa: PLC0415  (a test extra)

    config = tiny_encoder_config(variant)
    name = GGUF_NAMES.get(config.architecture, "bert")
    path = folder / f"{variant}-{seed}-{kind}.gguf"
    writer = GGUFWriter(path, name)
    for key, value in (encoder_metadata(config) | metadata).items():
        _add(writer, f"{name}.{key}", value)
    block = GGMLQuantizationType[kind]
    for key, weights in gguf_tensors(config, tiny_encoder_weights(config, seed)).items():
        if weights.ndim == 2:
            writer.add_tensor(key, quants.quantize(weights, block), raw_dtype=block)
        else:
            writer.add_tensor(key, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def encoder_metadata(config: EncoderConfig) -> dict[str, Any]:
    """What llama.cpp's converter would write, without the architecture's prefix."""
    metadata: dict[str, Any] = {
        "block_count": config.n_layers,
        "context_length": config.max_tokens,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.ffn_size,
        "attention.head_count": config.n_heads,
        "attention.layer_norm_epsilon": config.norm_eps,
        "attention.causal": False,
        "pooling_type": 1,
    }
    if config.rope is not None:
        metadata["rope.freq_base"] = config.rope.theta
    if config.local_rope is not None:
        metadata |= {
            "rope.freq_base_swa": config.local_rope.theta,
            "rope.scaling.type": "none",
            "attention.sliding_window": 2 * (max(config.windows) - 1),
            "attention.sliding_window_pattern": 3,
        }
    return metadata


def gguf_tensors(config: EncoderConfig, weights: Mapping[str, Array]) -> dict[str, Array]:
    """The weights as llama.cpp's converter names, cuts and fuses them."""
    tensors = {}
    for name, array in weights.items():
        stem, suffix = name.removesuffix("_bias"), ".bias" if name.endswith("_bias") else ".weight"
        if not stem.startswith("layers."):
            body = {"embed": "token_embd", "type_embed": "token_types", "embed_norm": "token_embd_norm"}
            body |= {"position_embed": "position_embd", "final_norm": "output_norm"}
            start = config.position_offset if name == "position_embed" else 0
            tensors[body[stem] + suffix] = array[start:]
            continue
        _, layer, part = stem.split(".")
        norms = {"attn_norm": "attn_output_norm", "ffn_norm": "layer_output_norm"}
        parts = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"} | ({} if config.norm_first else norms)
        parts |= {"gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
        tensors[f"blk.{layer}.{parts.get(part, part)}{suffix}"] = array
    if config.architecture in ("nomic-bert", "modernbert"):
        tensors = _fuse(tensors, ("attn_q", "attn_k", "attn_v"), "attn_qkv")
    if config.architecture == "modernbert":
        tensors = _fuse(tensors, ("ffn_gate", "ffn_up"), "ffn_up")
    return tensors


def _fuse(tensors: Mapping[str, Array], parts: tuple[str, ...], whole: str) -> dict[str, Array]:
    fused = dict(tensors)
    for name in tensors:
        if f".{parts[0]}." in name:
            pieces = [fused.pop(name.replace(parts[0], part)) for part in parts]
            fused[name.replace(parts[0], whole)] = np.concatenate(pieces)
    return fused
