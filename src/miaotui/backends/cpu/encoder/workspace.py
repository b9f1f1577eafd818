"""Memory of an encoder's pass: activations for the most rows, and one layer's keys and values.

All of it is reserved once and touched as needed: a pass allocates nothing. Knows sizes, not operations.
"""

from __future__ import annotations

from dataclasses import dataclass

from miaotui.backends.cpu.workspace import Activations, Quantized, float_rows
from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.runtime.thread_pool import address_of, huge_bytes
from miaotui.model.encoder.config import EncoderConfig


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer, float32: per head ``panels`` of 16 tokens, first all keys, then all values.

    Every layer of a pass writes it anew. Each text begins a panel of its own.
    """

    panels: int
    head_bytes: int
    keys: int  # address of the first head's
    values: int
    memory: object

    @classmethod
    def of(cls, config: EncoderConfig, panels: int) -> LayerCache:
        """Reserve room for ``panels``."""
        head_bytes = panels * PAGE_TOKENS * config.head_dim * 4 + 64  # heads begin in different sets of the caches
        memory = huge_bytes(2 * config.n_heads * head_bytes)
        keys = address_of(memory)
        return cls(panels, head_bytes, keys, keys + config.n_heads * head_bytes, memory)


class EncoderWorkspace:
    """Activation buffers for up to ``rows`` rows and ``panels`` panels of keys.

    ``floating``: products have float32 inputs; else they are quantized: after norms, whose outlying channels would take
    the other channels' bits, to int16 if ``wide``, and to int8 elsewhere.
    """

    def __init__(self, config: EncoderConfig, rows: int, panels: int, floating: bool, *, wide: bool = True) -> None:
        hidden, width = config.hidden_size, config.n_heads * config.head_dim
        self.rows, self.floating, self.wide = rows, floating, wide
        self.words = float_rows(rows, config.embedding_size)
        self.summed = float_rows(rows, config.embedding_size)
        self.residual = [float_rows(rows, hidden) for _ in range(2)]
        self.embedded = self._activations(rows, config.embedding_size, normed=True)
        self.normed = self._activations(rows, hidden, normed=True)
        self.qkv = float_rows(rows, 3 * width)
        self.attended = self._activations(rows, width)
        self.fed = self._activations(rows, config.ffn_size)
        self.cache = LayerCache.of(config, panels)

    def _activations(self, rows: int, width: int, normed: bool = False) -> Activations:
        if self.floating:
            return float_rows(rows, width)
        return Quantized.of(rows, width, width if normed else 0, wide=normed and self.wide)
