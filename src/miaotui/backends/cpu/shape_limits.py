"""Shapes of language models that the kernels run.

Owns the bounds that kernels set; `ModelConfig` has those that hold everywhere. Knows no weights. Invariant: whatever
passes here fits the kernels' scratch memory and buffers.
"""

from __future__ import annotations

from miaotui.errors import UnsupportedModelError
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.thread_pool import SCRATCH_BYTES
from miaotui.model.config import ModelConfig
from miaotui.model.head_layout import GROUP, VECTOR, HeadLayout
from miaotui.model.rope import MAX_HEAD_DIM


def require_runnable(config: ModelConfig) -> None:
    """Raise `UnsupportedModelError` for shapes that the kernels cannot run."""
    for shape in {config.at(layer) for layer in range(config.n_layers)}:
        _require_heads(shape)
    if config.streams is not None and config.streams.rank % GROUP:
        raise UnsupportedModelError(
            f"the model's learned residual has rank {config.streams.rank}, and only multiples of {GROUP} are "
            "supported: choose another model"
        )
    if config.cutoffs and config.activation != "gelu_tanh":
        raise UnsupportedModelError("the model has sparse gates without GELU: choose another model")
    if config.norm == "layer" and (config.post_norms or config.qk_norm or config.rotated_qk_norm):
        raise UnsupportedModelError(
            "the model has layer norms after its layers or in its heads, where only RMS norms are "
            "supported: choose another model"
        )
    if config.joint_qk_norm and not (HeadLayout(config).is_plain and config.n_kv_heads * config.head_dim % VECTOR == 0):
        raise UnsupportedModelError(
            "the model norms all heads together, where only heads of whole vectors are supported: choose another model"
        )
    is_alone = config.experts is not None and not config.experts.beside
    if is_alone and (config.post_norms or config.parallel or not config.pre_norms):
        raise UnsupportedModelError(
            "the model has norms after its experts, where only norms before them are supported: choose another model"
        )


def _query_bytes(head_dim: int) -> int:
    """Return the bytes of one query in a thread's scratch memory (see ``kernels.attention.emit``)."""
    return 4 * (2 * head_dim + 4 * VECTOR)


def _require_heads(config: ModelConfig) -> None:
    group, places = config.n_heads // config.n_kv_heads, HeadLayout(config).dim
    if places > MAX_HEAD_DIM:
        raise UnsupportedModelError(
            f"the model's heads of {config.head_dim} values take {places} places, and at most {MAX_HEAD_DIM} are "
            "supported: choose another model"
        )
    most = SCRATCH_BYTES // (ops.BLOCK_ROWS * _query_bytes(places))
    if group > most:
        raise UnsupportedModelError(
            f"the model has {group} query heads of {config.head_dim} values for each key/value "
            f"head, and at most {most} are supported: choose another model"
        )
