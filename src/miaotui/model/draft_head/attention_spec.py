"""How one layer of a model looks back over a text: what a head needs to know to learn to ask the same keys.

Plain values; knows neither torch nor how a pass computes them. Invariant: what is here is all that the
pass does with a head's queries (see `Program.attention`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.model.config import ModelConfig
from miaotui.model.draft_head.packing import rows_of
from miaotui.model.packed import PackedModel


@dataclass(frozen=True)
class AttentionSpec:
    """``own`` is the layer's own product from a normed state to its queries, float32 ``[heads * dim, hidden]``.

    The pairs ``(i, i + len(frequencies))`` of each head are rotated by ``position * frequencies[i]`` and
    multiplied by ``magnitude``.
    """

    heads: int
    dim: int
    scale: float
    frequencies: NDArray[np.float32]
    magnitude: float
    own: NDArray[np.float32]


def looking_of(config: ModelConfig, weights: PackedModel, layer: int) -> AttentionSpec | None:
    """That of ``layer``; None where it sees but a window of the text, or bends its scores."""
    if config.windows[layer] or config.attention_softcap:
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
