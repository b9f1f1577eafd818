"""Operations that both passes of an encoder-decoder have: embedding, norms, products, feed-forward networks.

Post-norm models (Marian, BART) add a product to the residual stream and norm the sum into the other residual buffer;
pre-norm models norm, multiply and add. Knows a stack's sizes and weights, not its attention. Invariant: arrays whose
addresses are in the table live as long as the stack.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.operations import OperationTable, quantized_fields, target_fields
from miaotui.backends.cpu.seq2seq.packed import REST
from miaotui.backends.cpu.seq2seq.workspace import StackSpace
from miaotui.backends.cpu.workspace import Activations, Quantized, Rows
from miaotui.errors import UnsupportedModelError
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.runtime import compiled, ops
from miaotui.kernels.runtime.ops import float_field
from miaotui.kernels.runtime.thread_pool import KERNELS as POOL_KERNELS
from miaotui.kernels.runtime.thread_pool import address_of, aligned_bytes
from miaotui.model.packed import Matrix, PackedModel
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.model.seq2seq.positions import sinusoidal_table
from miaotui.types import Progress

_ACTIVATED = {"gelu": lin.GELU_ERF, "gelu_tanh": lin.GELU, "silu": lin.SILU, "relu": lin.RELU, "tanh": lin.TANH}
_GATED = {"gelu": lin.GATED_GELU_ERF, "gelu_tanh": lin.GATED_GELU, "silu": lin.GATED_SILU}
_NORMS = {"layer": pw.LAYER, "rms": pw.RMS}
_WIDE = {pw.LAYER: pw.LAYER_WIDE, pw.PLAIN: pw.PLAIN_WIDE}

Floats = NDArray[np.float32]


class StackProgram:
    """Operations of one stack's pass, built once. Weights and buffers must outlive it."""

    def __init__(self, config: Seq2SeqConfig, name: str, weights: PackedModel, space: StackSpace) -> None:
        self.config, self.stack, self.weights, self.space = config, config.stack(name), weights, space
        self._name = name
        self._operations = OperationTable()
        self._keep: list[Floats] = []
        self._zeros = self._kept(np.zeros(config.hidden_size, np.float32))

    def prepare(self, progress: Progress | None = None) -> None:
        """Compile or load the kernels, and link the table to them."""
        compiled.prepare([*POOL_KERNELS, *self._operations.kernels], progress)
        self._table = self._operations.link()

    @property
    def address(self) -> int:
        """Return where the table lies."""
        return address_of(self._table)

    @property
    def count(self) -> int:
        """Return the number of operations in a pass."""
        return len(self._operations)

    # the beginning -------------------------------------------------------------------------------------------------

    def _embed(self, table: str) -> Activations:
        """Sum the embeddings of tokens and positions into the residual stream.

        Returns the inputs of the first product; a pre-norm model norms the stream first. A row's `ROW_TYPE` is its row
        of the position table.
        """
        config, space = self.config, self.space
        stream = space.residual[0]
        whole = space.summed if config.embed_norm else stream
        if config.position == "relative":
            self._embed_tokens(table, whole)
        else:
            self._embed_tokens(table, space.words)
            self._add_positions(whole)
        if config.embed_norm:
            return self._norm("embed_norm", whole, also=stream)
        return space.normed if config.norm_first else self._copied(stream)

    def _embed_tokens(self, table: str, out: Rows) -> None:
        matrix = self.weights.matrix(table)
        self._operations.add(
            f"pointwise.rows:embed_{matrix.format.value}",
            {
                pw.TABLE: matrix.address,
                pw.TABLE_STRIDE: matrix.tile_stride,
                pw.WIDTH: self.config.hidden_size,
                pw.TABLE_GROUPS: matrix.inputs // 32,
                pw.TABLE_OUT: out.address,
                pw.TABLE_OUT_STRIDE: out.stride,
                pw.TABLE_SCALE: float_field(self.config.embedding_scale),
            },
        )

    def _add_positions(self, out: Rows) -> None:
        table = position_rows(self.config, self._name, self.weights)
        self._operations.add(
            "pointwise.rows:sum_embeddings",
            {
                pw.X: self.space.words.address,
                pw.X_STRIDE: self.space.words.stride,
                pw.WIDTH: self.config.hidden_size,
                pw.OUT: out.address,
                pw.OUT_STRIDE: out.stride,
                pw.POSITION_TABLE: self._zeros,
                pw.POSITION_STRIDE: 0,
                pw.TYPE_TABLE: self._kept(table),
                pw.TYPE_STRIDE: table.strides[0],
            },
        )

    # operations ----------------------------------------------------------------------------------------------------

    def _norm(
        self,
        name: str,
        source: Rows,
        also: Rows | None = None,
        *,
        out: Activations | None = None,
        rows: int = ops.RUN_ROWS,
        scale: float = 1.0,
    ) -> Activations:
        """Norm rows, ``also`` as float32. Returns the inputs of the next product, times ``scale``."""
        name, out = f"{self._name}.{name}", out or self.space.normed
        weight, bias = self.weights.vector(name), name + "_bias"
        fields = {
            pw.KIND: _NORMS[self.config.norm],
            pw.X: source.address,
            pw.X_STRIDE: source.stride,
            pw.WIDTH: self.config.hidden_size,
            pw.WEIGHT: self._kept(weight * np.float32(scale)),
            pw.NORM_BIAS: self._kept(self.weights.vector(bias) * np.float32(scale)) if bias in self.weights else 0,
            pw.EPS: float_field(self.config.norm_eps),
            pw.GATHER: int(rows != ops.RUN_ROWS),
        }
        if isinstance(out, Rows):
            also = out = also or out
        else:
            fields |= quantized_fields(out) | {pw.KIND: _kind(_NORMS[self.config.norm], out)}
        if also is not None:
            fields |= {pw.OUT_FLOAT: also.address, pw.OUT_FLOAT_STRIDE: also.stride}
        self._operations.add("pointwise.rows:norm", fields, rows)
        return out

    def _copied(self, source: Rows) -> Activations:
        """Return rows as inputs of a product: quantized, unless products take float32."""
        out = self.space.normed
        if isinstance(out, Rows):
            return source
        self._round(source, out, self.config.hidden_size)
        return out

    def _round(self, source: Rows, out: Quantized, width: int) -> None:
        """Round rows of ``width`` values into inputs of a product."""
        fields = {pw.X: source.address, pw.X_STRIDE: source.stride, pw.WIDTH: width}
        self._operations.add("pointwise.rows:norm", fields | {pw.KIND: _kind(pw.PLAIN, out)} | quantized_fields(out))

    def _rounded(self, written: Activations, inputs: Activations, width: int) -> Activations:
        """Return what a kernel has written as inputs of a product, rounded unless they are that already."""
        if isinstance(written, Rows) and isinstance(inputs, Quantized):
            self._round(written, inputs, width)
        return inputs

    def _attended(self) -> Activations:
        """Return the results of an attention as inputs of a product."""
        width = self.stack.n_heads * self.config.head_dim
        return self._rounded(self.space.attended, self.space.attended_inputs, width)

    def _feed_forward(self, prefix: str, inputs: Activations, stream: Rows) -> None:
        """Add the feed-forward network of the normed rows to the residual stream."""
        space = self.space
        name = f"{self._name}.{prefix}{'gate_up' if self.config.gated else 'up'}"
        self._activated(name, inputs, space.fed)
        fed = self._rounded(space.fed, space.fed_inputs, self.stack.ffn_size)
        self._linear(f"{self._name}.{prefix}down", fed, stream, lin.ADD)

    def _activated(self, name: str, inputs: Activations, out: Activations, rows: int = ops.RUN_ROWS) -> None:
        """Add a product and the activation of its outputs."""
        fields = {
            lin.MODE: (_GATED if name.endswith("gate_up") else _ACTIVATED)[self.config.activation],
            lin.BIAS: self._vector(name + "_bias"),
            **target_fields(out, lin.OUT, lin.OUT_STRIDE, lin.OUT_HEADERS, lin.OUT_HEADER_STRIDE),
        }
        self._operations.add_linear(self.weights.matrix(name), inputs, fields, rows)

    def _linear(self, name: str, source: Activations, out: Rows, mode: int = lin.STORE) -> None:
        self._product(self.weights.matrix(name), source, out, mode, name + "_bias")
        if name + REST in self.weights:
            self._product(self.weights.matrix(name + REST), source, out, lin.ADD, "")

    def _product(
        self, matrix: Matrix, source: Activations, out: Rows, mode: int, bias: str, rows: int = ops.RUN_ROWS
    ) -> None:
        fields = {lin.MODE: mode, lin.OUT: out.address, lin.OUT_STRIDE: out.stride, lin.BIAS: self._vector(bias)}
        self._operations.add_linear(matrix, source, fields, rows)

    # memory that the table names -----------------------------------------------------------------------------------

    def _vector(self, name: str) -> int:
        """Return the address of a vector; 0 where the model has none."""
        return self._kept(self.weights.vector(name)) if name in self.weights else 0

    def _kept(self, array: Floats) -> int:
        """Keep an array as long as the program. Returns its address."""
        if array.ctypes.data % 4:
            aligned = aligned_bytes(array.nbytes).view(np.float32).reshape(array.shape)
            aligned[...] = array
            array = aligned
        self._keep.append(array)
        return address_of(array)


def _kind(kind: int, out: Quantized) -> int:
    """Return the kind of a norm whose results go into ``out``."""
    return _WIDE[kind] if out.wide else kind


def position_rows(config: Seq2SeqConfig, stack: str, weights: PackedModel) -> Floats:
    """Return the table of positions, learned or computed, with a last row of 0 for tokens that have none."""
    if config.position == "learned":
        table = weights.vector(f"{stack}.position_embed")
    else:
        table = sinusoidal_table(config, config.stack(stack).max_tokens + config.position_offset)
    return np.concatenate([table, np.zeros((1, config.hidden_size), np.float32)])


def require_runnable_seq2seq(config: Seq2SeqConfig) -> None:
    """Raise `UnsupportedModelError` for models that the kernels cannot run."""
    remedy = "load the model with backend='reference', or choose another model"
    if config.gated and config.activation not in _GATED:
        raise UnsupportedModelError(
            f"the compiled backend has no gated {config.activation} (it has {', '.join(_GATED)}): {remedy}"
        )
    if config.norm_first and not (config.encoder.norm_at_end and config.decoder.norm_at_end):
        raise UnsupportedModelError(
            f"the model norms before its layers and not behind the last, which the compiled backend lacks: {remedy}"
        )
    if config.logit_scale != 1.0 and not config.decoder.norm_at_end:
        raise UnsupportedModelError(f"the compiled backend scales logits behind a last norm only: {remedy}")
