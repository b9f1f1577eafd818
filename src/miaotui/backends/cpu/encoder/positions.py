"""Tables of relative positions as attention reads them: by the distance of key and query, ascending.

Owns their layout: column ``max_tokens - 1`` is distance 0, and behind the last distance there is room for a panel,
whose last keys may lie behind the text. The values are `model.encoder.positions`'. Knows no operations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.linear.packed_blocks import unpack, values
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.oracle import layer_norm
from miaotui.model.encoder.pooling import rows_product
from miaotui.model.encoder.positions import bias_table, disentangled_rows
from miaotui.model.packed import PackedModel

Floats = NDArray[np.float32]


def distance_bias(config: EncoderConfig, weights: PackedModel, max_tokens: int) -> Floats | None:
    """Return each head's bias by distance (ALiBi, MPNet), ``[heads, 2 x max_tokens + 15]``; None: there is none."""
    learned = {"relative_bias": weights.vector("relative_bias")} if config.position == "relative" else {}
    table = bias_table(config, learned, max_tokens)
    return None if table is None else _ascending(table)


def position_tables(config: EncoderConfig, weights: PackedModel, prefix: str, max_tokens: int) -> tuple[Floats, Floats]:
    """Return keys and scaled queries of positions (DeBERTa), each ``[heads, head_dim, 2 x max_tokens + 15]``.

    They are products of the normed embeddings of distances and the layer's matrices of keys and queries
    (``share_att_key``).
    """
    norm = weights.vector("relative_embed_norm")
    bias = weights.vector("relative_embed_norm_bias") if "relative_embed_norm_bias" in weights else None
    rows = layer_norm(weights.vector("relative_embed"), norm, bias, config.norm_eps)
    width = config.n_heads * config.head_dim
    matrix = weights.matrix(prefix + "qkv")
    tiles = matrix.data.reshape(-1, matrix.tile_stride)
    whole = values(unpack(matrix.format, tiles, matrix.inputs))[: 2 * width]
    made = rows_product(rows, whole)
    if prefix + "qkv_bias" in weights:
        made = made + weights.vector(prefix + "qkv_bias")[: 2 * width]
    by_distance = made[disentangled_rows(config, max_tokens)]  # [distances, queries and keys]
    heads = by_distance.reshape(len(by_distance), 2, config.n_heads, config.head_dim).transpose(1, 2, 3, 0)
    return _ascending(heads[1]), _ascending(heads[0] * np.float32(config.attention_scale))


def _ascending(table: Floats) -> Floats:
    """Return a table by ``query - key`` in the order of ``key - query``, with room for a panel."""
    result = np.zeros((*table.shape[:-1], table.shape[-1] + PAGE_TOKENS), np.float32)
    result[..., : table.shape[-1]] = table[..., ::-1]
    return result
