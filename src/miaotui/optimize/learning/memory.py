"""Memory that a training run will take, so that one that does not fit is refused before it begins.

Owns the count. Knows no torch. Invariant: it is compared with the memory that this process may use (the container's, or
what ``MIAOTUI_MEMORY_GB`` says), not with the machine's.
"""

from __future__ import annotations

from miaotui.config import format_size
from miaotui.errors import RequestError
from miaotui.kernels.platform.cpu import probe
from miaotui.model.config import ModelConfig
from miaotui.training.decoder import HEAD_ROWS


def learning_bytes(config: ModelConfig, weights: int, trained: int, rows: int, recompute: bool = False) -> int:
    """Return the memory of a run, about: weights, gradients, moments, activations, logits.

    ``weights`` and ``trained`` are counts of values, ``rows`` the tokens that are computed at a time.
    """
    layer = 4 * rows * (14 * config.hidden_size + 6 * config.ffn_size + 4 * config.n_heads * config.head_dim)
    layers = layer + 4 * rows * config.hidden_size * config.n_layers if recompute else layer * config.n_layers
    return 6 * weights + 16 * trained + layers + 16 * HEAD_ROWS * config.vocab_size


def require_memory(needed: int, remedy: str) -> None:
    """Raise `RequestError` if a run takes more memory than this process may use; ``remedy`` says what helps."""
    memory = probe().memory_bytes
    if memory is not None and needed > memory:
        raise RequestError(
            f"the run needs about {format_size(needed)} of memory, and {format_size(memory)} may be used: {remedy}"
        )
