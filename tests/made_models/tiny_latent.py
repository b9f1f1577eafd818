"""Tensors and metadata of latent attention as files hold them, from the canonical weights of a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.model.config import ModelConfig

Array = NDArray[np.float32]
HF_NAMES = {
    "q_a": "self_attn.q_a_proj",
    "q_a_norm": "self_attn.q_a_layernorm",
    "kv_a_norm": "self_attn.kv_a_layernorm",
    "kv_a": "self_attn.kv_a_proj_with_mqa",
    "kv_b": "self_attn.kv_b_proj",
}
GGUF_NAMES = {
    "q_a": "attn_q_a",
    "q_a_norm": "attn_q_a_norm",
    "kv_a_norm": "attn_kv_a_norm",
    "kv_a": "attn_kv_a_mqa",
    "kv_b": "attn_kv_b",
}


def take_latent_tensors(
    get: dict[str, Array], config: ModelConfig, interleaved: bool, is_gguf: bool = False
) -> Iterator[tuple[str, Array]]:
    """Take a layer's latent attention out of ``get``, and name, join and reorder it.

    A GGUF file of a model with small vectors for queries has keys and values in the newer form, in two matrices.
    """
    if config.latent is None:
        return
    names, heads, rotated = GGUF_NAMES if is_gguf else HF_NAMES, config.n_heads, config.rope.dim
    for name in ("q_a", "q_a_norm", "kv_a_norm"):
        if name in get:
            yield f"{names[name]}.weight", get.pop(name)
    queries = get.pop("q").reshape(heads, config.head_dim, -1)
    last = np.concatenate([queries[:, rotated:], _in_file_order(queries[:, :rotated], interleaved)], 1)
    small = bool(config.latent.query_rank)
    stem = ("attn_q_b" if small else "attn_q") if is_gguf else f"self_attn.q{'_b' * small}_proj"
    yield f"{stem}.weight", last.reshape(-1, last.shape[2])
    rope = _in_file_order(get.pop("k_rope")[None], interleaved)[0]
    yield f"{names['kv_a']}.weight", np.concatenate([get.pop("kv_a"), rope])
    keys, values = (get.pop(name).reshape(heads, -1, config.latent.rank) for name in ("k", "v"))
    if is_gguf and small:
        yield "attn_k_b.weight", np.ascontiguousarray(keys.transpose(0, 2, 1))
        yield "attn_v_b.weight", values
    else:
        yield f"{names['kv_b']}.weight", np.concatenate([keys, values], 1).reshape(-1, config.latent.rank)


def _in_file_order(heads: Array, interleaved: bool) -> Array:
    """``[heads, rotated, inputs]`` with the two of each pair side by side, if the files have them so."""
    if not interleaved:
        return heads
    return heads.reshape(len(heads), 2, -1, heads.shape[2]).swapaxes(1, 2).reshape(heads.shape)


def latent_metadata(config: ModelConfig, scaling: dict[str, Any]) -> dict[str, Any]:
    """What llama.cpp's converter would write of latent attention, in the older form without small queries."""
    latent = config.latent
    if latent is None:
        return {}
    metadata: dict[str, Any] = {"attention.kv_lora_rank": latent.rank}
    if "mscale_all_dim" in scaling:
        metadata["rope.scaling.yarn_log_multiplier"] = 0.1 * scaling["mscale_all_dim"]
    if not latent.query_rank:
        return metadata | {"attention.value_length": latent.value_dim}
    return metadata | {
        "attention.q_lora_rank": latent.query_rank,
        "attention.head_count_kv": 1,
        "attention.key_length": latent.rank + config.rope.dim,
        "attention.value_length": latent.rank,
        "attention.key_length_mla": config.head_dim,
        "attention.value_length_mla": latent.value_dim,
    }
