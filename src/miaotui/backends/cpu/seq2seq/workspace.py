"""Memory of an encoder-decoder's passes: activations, the keys and values of sources, and those of targets.

All of it is reserved once and touched as needed: a pass allocates nothing. Knows sizes, not operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.workspace import Activations, Quantized, Rows, float_rows
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
    memory: NDArray[np.uint8]
    address: int

    @classmethod
    def of(cls, config: Seq2SeqConfig, panels: int) -> SourcePanels:
        """Reserve room for ``panels`` of each layer."""
        head_bytes = panels * PAGE_TOKENS * config.head_dim * 4 + _APART
        layer_bytes = 2 * max(config.encoder.n_heads, config.decoder.n_heads) * head_bytes
        memory = aligned_bytes((1 + config.decoder.n_layers) * layer_bytes)
        return cls(panels, head_bytes, layer_bytes, memory, address_of(memory))

    def keys_of(self, layer: int, head: int, first: int, panels: int, dim: int) -> NDArray[np.float32]:
        """Return one head's keys in some panels, ``[16 x panels, dim]``."""
        panel_bytes = PAGE_TOKENS * dim * 4
        start = self.keys(layer) - self.address + head * self.head_bytes + first * panel_bytes
        stored = self.memory.reshape(-1)[start : start + panels * panel_bytes].view(np.float32)
        found: NDArray[np.float32] = stored.reshape(panels, dim, PAGE_TOKENS).transpose(0, 2, 1).reshape(-1, dim)
        return found

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
    """Activation buffers of one stack for up to ``rows`` rows. ``floating``: products have float32 inputs.

    Otherwise inputs are int8, or int16 for sound (``wide``): timestamps 20 ms apart are nearly as likely as each other,
    and small errors move them. Kernels of attention and activations write int8 or float32 alone: where inputs are
    wide, ``attended`` and ``fed`` are float32, and are rounded into ``attended_inputs`` and ``fed_inputs``.
    """

    def __init__(self, config: Seq2SeqConfig, stack: StackConfig, rows: int, floating: bool) -> None:
        hidden, width = config.hidden_size, stack.n_heads * config.head_dim
        self.rows, self.floating, self.wide = rows, floating, bool(config.mel_bins) and not floating
        self.words = float_rows(rows, hidden)
        self.summed = float_rows(rows, hidden)
        self.residual = [float_rows(rows, hidden) for _ in range(2)]
        self.normed = self.activations(rows, hidden, normed=True)
        self.qkv = float_rows(rows, 3 * width)
        self.attended_inputs = self.activations(rows, width)
        self.attended = float_rows(rows, width) if self.wide else self.attended_inputs
        self.fed_inputs = self.activations(rows, stack.ffn_size)
        self.fed = float_rows(rows, stack.ffn_size) if self.wide else self.fed_inputs

    def activations(self, rows: int, width: int, normed: bool = False) -> Activations:
        """Return room for inputs of a product."""
        if self.floating:
            return float_rows(rows, width)
        return Quantized.of(rows, width, width if normed else 0, wide=self.wide)


class SourceSpace(StackSpace):
    """Buffers of a pass over sources. ``memory`` holds one decoder layer's keys and values of all rows."""

    def __init__(self, config: Seq2SeqConfig, rows: int, floating: bool) -> None:
        super().__init__(config, config.encoder, rows, floating)
        self.memory = float_rows(rows, 2 * config.decoder.n_heads * config.head_dim)
        self.sound = SoundSpace(config, rows if config.mel_bins else 0)


class SoundSpace:
    """Frames of a source of sound, and those that its first convolution makes of them.

    Rows lie without gaps behind one row of 0: three rows that follow each other are an input of a convolution. Behind
    the last frame there are two rows more: one of 0, and what a product of whole groups of 32 inputs reads beyond it.
    """

    def __init__(self, config: Seq2SeqConfig, rows: int) -> None:
        self.frames = _rows_without_gaps(2 * rows + 3, config.mel_bins)
        self.convolved = _rows_without_gaps(2 * rows + 1, config.hidden_size)
        self._values = self.frames.floats(2 * rows + 3, config.mel_bins) if config.mel_bins else None

    def put(self, frames: NDArray[np.float32]) -> None:
        """Take the frames of a source in."""
        count = len(frames)
        if self._values is not None:
            self._values[1 : count + 1] = frames
            self._values[count + 1 : count + 3] = 0


def _rows_without_gaps(rows: int, width: int) -> Rows:
    return Rows(aligned_bytes(rows * width * 4), width * 4)


class TargetSpace(StackSpace):
    """Buffers of a pass over targets: ``queries`` of the cross-attention, logits, and the best tokens of each row.

    Models of sound alone keep the queries of each layer, for alignments.
    """

    def __init__(self, config: Seq2SeqConfig, rows: int, floating: bool) -> None:
        super().__init__(config, config.decoder, rows, floating)
        width, layers = config.decoder.n_heads * config.head_dim, config.decoder.n_layers
        self.queries = [float_rows(rows, width) for _ in range(layers if config.mel_bins else 1)]
        self.last = self.activations(rows, config.hidden_size, normed=True)
        self.logits = float_rows(rows, padded_rows(config.vocab_size) + UNIT_ROWS)
        self.part_tops = float_rows(rows, 2 * parts_of(config.vocab_size) + PAGE_TOKENS)
        self.records = aligned_int64(rows * RECORD_FIELDS).reshape(rows, RECORD_FIELDS)
