"""Small vectors of a token that each layer gets besides its stream: embeddings per layer.

Owns the configuration. Knows neither files nor kernels. Invariant: the vectors of a row depend on its token and its
embedding alone. Sources: Gemma 3n and Gemma 4 (2025, 2026), whose reference implementations call them per-layer inputs.
"""

from __future__ import annotations

from typing import NamedTuple

from miaotui.errors import UnsupportedModelError
from miaotui.model.reading.checks import require_count

BLOCK = 32  # inputs of one quantization block
MAX_WIDTH = 1 << 14
MAX_VOCAB = 1 << 21


class LayerInputsConfig(NamedTuple):
    """Vectors of ``width`` values for each layer; a token beyond ``vocab_size`` has those of token 0."""

    width: int
    vocab_size: int

    def check(self) -> None:
        """Raise `ModelFormatError` for impossible sizes and `UnsupportedModelError` for a width of no whole blocks."""
        require_count("width of a layer's inputs", self.width, MAX_WIDTH)
        require_count("vocabulary of the layers' inputs", self.vocab_size, MAX_VOCAB)
        if self.width % BLOCK:
            raise UnsupportedModelError(
                f"the model's layers get inputs of {self.width} values, and only multiples of {BLOCK} are supported: "
                "choose another model"
            )
