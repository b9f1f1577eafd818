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
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": None,
    "q_lora_rank": 96,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
}
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
    "gpt-oss": {
        "model_type": "gpt_oss",
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "sliding_window": 8,
        "attention_bias": True,
        "rope_theta": 150000.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
        },
    },
    "ernie4_5-moe": {
        "model_type": "ernie4_5_moe",
        "moe_num_experts": 8,
        "moe_k": 3,
        "moe_intermediate_size": 32,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": -1,
        "moe_layer_interval": 1,
        "rope_theta": 5e5,
        "tie_word_embeddings": True,
    },
    "granitemoe": {
        "model_type": "granitemoe",
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "embedding_multiplier": 6.0,
        "residual_multiplier": 0.25,
        "attention_multiplier": 0.125,
        "logits_scaling": 8.0,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": None,
    },
    "olmoe": {
        "model_type": "olmoe",
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": None,
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek-v2": {
        "model_type": "deepseek_v2",
        "n_routed_experts": 8,
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "rope_scaling": {
            "type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 8.0,
            "mscale": 0.625,
            "mscale_all_dim": 0.625,
        },
        **LATENT,
        "q_lora_rank": None,
    },
    "deepseek-v2-groups": {
        "model_type": "deepseek_v2",
        "n_routed_experts": 12,
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 0,
        "routed_scaling_factor": 2.0,
        **LATENT,
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3",
        "n_routed_experts": 16,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
        **LATENT,
        "qk_nope_head_dim": 24,
        "v_head_dim": 40,
    },
    "glm4-moe-lite": {
        "model_type": "glm4_moe_lite",
        "n_routed_experts": 8,
        "n_group": 1,
        "topk_group": 1,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "routed_scaling_factor": 1.5,
        "norm_topk_prob": True,
        **LATENT,
        "v_head_dim": 64,
    },
}
GGUF_NAME_OF = {"chatglm": "chatglm", "deepseek_v3": "deepseek2", "glm4_moe_lite": "deepseek2", "youtu": "deepseek2"}


def is_expert_tensor(name: str) -> bool:
    """Whether a tensor of a layer belongs to its experts."""
    return name in GGUF_NAMES


def take_fused_tensors(get: dict[str, Array], config: ModelConfig) -> Iterator[tuple[str, Array]]:
    """Take the experts of a layer out of ``get`` that transformers holds as one tensor, and name them."""
    if config.experts is None or config.architecture not in ("gpt_oss", "granitemoe", "gemma4"):
        return
    count, hidden = config.experts.count, config.hidden_size
    if config.architecture == "granitemoe":
        both = [get.pop(f"expert_{part}").reshape(count, -1, hidden) for part in ("gate", "up")]
        yield "block_sparse_moe.input_linear.weight", np.concatenate(both, 1)
        yield "block_sparse_moe.output_linear.weight", get.pop("expert_down").reshape(count, hidden, -1)
        return
    if config.architecture == "gemma4":
        both = [get.pop(f"expert_{part}").reshape(count, -1, hidden) for part in ("gate", "up")]
        yield "experts.gate_up_proj", np.concatenate(both, 1)
        yield "experts.down_proj", get.pop("expert_down").reshape(count, hidden, -1)
        return
    yield "self_attn.sinks", get.pop("sinks")
    gate, up = (get.pop(f"expert_{part}").reshape(count, -1, hidden) for part in ("gate", "up"))
    yield "mlp.experts.gate_up_proj", _in_turns(gate, up).transpose(0, 2, 1)
    yield "mlp.experts.down_proj", get.pop("expert_down").reshape(count, hidden, -1).transpose(0, 2, 1)
    gate, up = (get.pop(f"expert_{part}_bias").reshape(count, -1) for part in ("gate", "up"))
    yield "mlp.experts.gate_up_proj_bias", _in_turns(gate, up)
    yield "mlp.experts.down_proj_bias", get.pop("expert_down_bias").reshape(count, hidden)


def _in_turns(first: Array, second: Array) -> Array:
    """Rows (or values) of both, one after the other in turns along the second axis."""
    return np.stack([first, second], 2).reshape(len(first), -1, *first.shape[2:])


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
        array = array.reshape(config.experts.count, -1, *array.shape[1:])
    return GGUF_NAMES[name], array[0] if name == "shared_router" else array


def take_joined_gguf(get: dict[str, Array], config: ModelConfig) -> Iterator[tuple[str, Array]]:
    """Take gate and up of a layer's experts out of ``get`` where llama.cpp's converter leaves them in one tensor."""
    if config.experts is not None and config.experts.beside:
        count, hidden = config.experts.count, config.hidden_size
        both = [get.pop(f"expert_{part}").reshape(count, -1, hidden) for part in ("gate", "up")]
        yield "ffn_gate_up_exps.weight", np.concatenate(both, 1)


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
    if experts.groups.number > 1:
        metadata |= {"expert_group_count": experts.groups.number, "expert_group_used_count": experts.groups.kept}
    if experts.scores == "sigmoid":
        metadata |= {"expert_gating_func": 2, "expert_weights_norm": experts.normalized}
    return metadata


def _layer_rule(layers: tuple[bool, ...]) -> dict[str, int]:
    first = layers.index(True)
    if all(layers[first:]):
        return {"leading_dense_block_count": first}
    return {"interleave_moe_layer_step": first + 1}
