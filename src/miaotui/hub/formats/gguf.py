"""Reads GGUF model files, versions 2 and 3, over a memory map.

Owns the layout: header, metadata, tensor table, data. Knows no architecture and does not decode
weights. Invariant: after `read_gguf` returns, every tensor lies whole within the file, aligned and
apart from every other; anything else was a `ModelError`, whatever the file's bytes.
Source: the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from miaotui.closing import Closing
from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.gguf_cursor import MAX_NAME_BYTES, Cursor, Strings, Value
from miaotui.hub.formats.lookalikes import looks_like
from miaotui.hub.formats.mapped import map_file
from miaotui.hub.formats.tensors import BY_GGML_ID, MAX_DIMS, BlockType, StoredTensor, stored_bytes
from miaotui.hub.parts import part_paths

MAGIC = b"GGUF"
MAX_KEYS = 1 << 16
MIN_KEY_BYTES = 8 + 4 + 1  # length of the key, type, value
MIN_ENTRY_BYTES = 8 + 4 + 8 + 4 + 8  # length of the name, count, one dimension, type, offset
MAX_TENSORS = 1 << 16
DEFAULT_ALIGNMENT = 32
SPLIT_NUMBER, SPLIT_COUNT, SPLIT_TENSORS = "split.no", "split.count", "split.tensors.count"  # of a file in parts

# Types that exist in GGML but are not decoded here, to name them when a file has one.
OTHER_TYPES = {9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 40: "NVFP4", 41: "Q1_0"}


class Metadata(Mapping[str, Value]):
    """A file's key-value pairs, in file order; arrays of strings are decoded on first use.

    Looking up such an array may raise `ModelFormatError`, if it is not UTF-8.
    """

    def __init__(self, values: dict[str, Value | Strings]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Value:
        value = self._values[key]
        if isinstance(value, Strings):
            value = self._values[key] = value.decode()
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True, eq=False)
class GgufFile(Closing):
    """Open GGUF file: its metadata, and its tensors as views of the mapped file."""

    version: int
    metadata: Metadata
    tensors: dict[str, StoredTensor]

    def close(self) -> None:
        """Close the file; it stays mapped until the last view of its tensors is gone."""
        self.tensors.clear()


class _TensorEntry(NamedTuple):
    """A line of the tensor table; ``offset`` counts from the start of the data, in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: BlockType
    offset: int
    size_bytes: int

    @property
    def end(self) -> int:
        return self.offset + self.size_bytes


def read_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Open the GGUF file at ``path``, checking all of its structure.

    A file in parts (``-00001-of-00003.gguf``) is read with all of them. Raises `ModelNotFoundError`, also for a part
    that is missing; `ModelFormatError` for a file that is truncated or corrupt, naming what is missing;
    `UnsupportedModelError` for another version, byte order or tensor type.
    """
    paths = part_paths(Path(path))
    first = parse_gguf(map_file(paths[0]), os.fspath(paths[0]))
    count = first.metadata.get(SPLIT_COUNT, 1)
    if count != len(paths):
        raise ModelFormatError(
            f"{paths[0]} says it is one of {count} parts, and its name says {len(paths)}: rename the files as they "
            "were published (name-00001-of-00003.gguf), or download them again"
        )
    for number, part in enumerate(paths[1:], 1):
        _add_part(first, parse_gguf(map_file(part), os.fspath(part)), number, part)
    if len(paths) > 1 and first.metadata.get(SPLIT_TENSORS) != len(first.tensors):
        raise ModelFormatError(
            f"the parts of {paths[0]} hold {len(first.tensors)} tensors, and the first says "
            f"{first.metadata.get(SPLIT_TENSORS)}: parts of different files are mixed; download all of them again"
        )
    return first


def _add_part(first: GgufFile, part: GgufFile, number: int, path: Path) -> None:
    """Move the tensors of a later part into ``first``; raises `ModelFormatError` for a part of something else."""
    found = tuple(part.metadata.get(key) for key in (SPLIT_NUMBER, SPLIT_COUNT))
    if found != (number, first.metadata[SPLIT_COUNT]) or not first.tensors.keys().isdisjoint(part.tensors):
        raise ModelFormatError(
            f"{path} is not part {number + 1} of {first.metadata[SPLIT_COUNT]} of this model: "
            "parts of different files are mixed; download all of them again"
        )
    first.tensors.update(part.tensors)


def parse_gguf(buffer: mmap.mmap | bytes, label: str) -> GgufFile:
    """Read a GGUF file held in ``buffer``; ``label`` names it in errors. Raises as `read_gguf`."""
    version = _version(buffer, label)
    cursor = Cursor(buffer, label, 8)
    n_tensors = cursor.count(MIN_ENTRY_BYTES, MAX_TENSORS, "tensors")
    n_keys = cursor.count(MIN_KEY_BYTES, MAX_KEYS, "metadata keys")
    metadata = _read_metadata(cursor, n_keys)
    alignment = _alignment(cursor, metadata)
    entries = _read_entries(cursor, n_tensors)
    start = -(-cursor.position // alignment) * alignment
    _check_layout(cursor, entries, len(buffer) - start, alignment)
    data = np.frombuffer(buffer, np.uint8)[start:]
    tensors = {e.name: StoredTensor.from_bytes(e.name, e.shape, e.kind, data[e.offset : e.end]) for e in entries}
    return GgufFile(version, metadata, tensors)


class MetadataSpan(NamedTuple):
    """Place of the metadata in a file: bytes ``[start, end)``, the number of keys, and the alignment of tensors."""

    start: int
    end: int
    keys: int
    alignment: int


def metadata_span(buffer: mmap.mmap | bytes, label: str) -> MetadataSpan:
    """Return where a GGUF file held in ``buffer`` has its metadata. Raises as `read_gguf`."""
    _version(buffer, label)
    cursor = Cursor(buffer, label, 8)
    cursor.count(MIN_ENTRY_BYTES, MAX_TENSORS, "tensors")
    n_keys = cursor.count(MIN_KEY_BYTES, MAX_KEYS, "metadata keys")
    start = cursor.position
    alignment = _alignment(cursor, _read_metadata(cursor, n_keys))
    return MetadataSpan(start, cursor.position, n_keys, alignment)


def metadata_value(buffer: mmap.mmap | bytes, label: str, name: str) -> slice | None:
    """Return where the type and value of metadata key ``name`` lie; None: it is not there. Raises as `read_gguf`."""
    span = metadata_span(buffer, label)
    cursor = Cursor(buffer, label, span.start)
    for i in range(span.keys):
        key = cursor.string(f"metadata key {i}", MAX_NAME_BYTES)
        start = cursor.position
        cursor.value(key)
        if key == name:
            return slice(start, cursor.position)
    return None


def _version(buffer: mmap.mmap | bytes, label: str) -> int:
    if buffer[:4] != MAGIC:
        raise ModelFormatError(f"{label} is not a GGUF file: {looks_like(buffer)}")
    version = Cursor(buffer, label, 4).u32("the version")
    if version in (2, 3):
        return version
    if version == 1:
        problem = "is GGUF version 1"
    elif version == 0:
        problem = "names GGUF version 0, which does not exist, so its beginning is damaged"
    elif version & 0xFFFF == 0:
        problem = "is a big-endian GGUF file"
    else:
        problem = f"is GGUF version {version}, which is not known here"
    raise UnsupportedModelError(
        f"{label} {problem}; expected little-endian version 2 or 3: convert the model again with a "
        "current llama.cpp, or download another file"
    )


def _read_metadata(cursor: Cursor, count: int) -> Metadata:
    values: dict[str, Value | Strings] = {}
    for i in range(count):
        key = cursor.string(f"metadata key {i}", MAX_NAME_BYTES)
        if key in values:
            raise cursor.corrupt(f"the metadata key {key!r} occurs twice")
        values[key] = cursor.value(key)
    return Metadata(values)


def _alignment(cursor: Cursor, metadata: Metadata) -> int:
    """Return the alignment of the data and of each tensor in it, in bytes."""
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    powers_of_two = [1 << i for i in range(17)]
    if type(alignment) is not int or alignment not in powers_of_two:
        raise cursor.corrupt(f"'general.alignment' is {alignment!r}, not a power of two of at most 65,536")
    return alignment


def _read_entries(cursor: Cursor, count: int) -> list[_TensorEntry]:
    entries: dict[str, _TensorEntry] = {}
    for i in range(count):
        name = cursor.string(f"the name of tensor {i}", MAX_NAME_BYTES)
        if name in entries:
            raise cursor.corrupt(f"the tensor {name!r} occurs twice")
        entries[name] = _read_entry(cursor, name)
    return list(entries.values())


def _read_entry(cursor: Cursor, name: str) -> _TensorEntry:
    label = f"{cursor.label}: tensor {name!r}"
    n_dims = cursor.u32(f"the number of dimensions of {name!r}")
    if not 1 <= n_dims <= MAX_DIMS:
        raise cursor.corrupt(f"tensor {name!r} has {n_dims} dimensions, not 1 to {MAX_DIMS}")
    # GGUF lists the fastest dimension first, NumPy last.
    shape = tuple(cursor.u64(f"dimension {i} of {name!r}") for i in range(n_dims))[::-1]
    kind = _block_type(cursor.u32(f"the type of {name!r}"), label)
    offset = cursor.u64(f"the offset of {name!r}")
    return _TensorEntry(name, shape, kind, offset, stored_bytes(label, shape, kind))


def _block_type(ggml_id: int, label: str) -> BlockType:
    kind = BY_GGML_ID.get(ggml_id)
    if kind is None:
        known = ", ".join(kind.name for kind in BY_GGML_ID.values())
        raise UnsupportedModelError(
            f"{label} is of type {OTHER_TYPES.get(ggml_id, ggml_id)}; use a file whose tensors are among {known}"
        )
    return kind


def _check_layout(cursor: Cursor, entries: list[_TensorEntry], data_bytes: int, alignment: int) -> None:
    """Refuse tensors that are misaligned, overlap, or reach beyond the file."""
    previous_end, previous = 0, ""
    for entry in sorted(entries, key=lambda entry: entry.offset):
        if entry.offset % alignment:
            raise cursor.corrupt(f"tensor {entry.name!r} is at {entry.offset}, not a multiple of {alignment}")
        if entry.offset < previous_end:
            raise cursor.corrupt(f"the tensors {previous!r} and {entry.name!r} overlap")
        if entry.end > data_bytes:
            raise cursor.corrupt(f"tensor {entry.name!r} ends {entry.end - data_bytes} bytes beyond the file")
        previous_end, previous = entry.end, entry.name
