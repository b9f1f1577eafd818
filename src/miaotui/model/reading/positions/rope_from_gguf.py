"""Position encoding as a GGUF file declares it: metadata plus optional tensors of factors.

Knows GGUF's keys; computes no frequencies. Invariant: a scaling type that is not known is refused
by name. Llama 3's smoothing arrives here as ready-made factors in ``rope_freqs.weight``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.reading.architectures import Architecture
from miaotui.model.reading.checks import require
from miaotui.model.reading.fields import Fields
from miaotui.model.rope import MAX_CONTEXT, MAX_HEAD_DIM, LongContext, RopeConfig, RopeScaling

FREQ_FACTORS = "rope_freqs.weight"
SHORT_FACTORS = "rope_factors_short.weight"
LONG_FACTORS = "rope_factors_long.weight"

SCALINGS: dict[str, RopeScaling] = {
    "none": "none",
    "linear": "linear",
    "yarn": "yarn",
    "longrope": "none",  # its short factors are frequency factors
}


def read_rope(fields: Fields, head_dim: int, tensors: Mapping[str, StoredTensor]) -> RopeConfig:
    """Return the encoding of layers with full attention; raises `UnsupportedModelError`."""
    dim = fields.count("rope.dimension_count", MAX_HEAD_DIM, head_dim)
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0))
    scaling = _scaling(fields, factor)
    attention_factor = None
    for key in ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"):
        if fields.has(key):
            attention_factor = fields.number(key)
    return RopeConfig(
        theta=fields.number("rope.freq_base", 10_000.0),
        dim=dim,
        scaling=scaling,
        factor=factor if scaling != "none" else 1.0,
        original_context=_original_context(fields) if scaling == "yarn" else 0,
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1.0),
        attention_factor=attention_factor,
        freq_factors=_freq_factors(dim, tensors),
    )


def read_local_rope(fields: Fields, architecture: Architecture, head_dim: int) -> RopeConfig | None:
    """Return the encoding of layers with a window where it differs, else None. It is never scaled."""
    if architecture.local_theta is None:
        return None
    theta = fields.number("rope.freq_base_swa", architecture.local_theta)
    return RopeConfig(theta=theta, dim=head_dim)


def usable_context(fields: Fields, rope: RopeConfig, tensors: Mapping[str, StoredTensor]) -> int:
    """Return how many tokens the model can be used with.

    With LongRoPE this is the original context: its short factors hold no further, and a switch to the long ones while a
    model runs would change the meaning of cached keys (see `long_context`).
    """
    context = fields.count("context_length", MAX_CONTEXT)
    if SHORT_FACTORS in tensors:
        return min(context, _original_context(fields))
    if rope.scaling == "yarn":
        return min(MAX_CONTEXT, max(context, int(rope.original_context * rope.factor)))
    return context


def long_context(fields: Fields, rope: RopeConfig, tensors: Mapping[str, StoredTensor]) -> LongContext | None:
    """Return the encoding of texts longer than the usable context: LongRoPE's long factors, None without any."""
    context = fields.count("context_length", MAX_CONTEXT)
    if SHORT_FACTORS not in tensors or LONG_FACTORS not in tensors or context <= _original_context(fields):
        return None
    return LongContext(replace(rope, freq_factors=_factors(tensors[LONG_FACTORS], rope.dim)), context)


def _scaling(fields: Fields, factor: float) -> RopeScaling:
    kind = fields.text("rope.scaling.type", "linear" if factor != 1.0 else "none")
    if kind not in SCALINGS:
        raise UnsupportedModelError(
            f"the model uses rope scaling {kind[:40]!r}; only {', '.join(SCALINGS)} are supported: choose another model"
        )
    return SCALINGS[kind]


def _original_context(fields: Fields) -> int:
    context = fields.count("context_length", MAX_CONTEXT)
    return fields.count("rope.scaling.original_context_length", MAX_CONTEXT, context)


def _freq_factors(dim: int, tensors: Mapping[str, StoredTensor]) -> tuple[float, ...] | None:
    """Return the factors from whichever tensor the file has. Checks the size before it decodes."""
    tensor = tensors.get(SHORT_FACTORS) or tensors.get(FREQ_FACTORS)
    return None if tensor is None else _factors(tensor, dim)


def _factors(tensor: StoredTensor, dim: int) -> tuple[float, ...]:
    require(tensor.shape == (dim // 2,), f"tensor {tensor.name!r}", f"{dim // 2} numbers", tensor.shape)
    return tuple(float(value) for value in tensor.float32())
