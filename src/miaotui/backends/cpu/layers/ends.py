"""The two ends of a pass: the lookup of embeddings and the choice of tokens; and the copies of states in between.

Owns the fields of these operations. Knows no layer. Invariant: a copy of a state changes nothing that a pass computes.
"""

from __future__ import annotations

from typing import NamedTuple

from miaotui.backends.cpu.operations import OperationTable
from miaotui.backends.cpu.workspace import Rows, Workspace
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.ops import float_field
from miaotui.kernels.sampling import peaks_fields as pk
from miaotui.model.config import ModelConfig
from miaotui.model.packed import PackedModel


class EndParts(NamedTuple):
    """Parts of a pass before its first layer and behind its last one."""

    operations: OperationTable
    config: ModelConfig
    weights: PackedModel
    space: Workspace

    def embed(self, out: Rows) -> None:
        """Append the lookup of each row's token."""
        matrix = self.weights.matrix("embed")
        self.operations.add(
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

    def choose(self) -> None:
        """Append the search for the best token of each row; in its place the one drawn, where a row says how."""
        space = self.space
        fields = {
            pk.X: space.logits.address,
            pk.X_STRIDE: space.logits.stride,
            pk.WIDTH: self.config.vocab_size,
            pk.PARTS: space.part_peaks.address,
            pk.PARTS_STRIDE: space.part_peaks.stride,
            pk.OUT: int(space.peaks.ctypes.data),
            pk.MASKED: 1,
        }
        self.operations.add("sampling.peaks:part_peaks", fields, rows=ops.RUN_LOGIT_ROWS)
        self.operations.add("sampling.peaks:row_peaks", fields, rows=ops.RUN_LOGIT_ROWS)
        self.operations.add("sampling.sample:choose_rows", fields, rows=ops.RUN_LOGIT_ROWS)

    def tap(self, stream: Rows, out: Rows) -> None:
        """Append the copy of a state: of the stream, or of several, then of the inputs of layers."""
        space, width = self.space, self.config.stream_width
        self._copy(stream if space.streams is None else space.streams.states, width, out)
        if space.inputs is not None:
            rest = out._replace(data=out.data[4 * width :])
            self._copy(space.inputs.all, self.config.state_size - width, rest)

    def copy(self, row: int, width: int, out: Rows) -> None:
        """Append the copy of the one row at the address ``row`` to every row of ``out``."""
        fields = {pw.X: row, pw.X_STRIDE: 0, pw.WIDTH: width}
        self.operations.add("pointwise.rows:tap", fields | {pw.OUT: out.address, pw.OUT_STRIDE: out.stride})

    def _copy(self, source: Rows, width: int, out: Rows) -> None:
        fields = {pw.X: source.address, pw.X_STRIDE: source.stride, pw.WIDTH: width}
        self.operations.add("pointwise.rows:tap", fields | {pw.OUT: out.address, pw.OUT_STRIDE: out.stride})
