"""Memory of an encoder-decoder's passes: activations, the keys and values of sources, and those of targets.

All of it is reserved once and touched as needed: a pass allocates nothing. Knows sizes, not operations.
"""

from __future__ import annotations

from dataclasses import dataclass

from miaotui.backends.cpu.workspace import Activations, Quantized, float_rows
from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.linear.formats import UNIT_ROWS, padded_rows
from miaotui.kernels.runtime.thread_pool import address_of, aligned_bytes, aligned_int64, huge_bytes
from miaotui.kernels.sampling.peaks_fields import parts_of
from miaotui.kernels.sampling.tops_fields import RECORD_FIELDS
from miaotui.model.seq2seq.config import Seq2SeqConfig, StackConfig

_APART = 64  # bytes between heads, which then begin in different sets of the caches


@dataclass(frozen=True)
class SourcePanels:
    """Keys and values of sources, float32: per layer and head ``panels`` of 16 tokens, first all keys, then all values.

    Layer 0 is the encoder's own attention, written anew by each of its layers; the others are the decoder's. Small
    pages of the operating system: of each head only the panels in use take memory.
    """

    panels: int
    head_bytes: int
    layer_bytes: int
    memory: object
    address: int

    @classmethod
    def of(cls, config: Seq2SeqConfig, panels: int) -> SourcePanels:
        """Reserve room for ``panels`` of each layer."""
        head_bytes = panels * PAGE_TOKENS * config.head_dim * 4 + _APART
        layer_bytes = 2 * max(config.encoder.n_heads, config.decoder.n_heads) * head_bytes
        memory = aligned_bytes((1 + config.decoder.n_layers) * layer_bytes)
        return cls(panels, head_bytes, layer_bytes, memory, address_of(memory))

    def keys(self, layer: int) -> int:
        """Return the address of the first head's keys; ``layer`` -1 is the encoder's."""
        return self.address + (layer + 1) * self.layer_bytes

    def values(self, layer: int) -> int:
        """Return the address of the first head's values."""
        return self.keys(layer) + self.layer_bytes // 2


@dataclass(frozen=True)
class TargetSlots:
    """Keys and values of targets' tokens, float32: per layer ``slots`` of all heads' keys, then all heads' values."""

    slots: int
    slot_bytes: int  # of one layer
    memory: object
    address: int

    @classmethod
    def of(cls, config: Seq2SeqConfig, slots: int) -> TargetSlots:
        """Reserve room for ``slots`` tokens."""
        slot_bytes = 2 * config.decoder.n_heads * config.head_dim * 4
        memory = huge_bytes(config.decoder.n_layers * slots * slot_bytes)
        return cls(slots, slot_bytes, memory, address_of(memory))

    def layer(self, layer: int) -> int:
        """Return where a layer's slots begin."""
        return self.address + layer * self.slots * self.slot_bytes


class StackSpace:
    """Activation buffers of one stack for up to ``rows`` rows. ``floating``: products have float32 inputs."""

    def __init__(self, config: Seq2SeqConfig, stack: StackConfig, rows: int, floating: bool) -> None:
        hidden, width = config.hidden_size, stack.n_heads * config.head_dim
        self.rows, self.floating = rows, floating
        self.words = float_rows(rows, hidden)
        self.summed = float_rows(rows, hidden)
        self.residual = [float_rows(rows, hidden) for _ in range(2)]
        self.normed = self.activations(rows, hidden, normed=True)
        self.qkv = float_rows(rows, 3 * width)
        self.attended = self.activations(rows, width)
        self.fed = self.activations(rows, stack.ffn_size)

    def activations(self, rows: int, width: int, normed: bool = False) -> Activations:
        """Return room for inputs of a product."""
        return float_rows(rows, width) if self.floating else Quantized.of(rows, width, width if normed else 0)


class SourceSpace(StackSpace):
    """Buffers of a pass over sources. ``memory`` holds one decoder layer's keys and values of all rows."""

    def __init__(self, config: Seq2SeqConfig, rows: int, floating: bool) -> None:
        super().__init__(config, config.encoder, rows, floating)
        self.memory = float_rows(rows, 2 * config.decoder.n_heads * config.head_dim)


class TargetSpace(StackSpace):
    """Buffers of a pass over targets: ``queries`` of the cross-attention, logits, and the best tokens of each row."""

    def __init__(self, config: Seq2SeqConfig, rows: int, floating: bool) -> None:
        super().__init__(config, config.decoder, rows, floating)
        self.queries = float_rows(rows, config.decoder.n_heads * config.head_dim)
        self.last = self.activations(rows, config.hidden_size, normed=True)
        self.logits = float_rows(rows, padded_rows(config.vocab_size) + UNIT_ROWS)
        self.part_tops = float_rows(rows, 2 * parts_of(config.vocab_size) + PAGE_TOKENS)
        self.records = aligned_int64(rows * RECORD_FIELDS).reshape(rows, RECORD_FIELDS)
