"""Reads Marian's binary models over a memory map: named arrays, 8-bit ones with their multiplier, and the options.

Owns the layout and its bounds. Knows no architecture. Invariant: every array lies whole within the file and has the
size that its shape and type give. Nothing is executed. Source: marian-dev, ``common/binary.cpp`` and ``types.h``.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.mapped import BinaryCursor, map_file
from miaotui.hub.formats.tensors import TRUNCATED, BlockType, StoredTensor

VERSION = 1
MAX_ARRAYS, MAX_NAME_BYTES, MAX_RANK = 1 << 14, 1 << 10, 4
MAX_OPTIONS_BYTES = 1 << 16
OPTIONS = "special:model.yml"
BYTES, FLOAT16, FLOAT32, INTEGERS = 0x101, 0x402, 0x404, 0x4101  # types: text, floats, 8 bits for any processor
_FLOATS = {FLOAT32: BlockType.F32, FLOAT16: BlockType.F16}
_HEAD = struct.Struct("<4Q")  # bytes of the name, type, dimensions, bytes of the data
_BLOCK = np.dtype([("scale", "<f2"), ("codes", "i1", 32)])


@dataclass(frozen=True, eq=False)
class MarianFile:
    """Contents of a file: arrays by name, the options of training, and ``label``, which names the file in errors."""

    arrays: Mapping[str, MarianArray]
    options: Mapping[str, str]
    label: str

    def tensor(self, name: str) -> StoredTensor | None:
        """Return an array as a tensor in NumPy order, a row vector as a vector; None if there is no such array.

        Raises `ModelFormatError` for a wrong multiplier, `UnsupportedModelError` for a type that is not known here.
        """
        found = self.arrays.get(name)
        return None if found is None else _tensor(found, self.label)


@dataclass(frozen=True, eq=False)
class MarianArray:
    """One array: its type, shape and bytes, which may be followed by others up to a whole 256."""

    name: str
    type: int
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    @property
    def count(self) -> int:
        """Return the number of values."""
        return prod(self.shape)


class IntegerMatrix(StoredTensor):
    """A matrix of 8-bit integers that share one multiplier: a weight is ``integer / multiplier``.

    It has the form of GGML's Q8_0, whose scales have 16 bits; decoded, it has the file's exact values.
    """

    _integers: NDArray[np.int8]
    _multiplier: float

    def __init__(self, name: str, integers: NDArray[np.int8], multiplier: float) -> None:
        values = {"name": name, "shape": integers.shape, "kind": BlockType.Q8_0, "_integers": integers}
        for key, value in (values | {"_multiplier": multiplier}).items():
            object.__setattr__(self, key, value)

    @cached_property
    def data(self) -> NDArray[np.uint8]:
        """Return its blocks: uint8 (rows, row_bytes)."""
        rows = len(self._integers)
        blocks = np.empty((rows, self.cols // 32), _BLOCK)
        blocks["scale"], blocks["codes"] = 1 / self._multiplier, self._integers.reshape(rows, -1, 32)
        return blocks.view(np.uint8).reshape(rows, -1)

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(self._integers)

    @property
    def size_bytes(self) -> int:
        """Encoded size in bytes."""
        return self._integers.nbytes

    def renamed(self, name: str) -> StoredTensor:
        """Return the tensor under another name."""
        return IntegerMatrix(name, self._integers, self._multiplier)

    def _decode(self, start: int, stop: int) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._integers[start:stop].astype(np.float32) / np.float32(self._multiplier)
        return values


def find_marian(folder: Path) -> Path | None:
    """Return the first ``model*.bin`` of a folder that begins as Marian's models do; None if there is none."""
    try:
        paths = sorted(folder.glob("model*.bin"))
    except OSError:
        return None
    return next((path for path in paths if is_marian(path)), None)


def is_marian(path: Path) -> bool:
    """Return whether ``path`` begins as Marian's binary models do; False for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(16 + _HEAD.size)
    except OSError:
        return False
    if len(head) < 16 + _HEAD.size:
        return False
    numbers: tuple[int, ...] = struct.unpack("<6Q", head)
    version, count, name_bytes, kind, rank, _ = numbers
    sizes = 1 <= count <= MAX_ARRAYS and 2 <= name_bytes <= MAX_NAME_BYTES and 1 <= rank <= MAX_RANK
    return bool(version == VERSION and sizes and kind < 1 << 20)


def read_marian(path: str | os.PathLike[str]) -> MarianFile:
    """Open the file at ``path``.

    Raises `ModelNotFoundError`; `ModelFormatError` for a file that is truncated or corrupt; `UnsupportedModelError` for
    versions that are not known here.
    """
    return parse_marian(map_file(path), os.fspath(path))


def parse_marian(buffer: mmap.mmap | bytes, label: str) -> MarianFile:
    """Read a file held in ``buffer``, named ``label`` in errors. Raises as `read_marian`."""
    return _Cursor(buffer, label).file()


def _tensor(found: MarianArray, label: str) -> StoredTensor:
    shape = found.shape[1:] if len(found.shape) == 2 and found.shape[0] == 1 else found.shape
    kind = _FLOATS.get(found.type)
    if kind is not None:
        return StoredTensor.from_bytes(found.name, shape, kind, found.data[: found.count * kind.block_bytes])
    if found.type != INTEGERS or len(found.shape) != 2:
        raise UnsupportedModelError(
            f"{label}: {found.name} is of the type {found.type:#x}; supported are float32, float16 and intgemm8 for "
            "any processor: get the model in one of these"
        )
    rows, cols = found.shape if found.name.endswith("Wemb") else found.shape[::-1]  # stored as the product reads it
    multiplier = float(found.data[found.count : found.count + 4].view("<f4")[0])
    if not math.isfinite(multiplier) or not 1e-3 < multiplier < 1e6:
        raise ModelFormatError(f"{label}: {found.name} has the multiplier {multiplier}; {TRUNCATED}")
    if cols % 32:
        raise UnsupportedModelError(
            f"{label}: {found.name} has {cols} inputs, and only multiples of 32 are supported: choose another model"
        )
    return IntegerMatrix(found.name, found.data[: found.count].view(np.int8).reshape(rows, cols), multiplier)


class _Cursor(BinaryCursor):
    """Position in one file, which never passes its end."""

    def file(self) -> MarianFile:
        version, count = self._numbers(2)
        if version != VERSION:
            raise UnsupportedModelError(
                f"{self._label} is of Marian's binary version {version}; {VERSION} is supported"
            )
        if not 1 <= count <= MAX_ARRAYS:
            raise self._corrupt(f"it claims {count:,} arrays")
        heads = [self._numbers(4) for _ in range(count)]
        names = [self._name(head[0]) for head in heads]
        if len(set(names)) < count:
            raise self._corrupt("a name occurs twice")
        shapes = [self._shape(name, head[2]) for name, head in zip(names, heads, strict=True)]
        self._advance(self._numbers(1)[0])  # up to a whole 256
        arrays = {name: self._array(name, head, shape) for name, head, shape in zip(names, heads, shapes, strict=True)}
        return MarianFile(arrays, self._options(arrays.get(OPTIONS)), self._label)

    def _array(self, name: str, head: tuple[int, ...], shape: tuple[int, ...]) -> MarianArray:
        kind, size_bytes = head[1], head[3]
        start = self._advance(size_bytes)
        least = prod(shape) * max(kind & 0xFF, 1) + (4 if kind == INTEGERS else 0)
        if size_bytes < least:
            raise self._corrupt(f"{name!r} of shape {shape} is said to have {size_bytes} bytes")
        data = np.frombuffer(self._buffer, np.uint8, size_bytes, start)
        return MarianArray(name, kind, shape, data if start % 4 == 0 else data.copy())

    def _options(self, found: MarianArray | None) -> dict[str, str]:
        """Return the options of one line each; nested ones are left out."""
        if found is None or found.type != BYTES or found.count > MAX_OPTIONS_BYTES:
            raise self._corrupt(f"it has no {OPTIONS}, which says what the model is")
        text = bytes(found.data[: found.count]).split(b"\0")[0].decode("utf-8", "replace")
        lines = [line.partition(":") for line in text.splitlines() if line[:1].isalpha()]
        return {name: value.strip().strip("\"'") for name, _, value in lines}

    def _name(self, length: int) -> str:
        if not 2 <= length <= MAX_NAME_BYTES:
            raise self._corrupt(f"a name of {length:,} bytes at byte {self._place}")
        start = self._advance(length)
        raw = bytes(self._buffer[start : start + length])
        text = raw[:-1].decode("ascii", "replace")
        if raw[-1] or not text.isprintable() or "\ufffd" in text:
            raise self._corrupt(f"the name at byte {start} is no text")
        return text

    def _shape(self, name: str, rank: int) -> tuple[int, ...]:
        if not 1 <= rank <= MAX_RANK:
            raise self._corrupt(f"{name!r} has {rank:,} dimensions, and 1 to {MAX_RANK} are allowed")
        start = self._advance(4 * rank)
        shape = struct.unpack_from(f"<{rank}i", self._buffer, start)
        if min(shape) < 1:
            raise self._corrupt(f"{name!r} has the shape {shape}")
        return shape

    def _numbers(self, count: int) -> tuple[int, ...]:
        start = self._advance(8 * count)
        return struct.unpack_from(f"<{count}Q", self._buffer, start)
