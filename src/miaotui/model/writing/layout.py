"""Where the rows of each stored tensor come from: the way back from canonical tensors to those of a file.

Owns the inversion of `TensorSource`. Knows no file format and no arithmetic of models. Invariant: a block of a stored
tensor that is made of unchanged canonical rows holds the values that the file has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.hub.writers.blocks import encode_floats
from miaotui.model.reading.sources import CanonicalTensors, TensorSource, stored_rows

Array = NDArray[np.float32]
Rows = NDArray[np.intp]
CanonicalValues = Callable[[str, Rows], Array]  # a canonical tensor's name and rows: their values, ``[rows, inputs]``
Bytes = NDArray[np.uint8]
TensorBytes = Callable[[StoredTensor, BlockType], Iterable[Bytes]]  # the bytes of a tensor, as that type, in pieces
BLOCK_WEIGHTS = 1 << 22  # values of a stored tensor that are made at a time


class _Part(NamedTuple):
    """One canonical tensor in a stored one: ``places[i]`` is the stored row of canonical row ``first + i``."""

    name: str
    source: TensorSource
    places: Rows
    first: int


class StoredLayout:
    """Tensors of a model's files, and which canonical rows lie where. Raises `UnsupportedModelError` for files whose
    tensors are put together when they are read.
    """

    def __init__(self, tensors: CanonicalTensors) -> None:
        self.tensors, self.stored = tensors, tensors.stored
        self._parts: dict[str, list[_Part]] = {}
        for name, source in tensors.sources.items():
            for part_name, part in _placed(name, source, tensors[name]):
                if type(self.stored[part_name]) is not StoredTensor or self.stored[part_name].kind is BlockType.U8:
                    raise UnsupportedModelError(
                        f"the model stores {part_name!r} in a form that is read here, but not written: convert it to "
                        "plain matrices first (llama.cpp's convert_hf_to_gguf.py)"
                    )
                self._parts.setdefault(part_name, []).append(part)

    def written(self) -> Iterator[tuple[str, StoredTensor]]:
        """Yield the tensors that belong into a file: all but an unused copy of an embedding that is the output matrix,
        too.
        """
        embed = self.tensors["embed"].shape
        for name, tensor in self.stored.items():
            if name in self._parts or tensor.shape != embed:
                yield name, tensor

    def holds(self, name: str) -> bool:
        """Return whether a stored tensor holds rows of canonical ones; others are tables or copies."""
        return name in self._parts

    def blocks(self, name: str, kind: BlockType, values: CanonicalValues, rows: int | None = None) -> Iterator[Bytes]:
        """Yield the bytes of a stored tensor of type ``kind``, some rows at a time; ``values`` gives canonical rows.

        ``rows`` is how many the tensor shall have, where it shall be longer or shorter than it was.
        """
        tensor, parts = self.stored[name], self._parts[name]
        is_vector = len(tensor.shape) == 1
        if any((len(self.tensors[part.name].shape) == 1) is not is_vector for part in parts):
            yield encode_floats(self._elements(tensor, parts, values), kind)
            return
        total = (tensor.cols if is_vector else tensor.rows) if rows is None else rows
        step = total if is_vector else max(1, BLOCK_WEIGHTS // tensor.cols)
        if rows is not None:
            parts = [parts[0]._replace(places=np.arange(rows))]
        for start in range(0, total, step):
            end = min(start + step, total)
            block = np.zeros((end - start,) if is_vector else (end - start, tensor.cols), np.float32)
            for part in parts:
                inside = np.flatnonzero((part.places >= start) & (part.places < end))
                if len(inside):
                    found = values(part.name, inside + part.first)
                    block[part.places[inside] - start] = (found - part.source.offset) / np.float32(part.source.factor)
            yield encode_floats(block, kind)

    def _elements(self, tensor: StoredTensor, parts: Sequence[_Part], values: CanonicalValues) -> Array:
        """Return a stored tensor one of whose sides is a vector and the other a matrix: biases, and single rows."""
        flat = np.zeros(math.prod(tensor.shape), np.float32)
        for part in parts:
            shape = self.tensors[part.name].shape
            found = values(part.name, np.arange(shape[0])).reshape(-1)
            places = part.places + part.first if len(shape) == 1 else np.arange(len(flat))
            flat[places] = (found[: len(places)] - part.source.offset) / np.float32(part.source.factor)
        return flat


def canonical_values(tensors: CanonicalTensors, name: str, rows: Rows) -> Array:
    """Return some rows of a canonical tensor, decoded; elements of a vector."""
    tensor = tensors[name]
    taken = tensor.take_rows(rows)
    values: Array = taken.float32()
    return values.reshape(len(rows), *tensor.shape[1:])


def array_bytes(
    layout: StoredLayout, arrays: Mapping[str, Array]
) -> Callable[[StoredTensor, BlockType], Iterable[Bytes]]:
    """Return what `write_like` asks for: the bytes of stored tensors whose canonical ones are ``arrays``.

    Tensors that hold no canonical one stay as they are.
    """

    def rows(name: str, wanted: Rows) -> Array:
        return arrays[name][wanted]

    def data(tensor: StoredTensor, kind: BlockType) -> Iterable[Bytes]:
        return layout.blocks(tensor.name, kind, rows) if layout.holds(tensor.name) else [tensor.data.reshape(-1)]

    return data


def _placed(name: str, source: TensorSource, tensor: StoredTensor) -> Iterator[tuple[str, _Part]]:
    rows = tensor.shape[0]
    if not source.experts:
        yield source.name, _Part(name, source, stored_rows(source, rows), 0)
        return
    names = source.stored_names
    each = rows // len(names)
    for number, stored_name in enumerate(names):
        yield stored_name, _Part(name, source, np.arange(each), number * each)
