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
from miaotui.model.reading.architectures import Architecture
from miaotui.model.reading.families import by_model_type
from miaotui.model.reading.from_hf import LAYER_NAMES, OUTER_NAMES, POST_NORM_NAMES, config_from_hf
from miaotui.model.reading.names import tensor_shapes
from tiny_gemma import gemma_metadata, outer_tensors
from tiny_latent import latent_metadata, take_latent_tensors
from tiny_mixtures import (
    GGUF_NAME_OF,
    gguf_expert_metadata,
    gguf_expert_tensor,
    hf_expert_tensors,
    is_expert_tensor,
    take_fused_tensors,
    take_joined_gguf,
)
from tiny_tokenizer import tokenizer_metadata, write_tokenizer
from tiny_variants import BASE, FUSED_UP, LOGIT_FACTORS, MULTIPLIERS, VARIANTS

Array = NDArray[np.float32]


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
    if ("norm" in name or name.endswith(".scale")) and not name.endswith("_bias"):
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
    weights = _file_weights(config, architecture, seed)
    for name in weights:
        if "norm" in name and not name.endswith("_bias"):
            weights[name] = weights[name] - np.float32(architecture.norm_offset)
    outer = {**OUTER_NAMES, **architecture.outer_names}
    for name in {"embed", "final_norm", "head", "final_norm_bias", "head_bias"} & weights.keys():
        yield _with_ending(name, outer), weights[name]
    yield from outer_tensors(weights, config, architecture, is_gguf=False)
    names = {**LAYER_NAMES, **(POST_NORM_NAMES if architecture.post_norms else {}), **architecture.names}
    for layer in range(config.n_layers):
        get = {n.split(".")[2]: w for n, w in weights.items() if n.startswith(f"layers.{layer}.")}
        prefix = f"{architecture.layers}.{layer}."
        latent = take_latent_tensors(get, config, architecture.interleaved_hf)
        yield from ((prefix + stored, part) for stored, part in latent)
        if architecture.interleaved_hf:
            _interleave(get, config)
        yield from ((prefix + stored, part) for stored, part in take_fused_tensors(get, config))
        if architecture.fused_qkv:
            parts = [get.pop(letter) for letter in "qkv"]
            yield (
                f"{prefix}{architecture.fused_qkv}.weight",
                (_grouped(config, parts) if architecture.grouped_qkv else np.concatenate(parts)),
            )
            if "q_bias" in get:
                biases = [get.pop(f"{letter}_bias") for letter in "qkv"]
                yield f"{prefix}{architecture.fused_qkv}.bias", np.concatenate(biases)
        if architecture.fused_gate_up:
            yield f"{prefix}{architecture.fused_gate_up}.weight", np.concatenate([get.pop("gate"), get.pop("up")])
        for name, values in get.items():
            if is_expert_tensor(name):
                for stored, part in hf_expert_tensors(name, values, config):
                    yield prefix + stored, part
            else:
                yield prefix + _with_ending(name, names), values


def _file_weights(config: ModelConfig, architecture: Architecture, seed: int) -> dict[str, Array]:
    """The canonical weights without the factor of the logits that reading puts into the final norm."""
    weights = tiny_weights(config, seed)
    if architecture.multipliers:
        weights["final_norm"] = weights["final_norm"] / np.float32(LOGIT_FACTORS[architecture.name])
    return weights


def _with_ending(name: str, names: dict[str, str]) -> str:
    if name in ("altup_scale", "scale"):
        return names[name]
    return f"{names[name.removesuffix('_bias')]}.{'bias' if name.endswith('_bias') else 'weight'}"


def _grouped(config: ModelConfig, parts: list[Array]) -> Array:
    """Rows of q, k and v by key heads."""
    heads = [part.reshape(config.n_kv_heads, -1, config.head_dim, part.shape[1]) for part in parts]
    return np.concatenate(heads, 1).reshape(-1, parts[0].shape[1])


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
    name = architecture.gguf or GGUF_NAME_OF.get(architecture.name, "llama")
    writer = GGUFWriter(path, name)
    for key, value in _gguf_metadata(values, config).items():
        _add(writer, f"{name}.{key}", value)
    for key, value in tokenizer_metadata().items():
        _add(writer, key, value)
    block = GGMLQuantizationType[kind]
    for key, weights in _gguf_tensors(values, config, architecture, seed):
        if weights.ndim > 1 and "ffn_gate_inp" not in key and "altup_" not in key and not key.endswith(".bias"):
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
        "context_length": (config.long_context or config).context_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.ffn_size,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.rope.dim,
        "rope.freq_base": config.rope.theta,
    }
    architecture = by_model_type(values["model_type"])
    kind = "rms_" if config.norm == "rms" else ""
    metadata[f"attention.layer_norm_{kind}epsilon"] = values[architecture.eps_key]
    if "use_parallel_residual" in values:
        metadata["use_parallel_residual"] = values["use_parallel_residual"]
    for key, value in MULTIPLIERS.get(architecture.name, {}).items():
        metadata[key] = value
    if config.alibi:
        metadata["attention.max_alibi_bias"] = 8.0
    metadata |= gguf_expert_metadata(config)
    metadata |= latent_metadata(config, values.get("rope_scaling", {}))
    metadata |= gemma_metadata(values, config)
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
    weights = _file_weights(config, architecture, seed)
    outer = {"embed": "token_embd", "final_norm": "output_norm", "head": "output"}
    for name in {"embed", "final_norm", "head", "final_norm_bias", "head_bias"} & weights.keys():
        yield _with_ending(name, outer), weights[name]
    yield from outer_tensors(weights, config, architecture, is_gguf=True)
    if config.rope.freq_factors and config.local_rope:
        yield "rope_freqs.weight", np.array(config.rope.freq_factors, np.float32)
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
        interleaved = architecture.interleaved_gguf or architecture.gguf is None
        latent = take_latent_tensors(get, config, interleaved, is_gguf=True)
        yield from ((f"blk.{layer}.{stored}", part) for stored, part in latent)
        if interleaved:
            _interleave(get, config)
        if architecture.name == "phi3":
            get["qkv"] = np.concatenate([get.pop("q"), get.pop("k"), get.pop("v")])
        if architecture.name in FUSED_UP:
            get["up"] = np.concatenate([get.pop("gate"), get.pop("up")])
        yield from ((f"blk.{layer}.{stored}", part) for stored, part in take_joined_gguf(get, config))
        for name, array in get.items():
            if is_expert_tensor(name):
                stored, array = gguf_expert_tensor(name, array, config)  # noqa: PLW2901
            else:
                stored = _gguf_name(name, architecture)
            yield f"blk.{layer}.{stored}", array


def _interleave(get: dict[str, Array], config: ModelConfig) -> None:
    for name in {"q", "k", "q_bias", "k_bias"} & get.keys():
        get[name] = _interleaved(get[name], config.head_dim, config.rope.dim)


def _interleaved(rows: Array, head_dim: int, rotated: int) -> Array:
    """Rows ``i`` and ``i + rotated/2`` of each head side by side."""
    heads = rows.reshape(-1, head_dim, *rows.shape[1:])
    turned = heads[:, :rotated].reshape(len(heads), 2, rotated // 2, *rows.shape[1:]).swapaxes(1, 2)
    return np.concatenate([turned.reshape(len(heads), rotated, *rows.shape[1:]), heads[:, rotated:]], 1).reshape(
        rows.shape
    )


def _gguf_name(name: str, architecture: Architecture) -> str:
    suffix = "bias" if name.endswith("_bias") else "weight"
    part = name.removesuffix("_bias")
    if part in architecture.gguf_names:
        return f"{architecture.gguf_names[part]}.{suffix}"
    if part in ("q", "k", "v", "qkv", "q_norm", "k_norm"):
        return f"attn_{part}.{suffix}"
    if part in ("gate", "up", "down"):
        return f"ffn_{part}.{suffix}"
    renamed = {
        "sinks": "attn_sinks",
        "o": "attn_output",
        "attn_post_norm": "post_attention_norm",
        "ffn_post_norm": "post_ffw_norm",
    }
    return f"{renamed.get(part, part)}.{suffix}"
