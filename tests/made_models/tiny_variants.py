"""Configurations of tiny models of every architecture, and facts about their files."""

from __future__ import annotations

from typing import Any

from tiny_gemma import GEMMA_VARIANTS
from tiny_mixtures import LATENT, MIXTURE_VARIANTS
from tiny_tokenizer import EOS

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

TINY_LATENT = {key: value for key, value in LATENT.items() if "exp" not in key and "moe" not in key}

# Values of config.json besides BASE. Every architecture is there under its own name.
VARIANTS: dict[str, dict[str, Any]] = (
    {
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
        "glm": {"model_type": "glm", "partial_rotary_factor": 0.5, "attention_bias": True},
        "chatglm": {
            "model_type": "chatglm",
            "num_hidden_layers": None,
            "num_layers": 3,
            "num_key_value_heads": None,
            "multi_query_group_num": 2,
            "layernorm_epsilon": 2**-17,
            "add_qkv_bias": True,
            "rope_ratio": 5.0,
        },
        "glm4": {"model_type": "glm4", "partial_rotary_factor": 0.5, "attention_bias": False},
        "ernie4_5": {"model_type": "ernie4_5", "tie_word_embeddings": True},
        "olmo2": {"model_type": "olmo2"},
        "granite": {
            "model_type": "granite",
            "embedding_multiplier": 6.0,
            "residual_multiplier": 0.25,
            "attention_multiplier": 0.125,
            "logits_scaling": 8.0,
            **TWO_HEADS,
        },
        "minicpm": {
            "model_type": "minicpm",
            "num_hidden_layers": 4,
            "scale_emb": 6.0,
            "scale_depth": 1.0,
            "dim_model_base": 16,
            "tie_word_embeddings": False,
            **TWO_HEADS,
        },
        "internlm2": {"model_type": "internlm2", "bias": False, "num_attention_heads": 4, "head_dim": None},
        "internlm3": {"model_type": "internlm3", "qkv_bias": True},
        "baichuan": {"model_type": "baichuan", "num_key_value_heads": 4, "head_dim": None},
        "baichuan-13b": {  # six heads: no power of two
            "model_type": "baichuan",
            "hidden_size": 96,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "head_dim": None,
            "max_position_embeddings": None,
            "model_max_length": 256,
        },
        "stablelm": {
            "model_type": "stablelm",
            "partial_rotary_factor": 0.25,
            "use_qkv_bias": True,
            "layer_norm_eps": 2**-17,
            **TWO_HEADS,
        },
        "stablelm-parallel": {
            "model_type": "stablelm",
            "partial_rotary_factor": 0.25,
            "use_parallel_residual": True,
            "layer_norm_eps": 2**-17,
            **TWO_HEADS,
        },
        "starcoder2": {"model_type": "starcoder2", "sliding_window": 8, "norm_epsilon": 2**-17, **TWO_HEADS},
        "phi": {"model_type": "phi", "partial_rotary_factor": 0.5, "layer_norm_eps": 2**-17, **TWO_HEADS},
        "cohere": {"model_type": "cohere", "logit_scale": 0.25, "layer_norm_eps": 2**-17, **TWO_HEADS},
        "cohere2": {
            "model_type": "cohere2",
            "num_hidden_layers": 4,
            "sliding_window": 8,
            "logit_scale": 0.25,
            "layer_norm_eps": 2**-17,
            **TWO_HEADS,
        },
        "exaone4": {"model_type": "exaone4", "num_hidden_layers": 4, "sliding_window": 8},
        "exaone4-full": {"model_type": "exaone4", "sliding_window": None},
        "seed_oss": {"model_type": "seed_oss", "attention_bias": True},
        "hunyuan": {
            "model_type": "hunyuan_v1_dense",
            "rope_scaling": {"type": "dynamic", "alpha": 50.0, "factor": 1.0},
        },
        "youtu": {"model_type": "youtu", "tie_word_embeddings": True, **TINY_LATENT},
        "minicpm3": {
            "model_type": "minicpm3",
            "num_hidden_layers": 4,
            "scale_emb": 6.0,
            "scale_depth": 1.0,
            "dim_model_base": 16,
            "tie_word_embeddings": False,
            **TINY_LATENT,
            "v_head_dim": 16,
        },
    }
    | MIXTURE_VARIANTS
    | GEMMA_VARIANTS
)
# What transformers has no model of: another of its models that computes the same from the same numbers.
STANDS_FOR: dict[str, dict[str, Any]] = {
    "minicpm": {
        "model_type": "granite",
        "embedding_multiplier": 6.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 32**-0.5,
        "logits_scaling": 4.0,
    },
    "chatglm": {
        "model_type": "glm",
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
        "rope_theta": 5e4,
    },
    "internlm2": {"model_type": "llama"},
    "internlm3": {"model_type": "qwen2"},
    "baichuan": {"model_type": "llama"},
    "baichuan-13b": {"model_type": "llama", "max_position_embeddings": 256},
}


FUSED_UP = ("phi3", "glm", "glm4", "chatglm")  # whose GGUF files hold gate and up in one matrix
MULTIPLIERS: dict[str, dict[str, float]] = {  # as GGUF names them
    "granite": {"embedding_scale": 6.0, "residual_scale": 0.25, "attention.scale": 0.125, "logit_scale": 8.0},
    "granitemoe": {"embedding_scale": 6.0, "residual_scale": 0.25, "attention.scale": 0.125, "logit_scale": 8.0},
    "minicpm": {"embedding_scale": 6.0, "residual_scale": 0.5, "logit_scale": 4.0},
    "minicpm3": {"embedding_scale": 6.0, "residual_scale": 0.5, "logit_scale": 4.0},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
}
LOGIT_FACTORS = {
    "granite": 0.125,
    "granitemoe": 0.125,
    "minicpm": 0.25,
    "minicpm3": 0.25,
    "cohere": 0.25,
    "cohere2": 0.25,
}
