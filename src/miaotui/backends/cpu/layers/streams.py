"""Operations of models with several residual streams, and of layers that get inputs of their own.

Owns their order and their buffers. Knows nothing of attention and feed-forward, which run between them. Invariant: no
operation writes what one without a meeting of threads in between may still read. Formulas: `model.streams`,
`model.oracle`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.operations import OperationTable, quantized_fields
from miaotui.backends.cpu.workspace import Quantized, Rows, StreamSpace, Workspace
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.ops import float_field
from miaotui.model.config import ModelConfig
from miaotui.model.packed import Matrix, PackedModel

Vector = Callable[[str], int]  # address of a vector by name
_ACTIVATED = {"silu": lin.SILU, "gelu_tanh": lin.GELU}


class StateParts(NamedTuple):
    """Parts of a pass that make and change what a row has besides one stream."""

    operations: OperationTable
    config: ModelConfig
    weights: PackedModel
    space: Workspace
    vector: Vector
    keep: list[NDArray[np.float32]]  # arrays whose addresses are in fields

    def begin(self, embedding: Rows) -> None:
        """Append what makes the inputs of all layers, and the streams, of the embedding."""
        inputs, streams, hidden = self.config.layer_inputs, self.space.streams, self.config.hidden_size
        self._round(embedding, hidden, self.space.normed)
        if inputs is not None:
            self._begin_inputs(inputs.width, inputs.vocab_size)
        if streams is not None:
            self._linear(self.weights.matrix("stream_up"), self.space.normed, streams.lifted)
            self._add("spread", self._rows(streams.lifted, streams.states) | _other(embedding))

    def _begin_inputs(self, width: int, vocab_size: int) -> None:
        space = self.space.inputs
        assert space is not None, "made for models whose layers get inputs"
        table, count = self.weights.matrix("layer_embed"), self.config.n_layers
        fields = {
            pw.TABLE: table.address,
            pw.TABLE_STRIDE: table.tile_stride,
            pw.WIDTH: count * width,
            pw.TABLE_GROUPS: table.inputs // 32,
            pw.TABLE_ROWS: vocab_size,
            pw.TABLE_OUT: space.own.address,
            pw.TABLE_OUT_STRIDE: space.own.stride,
            pw.TABLE_SCALE: float_field(width**0.5),
        }
        self.operations.add(f"pointwise.rows:embed_{table.format.value}", fields)
        self._linear(self.weights.matrix("layer_projection"), self.space.normed, space.made)
        eps = self.config.norm_eps * self.config.hidden_size  # a norm sees no factor but in its epsilon
        norm = {pw.WEIGHT: self.vector("layer_projection_norm"), pw.EPS: float_field(eps), pw.PARTS: count}
        fields = self._rows(space.made, space.all, width) | _other(space.own) | norm
        self._add("norm_add_scaled", fields | {pw.FACTOR: float_field(2**-0.5)})

    def predict(self, layer: int, streams: StreamSpace) -> Rows:
        """Append the prediction of all streams; return the one that the layer computes on."""
        coefficients = self.vector(f"layers.{layer}.altup_predict")
        fields = self._rows(streams.states, streams.predictions) | self._router(layer)
        self._add("predict", fields | {pw.COEFFICIENTS: coefficients})
        return streams.predictions

    def add_learned_residual(self, layer: int, streams: StreamSpace, stream: Rows, out: Rows) -> None:
        """Append what runs beside attention, added to ``stream``; its input is in ``streams.read`` as well."""
        prefix = f"layers.{layer}.laurel_"
        left, right = (self.weights.matrix(prefix + side) for side in ("left", "right"))
        self._linear(left, self.space.normed, streams.small)
        self._round(streams.small, right.inputs, streams.small_inputs)
        self._linear(right, streams.small_inputs, streams.low)
        self._add("add", self._rows(stream, streams.sum) | _other(streams.read))
        self.add_normed(prefix + "norm", streams.low, streams.sum, out, 2**-0.5)

    def correct(self, layer: int, streams: StreamSpace, computed: Rows) -> None:
        """Append the correction of the predicted streams; the first, scaled, goes to ``streams.read``."""
        prefix = f"layers.{layer}.altup_"
        fields = self._rows(streams.predictions, streams.corrected) | _other(computed) | self._router(layer)
        more = {pw.COEFFICIENTS: self.vector(prefix + "correct"), pw.SCALES: self.vector(prefix + "scale")}
        self._add("correct", fields | more | {pw.READ: streams.read.address, pw.READ_STRIDE: streams.read.stride})

    def gate_inputs(self, layer: int, stream: Rows) -> None:
        """Append the products by which a layer's inputs, gated by ``stream``, become a row in ``mixed``."""
        space, prefix, inputs = self.space.inputs, f"layers.{layer}.", self.config.layer_inputs
        assert space is not None, "made for models whose layers get inputs"
        assert inputs is not None, "made for models whose layers get inputs"
        self._round(stream, self.config.hidden_size, self.space.normed)
        mode = _ACTIVATED[self.config.activation]
        self._linear(self.weights.matrix(prefix + "input_gate"), self.space.normed, space.gate, mode)
        own = space.all._replace(data=space.all.data[4 * layer * inputs.width :])
        fields = {pw.X: space.gate.address, pw.X_STRIDE: space.gate.stride, pw.WIDTH: inputs.width}
        self._add("product", fields | _other(own) | quantized_fields(space.gated))
        self._linear(self.weights.matrix(prefix + "input_projection"), space.gated, self.space.mixed)

    def add_inputs_to_streams(self, layer: int, streams: StreamSpace) -> None:
        """Append the addition of what a layer's inputs give to all streams but the first."""
        norm, mixed = f"layers.{layer}.input_norm", self.space.mixed
        fields = {pw.X: mixed.address, pw.X_STRIDE: mixed.stride, pw.WIDTH: self.config.hidden_size, pw.KIND: pw.RMS}
        fields |= {pw.OUT_FLOAT: streams.low.address, pw.OUT_FLOAT_STRIDE: streams.low.stride, **self._norm(norm)}
        self.operations.add("pointwise.rows:norm", fields)
        self._add("add_to_streams", self._rows(streams.corrected, streams.states) | _other(streams.low))

    def add_normed(self, norm: str, x: Rows, residual: Rows, out: Rows, factor: float) -> None:
        """Append ``out = (residual + norm(x)) * factor``."""
        fields = self._rows(x, out) | _other(residual) | self._norm(norm)
        self._add("norm_add_scaled", fields | {pw.PARTS: 1, pw.FACTOR: float_field(factor)})

    def merge(self, streams: StreamSpace) -> Rows:
        """Append what joins the streams of rows whose logits are wanted; return the joined rows."""
        matrix, hidden = self.weights.matrix("stream_down"), self.config.hidden_size
        units = hidden // 32
        for part in range(streams.count - 1):
            source = streams.states._replace(data=streams.states.data[4 * hidden * (part + 1) :])
            self._round(source, hidden, streams.last, gather=1)
            out = streams.last_lifted._replace(data=streams.last_lifted.data[4 * hidden * part :])
            some = matrix._replace(data=matrix.data[units * part : units * (part + 1)])
            self._linear(some, streams.last, out, rows=ops.RUN_LOGIT_ROWS)
        fields = self._rows(streams.last_lifted, streams.merged) | _other(streams.states) | {pw.GATHER: 1}
        self._add("merge", fields, ops.RUN_LOGIT_ROWS)
        return streams.merged

    def sparse_gate(self, cutoff: float, wide: Rows, width: int, out: Quantized) -> None:
        """Append a gate that lets through what lies above ``cutoff``, times what it gates."""
        fields = {pw.X: wide.address, pw.X_STRIDE: wide.stride, pw.WIDTH: width, pw.FACTOR: float_field(cutoff)}
        self._add("sparse_gate", fields | quantized_fields(out))

    # fields --------------------------------------------------------------------------------------------------------

    def _add(self, kernel: str, fields: dict[int, int], rows: int = ops.RUN_ROWS) -> None:
        self.operations.add("pointwise.streams:" + kernel, fields, rows)

    def _rows(self, x: Rows, out: Rows, width: int = 0) -> dict[int, int]:
        fields = {pw.X: x.address, pw.X_STRIDE: x.stride, pw.OUT: out.address, pw.OUT_STRIDE: out.stride}
        return fields | {pw.WIDTH: width or self.config.hidden_size}

    def _norm(self, name: str) -> dict[int, int]:
        return {pw.WEIGHT: self.vector(name), pw.EPS: float_field(self.config.norm_eps)}

    def _router(self, layer: int) -> dict[int, int]:
        """Return the fields of a layer's router; its matrix gets the norm's weights and the factor of its inputs."""
        prefix, hidden = f"layers.{layer}.altup_", self.config.hidden_size
        router = self.weights.vector(prefix + "router").reshape(-1, hidden)
        joined = np.ascontiguousarray(router * self.weights.vector(prefix + "norm") / np.float32(hidden), np.float32)
        self.keep.append(joined)
        return {pw.WEIGHT: int(joined.ctypes.data), pw.EPS: float_field(self.config.norm_eps)}

    def _round(self, source: Rows, width: int, out: Quantized, gather: int = 0) -> None:
        fields = {pw.X: source.address, pw.X_STRIDE: source.stride, pw.WIDTH: width, pw.KIND: pw.PLAIN}
        rows = ops.RUN_LOGIT_ROWS if gather else ops.RUN_ROWS
        self.operations.add("pointwise.rows:norm", fields | {pw.GATHER: gather} | quantized_fields(out), rows)

    def _linear(
        self, matrix: Matrix, source: Quantized, out: Rows, mode: int = lin.STORE, rows: int = ops.RUN_ROWS
    ) -> None:
        fields = {lin.MODE: mode, lin.OUT: out.address, lin.OUT_STRIDE: out.stride}
        self.operations.add_linear(matrix, source, fields, rows)


def _other(rows: Rows) -> dict[int, int]:
    return {pw.RESIDUAL: rows.address, pw.RESIDUAL_STRIDE: rows.stride}
