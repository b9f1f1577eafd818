"""Tiny random models that restore masked tokens, in the layouts of LLaDA, LLaDA-MoE, Dream, RND1 and dLLM's Qwen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from miaotui.model.config import ModelConfig
from miaotui.model.reading.families import by_model_type
from miaotui.model.reading.from_hf import config_from_hf, hf_sources
from tiny_models import _add, _gguf_metadata, _gguf_tensors, tiny_weights
from tiny_tokenizer import VOCAB_SIZE, tokenizer_metadata, write_tokenizer

MASK = 300  # an unused id
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 2**-17,
    "rope_theta": 10_000.0,
    "mask_token_id": MASK,
    "hidden_act": "silu",
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2}
MASKED: dict[str, dict[str, Any]] = {
    "llada": {
        "model_type": "llada",
        "d_model": 64,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "mlp_hidden_size": 96,
        "embedding_size": VOCAB_SIZE,
        "vocab_size": VOCAB_SIZE,
        "max_sequence_length": 256,
        "rms_norm_eps": 2**-17,
        "rope_theta": 10_000.0,
        "mask_token_id": MASK,
        "weight_tying": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "activation_type": "silu",
        "block_type": "llama",
        "layer_norm_type": "rms",
        "rope": True,
        "alibi": False,
    },
    "llada_moe": COMMON
    | EXPERTS
    | {"model_type": "llada", "expert_intermediate_size": 32, "moe_layer_freq": [1, 1], "qk_layernorm": True},
    "dream": COMMON | {"model_type": "Dream", "head_dim": None},
    "a2d_qwen2": COMMON | {"model_type": "a2d-qwen2", "head_dim": None},
    "a2d_qwen3": COMMON | {"model_type": "a2d-qwen3", "tie_word_embeddings": True},
    "bd3lm": COMMON | {"model_type": "a2d-qwen3", "tie_word_embeddings": True, "block_size": 8},
    "rnd1": COMMON | EXPERTS | {"model_type": "rnd1", "moe_intermediate_size": 32, "norm_topk_prob": True},
}
Array = NDArray[np.float32]


def masked_values(variant: str, **overrides: Any) -> dict[str, Any]:
    return {key: value for key, value in (MASKED[variant] | overrides).items() if value is not None}


def masked_config(variant: str, **overrides: Any) -> ModelConfig:
    return config_from_hf(masked_values(variant, **overrides))


def stored_tensors(config: ModelConfig, values: dict[str, Any], weights: dict[str, Array]) -> dict[str, Array]:
    """Canonical weights under the names of the model's own files; experts one by one."""
    sources = hf_sources(config, by_model_type(values["model_type"], values))
    stored: dict[str, Array] = {}
    for name, array in weights.items():
        source = sources[name]
        if not source.experts:
            stored[source.name] = array
            continue
        for number, part in enumerate(np.split(array, source.experts)):
            stored[source.name.format(number)] = np.ascontiguousarray(part)
    return stored


def make_masked_folder(folder: Path, variant: str, **overrides: Any) -> Path:
    """Write a folder of such a model with a tokenizer."""
    values = masked_values(variant, **overrides)
    config = config_from_hf(values)
    path = folder / variant
    path.mkdir()
    (path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    save_file(stored_tensors(config, values, tiny_weights(config)), path / "model.safetensors")
    write_tokenizer(path)
    return path


IN_GGUF = ("llada", "llada_moe", "dream", "rnd1")  # that llama.cpp's converter knows


def make_masked_gguf(folder: Path, variant: str, **metadata: Any) -> Path:
    """Write the model as llama.cpp's converter would; ``metadata`` are more of its keys."""
    from gguf import GGUFWriter  # noqa: PLC0415  (a test extra)

    values = masked_values(variant)
    config = config_from_hf(values)
    architecture = by_model_type(values["model_type"], values)
    assert architecture.gguf is not None
    common = {
        "max_position_embeddings": 256,
        "rms_norm_eps": values["rms_norm_eps"],
        "model_type": values["model_type"],
    }
    path = folder / f"{variant}.gguf"
    writer = GGUFWriter(path, architecture.gguf)
    for key, value in {**_gguf_metadata(common, config), "attention.causal": False}.items():
        _add(writer, f"{architecture.gguf}.{key}", value)
    for key, value in {**tokenizer_metadata(), "tokenizer.ggml.mask_token_id": MASK, **metadata}.items():
        _add(writer, key, value)
    for key, weights in _gguf_tensors(common, config, architecture, 0):
        writer.add_tensor(key, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
