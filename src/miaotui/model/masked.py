"""Traits of models that restore masked tokens instead of continuing a text (masked diffusion).

Owns which positions see each other and where a token's logits are. Knows no weights. Invariant: with blocks of one
position and no shift a model is an ordinary decoder. Sources: Nie et al., "Large Language Diffusion Models" (LLaDA,
2025); Ye et al., "Dream 7B" (2025); Arriola et al., "Block Diffusion" (BD3-LM, 2025), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from miaotui.model.reading.checks import require, require_count

MAX_BLOCK = 1 << 12  # positions


@dataclass(frozen=True)
class MaskedConfig:
    """Mask token, pattern of attention, and place of the logits.

    ``block``: positions of one block see each other and all blocks before theirs; 0: the whole text is one block.
    ``shifted``: a position's logits are those of the row before it, as in the decoder that the model was made of.
    """

    mask_id: int
    block: int = 0
    shifted: bool = False

    def __post_init__(self) -> None:
        require(self.mask_id >= 0, "mask token", ">= 0", self.mask_id)
        if self.block:
            require_count("block of positions", self.block, MAX_BLOCK)
