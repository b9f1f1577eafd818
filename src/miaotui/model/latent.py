"""Multi-head latent attention: keys and values of all heads are products of one small vector of each token.

Owns the valid ranges. Knows neither files nor kernels. Invariant: every part of a head is whole vectors for the
kernels, so that what all heads share can be copied to each. Source: DeepSeek-V2 (2024, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from miaotui.errors import UnsupportedModelError
from miaotui.model.reading.checks import require_count

MAX_RANK = 1 << 16
BLOCK = 32  # inputs of one quantization block, and values of a rotated part
LATENT_EPS = 1e-6  # of the norms of small vectors, whatever that of the others is


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Shape of latent attention. The rotated part of a key is the same for all heads, and comes from the token itself.

    Raises `ModelFormatError` for values that no model can have and `UnsupportedModelError` for widths that are not
    whole blocks of 32.
    """

    rank: int  # width of the vector of keys and values
    query_rank: int  # of that of queries; 0: they come from the token itself
    value_dim: int  # values of a head

    def __post_init__(self) -> None:
        require_count("rank of keys and values", self.rank, MAX_RANK)
        if self.query_rank:
            require_count("rank of queries", self.query_rank, MAX_RANK)
        for name, width in (("rank of keys and values", self.rank), ("rank of queries", self.query_rank)):
            require_whole_block(name, width)


def require_whole_block(name: str, width: int) -> None:
    """Raise `UnsupportedModelError` unless ``width`` is a multiple of 32."""
    if width % BLOCK:
        raise UnsupportedModelError(
            f"the model's {name} is {width}, and only multiples of {BLOCK} are supported: choose another model"
        )
