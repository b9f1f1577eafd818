"""The dimensions of the catalog's models, from which the bytes and multiply-adds of an answer follow.

Owns these facts, each from the ``config.json`` of the model's own repository. Knows no machine (`cli.advice`
does the arithmetic). Invariant: the weights that a shape counts are those its model is named after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KV_BYTES = 2  # float16


@dataclass(frozen=True)
class ModelShape:
    """The dimensions of a Llama-shaped model."""

    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = True  # the output head is the embedding

    @property
    def layer_weights(self) -> int:
        """Weights of the matrices of all layers."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.ffn)

    @property
    def head_weights(self) -> int:
        """Weights of the output head."""
        return self.vocab * self.hidden

    @property
    def stored_weights(self) -> int:
        """Weights of all matrices, the embedding included."""
        return self.layer_weights + self.head_weights * (1 if self.tied else 2)

    @property
    def kv_bytes_per_token(self) -> int:
        """Return bytes of keys and values that one token leaves behind."""
        return 2 * self.layers * self.kv_heads * self.head_dim * KV_BYTES


SHAPES: Mapping[str, ModelShape] = {
    shape.name: shape
    for shape in (
        ModelShape("smollm2-135m", 30, 576, 1536, 9, 3, 64, 49_152),
        ModelShape("smollm2-360m", 32, 960, 2560, 15, 5, 64, 49_152),
        ModelShape("smollm2-1.7b", 24, 2048, 8192, 32, 32, 64, 49_152),
        ModelShape("smollm3-3b", 36, 2048, 11_008, 16, 4, 128, 128_256),
        ModelShape("gemma3-270m", 18, 640, 2048, 4, 1, 256, 262_144),
        ModelShape("gemma3-1b", 26, 1152, 6912, 4, 1, 256, 262_144),
        ModelShape("gemma2-2b", 26, 2304, 9216, 8, 4, 256, 256_000),
        ModelShape("qwen2.5-coder-0.5b", 24, 896, 4864, 14, 2, 64, 151_936),
        ModelShape("qwen2.5-0.5b", 24, 896, 4864, 14, 2, 64, 151_936),
        ModelShape("qwen2.5-1.5b", 28, 1536, 8960, 12, 2, 128, 151_936),
        ModelShape("qwen2.5-3b", 36, 2048, 11_008, 16, 2, 128, 151_936),
        ModelShape("qwen3-0.6b", 28, 1024, 3072, 16, 8, 128, 151_936),
        ModelShape("qwen3-1.7b", 28, 2048, 6144, 16, 8, 128, 151_936),
        ModelShape("qwen3-4b", 36, 2560, 9728, 32, 8, 128, 151_936),
        ModelShape("llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128_256),
        ModelShape("llama-3.2-3b", 28, 3072, 8192, 24, 8, 128, 128_256),
        ModelShape("tinyllama-1.1b", 22, 2048, 5632, 32, 4, 64, 32_000, tied=False),
        ModelShape("mistral-7b", 32, 4096, 14_336, 32, 8, 128, 32_768, tied=False),
        ModelShape("phi-3-mini", 32, 3072, 8192, 32, 32, 96, 32_064, tied=False),
        ModelShape("ernie-4.5-0.3b", 18, 1024, 3072, 16, 2, 128, 103_424),
        ModelShape("minicpm4-0.5b", 24, 1024, 4096, 16, 2, 64, 73_448),
        ModelShape("glm-4-9b", 40, 4096, 13_696, 32, 2, 128, 151_552, tied=False),
    )
}
