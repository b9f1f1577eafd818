"""Matrices of many stored tensors, one below the other, read in slices of rows.

Files keep each expert's matrices apart, while a pass wants all of a layer as one. Knows neither names nor layers.
Invariant: no more than the rows asked for is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.blocks import Codes
from miaotui.hub.formats.tensors import StoredTensor


class StackedTensor(StoredTensor):
    """Matrix of the rows of ``parts``, which have one shape. Raises `ModelFormatError` for parts of several types."""

    _parts: tuple[StoredTensor, ...]

    def __init__(self, name: str, parts: Sequence[StoredTensor]) -> None:
        first = parts[0]
        for part in parts:
            if part.kind is not first.kind:
                raise ModelFormatError(
                    f"tensors {first.name!r} and {part.name!r} are {first.kind.name} and {part.kind.name}, and "
                    "those of all experts must be of one: convert the model again or choose another one"
                )
        shape = (len(parts) * first.rows, first.cols)
        for key, value in {"name": name, "shape": shape, "kind": first.kind, "_parts": tuple(parts)}.items():
            object.__setattr__(self, key, value)

    @cached_property
    def data(self) -> NDArray[np.uint8]:
        """Return all encoded rows, uint8 (rows, row_bytes)."""
        return np.concatenate([part.data for part in self._parts])

    @property
    def rows(self) -> int:
        """Return the number of rows of all parts."""
        return self.shape[0]

    @property
    def size_bytes(self) -> int:
        """Encoded size in bytes."""
        return sum(part.size_bytes for part in self._parts)

    def renamed(self, name: str) -> StoredTensor:
        """Return the tensor under another name."""
        return StackedTensor(name, self._parts)

    def codes(self, start: int = 0, stop: int | None = None) -> Codes:
        """Unpack rows [start, stop) (see `StoredTensor.codes`)."""
        return self._some(start, stop).codes()

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Decode rows [start, stop) to float32 (rows, cols)."""
        return self._some(start, stop).float32()

    def take_rows(self, index: object) -> StoredTensor:
        """Select or permute rows, still encoded (see `StoredTensor.take_rows`)."""
        if isinstance(index, slice) and index.step in (None, 1):
            return self._some(index.start or 0, index.stop)
        return StoredTensor(self.name, self.shape, self.kind, self.data).take_rows(index)  # type: ignore[arg-type]

    def _some(self, start: int, stop: int | None) -> StoredTensor:
        """Return rows [start, stop) as one tensor."""
        start, stop, _ = slice(start, stop).indices(self.rows)
        each, pieces = self._parts[0].rows, []
        for number in range(start // each, -(-stop // each)):
            first = number * each
            pieces.append(self._parts[number].data[max(start - first, 0) : stop - first])
        data = np.concatenate(pieces) if pieces else self._parts[0].data[:0]
        return StoredTensor(self.name, (len(data), self.cols), self.kind, data)
