"""A tensor as a model file stores it: a name, a shape, a block type and the encoded bytes.

Owns the table of block types and the row arithmetic. Knows nothing of file formats (`gguf`,
`safetensors`) and nothing of how a block is decoded (`blocks`). Invariant: rows are independent. A
row is a whole number of blocks and a whole number of bytes, so rows can be selected, permuted or
decoded alone, without touching the others. Source of sizes and ids: the GGUF specification
(``ggml_type``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.blocks import DECODERS, FLOATS, Codes
from miaotui.hub.formats.grid_blocks import GRID_DECODERS

MAX_DIMS = 4  # as in GGML
CORRUPT = "the file is corrupt: download it again"
TRUNCATED = "the file is truncated or corrupt: download it again"
CHUNK_WEIGHTS = 1 << 16  # weights decoded at a time


class BlockType(Enum):
    """An encoding: ``block_size`` weights in ``block_bytes`` bytes, named ``ggml_id`` in GGUF."""

    F32 = (0, 1, 4)
    F16 = (1, 1, 2)
    Q4_0 = (2, 32, 18)
    Q4_1 = (3, 32, 20)
    Q5_0 = (6, 32, 22)
    Q5_1 = (7, 32, 24)
    Q8_0 = (8, 32, 34)
    Q2_K = (10, 256, 84)
    Q3_K = (11, 256, 110)
    Q4_K = (12, 256, 144)
    Q5_K = (13, 256, 176)
    Q6_K = (14, 256, 210)
    IQ2_XXS = (16, 256, 66)
    IQ2_XS = (17, 256, 74)
    IQ3_XXS = (18, 256, 98)
    IQ1_S = (19, 256, 50)
    IQ4_NL = (20, 32, 18)
    IQ3_S = (21, 256, 110)
    IQ2_S = (22, 256, 82)
    IQ4_XS = (23, 256, 136)
    IQ1_M = (29, 256, 56)
    BF16 = (30, 1, 2)
    TQ1_0 = (34, 256, 54)
    TQ2_0 = (35, 256, 66)
    MXFP4 = (39, 32, 17)
    U8 = (-1, 1, 1)  # bytes of safetensors that mean nothing alone; GGUF has no such type

    def __init__(self, ggml_id: int, block_size: int, block_bytes: int) -> None:
        self.ggml_id = ggml_id
        self.block_size = block_size
        self.block_bytes = block_bytes

    @property
    def is_float(self) -> bool:
        """Return whether each weight is a float of its own (F32, F16, BF16)."""
        return self.block_size == 1 and self is not BlockType.U8

    def row_bytes(self, cols: int) -> int:
        """Return the bytes of one row of ``cols`` weights; ``cols`` must be a multiple of ``block_size``."""
        return cols // self.block_size * self.block_bytes


BY_GGML_ID = {kind.ggml_id: kind for kind in BlockType if kind.ggml_id >= 0}


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """One encoded tensor, usually a view of a mapped file.

    ``shape`` is in NumPy order: (rows, cols) for matrices, (n,) for vectors; the last dimension is
    the fastest one, the input dimension. ``data`` is uint8 of shape (rows, row_bytes), (1, bytes)
    for vectors; of tensors of more than two dimensions, all but the last are flattened into rows.
    """

    name: str
    shape: tuple[int, ...]
    kind: BlockType
    data: NDArray[np.uint8]

    @classmethod
    def from_bytes(cls, name: str, shape: tuple[int, ...], kind: BlockType, raw: NDArray[np.uint8]) -> StoredTensor:
        """Shape the flat uint8 bytes ``raw`` into rows, without a copy."""
        size_bytes = stored_bytes(f"tensor {name!r}", shape, kind)
        if raw.size != size_bytes:
            raise ModelFormatError(
                f"tensor {name!r} has {raw.size} bytes, but {kind.name} of shape {shape} takes {size_bytes}; {CORRUPT}"
            )
        return cls(name, shape, kind, raw.reshape(prod(shape[:-1]), -1))

    @property
    def rows(self) -> int:
        """Return the number of rows of `data`: 1 for a vector."""
        return int(self.data.shape[0])

    @property
    def cols(self) -> int:
        """Return the number of weights in a row."""
        return self.shape[-1]

    @property
    def size_bytes(self) -> int:
        """Encoded size in bytes."""
        return self.data.nbytes

    def renamed(self, name: str) -> StoredTensor:
        """Return the tensor under another name."""
        return StoredTensor(name, self.shape, self.kind, self.data)

    def codes(self, start: int = 0, stop: int | None = None) -> Codes:
        """Unpack rows [start, stop) of a quantized tensor: q (rows, groups, weights per group)."""
        rows = np.ascontiguousarray(self.data[start:stop])
        name = self.kind.name
        unpack = DECODERS.get(name) or GRID_DECODERS[name]
        return unpack(rows.reshape(-1, self.kind.block_bytes)).by_row(rows.shape[0])

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Decode rows [start, stop) to a new float32 array (rows, cols); a whole vector to (n,)."""
        if len(self.shape) == 1:
            start, stop = 0, None
        start, stop, _ = slice(start, stop).indices(self.rows)
        weights = np.empty((max(stop - start, 0), self.cols), np.float32)
        step = max(1, CHUNK_WEIGHTS // self.cols)  # temporaries stay in the cache, and small
        for first in range(0, weights.shape[0], step):
            last = min(first + step, weights.shape[0])
            weights[first:last] = self._decode(start + first, start + last)
        return weights.reshape(-1) if len(self.shape) == 1 else weights

    def _decode(self, start: int, stop: int) -> NDArray[np.float32]:
        if self.kind.is_float:
            return FLOATS[self.kind.name](np.ascontiguousarray(self.data[start:stop]))
        return self.codes(start, stop).float32()

    def take_rows(self, index: ArrayLike | slice) -> StoredTensor:
        """Select or permute rows, still encoded; of a vector of floats, its elements.

        A slice gives a view, anything else a copy. The result has shape (selected rows, cols).
        Raises `ValueError` for a quantized vector, whose elements are not independent.
        """
        chosen = index if isinstance(index, slice) else np.asarray(index)
        if len(self.shape) > 1:
            data = self.data[chosen]
            return StoredTensor(self.name, (len(data), self.cols), self.kind, data)
        if not self.kind.is_float:
            raise ValueError(f"elements of the {self.kind.name} vector {self.name!r} share scales")
        elements = self.data.reshape(-1, self.kind.block_bytes)[chosen]
        return StoredTensor(self.name, (len(elements),), self.kind, elements.reshape(1, -1))


class ComputedTensor(StoredTensor):
    """A float32 matrix that is computed when it is first read, such as one from integers in another form.

    ``read`` returns it, float32 of ``shape``.
    """

    _read: Callable[[], NDArray[np.float32]]

    def __init__(self, name: str, shape: tuple[int, ...], read: Callable[[], NDArray[np.float32]]) -> None:
        stored_bytes(f"tensor {name!r}", shape, BlockType.F32)
        for key, value in {"name": name, "shape": shape, "kind": BlockType.F32, "_read": read}.items():
            object.__setattr__(self, key, value)

    @cached_property
    def data(self) -> NDArray[np.uint8]:
        """Return its bytes: uint8 (rows, row_bytes)."""
        values = np.ascontiguousarray(self._read(), "<f4")
        return values.view(np.uint8).reshape(self.rows, -1)

    def renamed(self, name: str) -> StoredTensor:
        """Return the tensor under another name, still not computed."""
        return ComputedTensor(name, self.shape, self._read)

    @property
    def rows(self) -> int:
        """Return the number of rows of `data`: 1 for a vector."""
        return prod(self.shape[:-1])

    @property
    def size_bytes(self) -> int:
        """Encoded size in bytes."""
        return stored_bytes(self.name, self.shape, self.kind)


def stored_bytes(label: str, shape: tuple[int, ...], kind: BlockType) -> int:
    """Return the bytes that a tensor takes, as an exact integer of any size.

    Raises `ModelFormatError`, naming ``label``, for an impossible shape.
    """
    if not 1 <= len(shape) <= MAX_DIMS or min(shape) < 1:
        raise ModelFormatError(
            f"{label} has shape {shape}; expected 1 to {MAX_DIMS} dimensions, each at least 1; {CORRUPT}"
        )
    if shape[-1] % kind.block_size:
        raise ModelFormatError(
            f"{label} has rows of {shape[-1]} weights, but {kind.name} rows are whole blocks of "
            f"{kind.block_size}; {CORRUPT}"
        )
    return prod(shape[:-1]) * kind.row_bytes(shape[-1])
