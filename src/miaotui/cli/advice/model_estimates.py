"""Estimates of speed for models of common sizes on a machine whose speeds are known.

Owns the arithmetic of the memory limit (the roofline): a decode step reads every weight once, a prompt multiplies
every weight once per token. Knows no kernel. Invariant: no engine is faster than these estimates. Dimensions are
those of published models of each size.
"""

from __future__ import annotations

from dataclasses import dataclass

from miaotui.hub.catalog.shapes import ModelShape
from miaotui.kernels.linear.formats import Format

PROMPT_TOKENS = 40
CONTEXT_TOKENS = 4096
OVERHEAD_BYTES = 250_000_000  # interpreter, libraries, tokenizer, activations


SHAPES = (
    ModelShape("135M", 30, 576, 1536, 9, 3, 64, 49_152),  # SmolLM2
    ModelShape("360M", 32, 960, 2560, 15, 5, 64, 49_152),  # SmolLM2
    ModelShape("0.6B", 28, 1024, 3072, 16, 8, 128, 151_936),  # Qwen3
    ModelShape("1B", 16, 2048, 8192, 32, 8, 64, 128_256),  # Llama 3.2
    ModelShape("1.7B", 28, 2048, 6144, 16, 8, 128, 151_936),  # Qwen3
    ModelShape("3B", 28, 3072, 8192, 24, 8, 128, 128_256),  # Llama 3.2
    ModelShape("4B", 36, 2560, 9728, 32, 8, 128, 151_936),  # Qwen3
    ModelShape("8B", 36, 4096, 12_288, 32, 8, 128, 151_936, tied=False),  # Qwen3
)


@dataclass(frozen=True)
class Forecast:
    """Estimate for one model in one format, at the limit of a machine."""

    model: str
    format: str
    weight_bytes: int  # packed, as kept in memory
    fits: bool | None  # with context and overhead in the machine's memory; None: memory unknown
    tokens_per_s: float  # decode, one stream
    tokens_in_one_s: float  # answered within a second after a prompt of `PROMPT_TOKENS`; below 1: not even the first


def forecast(
    shape: ModelShape, form: Format, bytes_per_s: float, macs_per_s: float, memory_bytes: int | None
) -> Forecast:
    """Return the limit of `shape` in `form` for a read bandwidth and an int8 rate."""
    per_weight = form.bits_per_weight / 8
    step_weights, stored = shape.layer_weights + shape.head_weights, shape.stored_weights
    kv = shape.kv_bytes_per_token
    step_s = (step_weights * per_weight + kv * PROMPT_TOKENS) / bytes_per_s
    # A prompt is read once and multiplied once per token; only its last token needs the head.
    macs = PROMPT_TOKENS * shape.layer_weights + shape.head_weights
    first_s = max(step_weights * per_weight / bytes_per_s, macs / macs_per_s)
    weight_bytes = round(stored * per_weight)
    needed = weight_bytes + CONTEXT_TOKENS * kv + OVERHEAD_BYTES
    return Forecast(
        model=shape.name,
        format=form.value,
        weight_bytes=weight_bytes,
        fits=None if memory_bytes is None else needed <= memory_bytes,
        tokens_per_s=1 / step_s,
        tokens_in_one_s=1 / first_s if first_s > 1 else 1 + (1 - first_s) / step_s,
    )
