"""The attention of one layer of a model, as the training of a draft head needs it.

Plain values; knows neither torch nor how a pass computes them. Invariant: these values are all that the pass applies
to a head's queries (see `Program.attention`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.model.config import ModelConfig
from miaotui.model.draft_head.packing import rows_of
from miaotui.model.head_layout import HeadLayout
from miaotui.model.packed import PackedModel


@dataclass(frozen=True)
class AttentionSpec:
    """One layer's attention; ``own`` makes its queries from a normed state, float32 ``[heads * dim, hidden]``.

    The pairs ``(i, i + len(frequencies))`` of each head are rotated by ``position * frequencies[i]`` and
    multiplied by ``magnitude``.
    """

    heads: int
    dim: int
    scale: float
    frequencies: NDArray[np.float32]
    magnitude: float
    own: NDArray[np.float32]


def attention_spec_of(config: ModelConfig, weights: PackedModel, layer: int) -> AttentionSpec | None:
    """Return the attention of ``layer``; None if it has a window, a softcap or ALiBi, or heads with zeros between."""
    if config.alibi or not config.has_one_stream:
        return None
    if config.windows[layer] or config.attention_softcap or not (config.pre_norms and HeadLayout(config).is_plain):
        return None
    prefix, rows = f"layers.{layer}.", np.arange(config.n_heads * config.head_dim, dtype=np.int32)
    matrix = weights.matrix(prefix + ("qkv" if prefix + "qkv" in weights else "q"))
    own = rows_of(matrix, rows) * weights.vector(prefix + "attn_norm")
    rope = config.layer_rope(layer)
    frequencies = np.zeros(0) if rope is None else rope.inverse_frequencies()
    return AttentionSpec(
        config.n_heads,
        config.head_dim,
        config.attention_scale,
        frequencies.astype(np.float32),
        1.0 if rope is None else rope.magnitude(),
        own,
    )
