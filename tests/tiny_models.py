"""Tiny random models of every architecture, made without torch: arrays, folders or GGUF files.

All three forms of one (variant, seed) are the same model: the oracle gives the same logits, bit for
bit, as long as nothing is quantized. A few layers of 64 values, 320 tokens: one per byte, a few
merges, and chat markers. Weights are random, yet logits are spread enough for greedy choices to be
clear.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.model.config import ModelConfig
from miaotui.model.reading.architectures import Architecture, by_model_type
from miaotui.model.reading.from_hf import config_from_hf
from miaotui.model.reading.names import tensor_shapes
from tiny_mixtures import (
    MIXTURE_VARIANTS,
    gguf_expert_metadata,
    gguf_expert_tensor,
    hf_expert_tensors,
    is_expert_tensor,
)
from tiny_tokenizer import EOS, tokenizer_metadata, write_tokenizer

Array = NDArray[np.float32]

BASE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "rms_norm_eps": 2**-17,  # as exact in float32 as in JSON
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}
TWO_HEADS: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": None}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 8.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
}

# Values of config.json besides BASE. Every architecture is there under its own name.
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-bias": {"model_type": "llama", "attention_bias": True},
    "llama-llama3": {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": LLAMA3},
    "llama-linear": {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "mistral": {"model_type": "mistral", "sliding_window": 8},
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 5, "rope_theta": 2e6, **TWO_HEADS},
    "qwen2": {"model_type": "qwen2", **TWO_HEADS},
    "qwen2-window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 1,
        **TWO_HEADS,
    },
    "qwen2-yarn": {"model_type": "qwen2", "rope_theta": 1e6, "rope_scaling": YARN, **TWO_HEADS},
    "qwen3": {"model_type": "qwen3", "rope_theta": 1e6},
    "gemma2": {
        "model_type": "gemma2",
        "num_hidden_layers": 4,
        "sliding_window": 8,
        "query_pre_attn_scalar": 64,
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 7,
        "sliding_window": 8,
        "query_pre_attn_scalar": 32,
        "rope_theta": 1e6,
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "gemma3-linear": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 7,
        "sliding_window": 8,
        "query_pre_attn_scalar": 32,
        "rope_theta": 1e6,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "phi3": {"model_type": "phi3", "sliding_window": 8, **TWO_HEADS},
    "phi3-longrope": {
        "model_type": "phi3",
        "partial_rotary_factor": 0.5,
        "rope_scaling": LONGROPE,
        "original_max_position_embeddings": 64,
        **TWO_HEADS,
    },
} | MIXTURE_VARIANTS


def tiny_values(variant: str, **overrides: Any) -> dict[str, Any]:
    """The variant's ``config.json``; ``overrides`` replace values."""
    values = BASE | VARIANTS[variant] | overrides
    return {key: value for key, value in values.items() if value is not None}


def tiny_config(variant: str, **overrides: Any) -> ModelConfig:
    return config_from_hf(tiny_values(variant, **overrides))


def tiny_weights(config: ModelConfig, seed: int = 0) -> dict[str, Array]:
    """Random canonical weights in float32 for any configuration."""
    rng = np.random.default_rng(seed)
    return {name: _random(rng, name, shape) for name, shape in tensor_shapes(config).items()}


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    values = rng.standard_normal(shape, dtype=np.float32)
    if "norm" in name and not name.endswith("_bias"):
        return 1 + np.round(values * 50) / 256  # exact after subtracting and adding 1
    if len(shape) == 1:
        return np.float32(0.3) * values
    if name == "embed":
        return np.float32(0.25) * values
    return values * np.float32((3.0 if name == "head" else 1.5) / np.sqrt(shape[1]))


def make_tiny_folder(folder: Path, variant: str, seed: int = 0, **overrides: Any) -> Path:
    """Write config.json, model.safetensors (float32) and a tokenizer; return the new folder."""
    values = tiny_values(variant, **overrides)
    config = config_from_hf(values)
    path = folder / f"{variant}-{seed}"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    tensors = dict(_hf_tensors(config, by_model_type(values["model_type"]), seed))
    _write_safetensors(path / "model.safetensors", tensors)
    write_tokenizer(path)
    return path


def _hf_tensors(config: ModelConfig, architecture: Architecture, seed: int) -> Iterator[tuple[str, Array]]:
    """The weights as transformers names, cuts and offsets them."""
    weights = tiny_weights(config, seed)
    for name in weights:
        if "norm" in name:
            weights[name] = weights[name] - np.float32(architecture.norm_offset)
    yield "model.embed_tokens.weight", weights["embed"]
    yield "model.norm.weight", weights["final_norm"]
    if "head" in weights:
        yield "lm_head.weight", weights["head"]
    for layer in range(config.n_layers):
        get = {n.split(".")[2]: w for n, w in weights.items() if n.startswith(f"layers.{layer}.")}
        if architecture.fused:
            get["qkv"] = np.concatenate([get.pop("q"), get.pop("k"), get.pop("v")])
            get["gate_up"] = np.concatenate([get.pop("gate"), get.pop("up")])
        for name, values in get.items():
            if is_expert_tensor(name):
                for stored, part in hf_expert_tensors(name, values, config):
                    yield f"model.layers.{layer}.{stored}", part
            else:
                yield f"model.layers.{layer}.{_hf_name(name, config)}", values


def _hf_name(name: str, config: ModelConfig) -> str:
    suffix = "bias" if name.endswith("_bias") else "weight"
    part = name.removesuffix("_bias")
    if part in ("q", "k", "v", "o", "qkv"):
        return f"self_attn.{part}_proj.{suffix}"
    if part in ("gate", "up", "down", "gate_up"):
        return f"mlp.{part}_proj.{suffix}"
    if part in ("q_norm", "k_norm"):
        return f"self_attn.{part}.{suffix}"
    before_ffn = "pre_feedforward" if config.post_norms else "post_attention"
    kind = {
        "attn_norm": "input",
        "attn_post_norm": "post_attention",
        "ffn_norm": before_ffn,
        "ffn_post_norm": "post_feedforward",
    }[part]
    return f"{kind}_layernorm.{suffix}"


def _write_safetensors(path: Path, tensors: dict[str, Array]) -> None:
    header: dict[str, Any] = {}
    position = 0
    for name, values in tensors.items():
        end = position + values.nbytes
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, dtype="<f4").tobytes())


def make_tiny_gguf(folder: Path, variant: str, seed: int = 0, kind: str = "F32", **overrides: Any) -> Path:
    """Write the model as a GGUF file, matrices in block type ``kind`` (F32, F16, Q8_0, Q4_0, …)."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants  # noqa: PLC0415  (a test extra)

    values = tiny_values(variant, **overrides)
    config = config_from_hf(values)
    architecture = by_model_type(values["model_type"])
    path = folder / f"{variant}-{seed}-{kind}.gguf"
    name = architecture.gguf or "llama"
    writer = GGUFWriter(path, name)
    for key, value in _gguf_metadata(values, config).items():
        _add(writer, f"{name}.{key}", value)
    for key, value in tokenizer_metadata().items():
        _add(writer, key, value)
    block = GGMLQuantizationType[kind]
    for key, weights in _gguf_tensors(values, config, architecture, seed):
        if weights.ndim > 1 and "ffn_gate_inp" not in key:
            writer.add_tensor(key, quants.quantize(weights, block), raw_dtype=block)
        else:
            writer.add_tensor(key, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _gguf_metadata(values: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """What llama.cpp's converter would write for this ``config.json``."""
    metadata: dict[str, Any] = {
        "block_count": config.n_layers,
        "context_length": values["max_position_embeddings"],
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.ffn_size,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.rope.dim,
        "rope.freq_base": config.rope.theta,
    }
    metadata |= gguf_expert_metadata(config)
    if "sliding_window" in values:
        metadata["attention.sliding_window"] = values["sliding_window"]
    if values.get("max_window_layers") is not None:
        metadata["attention.sliding_window_pattern"] = [bool(window) for window in config.windows]
    if config.attention_softcap:
        metadata["attn_logit_softcapping"] = config.attention_softcap
        metadata["final_logit_softcapping"] = config.logit_softcap
        metadata["attention.scale"] = config.attention_scale
    scaling = values.get("rope_scaling", {})
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in ("linear", "yarn", "longrope"):
        metadata["rope.scaling.type"] = kind
    if kind in ("linear", "yarn"):
        metadata["rope.scaling.factor"] = scaling["factor"]
    if kind == "yarn":
        original = scaling["original_max_position_embeddings"]
        metadata["rope.scaling.original_context_length"] = original
        metadata["rope.scaling.yarn_beta_fast"] = scaling["beta_fast"]
    if kind == "longrope":
        original = values["original_max_position_embeddings"]
        metadata["rope.scaling.original_context_length"] = original
        metadata["rope.scaling.attn_factor"] = config.rope.magnitude()
    return metadata


def _gguf_tensors(
    values: dict[str, Any], config: ModelConfig, architecture: Architecture, seed: int
) -> Iterator[tuple[str, Array]]:
    """The weights as llama.cpp's converter names, fuses and reorders them."""
    weights = tiny_weights(config, seed)
    yield "token_embd.weight", weights["embed"]
    yield "output_norm.weight", weights["final_norm"]
    if "head" in weights:
        yield "output.weight", weights["head"]
    scaling = values.get("rope_scaling", {})
    if scaling.get("rope_type") == "llama3":
        plain = config.rope.theta ** (-np.arange(0, config.rope.dim, 2) / config.rope.dim)
        factors = plain / config.rope.inverse_frequencies()
        yield "rope_freqs.weight", factors.astype(np.float32)
    if "short_factor" in scaling:
        yield "rope_factors_short.weight", np.array(scaling["short_factor"], np.float32)
        yield "rope_factors_long.weight", np.array(scaling["long_factor"], np.float32)
    for layer in range(config.n_layers):
        get = {n.split(".")[2]: w for n, w in weights.items() if n.startswith(f"layers.{layer}.")}
        if architecture.interleaved_gguf or architecture.gguf is None:
            for name in {"q", "k", "q_bias", "k_bias"} & get.keys():
                get[name] = _interleaved(get[name], config.head_dim)
        if architecture.fused:
            get["qkv"] = np.concatenate([get.pop("q"), get.pop("k"), get.pop("v")])
            get["up"] = np.concatenate([get.pop("gate"), get.pop("up")])
        for name, array in get.items():
            if is_expert_tensor(name):
                stored, array = gguf_expert_tensor(name, array, config)  # noqa: PLW2901
            else:
                stored = architecture.gguf_names.get(name) or _gguf_name(name)
            yield f"blk.{layer}.{stored}", array


def _interleaved(rows: Array, head_dim: int) -> Array:
    """Rows ``i`` and ``i + head_dim/2`` of each head side by side."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _gguf_name(name: str) -> str:
    suffix = "bias" if name.endswith("_bias") else "weight"
    part = name.removesuffix("_bias")
    if part in ("q", "k", "v", "qkv", "q_norm", "k_norm"):
        return f"attn_{part}.{suffix}"
    if part in ("gate", "up", "down"):
        return f"ffn_{part}.{suffix}"
    renamed = {"o": "attn_output", "attn_post_norm": "post_attention_norm", "ffn_post_norm": "post_ffw_norm"}
    return f"{renamed.get(part, part)}.{suffix}"
