"""Reads whisper.cpp's model files over a memory map: sizes, vocabulary, and tensors under openai/whisper's names.

Owns the layout and its bounds. Knows no architecture. Invariant: every text and tensor lies whole within the file and
has the size that its shape and type give. Nothing is executed. Source: whisper.cpp, ``convert-pt-to-ggml.py``.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.mapped import BinaryCursor, map_file
from miaotui.hub.formats.tensors import BY_GGML_ID, StoredTensor

MAGIC = b"lmgg"  # 0x67676d6c, little endian
SIZES = (
    "n_vocab",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "n_text_ctx",
    "n_text_state",
    "n_text_head",
    "n_text_layer",
    "n_mels",
    "ftype",
)
MAX_TOKENS, MAX_TOKEN_BYTES = 1 << 20, 1 << 12
MAX_FILTER_VALUES = 1 << 22
MAX_TENSORS, MAX_NAME_BYTES, MAX_RANK = 1 << 14, 1 << 10, 4


@dataclass(frozen=True, eq=False)
class WhisperGgmlFile:
    """Contents of a file; ``tokens`` are the bytes of the text tokens, and ``label`` names the file in errors."""

    sizes: Mapping[str, int]
    tokens: tuple[bytes, ...]
    tensors: Mapping[str, StoredTensor]
    label: str


def is_whisper_ggml(path: Path) -> bool:
    """Return whether ``path`` begins as such a file does; False for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_whisper_ggml(path: str | os.PathLike[str]) -> WhisperGgmlFile:
    """Open the file at ``path``.

    Raises `ModelNotFoundError`; `ModelFormatError` for a file that is truncated or corrupt; `UnsupportedModelError` for
    types that are not known here.
    """
    return parse_whisper_ggml(map_file(path), os.fspath(path))


def parse_whisper_ggml(buffer: mmap.mmap | bytes, label: str) -> WhisperGgmlFile:
    """Read a file held in ``buffer``, named ``label`` in errors. Raises as `read_whisper_ggml`."""
    return _GgmlCursor(buffer, label).file()


class _GgmlCursor(BinaryCursor):
    """Position in one file, which never passes its end."""

    def file(self) -> WhisperGgmlFile:
        if bytes(self._buffer[: len(MAGIC)]) != MAGIC:
            raise self._corrupt("it does not begin as one of whisper.cpp's models")
        self._place = len(MAGIC)
        sizes = dict(zip(SIZES, self._numbers(len(SIZES)), strict=True))
        bins, width = self._numbers(2)
        if min(bins, width) < 1 or bins * width > MAX_FILTER_VALUES:
            raise self._corrupt(f"it claims {bins} x {width} mel filters")
        self._advance(4 * bins * width)  # computed here
        tokens = tuple(self._token() for _ in range(self._count("tokens", MAX_TOKENS)))
        tensors: dict[str, StoredTensor] = {}
        while self._place < len(self._buffer):
            tensor = self._tensor()
            if tensor.name in tensors or len(tensors) >= MAX_TENSORS:
                raise self._corrupt(f"{tensor.name!r} occurs twice, or there are more than {MAX_TENSORS:,} tensors")
            tensors[tensor.name] = tensor
        return WhisperGgmlFile(sizes, tokens, tensors, self._label)

    def _tensor(self) -> StoredTensor:
        rank, name_bytes, number = self._numbers(3)
        if not 1 <= rank <= MAX_RANK or not 1 <= name_bytes <= MAX_NAME_BYTES:
            raise self._corrupt(f"a tensor of {rank} dimensions and a name of {name_bytes} bytes")
        shape = tuple(reversed(self._numbers(rank)))
        start = self._advance(name_bytes)
        name = bytes(self._buffer[start : start + name_bytes]).decode("ascii", "replace")
        if not name.isprintable() or "\ufffd" in name:
            raise self._corrupt(f"the name at byte {start} is no text")
        kind = BY_GGML_ID.get(number)
        if kind is None:
            raise UnsupportedModelError(f"{self._label}: {name!r} is of type {number}, which is not known here")
        if min(shape) < 1 or shape[-1] % kind.block_size:
            raise self._corrupt(f"{name!r} has shape {shape}, which {kind.name} cannot have")
        size_bytes = prod(shape[:-1]) * kind.row_bytes(shape[-1])
        return StoredTensor.from_bytes(name, shape, kind, self._bytes(size_bytes))

    def _token(self) -> bytes:
        (length,) = self._numbers(1)
        if not 0 <= length <= MAX_TOKEN_BYTES:
            raise self._corrupt(f"a token of {length} bytes at byte {self._place}")
        start = self._advance(length)
        return bytes(self._buffer[start : start + length])

    def _count(self, name: str, most: int) -> int:
        (count,) = self._numbers(1)
        if not 0 <= count <= min(most, len(self._buffer)):
            raise self._corrupt(f"it claims {count:,} {name}")
        return count

    def _bytes(self, size_bytes: int) -> NDArray[np.uint8]:
        start = self._advance(size_bytes)
        return np.frombuffer(self._buffer, np.uint8, size_bytes, start)

    def _numbers(self, count: int) -> tuple[int, ...]:
        start = self._advance(4 * count)
        return struct.unpack_from(f"<{count}i", self._buffer, start)
