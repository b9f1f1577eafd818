"""The two passes of an encoder-decoder as programs of kernels: over whole sources, and over one row of each target.

`SourceProgram` is the encoder, then each decoder layer's keys and values of the sources. `TargetProgram` is the decoder
up to the best tokens of each row. Knows the order of things; the arithmetic is in ``kernels``, the rows come from the
backend. Invariant: a configuration that passes `require_runnable_seq2seq` makes no kernel reach beyond its buffers.
"""

from __future__ import annotations

import numpy as np

from miaotui.backends.cpu.operations import target_fields
from miaotui.backends.cpu.seq2seq.packed import HEAD_REST
from miaotui.backends.cpu.seq2seq.stack import Floats, StackProgram
from miaotui.backends.cpu.seq2seq.workspace import SourcePanels, SourceSpace, TargetSlots, TargetSpace
from miaotui.backends.cpu.workspace import Activations, Rows
from miaotui.kernels.attention import fields as att
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.pointwise import recurrence_fields as rec
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.ops import float_field
from miaotui.kernels.sampling import tops_fields as tp
from miaotui.model.packed import PackedModel
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.model.seq2seq.positions import relative_scores


class SourceProgram(StackProgram):
    """The operations of a pass over whole sources, which leaves their keys and values in ``panels``."""

    space: SourceSpace

    def __init__(
        self, config: Seq2SeqConfig, weights: PackedModel, space: SourceSpace, panels: SourcePanels, max_tokens: int
    ) -> None:
        super().__init__(config, "encoder", weights, space)
        self._panels = panels
        self._bias = self._distance_bias(max_tokens)
        table = "embed" if config.shared_embedding else "source_embed"
        states = self._layers(self._hear() if config.mel_bins else self._embed(table))
        for layer in range(config.decoder.n_layers):
            self._remember(layer, states)

    def _hear(self) -> Activations:
        """Add both convolutions and the positions. Returns the inputs of the first product."""
        space, sound = self.space, self.space.sound
        stride = sound.convolved.stride
        self._activated("encoder.conv1", sound.frames, Rows(sound.convolved.data[stride:], stride), ops.RUN_FRAMES)
        self._activated("encoder.conv2", Rows(sound.convolved.data, 2 * stride), space.words)
        self._add_positions(space.residual[0])
        return space.normed

    def _layers(self, inputs: Activations) -> Activations:
        """Add all layers; returns the states as inputs of a product."""
        first, second = self.space.residual
        for layer in range(self.stack.n_layers):
            prefix = f"layers.{layer}."
            if self.config.norm_first:
                self._attention(prefix, self._norm(prefix + "attn_norm", first), first)
                self._feed_forward(prefix, self._norm(prefix + "ffn_norm", first), first)
            else:
                self._attention(prefix, inputs, first)
                inputs = self._norm(prefix + "attn_norm", first, also=second)
                self._feed_forward(prefix, inputs, second)
                inputs = self._norm(prefix + "ffn_norm", second, also=first)
        return self._norm("final_norm", first) if self.stack.norm_at_end else inputs

    def _attention(self, prefix: str, source: Activations, stream: Rows) -> None:
        """Add the attention of every row to its source to the residual stream."""
        space, config = self.space, self.config
        self._linear(f"encoder.{prefix}qkv", source, space.qkv)
        width = 4 * self.stack.n_heads * config.head_dim
        fields = self._panel_fields(space.qkv, -1, width) | {
            att.SCALE: float_field(config.attention_scale),
            **self._bias,
            **target_fields(space.attended, att.OUT, att.OUT_STRIDE, att.OUT_HEADERS, att.OUT_HEADER_STRIDE),
        }
        self._operations.add("attention.bidirectional:store_keys", fields)
        self._operations.add("attention.bidirectional:attend", fields)
        self._linear(f"encoder.{prefix}o", self._attended(), stream, lin.ADD)

    def _remember(self, layer: int, states: Activations) -> None:
        """Add the keys and values of one decoder layer, and their way into its panels."""
        self._linear(f"decoder.layers.{layer}.cross_kv", states, self.space.memory)
        fields = self._panel_fields(self.space.memory, layer, 0) | {att.STORED: 1}
        self._operations.add("attention.bidirectional:store_keys", fields)

    def _panel_fields(self, rows: Rows, layer: int, keys_at: int) -> dict[int, int]:
        heads = (self.config.encoder if layer < 0 else self.config.decoder).n_heads
        return {
            att.QKV: rows.address,
            att.QKV_STRIDE: rows.stride,
            att.KEY_OFFSET: keys_at,
            att.VALUE_OFFSET: keys_at + 4 * heads * self.config.head_dim,
            att.KV_HEADS: heads,
            att.DIM: self.config.head_dim,
            att.KEYS: self._panels.keys(layer),
            att.VALUES: self._panels.values(layer),
            att.HEAD_BYTES: self._panels.head_bytes,
        }

    def _distance_bias(self, max_tokens: int) -> dict[int, int]:
        """Return the fields of T5's bias by distance of key and query."""
        if self.config.position != "relative":
            return {}
        table = self.weights.vector("encoder.relative_bias")
        half = np.array([max_tokens - 1])  # one query in the middle sees all distances
        ascending = _widened(relative_scores(self.config, table, half, 2 * max_tokens - 1, causal=False)[:, 0])
        return {att.BIAS_TABLE: self._kept(ascending) + 4 * (max_tokens - 1), att.BIAS_STRIDE: ascending.strides[0]}


class TargetProgram(StackProgram):
    """The operations of a pass over one row of each of many targets."""

    space: TargetSpace

    def __init__(
        self,
        config: Seq2SeqConfig,
        weights: PackedModel,
        space: TargetSpace,
        panels: SourcePanels,
        slots: TargetSlots,
        max_tokens: int,
    ) -> None:
        super().__init__(config, "decoder", weights, space)
        self._panels, self._slots = panels, slots
        self._bias = self._distance_bias(max_tokens)
        self._layers(self._embed("embed"))
        self._head()

    def _layers(self, inputs: Activations) -> None:
        """Add all layers; the last norm leaves the rows whose logits are wanted as inputs of the head."""
        first, second = self.space.residual
        last = self.stack.n_layers - 1
        for layer in range(self.stack.n_layers):
            prefix = f"layers.{layer}."
            if self.config.norm_first:
                self._attention(layer, self._norm(prefix + "attn_norm", first), first)
                self._cross_attention(layer, self._norm(prefix + "cross_norm", first), first)
                self._feed_forward(prefix, self._norm(prefix + "ffn_norm", first), first)
                continue
            self._attention(layer, inputs, first)
            inputs = self._norm(prefix + "attn_norm", first, also=second)
            self._cross_attention(layer, inputs, second)
            inputs = self._norm(prefix + "cross_norm", second, also=first)
            self._feed_forward(prefix, inputs, first)
            if layer == last and not self.stack.norm_at_end:
                self._last_norm(prefix + "ffn_norm", first)
            else:
                inputs = self._norm(prefix + "ffn_norm", first, also=second)
                first, second = second, first
        if self.stack.norm_at_end:
            self._last_norm("final_norm", first)

    def _last_norm(self, name: str, source: Rows) -> None:
        scale = self.config.logit_scale
        self._norm(name, source, out=self.space.last, rows=ops.RUN_LOGIT_ROWS, scale=scale)

    def _recurrence(self, layer: int, source: Activations, stream: Rows) -> None:
        """Add the recurrent unit of every row, which goes on from the state of the row before it."""
        space, width = self.space, self.config.hidden_size
        self._linear(f"decoder.layers.{layer}.gates", source, space.qkv)
        fields = {
            rec.X: space.qkv.address,
            rec.X_STRIDE: space.qkv.stride,
            rec.WIDTH: width,
            rec.STATES: self._slots.layer(layer),
            rec.STATE_STRIDE: self._slots.slot_bytes,
            rec.FIRST_STATE: self._zeros,
            rec.OUT: stream.address,
            rec.OUT_STRIDE: stream.stride,
        }
        self._operations.add("pointwise.recurrence:remember", fields)

    def _attention(self, layer: int, source: Activations, stream: Rows) -> None:
        """Add the attention of every row to its own target, or what stands in its place."""
        if self.config.recurrent:
            return self._recurrence(layer, source, stream)
        space, width = self.space, 4 * self.stack.n_heads * self.config.head_dim
        self._linear(f"decoder.layers.{layer}.qkv", source, space.qkv)
        fields = self._query_fields(space.qkv) | {
            att.KEY_OFFSET: width,
            att.VALUE_OFFSET: 2 * width,
            att.PAGES: self._slots.layer(layer),
            att.PAGE_STRIDE: self._slots.slot_bytes,
            att.VALUES_IN_HEAD: width,
            **self._bias,
        }
        self._operations.add("attention.slots:store_slots", fields)
        self._operations.add("attention.slots:attend_slots", fields)
        return self._linear(f"decoder.layers.{layer}.o", self._attended(), stream, lin.ADD)

    def _cross_attention(self, layer: int, source: Activations, stream: Rows) -> None:
        """Add the attention of every row to its source."""
        space = self.space
        queries = space.queries[layer % len(space.queries)]
        self._linear(f"decoder.layers.{layer}.cross_q", source, queries)
        fields = self._query_fields(queries) | {
            att.KEYS: self._panels.keys(layer),
            att.VALUES: self._panels.values(layer),
            att.HEAD_BYTES: self._panels.head_bytes,
            att.STORED: 1,
        }
        self._operations.add("attention.bidirectional:attend", fields)
        self._linear(f"decoder.layers.{layer}.cross_o", self._attended(), stream, lin.ADD)

    def _query_fields(self, rows: Rows) -> dict[int, int]:
        return {
            att.QKV: rows.address,
            att.QKV_STRIDE: rows.stride,
            att.KV_HEADS: self.stack.n_heads,
            att.DIM: self.config.head_dim,
            att.SCALE: float_field(self.config.attention_scale),
            **target_fields(self.space.attended, att.OUT, att.OUT_STRIDE, att.OUT_HEADERS, att.OUT_HEADER_STRIDE),
        }

    def _distance_bias(self, max_tokens: int) -> dict[int, int]:
        """Return the fields of T5's bias by distance, for keys that are not behind the query."""
        if self.config.position != "relative" or self.config.recurrent:
            return {}
        table = self.weights.vector("decoder.relative_bias")
        last = np.array([max_tokens - 1])
        ascending = _widened(relative_scores(self.config, table, last, max_tokens, causal=True)[:, 0])
        return {att.BIAS_TABLE: self._kept(ascending) + 4 * (max_tokens - 1), att.BIAS_STRIDE: ascending.strides[0]}

    def _head(self) -> None:
        """Add the logits of the rows that want them, and their best tokens."""
        space, config = self.space, self.config
        matrix = self.weights.matrix("embed" if config.tied_head else "head")
        self._product(matrix, space.last, space.logits, lin.STORE, "head_bias", ops.RUN_LOGIT_ROWS)
        if HEAD_REST in self.weights:
            rest = self.weights.matrix(HEAD_REST)
            self._product(rest, space.last, space.logits, lin.ADD, "", ops.RUN_LOGIT_ROWS)
        fields = {
            tp.X: space.logits.address,
            tp.X_STRIDE: space.logits.stride,
            tp.WIDTH: config.vocab_size,
            tp.PARTS: space.part_tops.address,
            tp.PARTS_STRIDE: space.part_tops.stride,
            tp.OUT: int(space.records.ctypes.data),
        }
        self._operations.add("sampling.tops:part_tops", fields, rows=ops.RUN_LOGIT_ROWS)
        self._operations.add("sampling.tops:row_tops", fields, rows=ops.RUN_LOGIT_ROWS)


def _widened(table: Floats) -> Floats:
    """Return a table with room for a panel behind its last distance."""
    return np.pad(table, ((0, 0), (0, att.PAGE_TOKENS)))
