"""An encoder's forward pass as a program of kernels: a table of operations, built once.

Post-norm models (BERT and its kin) add a product to the residual stream and norm the sum into the other residual
buffer; pre-norm models (ModernBERT) norm, multiply and add. Knows the order of things; the arithmetic is in
``kernels``, the rows come from the backend. Invariant: a configuration that passes `require_runnable_encoder` makes no
kernel reach beyond its buffers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.encoder.positions import distance_bias, position_tables
from miaotui.backends.cpu.encoder.workspace import EncoderWorkspace
from miaotui.backends.cpu.operations import OperationTable, quantized_fields, target_fields
from miaotui.backends.cpu.workspace import Activations, RotationTable, Rows
from miaotui.errors import UnsupportedModelError
from miaotui.kernels.attention import fields as att
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.runtime import compiled
from miaotui.kernels.runtime.ops import float_field
from miaotui.kernels.runtime.thread_pool import KERNELS as POOL_KERNELS
from miaotui.kernels.runtime.thread_pool import aligned_bytes
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.packed import PackedModel
from miaotui.types import Progress

_ACTIVATED = {"gelu": lin.GELU_ERF, "gelu_tanh": lin.GELU, "silu": lin.SILU, "relu": lin.RELU, "tanh": lin.TANH}
_GATED = {"gelu": lin.GATED_GELU_ERF, "gelu_tanh": lin.GATED_GELU, "silu": lin.GATED_SILU}


class EncoderProgram:
    """The operations of one encoder's pass. Weights and buffers must outlive it.

    ``states`` are the rows, float32 ``[rows, hidden]``, that a pass leaves.
    """

    def __init__(
        self,
        config: EncoderConfig,
        weights: PackedModel,
        workspace: EncoderWorkspace,
        rotations: Mapping[int, RotationTable],
        max_tokens: int,
        progress: Progress | None = None,
    ) -> None:
        self.config, self.weights, self.workspace, self.rotations = config, weights, workspace, rotations
        self._operations = OperationTable()
        self._keep: list[NDArray[np.float32]] = []
        self._zeros = self._kept(np.zeros(max(config.hidden_size, config.embedding_size), np.float32))
        self._max_tokens = max_tokens
        self._bias = self._distance_bias(max_tokens)
        self.states = self._build()
        compiled.prepare([*POOL_KERNELS, *self._operations.kernels], progress)
        self.table = self._operations.link()

    @property
    def address(self) -> int:
        """Return where the table lies."""
        return int(self.table.ctypes.data)

    @property
    def count(self) -> int:
        """Return the number of operations in a pass."""
        return len(self._operations)

    # the order of a pass -------------------------------------------------------------------------------------------

    def _build(self) -> Rows:
        inputs = self._embed()
        if self.config.norm_first:
            return self._build_pre_norm(inputs)
        residual = self.workspace.residual
        for layer in range(self.config.n_layers):
            prefix = self._prefix(layer)
            self._attention(layer, inputs, residual[0])
            inputs = self._norm(prefix + "attn_norm", residual[0], also=residual[1])
            self._feed_forward(prefix, inputs, residual[1])
            inputs = self._norm(prefix + "ffn_norm", residual[1], also=residual[0])
        return residual[0]

    def _build_pre_norm(self, inputs: Activations) -> Rows:
        stream, states = self.workspace.residual
        for layer in range(self.config.n_layers):
            prefix = self._prefix(layer)
            if prefix + "attn_norm" in self.weights:
                inputs = self._norm(prefix + "attn_norm", stream)
            self._attention(layer, inputs, stream)
            self._feed_forward(prefix, self._norm(prefix + "ffn_norm", stream), stream)
        self._norm("final_norm", stream, also=states)
        return states

    def _prefix(self, layer: int) -> str:
        return f"layers.{self.config.weight_layer(layer)}."

    def _embed(self) -> Activations:
        """Sum the embeddings of tokens, positions and types, norm them, and project them if they are narrower.

        The result is the residual stream; returns it as inputs of the first product.
        """
        config, space = self.config, self.workspace
        self._embed_tokens()
        self._operations.add(
            "pointwise.rows:sum_embeddings",
            {
                pw.X: space.words.address,
                pw.X_STRIDE: space.words.stride,
                pw.WIDTH: config.embedding_size,
                pw.OUT: space.summed.address,
                pw.OUT_STRIDE: space.summed.stride,
                pw.FIRST_POSITION: config.position_offset,
                **self._table_fields("position_embed", pw.POSITION_TABLE, pw.POSITION_STRIDE),
                **self._table_fields("type_embed", pw.TYPE_TABLE, pw.TYPE_STRIDE),
            },
        )
        if "embed_projection" not in self.weights:
            return self._norm("embed_norm", space.summed, also=space.residual[0])
        self._linear("embed_projection", self._norm("embed_norm", space.summed), space.residual[0])
        return self._copied(space.residual[0])

    # operations ----------------------------------------------------------------------------------------------------

    def _embed_tokens(self) -> None:
        matrix, out = self.weights.matrix("embed"), self.workspace.words
        self._operations.add(
            f"pointwise.rows:embed_{matrix.format.value}",
            {
                pw.TABLE: matrix.address,
                pw.TABLE_STRIDE: matrix.tile_stride,
                pw.WIDTH: self.config.embedding_size,
                pw.TABLE_GROUPS: matrix.inputs // 32,
                pw.TABLE_OUT: out.address,
                pw.TABLE_OUT_STRIDE: out.stride,
                pw.TABLE_SCALE: float_field(1.0),
            },
        )

    def _table_fields(self, name: str, address: int, stride: int) -> dict[int, int]:
        """Return the fields of a table of float32 rows; one that there is not is a row of zeros for all."""
        if name not in self.weights:
            return {address: self._zeros, stride: 0}
        table = self.weights.vector(name)
        return {address: self._kept(table), stride: table.strides[0]}

    def _norm(self, name: str, source: Rows, also: Rows | None = None) -> Activations:
        """Norm rows, ``also`` as float32. Returns the inputs of the next product."""
        width, space = len(self.weights.vector(name)), self.workspace
        out = space.normed if width == self.config.hidden_size else space.embedded
        fields = {
            pw.KIND: pw.LAYER,
            pw.X: source.address,
            pw.X_STRIDE: source.stride,
            pw.WIDTH: width,
            pw.WEIGHT: self._vector(name),
            pw.NORM_BIAS: self._vector(name + "_bias", self._zeros),
            pw.EPS: float_field(self.config.norm_eps),
        }
        if isinstance(out, Rows):
            also = out = also or out
        else:
            fields |= quantized_fields(out) | {pw.KIND: pw.LAYER_WIDE if out.wide else pw.LAYER}
        if also is not None:
            fields |= {pw.OUT_FLOAT: also.address, pw.OUT_FLOAT_STRIDE: also.stride}
        self._operations.add("pointwise.rows:norm", fields)
        return out

    def _copied(self, source: Rows) -> Activations:
        """Return rows as inputs of a product: quantized, unless products take float32."""
        out = self.workspace.normed
        if isinstance(out, Rows):
            return source
        fields = {pw.X: source.address, pw.X_STRIDE: source.stride, pw.WIDTH: self.config.hidden_size}
        self._operations.add(
            "pointwise.rows:norm", fields | {pw.KIND: pw.PLAIN_WIDE if out.wide else pw.PLAIN} | quantized_fields(out)
        )
        return out

    def _attention(self, layer: int, source: Activations, stream: Rows) -> None:
        """Add the attention of every row to its text to the residual stream."""
        space, prefix = self.workspace, self._prefix(layer)
        self._linear(prefix + "qkv", source, space.qkv)
        fields = self._attention_fields(layer)
        self._operations.add("attention.bidirectional:store_keys", fields)
        self._operations.add("attention.bidirectional:attend", fields)
        self._linear(prefix + "o", space.attended, stream, lin.ADD)

    def _attention_fields(self, layer: int) -> dict[int, int]:
        config, space = self.config, self.workspace
        keys = 4 * config.n_heads * config.head_dim
        fields = {
            att.QKV: space.qkv.address,
            att.QKV_STRIDE: space.qkv.stride,
            att.KEY_OFFSET: keys,
            att.VALUE_OFFSET: 2 * keys,
            att.KV_HEADS: config.n_heads,
            att.DIM: config.head_dim,
            att.KEYS: space.cache.keys,
            att.VALUES: space.cache.values,
            att.HEAD_BYTES: space.cache.head_bytes,
            att.SCALE: float_field(config.attention_scale),
            att.WINDOW: config.window(layer),
            **self._bias,
            **self._position_fields(layer),
            **target_fields(space.attended, att.OUT, att.OUT_STRIDE, att.OUT_HEADERS, att.OUT_HEADER_STRIDE),
        }
        table = self.rotations.get(layer)
        return fields if table is None else fields | table.fields()

    def _distance_bias(self, max_tokens: int) -> dict[int, int]:
        """Return the fields of the bias by distance of key and query."""
        ascending = distance_bias(self.config, self.weights, max_tokens)
        if ascending is None:
            return {}
        return {att.BIAS_TABLE: self._kept(ascending) + 4 * (max_tokens - 1), att.BIAS_STRIDE: ascending.strides[0]}

    def _position_fields(self, layer: int) -> dict[int, int]:
        """Return the fields of DeBERTa's keys and queries of positions, made by the layer's own matrices."""
        if self.config.position != "disentangled":
            return {}
        keys, queries = position_tables(self.config, self.weights, self._prefix(layer), self._max_tokens)
        centre = 4 * (self._max_tokens - 1)
        return {
            att.RELATIVE_KEYS: self._kept(keys) + centre,
            att.RELATIVE_QUERIES: self._kept(queries) + centre,
            att.RELATIVE_STRIDE: keys.strides[1],
            att.RELATIVE_HEAD_BYTES: keys.strides[0],
        }

    def _feed_forward(self, prefix: str, inputs: Activations, stream: Rows) -> None:
        """Add the feed-forward network of the normed rows to the residual stream."""
        config, space = self.config, self.workspace
        name = prefix + ("gate_up" if config.gated else "up")
        self._operations.add_linear(
            self.weights.matrix(name),
            inputs,
            {
                lin.MODE: (_GATED if config.gated else _ACTIVATED)[config.activation],
                lin.BIAS: self._vector(name + "_bias", 0),
                **target_fields(space.fed, lin.OUT, lin.OUT_STRIDE, lin.OUT_HEADERS, lin.OUT_HEADER_STRIDE),
            },
        )
        self._linear(prefix + "down", space.fed, stream, lin.ADD)

    def _linear(self, name: str, source: Activations, out: Rows, mode: int = lin.STORE) -> None:
        self._operations.add_linear(
            self.weights.matrix(name),
            source,
            {
                lin.MODE: mode,
                lin.OUT: out.address,
                lin.OUT_STRIDE: out.stride,
                lin.BIAS: self._vector(name + "_bias", 0),
            },
        )

    # memory that the table names -----------------------------------------------------------------------------------

    def _vector(self, name: str, default: int | None = None) -> int:
        if default is not None and name not in self.weights:
            return default
        return self._kept(self.weights.vector(name))

    def _kept(self, array: NDArray[np.float32]) -> int:
        """Keep an array as long as the program. Returns its address."""
        if array.ctypes.data % 4:
            aligned = aligned_bytes(array.nbytes).view(np.float32).reshape(array.shape)
            aligned[...] = array
            array = aligned
        self._keep.append(array)
        return int(array.ctypes.data)


def require_runnable_encoder(config: EncoderConfig) -> None:
    """Raise `UnsupportedModelError` for encoders that the kernels cannot run."""
    remedy = "load the model with backend='reference', or choose another model"
    for rope in (config.rope, config.local_rope):
        if rope is not None and rope.dim % 32:
            raise UnsupportedModelError(
                f"the model rotates {rope.dim} values of each head, and the compiled backend only multiples of 32: "
                f"{remedy}"
            )
    if config.gated and config.activation not in _GATED:
        raise UnsupportedModelError(
            f"the compiled backend has no gated {config.activation} (it has {', '.join(_GATED)}): {remedy}"
        )
