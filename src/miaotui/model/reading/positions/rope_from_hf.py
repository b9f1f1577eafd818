"""Position encoding as a ``config.json`` declares it.

Knows both spellings in use: ``rope_theta`` beside ``rope_scaling``, and ``rope_parameters`` for all. Computes no
frequencies. Invariant: an unknown scaling type is refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from miaotui.errors import UnsupportedModelError
from miaotui.model.reading.architectures import Architecture
from miaotui.model.reading.checks import require
from miaotui.model.reading.fields import Fields
from miaotui.model.rope import MAX_CONTEXT, NEVER, LongContext, RopeConfig, longrope_magnitude

GLOBAL, LOCAL = "full_attention", "sliding_attention"
PROPORTIONAL = "proportional"  # a share of the pairs turns, by the frequencies that they have in a whole head
KINDS = ("default", "dynamic", "linear", "llama3", "yarn", "longrope", PROPORTIONAL)  # dynamic: default in the context


@dataclass(frozen=True)
class Rope:
    """Position encodings of a model (full and windowed layers), and its usable context in tokens."""

    main: RopeConfig
    local: RopeConfig | None
    context_length: int
    long: LongContext | None = None


def read_rope(fields: Fields, architecture: Architecture, head_dim: int, local_dim: int | None = None) -> Rope:
    """Read ``config.json``'s encodings; raises `UnsupportedModelError` for unknown kinds.

    ``local_dim`` is the dimension of heads in layers with a window (None: as of the others).
    """
    main, local = _parameters(fields)
    context = fields.count("max_position_embeddings", MAX_CONTEXT)
    kind = _kind(main)
    dim = head_dim if kind == PROPORTIONAL else _rotated(fields, main, head_dim, architecture.rotated_share)
    theta = main.number("rope_theta", fields.number("rope_theta", 10_000.0))
    if kind == "longrope":
        original = _original_context(main, fields, context)
        rope = _longrope(main, theta, dim, (context, original))
        # The short factors hold for the original context only, and a switch to the long ones while a model runs
        # would change the meaning of what is already cached.
        long = None
        if context > original and main.has("long_factor"):
            long = LongContext(replace(rope, freq_factors=main.numbers("long_factor", dim // 2)), context)
        return Rope(rope, None, min(context, original), long)
    rope = _scaled(kind, main, theta, dim, _original_context(main, fields, context))
    if kind == "yarn" and main.has("original_max_position_embeddings"):
        context = min(MAX_CONTEXT, max(context, int(rope.original_context * rope.factor)))
    return Rope(rope, _local(fields, local, architecture, local_dim or dim), context)


def _parameters(fields: Fields) -> tuple[Fields, Fields]:
    """Return the parameters of layers with full attention and of layers with a window."""
    if not fields.has("rope_parameters"):
        return fields.nested("rope_scaling"), Fields({}, fields.where)
    every = fields.nested("rope_parameters")
    if every.has(GLOBAL) or every.has(LOCAL):
        return every.nested(GLOBAL), every.nested(LOCAL)
    return every, Fields({}, fields.where)


def _kind(parameters: Fields) -> str:
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    if kind == "su" or parameters.has("short_factor"):
        return "longrope"  # older names of the same
    if kind not in KINDS or parameters.has("mrope_section"):
        raise UnsupportedModelError(
            f"the model uses rope scaling {kind[:40]!r}; only {', '.join(KINDS)} are supported: choose another model"
        )
    return kind


def _rotated(fields: Fields, parameters: Fields, head_dim: int, usual: float) -> int:
    share = fields.number("partial_rotary_factor", usual)
    share = parameters.number("partial_rotary_factor", share)
    return int(head_dim * min(max(share, 0.0), 1.0))


def _original_context(parameters: Fields, fields: Fields, context: int) -> int:
    key = "original_max_position_embeddings"
    return parameters.count(key, MAX_CONTEXT, fields.count(key, MAX_CONTEXT, context))


def _scaled(kind: str, parameters: Fields, theta: float, dim: int, original: int) -> RopeConfig:
    if kind == PROPORTIONAL:
        turning = int(min(max(parameters.number("partial_rotary_factor", 1.0), 0.0), 1.0) * dim // 2)
        factors = (1.0,) * turning + (NEVER,) * (dim // 2 - turning)
        return RopeConfig(theta=theta, dim=dim, freq_factors=factors)
    if kind == "linear":
        return RopeConfig(theta=theta, dim=dim, scaling="linear", factor=parameters.number("factor"))
    if kind == "llama3":
        return RopeConfig(
            theta=theta,
            dim=dim,
            scaling="llama3",
            factor=parameters.number("factor"),
            low_freq_factor=parameters.number("low_freq_factor"),
            high_freq_factor=parameters.number("high_freq_factor"),
            original_context=original,
        )
    if kind == "yarn":
        return RopeConfig(
            theta=theta,
            dim=dim,
            scaling="yarn",
            factor=parameters.number("factor"),
            original_context=original,
            beta_fast=parameters.number("beta_fast", 32.0),
            beta_slow=parameters.number("beta_slow", 1.0),
            truncate=parameters.flag("truncate", True),
            attention_factor=_yarn_magnitude(parameters),
        )
    if kind == "dynamic" and parameters.has("alpha"):  # Hunyuan's: a larger base, whatever the context
        theta *= parameters.number("alpha") ** (dim / max(dim - 2, 1))
    return RopeConfig(theta=theta, dim=dim)


def _yarn_magnitude(parameters: Fields) -> float | None:
    """Return the declared attention factor, or DeepSeek's ratio of two, or None for YaRN's own."""
    if parameters.has("attention_factor"):
        return parameters.number("attention_factor")
    scales = [parameters.number(key, 0.0) for key in ("mscale", "mscale_all_dim")]
    if not all(scales):
        return None
    growth = math.log(max(parameters.number("factor"), 1.0))
    first, second = (0.1 * scale * growth + 1.0 for scale in scales)
    require(second != 0, "mscale_all_dim", "of another sign", scales[1])
    return first / second


def _longrope(parameters: Fields, theta: float, dim: int, contexts: tuple[int, int]) -> RopeConfig:
    context, original = contexts
    magnitude = longrope_magnitude(parameters.number("factor", context / original), original)
    return RopeConfig(
        theta=theta,
        dim=dim,
        attention_factor=parameters.number("attention_factor", magnitude),
        freq_factors=parameters.numbers("short_factor", dim // 2),
    )


def _local(fields: Fields, parameters: Fields, architecture: Architecture, dim: int) -> RopeConfig | None:
    if architecture.local_theta is None:
        return None
    if _kind(parameters) != "default":
        raise UnsupportedModelError(
            "the model scales the rope of its local layers, which is not supported: choose another model"
        )
    theta = fields.number("rope_local_base_freq", architecture.local_theta)
    return RopeConfig(theta=parameters.number("rope_theta", theta), dim=dim)
