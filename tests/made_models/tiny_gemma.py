"""What tiny Gemma 3n and Gemma 4 have in their files besides the parts of other models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.model.config import ModelConfig
from miaotui.model.reading.architectures import Architecture

Array = NDArray[np.float32]

_TYPES = ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "full_attention"]
_LAYERS: dict[str, Any] = {
    "num_hidden_layers": 5,
    "sliding_window": 8,
    "layer_types": _TYPES,
    "vocab_size_per_layer_input": 300,
    "hidden_size_per_layer_input": 32,
    "num_kv_shared_layers": 2,
    "final_logit_softcapping": 30.0,
}
_EXPERTS: dict[str, Any] = {
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
}
GEMMA_VARIANTS: dict[str, dict[str, Any]] = {
    "gemma3n": {
        "model_type": "gemma3n_text",
        "laurel_rank": 32,
        "pad_token_id": 0,  # within the smaller table
        "activation_sparsity_pattern": [0.95, 0.5, 0.0, 0.0, 0.0],
        **_LAYERS,
    },
    "gemma4": {
        "model_type": "gemma4_text",
        "global_head_dim": 64,
        "use_double_wide_mlp": True,
        "per_layer_config": {str(n): {"head_dim": 64, "num_key_value_heads": 1} for n in (1, 3, 4)},
        **_LAYERS,
        "vocab_size_per_layer_input": 320,
    },
}
GEMMA_VARIANTS["gemma4-moe"] = GEMMA_VARIANTS["gemma4"] | _EXPERTS


def outer_tensors(
    weights: dict[str, Array], config: ModelConfig, architecture: Architecture, is_gguf: bool
) -> Iterator[tuple[str, Array]]:
    """The tensors outside of layers that other models do not have."""
    names = architecture.gguf_outer_names if is_gguf else architecture.outer_names
    for name, stem in names.items():
        if not name.startswith(("stream_", "layer_")) or name not in weights:
            continue
        if not name.startswith("stream_"):
            yield f"{stem}.weight", weights[name]
            continue
        assert config.streams is not None
        parts = weights[name].reshape(config.streams.number - 1, -1, config.hidden_size)
        if is_gguf:
            yield f"{stem}.weight", parts
        else:
            yield from ((f"{stem.format(number)}.weight", part) for number, part in enumerate(parts))


def gemma_metadata(values: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """What llama.cpp's converter writes for these architectures alone."""
    if not config.value_norm:
        return {}
    assert config.local_rope is not None
    shapes = config.shapes or [(config.head_dim, config.n_kv_heads, config.ffn_size)] * config.n_layers
    _, heads, widths = (list(sizes) for sizes in zip(*shapes, strict=True))
    metadata: dict[str, Any] = {
        "attention.key_length_swa": config.local_rope.dim,
        "attention.value_length_swa": config.local_rope.dim,
        "rope.dimension_count_swa": config.local_rope.dim,
        "attention.sliding_window_pattern": [bool(window) for window in config.windows],
        "attention.shared_kv_layers": values["num_kv_shared_layers"],
        "embedding_length_per_layer_input": config.layer_inputs.width if config.layer_inputs else 0,
        "rope.freq_base_swa": config.local_rope.theta,
        "final_logit_softcapping": config.logit_softcap,
    }
    if config.shapes:
        metadata |= {"attention.head_count_kv": heads, "feed_forward_length": widths}
    if config.streams is not None:
        metadata |= {"altup.active_idx": 0, "altup.num_inputs": config.streams.number}
        metadata["activation_sparsity_scale"] = [-np.inf if cut is None else cut for cut in config.cutoffs]
    return metadata
