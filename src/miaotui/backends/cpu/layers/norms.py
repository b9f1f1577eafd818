"""Norms of a pass, and the rounding of float rows for products.

Owns their fields and the vectors that they read. Knows no order of operations (`program`). Invariant: arrays whose
addresses are in fields live as long as this object.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.operations import OperationTable, quantized_fields
from miaotui.backends.cpu.workspace import Quantized, Rows
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.ops import float_field
from miaotui.model.config import ModelConfig
from miaotui.model.packed import PackedModel

_NORMS = {"rms": pw.RMS, "layer": pw.LAYER}


class NormParts:
    """Norms of one model's rows, and the addresses of its vectors."""

    def __init__(self, operations: OperationTable, config: ModelConfig, weights: PackedModel) -> None:
        self._operations, self._config, self._weights = operations, config, weights
        self.kept: list[NDArray[np.float32]] = []  # arrays whose addresses are in fields

    def vector(self, name: str, default: int | None = None) -> int:
        """Return the address of a vector; ``default`` if the model has none of that name."""
        if default is not None and name not in self._weights:
            return default
        return self.keep(self._weights.vector(name))

    def keep(self, array: NDArray[np.float32]) -> int:
        """Keep an array alive; return its address."""
        self.kept.append(array)
        return int(array.ctypes.data)

    def add(
        self,
        name: str,
        source: Rows,
        out: Quantized | None,
        gather: int = 0,
        rows: int = ops.RUN_ROWS,
        also: Rows | None = None,
        weights: int = 0,
    ) -> None:
        """Append a norm, to ``out`` and as floats to ``also``.

        ``weights`` are the address of others than those of ``name``.
        """
        fields = self.fields(name, source) | ({pw.WEIGHT: weights} if weights else {})
        fields |= {pw.KIND: _NORMS[self._config.norm], pw.GATHER: gather, pw.NORM_BIAS: self._bias(name)}
        fields |= quantized_fields(out) if out else {}
        fields |= {pw.OUT_FLOAT: also.address, pw.OUT_FLOAT_STRIDE: also.stride} if also else {}
        self._operations.add("pointwise.rows:norm", fields, rows)

    def fields(self, name: str, source: Rows) -> dict[int, int]:
        """Return the fields of a norm over the hidden width."""
        return {
            pw.X: source.address,
            pw.X_STRIDE: source.stride,
            pw.WIDTH: self._config.hidden_size,
            pw.WEIGHT: self.vector(name),
            pw.EPS: float_field(self._config.norm_eps),
        }

    def round(self, source: Rows, width: int, out: Quantized) -> None:
        """Append the rounding of float rows for a product that reads them."""
        fields = {pw.X: source.address, pw.X_STRIDE: source.stride, pw.WIDTH: width, pw.KIND: pw.PLAIN}
        self._operations.add("pointwise.rows:norm", fields | quantized_fields(out))

    def _bias(self, name: str) -> int:
        """Return a layer norm's bias, if only zeros; an RMS norm has none."""
        if self._config.norm == "rms" or name + "_bias" in self._weights:
            return self.vector(name + "_bias", 0)
        return self.keep(np.zeros(self._config.hidden_size, np.float32))
