"""Tiny mixtures of experts: their ``config.json``, and their tensors as files name them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.model.config import ModelConfig
from miaotui.model.reading.mixtures import GGUF_NAMES, MIXTURES

Array = NDArray[np.float32]

EIGHT: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
MIXTURE_VARIANTS: dict[str, dict[str, Any]] = {
    "qwen3-moe": {"model_type": "qwen3_moe", "norm_topk_prob": True, "rope_theta": 1e6, **EIGHT},
    "qwen3-moe-sparse": {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 4,
        "decoder_sparse_step": 2,
        "norm_topk_prob": True,
        **EIGHT,
    },
    "qwen2-moe": {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 64, **EIGHT},
    "glm4-moe": {
        "model_type": "glm4_moe",
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "attention_bias": True,
        "partial_rotary_factor": 0.5,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "n_group": 1,
        "topk_group": 1,
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
}


def is_expert_tensor(name: str) -> bool:
    """Whether a tensor of a layer belongs to its experts."""
    return name in GGUF_NAMES


def hf_expert_tensors(name: str, array: Array, config: ModelConfig) -> Iterator[tuple[str, Array]]:
    """One canonical tensor as transformers names and cuts it."""
    assert config.experts is not None
    stored = MIXTURES[config.architecture].names[name]
    if "{}" not in stored:
        yield stored, array
        return
    for number, part in enumerate(np.split(array, config.experts.count)):
        yield stored.format(number), part


def gguf_expert_tensor(name: str, array: Array, config: ModelConfig) -> tuple[str, Array]:
    """One canonical tensor as llama.cpp's converter names and stacks it."""
    assert config.experts is not None
    if name.startswith("expert_"):
        array = array.reshape(config.experts.count, -1, array.shape[1])
    return GGUF_NAMES[name], array[0] if name == "shared_router" else array


def gguf_expert_metadata(config: ModelConfig) -> dict[str, Any]:
    """What llama.cpp's converter would write of a model's experts."""
    experts = config.experts
    if experts is None:
        return {}
    metadata: dict[str, Any] = {
        "expert_count": experts.count,
        "expert_used_count": experts.chosen,
        "expert_feed_forward_length": experts.size,
    }
    if experts.shared_size:
        metadata["expert_shared_feed_forward_length"] = experts.shared_size
    if not all(experts.layers):
        metadata |= _layer_rule(experts.layers)
    if experts.scale != 1:
        metadata["expert_weights_scale"] = experts.scale
    if experts.scores == "sigmoid":
        metadata |= {"expert_gating_func": 2, "expert_weights_norm": experts.normalized}
    return metadata


def _layer_rule(layers: tuple[bool, ...]) -> dict[str, int]:
    first = layers.index(True)
    if all(layers[first:]):
        return {"leading_dense_block_count": first}
    return {"interleave_moe_layer_step": first + 1}
