"""Latent attention in model files: the keys that declare it, and where its tensors lie.

Knows the names of safetensors and of GGUF, which has two forms: one matrix for keys and values as in safetensors, or
two matrices per head, the one of keys turned so that queries can be multiplied by it. Invariant: in canonical heads the
rotated part lies first, its pairs in half-split order. Follows transformers' configurations and the conventions of
llama.cpp's converter.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.model.config import MAX_WIDTH, LatentConfig, ModelConfig
from miaotui.model.latent import MAX_RANK
from miaotui.model.reading.checks import require
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.sources import TensorSource
from miaotui.model.reading.stored.fused_experts import LazyTensor
from miaotui.model.rope import MAX_HEAD_DIM

YARN_LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"
NAMES = {  # in safetensors, in GGUF
    "q_a": ("self_attn.q_a_proj", "attn_q_a"),
    "q_a_norm": ("self_attn.q_a_layernorm", "attn_q_a_norm"),
    "kv_a": ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    "kv_a_norm": ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
    "kv_b": ("self_attn.kv_b_proj", "attn_kv_b"),
}
QUERIES = ("self_attn.q_proj", "attn_q"), ("self_attn.q_b_proj", "attn_q_b")  # without a small vector, and from it
TURNED_KEYS, SPLIT_VALUES = "attn_k_b.weight", "attn_v_b.weight"


class LatentShape(NamedTuple):
    """Latent attention of a file, and the shape of its heads."""

    config: LatentConfig
    head_dim: int  # of queries and keys
    rotated: int
    score_factor: float  # of attention scores, besides that of the head's size


def latent_from_hf(fields: Fields, interleaved: bool) -> LatentShape:
    """Read latent attention from ``config.json``.

    Raises `UnsupportedModelError` for an order of rotated pairs that the architecture does not have.
    """
    if fields.flag("rope_interleave", interleaved) != interleaved:
        raise UnsupportedModelError(
            f"the model's rotated pairs lie in another order (rope_interleave is {not interleaved}), which is not "
            "supported: choose another model"
        )
    rotated = fields.count("qk_rope_head_dim", MAX_HEAD_DIM)
    rest = fields.count("qk_nope_head_dim", MAX_HEAD_DIM)
    usual = max(1, fields.count("hidden_size", MAX_WIDTH) // fields.count("num_attention_heads", MAX_WIDTH))
    config = LatentConfig(
        rank=fields.count("kv_lora_rank", MAX_RANK),
        query_rank=fields.size("q_lora_rank", MAX_RANK),
        value_dim=fields.count("v_head_dim", MAX_HEAD_DIM, usual),
    )
    return LatentShape(config, rotated + rest, rotated, _hf_score_factor(fields))


def _hf_score_factor(fields: Fields) -> float:
    """Return the square of YaRN's growth of scores, where the file declares one."""
    parameters = fields.nested("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")
    if parameters.text("rope_type", parameters.text("type", "default")) != "yarn":
        return 1.0
    growth = parameters.number("mscale_all_dim", 0.0) * 0.1 * math.log(max(parameters.number("factor"), 1.0))
    return (1.0 + growth) ** 2


def latent_from_gguf(fields: Fields) -> LatentShape:
    """Read latent attention from GGUF metadata; those of keys in two forms count ``key_length_mla``."""
    usual = max(1, fields.count("embedding_length", MAX_WIDTH) // fields.count("attention.head_count", MAX_WIDTH))
    values = fields.count("attention.value_length", MAX_HEAD_DIM, usual)
    config = LatentConfig(
        rank=fields.count("attention.kv_lora_rank", MAX_RANK),
        query_rank=fields.size("attention.q_lora_rank", MAX_RANK),
        value_dim=fields.count("attention.value_length_mla", MAX_HEAD_DIM, values),
    )
    head_dim = fields.count(
        "attention.key_length_mla", MAX_HEAD_DIM, fields.count("attention.key_length", MAX_HEAD_DIM)
    )
    rotated = fields.count("rope.dimension_count", MAX_HEAD_DIM)
    require(rotated < head_dim, "rope.dimension_count", f"< {head_dim}, the values of a key", rotated)
    growth = fields.number(YARN_LOG_MULTIPLIER, 0.0) * math.log(max(fields.number("rope.scaling.factor", 1.0), 1.0))
    return LatentShape(config, head_dim, rotated, (1.0 + growth) ** 2)


def latent_sources(
    config: ModelConfig, prefix: str, interleaved: bool, *, is_gguf: bool, stored: Collection[str] | None = None
) -> dict[str, TensorSource]:
    """Return where a layer's latent attention lies; ``stored`` are the names in a GGUF file, if they are known."""
    assert config.latent is not None
    latent, form = config.latent, int(is_gguf)
    names = {name: f"{prefix}{both[form]}.weight" for name, both in NAMES.items()}
    queries = f"{prefix}{QUERIES[bool(latent.query_rank)][form]}.weight"
    sources = {name: TensorSource(names[name]) for name in ("q_a", "q_a_norm", "kv_a", "kv_a_norm")}
    sources["q"] = TensorSource(queries, rows=_rotated_first(config, interleaved))
    sources["k_rope"] = TensorSource(names["kv_a"], rows=latent.rank + _pair_order(config.rope.dim, interleaved))
    if is_gguf and stored is not None and prefix + TURNED_KEYS in stored:
        sources["k"] = TensorSource(prefix + TURNED_KEYS, experts=config.n_heads)
        sources["v"] = TensorSource(prefix + SPLIT_VALUES, experts=config.n_heads)
        return sources
    rest = config.head_dim - config.rope.dim
    heads = np.arange(config.n_heads * (rest + latent.value_dim)).reshape(config.n_heads, -1)
    sources["k"] = TensorSource(names["kv_b"], rows=heads[:, :rest].reshape(-1))
    sources["v"] = TensorSource(names["kv_b"], rows=heads[:, rest:].reshape(-1))
    return sources


def with_keys_turned_back(stored: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """Return a GGUF file's tensors, those of keys ``[heads, rank, values]`` as ``[heads, values, rank]``.

    Blocks lie along the last axis, so the values of quantized ones become float32.
    """
    found = {name: _turned(tensor) for name, tensor in stored.items() if name.endswith(TURNED_KEYS)}
    return {**stored, **found} if found else stored


def _turned(tensor: StoredTensor) -> StoredTensor:
    require(len(tensor.shape) == 3, f"tensor {tensor.name!r}", "a matrix for each head", tensor.shape)
    heads, rank, values = tensor.shape

    def read() -> NDArray[np.uint8]:
        turned = tensor.float32().reshape(heads, rank, values).transpose(0, 2, 1)
        return np.ascontiguousarray(turned).reshape(heads * values, rank).view(np.uint8)

    return LazyTensor(tensor.name, (heads, values, rank), BlockType.F32, read)


def _rotated_first(config: ModelConfig, interleaved: bool) -> NDArray[np.intp]:
    """Return the stored row of each canonical row of queries."""
    rest = config.head_dim - config.rope.dim
    order = np.append(rest + _pair_order(config.rope.dim, interleaved), np.arange(rest))
    heads = np.arange(0, config.n_heads * config.head_dim, config.head_dim)[:, None]
    return (heads + order).reshape(-1)


def _pair_order(rotated: int, interleaved: bool) -> NDArray[np.intp]:
    """Return the stored place of each value of a rotated part in half-split order."""
    places = np.arange(rotated)
    return places.reshape(-1, 2).T.reshape(-1) if interleaved else places
