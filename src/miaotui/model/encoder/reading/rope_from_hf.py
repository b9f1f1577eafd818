"""Rotary positions of encoders as a ``config.json`` declares them.

Knows the spellings of transformers and of the families' own repositories; computes no frequencies. Invariant: an
unknown scaling is refused by name.
"""

from __future__ import annotations

from miaotui.errors import UnsupportedModelError
from miaotui.model.reading.fields import Fields
from miaotui.model.rope import RopeConfig

KINDS = ("default", "linear", "ntk")


def read_encoder_rope(fields: Fields, head_dim: int, theta: float, parameters: Fields | None = None) -> RopeConfig:
    """Read one rotary encoding; ``theta`` holds where the file names none.

    ``parameters`` are those of one kind of layer; by default ``rope_parameters``, else ``rope_scaling``.
    """
    if parameters is None:
        parameters = fields.nested("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")
    theta = parameters.number("rope_theta", fields.number("rope_theta", theta))
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    share = parameters.number("partial_rotary_factor", 1.0)
    if kind not in KINDS or parameters.has("mixed_b") or share != 1:
        raise UnsupportedModelError(
            f"the model uses rope scaling {kind[:40]!r} with {sorted(parameters.values)}; only {', '.join(KINDS)} of "
            "whole heads are supported in encoders: choose another model"
        )
    factor = parameters.number("factor") if kind != "default" else 1.0
    if kind == "ntk":
        return _ntk(theta, head_dim, factor)
    return RopeConfig(theta=theta, dim=head_dim, scaling="linear" if factor != 1 else "none", factor=factor)


def _ntk(theta: float, dim: int, factor: float) -> RopeConfig:
    """Return GTE's fixed NTK scaling: a larger base, and every frequency divided by ``factor ** (2 / dim)``."""
    divisor = factor ** (2 / dim)
    return RopeConfig(theta=theta * factor, dim=dim, freq_factors=(divisor,) * (dim // 2))
