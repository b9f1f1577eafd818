"""Matrices whose rows are divided by their length, read in slices of rows.

Knows neither names nor layers. Invariant: no more than the rows asked for is decoded. Source: Baichuan 2 (Yang et al.
2023, arXiv:2309.10305, section 2.5), whose logits are products with rows of length 1.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import BlockType, StoredTensor

_LEAST = np.float32(1e-12)  # a shorter row is divided by this


class UnitRows(StoredTensor):
    """Float32 matrix of the rows of ``source``, each divided by its Euclidean length."""

    _source: StoredTensor

    def __init__(self, source: StoredTensor) -> None:
        values = {"name": source.name, "shape": source.shape, "kind": BlockType.F32, "_source": source}
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @cached_property
    def data(self) -> NDArray[np.uint8]:
        """Return the bytes of all rows, uint8 (rows, row_bytes)."""
        return self.float32().view(np.uint8)

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return self._source.rows

    @property
    def size_bytes(self) -> int:
        """Size as float32 in bytes."""
        return 4 * self.rows * self.cols

    def renamed(self, name: str) -> StoredTensor:
        """Return the tensor under another name."""
        return UnitRows(self._source.renamed(name))

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Decode rows [start, stop) to float32 (rows, cols)."""
        rows = self._source.float32(start, stop)
        lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _LEAST)
        unit: NDArray[np.float32] = (rows / lengths).astype(np.float32)
        return unit
