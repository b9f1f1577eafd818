"""Reads CTranslate2's ``model.bin`` over a memory map: named arrays, their scales, and aliases.

Owns the layout and its bounds. Knows no architecture. Invariant: every array lies whole within the file and has the
size that its shape and type give; aliases name arrays that are there. Nothing is executed. Source: CTranslate2's
``ModelSpec._serialize`` and ``Model::load``, binary versions 4 to 6.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.mapped import BinaryCursor, map_file
from miaotui.hub.formats.tensors import TRUNCATED, BlockType, ComputedTensor, StoredTensor

FILE_NAME = "model.bin"
VERSIONS = (4, 5, 6)
MAX_VARIABLES = 1 << 16
MAX_NAME_BYTES = 1 << 10
MAX_RANK = 4
MAX_VOCABULARY_BYTES = 1 << 26
WHISPER_LIST, FORMS = "vocabulary", ("json", "txt")
BFLOAT16 = 5
DTYPES: Mapping[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
    BFLOAT16: np.dtype("<u2"),
}
_FLOATS = {0: BlockType.F32, 4: BlockType.F16, BFLOAT16: BlockType.BF16}
_KNOWN_NAMES = ("TransformerSpec", "TransformerDecoderSpec", "TransformerEncoderSpec", "WhisperSpec", "Wav2Vec2")


@dataclass(frozen=True, eq=False)
class Ctranslate2Array:
    """One array of the file; ``data`` has its shape, bfloat16 as 16-bit integers."""

    name: str
    dtype: int  # CTranslate2's number
    data: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Ctranslate2File:
    """Arrays by name, aliases included; ``spec`` names the kind of model and ``label`` the file in errors."""

    spec: str
    revision: int
    arrays: Mapping[str, Ctranslate2Array]
    label: str

    def number(self, name: str, default: float) -> float:
        """Return a scalar. Raises `ModelFormatError` for an array."""
        found = self.arrays.get(name)
        if found is None:
            return default
        if found.data.size != 1 or found.dtype == BFLOAT16:
            raise ModelFormatError(f"{self.label}: {name} must be one number; {TRUNCATED}")
        value = float(found.data.reshape(-1)[0])
        if not math.isfinite(value):
            raise ModelFormatError(f"{self.label}: {name} is not finite; {TRUNCATED}")
        return value

    def tensor(self, name: str, start: int = 0, stop: int | None = None) -> StoredTensor | None:
        """Return rows ``[start, stop)`` of an array as a tensor, 8-bit integers divided by their rows' scales.

        None if there is no such array. Raises `ModelFormatError` for a wrong scale, `UnsupportedModelError` for a type.
        """
        found = self.arrays.get(name)
        if found is None:
            return None
        rows = np.atleast_1d(found.data)[start:stop]
        if found.dtype in _FLOATS and rows.size:
            raw = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
            return StoredTensor.from_bytes(name, rows.shape, _FLOATS[found.dtype], raw)
        if found.dtype != 1 or rows.ndim != 2:
            raise UnsupportedModelError(
                f"{self.label}: {name} holds integers of another kind than rows of 8 bits: convert the model to int8, "
                "float16 or float32"
            )
        return ComputedTensor(name, rows.shape, lambda: _scaled(rows, self._scales(name, len(found.data))[start:stop]))

    def _scales(self, name: str, rows: int) -> NDArray[np.float32]:
        scale = self.arrays.get(f"{name}_scale")
        values = None if scale is None else scale.data.astype(np.float32).reshape(-1)
        if values is None or values.shape != (rows,) or not np.isfinite(values).all() or not (values > 0).all():
            raise ModelFormatError(f"{self.label}: {name} has no positive scale for each of its rows; {TRUNCATED}")
        return values


def read_ctranslate2(path: str | os.PathLike[str]) -> Ctranslate2File:
    """Open the file at ``path``.

    Raises `ModelNotFoundError`; `ModelFormatError` for a file that is truncated or corrupt; `UnsupportedModelError` for
    versions and types that are not known here.
    """
    return parse_ctranslate2(map_file(path), os.fspath(path))


def parse_ctranslate2(buffer: mmap.mmap | bytes, label: str) -> Ctranslate2File:
    """Read a file held in ``buffer``, named ``label`` in errors. Raises as `read_ctranslate2`."""
    return _Cursor(buffer, label).file()


def is_ctranslate2(path: Path, *specs: str) -> bool:
    """Return whether ``path`` begins as a ``model.bin`` does, of one of ``specs`` if any are given.

    False for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return False
    version = int.from_bytes(head[:4], "little")
    return 1 <= version <= 64 and head[6:].startswith(tuple(name.encode() for name in specs or _KNOWN_NAMES))


def read_vocabulary_list(folder: Path, side: str) -> dict[str, int]:
    """Return the ids of the tokens of ``side`` ("source" or "target"), from the folder's list; of equals the first.

    Raises `ModelNotFoundError` or `ModelFormatError`.
    """
    names = [f"{each}.{form}" for each in (f"{side}_vocabulary", "shared_vocabulary", WHISPER_LIST) for form in FORMS]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise ModelNotFoundError(f"{folder} has no {side}_vocabulary.json and no shared_vocabulary.json: get it, too")
    text = bytes(map_file(path)[:MAX_VOCABULARY_BYTES])
    try:
        decoded = text.decode()
        tokens = json.loads(decoded) if path.suffix == ".json" else decoded.removesuffix("\n").split("\n")
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path} is no list of tokens: {str(error)[:200]}; {TRUNCATED}") from error
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ModelFormatError(f"{path} is no list of tokens; {TRUNCATED}")
    return {token: place for place, token in reversed(list(enumerate(tokens)))}


def _scaled(rows: NDArray[Any], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = rows.astype(np.float32) / scales[:, None]
    return values


class _Cursor(BinaryCursor):
    """Position in one file, which never passes its end."""

    def file(self) -> Ctranslate2File:
        version = self._number("<I")
        if version not in VERSIONS:
            raise UnsupportedModelError(
                f"{self._label} is of CTranslate2's binary version {version}; 4 to 6 are supported: convert it again"
            )
        spec, revision = self._text(), self._number("<I")
        arrays: dict[str, Ctranslate2Array] = {}
        for _ in range(self._count("variables")):
            array = self._array()
            if array.name in arrays:
                raise self._corrupt(f"{array.name!r} occurs twice")
            arrays[array.name] = array
        for _ in range(self._count("aliases")):
            alias, name = self._text(), self._text()
            if name not in arrays:
                raise self._corrupt(f"{alias!r} stands for {name!r}, which is not there")
            arrays[alias] = arrays[name]
            if f"{name}_scale" in arrays:
                arrays.setdefault(f"{alias}_scale", arrays[f"{name}_scale"])
        if self._place != len(self._buffer):
            raise self._corrupt(f"{len(self._buffer) - self._place} bytes follow its end")
        return Ctranslate2File(spec, revision, arrays, self._label)

    def _array(self) -> Ctranslate2Array:
        name = self._text()
        rank = self._number("<B")
        if rank > MAX_RANK:
            raise self._corrupt(f"{name!r} has {rank} dimensions, and {MAX_RANK} are allowed")
        shape = tuple(self._number("<I") for _ in range(rank))
        dtype, size_bytes = self._number("<B"), self._number("<I")
        if dtype not in DTYPES:
            raise UnsupportedModelError(f"{self._label}: {name!r} is of type {dtype}, which is not known here")
        kind = DTYPES[dtype]
        if prod(shape) * kind.itemsize != size_bytes:
            raise self._corrupt(f"{name!r} of shape {shape} is said to have {size_bytes} bytes")
        start = self._advance(size_bytes)
        data = np.frombuffer(self._buffer, np.uint8, size_bytes, start) if size_bytes else np.empty(0, np.uint8)
        if start % kind.itemsize:
            data = data.copy()  # names before it have any length
        return Ctranslate2Array(name, dtype, data.view(kind).reshape(shape))

    def _count(self, name: str) -> int:
        count = self._number("<I")
        if count > min(MAX_VARIABLES, len(self._buffer)):
            raise self._corrupt(f"it claims {count:,} {name}")
        return count

    def _text(self) -> str:
        length = self._number("<H")
        if not 1 <= length <= MAX_NAME_BYTES:
            raise self._corrupt(f"a name of {length} bytes at byte {self._place}")
        start = self._advance(length)
        raw = bytes(self._buffer[start : start + length])
        text = raw[:-1].decode("ascii", "replace")
        if raw[-1] or not text.isprintable() or "\ufffd" in text:
            raise self._corrupt(f"the name at byte {start} is no text")
        return text

    def _number(self, form: str) -> int:
        start = self._advance(struct.calcsize(form))
        return int(struct.unpack_from(form, self._buffer, start)[0])
